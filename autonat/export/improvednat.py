"""AutoNAT's strategy files (LeapLabTHU/ImprovedNAT, ``configs/*_strategy.yaml``): four lists of numbers.

`manual_ratios` and `manual_temp` have T - 1 values, `manual_samp_temp` and `manual_cfg` T. The official code takes
exactly these keys, so that everything else is in comments; one of them names the rule that the schedule was tuned for.
"""

import json
from pathlib import Path

from autonat.errors import UserError
from autonat.export.content import Content, Format, Imported, one_file
from autonat.export.reading import build, numbers, parse_yaml, peek, read_text, shown
from autonat.storage.files import write_atomically

FAMILY_OF = {
    "manual_ratios": "mask_ratios",
    "manual_temp": "choice_temperatures",
    "manual_samp_temp": "sampling_temperatures",
    "manual_cfg": "guidance_scales",
}
RULE_COMMENT = "# decoding_rule: "
PROVENANCE_COMMENT = "# provenance."


def write(content: Content, path: Path) -> list[str]:
    import yaml

    schedule = content.schedule
    notes = []
    lines = ["# Schedule found by autonat; decoding rule and provenance are in these comments."]
    lines.append(f"{RULE_COMMENT}{schedule.rule}")
    if schedule.rule != "autonat":
        notes.append(f"tuned under the {schedule.rule} rule; ImprovedNAT's loop follows its own, which clamps counts")
        lines.append("# ImprovedNAT's own loop clamps the count of masked tokens to [1, masked - 1]: another rule.")
    lines += [f"{PROVENANCE_COMMENT}{key}: {json.dumps(value)}" for key, value in content.provenance.items()]
    # By YAML's own writer: JSON's 1e-07 would be read back as text.
    lists = {key: list(getattr(schedule, family)) for key, family in FAMILY_OF.items()}
    lines.append(yaml.safe_dump(lists, sort_keys=False, default_flow_style=None, width=1_000_000).strip())
    write_atomically(path, ("\n".join(lines) + "\n").encode())
    return notes


def recognises(path: Path) -> bool:
    return any(isinstance(key, str) and key.startswith("manual_") for key in peek(path, parse_yaml))


def read(path: Path, num_steps: int | None = None) -> Imported:
    text = read_text(path)
    data = parse_yaml(text, path)
    unknown = [key for key in data if key not in FAMILY_OF]
    if unknown:
        raise UserError(f"{path}: unknown key {shown(unknown[0])} in a strategy file")
    rules = [line.removeprefix(RULE_COMMENT).strip() for line in text.splitlines() if line.startswith(RULE_COMMENT)]
    notes = () if rules else ("the file names no decoding rule: autonat, as the official code",)
    families = {family: numbers(data, key, path) for key, family in FAMILY_OF.items()}
    return Imported(build(path, rules[0] if rules else "autonat", families), notes, _provenance(text))


def _provenance(text: str) -> dict[str, object]:
    found = {}
    for line in text.splitlines():
        key, _, value = line.removeprefix(PROVENANCE_COMMENT).partition(": ")
        if line.startswith(PROVENANCE_COMMENT):
            try:
                found[key] = json.loads(value)
            except (ValueError, RecursionError):
                found[key] = value
    return found


FORMAT = Format("improvednat", "AutoNAT's strategy YAML", one_file, write, recognises, read)
