"""A tuned schedule as a file for others: AutoNAT's strategy YAML, and a JSON that explains itself."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from autonat.errors import UserError
from autonat.storage.files import write_atomically

FORMATS = ("improvednat", "json")


def provenance(study: str, summary: dict[str, Any]) -> dict[str, Any]:
    """Where a schedule comes from and how good it was measured to be."""
    return {
        "study": study,
        "autonat": version("autonat"),
        "metric": summary["metric"],
        "distance": summary["tuned"],
        "baseline": summary["baseline"],
        "training_mask_ratio": summary["mask_ratio"],
    }


def improvednat_yaml(study: str, summary: dict[str, Any]) -> str:
    """The four lists of ImprovedNAT's strategy files, provenance in comments.

    `manual_ratios` and `manual_temp` have T - 1 values, `manual_samp_temp` and `manual_cfg` T.
    """
    schedule = summary["schedule"]
    lines = [f"# {key}: {json.dumps(value, sort_keys=True)}" for key, value in provenance(study, summary).items()]
    if schedule["rule"] != "autonat":
        lines.append("# tuned under ENAT's decoding rule; ImprovedNAT clamps counts to at least one masked token")
    names = {
        "manual_ratios": "mask_ratios",
        "manual_temp": "choice_temperatures",
        "manual_samp_temp": "sampling_temperatures",
        "manual_cfg": "guidance_scales",
    }
    # By YAML's own writer: JSON's 1e-07 would be read back as text.
    lists = {name: list(schedule[family]) for name, family in names.items()}
    lines.append(yaml.safe_dump(lists, sort_keys=False, default_flow_style=None, width=10_000).strip())
    return "\n".join(lines) + "\n"


def self_describing_json(study: str, summary: dict[str, Any]) -> str:
    """Schedule, mask ratio and provenance, with the meaning of every family spelled out."""
    content = {
        "format": "autonat-schedule",
        "format_version": 1,
        "num_steps": len(summary["schedule"]["sampling_temperatures"]),
        "schedule": summary["schedule"],
        "meaning": {
            "mask_ratios": "share of all tokens masked again after step t = 1 .. T-1; none after step T",
            "sampling_temperatures": "logits are divided by it before tokens are drawn, t = 1 .. T",
            "choice_temperatures": "factor of Gumbel noise on the drawn tokens' log-probability, t = 1 .. T-1",
            "guidance_scales": "w in cond + w (cond - uncond), t = 1 .. T",
            "rule": "enat: floor(L r) tokens; autonat: clamped to [1, masked - 1], ties at the cut masked too",
        },
        "training_mask_ratio": summary["mask_ratio"],
        "provenance": provenance(study, summary),
    }
    return json.dumps(content, indent=2, sort_keys=True) + "\n"


def export(study: str, summary: dict[str, Any], target: str, path: Path) -> None:
    """Write a study's schedule. Raises UserError for an unknown format or a path that cannot be written."""
    writers = {"improvednat": improvednat_yaml, "json": self_describing_json}
    if target not in writers:
        raise UserError(f"unknown export format {target!r}, expected one of {', '.join(writers)}")
    write_atomically(path, writers[target](study, summary).encode())
