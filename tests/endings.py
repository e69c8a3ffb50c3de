"""What a finished study left behind, to compare it with another run of the same study."""

import hashlib
from collections import Counter
from pathlib import Path

from databases import ask

from autonat.storage.artifacts import file_sha256

# All that a study computes and decides, and nothing of when or where.
STATEMENTS = {
    "study": "SELECT name, recipe, state, error, summary FROM studies ORDER BY name",
    "result": "SELECT fingerprint, kind, spec, result, images, artifact_sha256 FROM results ORDER BY fingerprint",
    "entry": "SELECT number, phase, round, purpose, fingerprint, decision FROM journal ORDER BY number",
}


def ending(url: str, artifacts: Path) -> dict[tuple[str, str], str]:
    """Every row and every weights file of a database with one study, by what it is."""
    rows = {(kind, str(row[0])): repr(row[1:]) for kind, statement in STATEMENTS.items() for row in ask(url, statement)}
    files = {("file", path.name): file_sha256(path) for path in artifacts.iterdir() if path.is_file()}
    return rows | files


def differences(one: dict[tuple[str, str], str], other: dict[tuple[str, str], str]) -> list[tuple[str, str]]:
    """What is not the same in both, to the last bit."""
    return sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))


def fingerprint_of(end: dict[tuple[str, str], str]) -> str:
    """One number for all of it."""
    return hashlib.sha256(repr(sorted(end.items())).encode()).hexdigest()[:16]


def recorded(url: str) -> dict[str, str]:
    """When each result was recorded, and what: a result that is computed again changes."""
    return {name: f"{when} {result}" for name, when, result in ask(url, RECORDED)}


RECORDED = "SELECT fingerprint, created_at, result FROM results"
TASKS = "SELECT kind, fingerprint, blocks FROM tasks WHERE kind <> 'reference'"


def repeated_tasks(url: str) -> int:
    """Tasks that were begun again, by the ledger. Real images' statistics are no result: each driver has its own."""
    begun: Counter[tuple[str, str, str]] = Counter()
    for kind, fingerprint, blocks in ask(url, TASKS):
        begun.update((kind, fingerprint, block) for block in _numbers(blocks))
    return begun.total() - len(begun)


def _numbers(blocks: str | None) -> list[str]:
    """The ledger's "0-2,7" one by one; what has no blocks is one task."""
    if blocks is None:
        return ["whole"]
    found = []
    for part in filter(None, blocks.split(",")):
        first, _, last = part.partition("-")
        found += [str(number) for number in range(int(first), int(last or first) + 1)]
    return found
