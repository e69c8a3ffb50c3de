"""Writing into another repository's working tree without losing anybody's work there.

Files that are not committed as they stand are never overwritten. With a branch, the branch is made or switched to
first (git itself refuses where that would lose changes); a commit holds the written files alone, whatever else is
staged.
"""

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from autonat.errors import UserError


@dataclass(frozen=True)
class Destination:
    """A working tree and what to do there. branch: None stays on the current one."""

    root: Path
    branch: str | None = None
    commit: bool = False


def _git(root: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    # What a surrounding git command set for its own repository does not hold for the other one.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_") or "AUTHOR" in key}
    environment |= {key: value for key, value in os.environ.items() if key.startswith(("GIT_COMMITTER", "GIT_CONFIG"))}
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            env={**environment, "LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0"},
        )
    except FileNotFoundError as error:
        raise UserError("--into-git needs the git program, which was not found") from error
    if check and done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip() or "no reason given").replace("\n", "; ")
        raise UserError(f"git {arguments[0]} in {root} failed: {reason}")
    return done


def destination(path: Path, branch: str | None = None, commit: bool = False) -> Destination:
    """The working tree that a path lies in. Raises UserError where there is none or the branch's name is not valid."""
    folder = path.absolute().parent
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    found = _git(folder, "rev-parse", "--show-toplevel", check=False)
    if found.returncode:
        raise UserError(f"{path} lies in no git working tree: leave out --into-git, or give a path in one")
    root = Path(found.stdout.rstrip("\n"))
    if branch is not None and _git(root, "check-ref-format", "--branch", branch, check=False).returncode:
        raise UserError(f"{branch!r} is no name for a branch")
    return Destination(root, branch, commit)


def write_into(target: Destination, files: list[Path], write: Callable[[], list[str]], message: str) -> list[str]:
    """Run `write`, which writes `files`, inside a working tree; returns its notes and what git did, a line each.

    Raises UserError, before anything is written, where a file has uncommitted content or could not be committed.
    """
    names = [_name_in(target.root, file) for file in files]
    _refuse_uncommitted(target.root, names)
    if target.commit:
        ignored = _git(target.root, "check-ignore", "--", *names, check=False).stdout.splitlines()
        if ignored:
            raise UserError(f"{target.root} ignores {ignored[0]}, so it cannot be committed: give another path")
    done = _switch(target)
    _refuse_uncommitted(target.root, names)
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
    notes = write()
    if target.commit:
        done += _commit(target.root, names, message)
    return notes + done


def _name_in(root: Path, file: Path) -> str:
    resolved = (file.absolute().parent.resolve()) / file.name
    if file.is_symlink():
        raise UserError(f"{file} is a symbolic link: give the file itself")
    try:
        name = resolved.relative_to(root.resolve())
    except ValueError as error:
        raise UserError(f"{file} leads out of the working tree {root}") from error
    if ".git" in name.parts:
        raise UserError(f"{file} lies in git's own folder")
    return name.as_posix()


def _refuse_uncommitted(root: Path, names: list[str]) -> None:
    present = [name for name in names if (root / name).exists()]
    if not present:
        return
    listed = _git(
        root, "--literal-pathspecs", "status", "--porcelain", "-z", "--ignored", "--untracked-files=all", "--", *present
    ).stdout
    for entry in listed.split("\0"):
        if entry:
            raise UserError(f"{root / entry[3:]} is not committed there: commit or move it first; nothing was written")


def _switch(target: Destination) -> list[str]:
    current = _git(target.root, "symbolic-ref", "--quiet", "--short", "HEAD", check=False).stdout.strip()
    if target.branch is None:
        if target.commit and not current:
            raise UserError(f"{target.root} is on no branch: name one with --branch")
        return []
    if target.branch == current:
        return []
    found = _git(target.root, "rev-parse", "--verify", "--quiet", f"refs/heads/{target.branch}", check=False)
    exists = found.returncode == 0
    _git(target.root, "switch", "--quiet", *([] if exists else ["--create"]), target.branch)
    return [f"{target.root}: {'switched to' if exists else 'made'} branch {target.branch}"]


def _commit(root: Path, names: list[str], message: str) -> list[str]:
    _git(root, "--literal-pathspecs", "add", "--", *names)
    changed = _git(root, "--literal-pathspecs", "status", "--porcelain", "--", *names).stdout.strip()
    if not changed:
        return [f"{root}: nothing to commit, the files are there already"]
    _git(root, "--literal-pathspecs", "commit", "--quiet", "--only", "--message", message, "--", *names)
    return [f"{root}: committed as {_git(root, 'rev-parse', '--short', 'HEAD').stdout.strip()}"]
