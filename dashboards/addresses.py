"""The address of every page: a view, a study, and the page's settings. A person may send it to another."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from urllib.parse import parse_qsl, quote, unquote, urlencode

from dashboards.plots import VIEWS, Choice

# Views of one study, in the order of the menu; the others are of several.
STUDY_VIEWS = {
    "study": "Study",
    "schedule": "Schedule",
    "mask-ratio": "Mask ratio",
    "images": "Images",
    "tasks": "Tasks",
}
MANY_VIEWS = {"compare": "Compare", "cost": "Cost"}
assert set(STUDY_VIEWS) | set(MANY_VIEWS) == set(VIEWS)


def address(view: str, study: str = "", settings: Mapping[str, str] | None = None) -> str:
    """The path and query of a page; view "" is the list of studies."""
    path = "/" + "/".join(part for part in (view, quote(study, safe="")) if part)
    given = {name: value for name, value in (settings or {}).items() if value}
    return path + (f"?{urlencode(given, safe=',')}" if given else "")


def view_of(path: str) -> tuple[str, str]:
    """(view, study) of a path; ("", "") for whatever is no page of ours."""
    parts = [unquote(part) for part in path.strip("/").split("/")]
    if len(parts) == 2 and parts[0] in STUDY_VIEWS:
        return parts[0], parts[1]
    if len(parts) == 1 and parts[0] in MANY_VIEWS:
        return parts[0], ""
    return "", ""


def settings_of(search: str) -> dict[str, str]:
    """The settings in a query; the first of each name counts."""
    found: dict[str, str] = {}
    for name, value in parse_qsl(search.removeprefix("?")[:4000]):
        found.setdefault(name, value)
    return found


def choice_of(path: str, settings: Mapping[str, str]) -> Choice:
    """What a page at this path with these settings shows."""
    names = tuple(dict.fromkeys(name for name in settings.get("studies", "").split(",") if name))
    return Choice(view_of(path)[1], names, dict(settings))


def completed(view: str, choice: Choice, names: Sequence[str], ends: Mapping[str, int]) -> Choice:
    """A choice with what an address may leave open. names: the studies, newest first; ends: the sliders' last
    positions. Costs are those of the newest study, a slider stands at its end."""
    chosen = tuple(name for name in choice.studies if name in names)
    if view == "cost" and not chosen:
        chosen = tuple(names[:1])
    settings = dict(choice.settings)
    if view in MANY_VIEWS:
        settings["studies"] = ",".join(chosen)
    for name, end in ends.items():
        asked = choice.number(name)
        # What an address points to may not be there yet.
        settings[name] = str(end if asked is None else min(asked, end or asked))
    return replace(choice, studies=chosen, settings=settings)
