"""`autonat export --into-git` against real repositories."""

import subprocess

import pytest
from export_contents import content

from autonat.errors import UserError
from autonat.export.command import export_to
from models.schedule import maskgit_cosine

CONTENT = content(maskgit_cosine(4))


def git(folder, *arguments):
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path):
    """Another repository with one commit on branch main."""
    folder = tmp_path / "other"
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch", "main")
    git(folder, "config", "user.name", "Someone")
    git(folder, "config", "user.email", "someone@example.org")
    git(folder, "config", "commit.gpgsign", "false")
    (folder / "readme").write_text("theirs\n")
    (folder / "configs").mkdir()
    (folder / "configs" / "strategy.yaml").write_text("manual_cfg: [1.0]\n")
    (folder / ".gitignore").write_text("*.log\nbuild/\n")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "first")
    return folder


def put(path, name="improvednat", **options):
    return export_to(CONTENT, name, path, into_git=True, **options)


def status(repository):
    return git(repository, "status", "--porcelain", "--untracked-files=all").splitlines()


def test_a_committed_file_is_overwritten_in_the_working_tree(repository):
    path = repository / "configs" / "strategy.yaml"
    put(path)
    assert "manual_ratios" in path.read_text()
    assert status(repository) == ["M configs/strategy.yaml"]
    with pytest.raises(UserError, match="not committed there"):
        put(path)


def test_a_new_file_and_its_folders(repository):
    put(repository / "a" / "b" / "strategy.yaml")
    assert status(repository) == ["?? a/b/strategy.yaml"]


@pytest.mark.parametrize("state", ["modified", "staged", "untracked", "ignored", "staged new"])
def test_uncommitted_work_is_never_overwritten(repository, state):
    path = repository / "configs" / {"modified": "strategy.yaml", "staged": "strategy.yaml"}.get(state, "mine.yaml")
    if state == "ignored":
        path = repository / "mine.log"
    path.write_text("my work\n")
    if state.startswith("staged"):
        git(repository, "add", "configs")
    before = git(repository, "status", "--porcelain", "--ignored")
    for options in ({}, {"branch": "tuned", "commit": True}):
        with pytest.raises(UserError, match="not committed there"):
            put(path, **options)
    assert path.read_text() == "my work\n"
    assert git(repository, "status", "--porcelain", "--ignored") == before
    assert git(repository, "branch", "--show-current") == "main"


def test_one_uncommitted_file_of_several_stops_all(repository):
    export_to(CONTENT, "diffusers", repository)
    (repository / "scheduling_autonat.py").unlink()
    with pytest.raises(UserError, match=r"scheduler_config\.json is not committed"):
        put(repository, "diffusers")
    assert not (repository / "scheduling_autonat.py").exists()


def test_another_s_committed_file_that_the_path_does_not_name_is_kept(repository):
    (repository / "strategy.json").write_text("{}")
    git(repository, "add", "strategy.json")
    git(repository, "commit", "--quiet", "--message", "second")
    with pytest.raises(UserError, match=r"strategy\.json is there"):
        put(repository / "strategy.py", "python", branch="tuned", commit=True)
    assert status(repository) == []
    assert git(repository, "branch", "--show-current") == "main"
    assert "tuned" not in git(repository, "branch")


def test_a_commit_on_a_new_branch_holds_the_written_files_alone(repository):
    (repository / "readme").write_text("being edited\n")
    (repository / "staged").write_text("staged, not to be committed\n")
    git(repository, "add", "staged")
    lines = put(repository / "schedules" / "schedule.py", "python", branch="tuned/digits", commit=True)
    assert any("made branch tuned/digits" in line for line in lines)
    assert any("committed as" in line for line in lines)
    assert git(repository, "branch", "--show-current") == "tuned/digits"
    assert sorted(git(repository, "show", "--name-only", "--format=").splitlines()) == [
        "schedules/schedule.json",
        "schedules/schedule.py",
        "schedules/schedule.schema.json",
    ]
    message = git(repository, "log", "-1", "--format=%B")
    assert "study" in message
    assert "python" in message
    assert "FD(digits-cnn:12345678)" in message
    assert status(repository) == ["M readme", "A  staged"]
    assert git(repository, "rev-parse", "main") == git(repository, "rev-parse", "HEAD~1")
    # Again: the branch is there and so are the files.
    lines = put(repository / "schedules" / "schedule.py", "python", branch="tuned/digits", commit=True)
    assert any("nothing to commit" in line for line in lines)
    git(repository, "switch", "--quiet", "main")
    lines = put(repository / "schedules" / "schedule.py", "python", branch="tuned/digits", commit=True)
    assert any("switched to branch" in line for line in lines)


def test_a_commit_on_the_current_branch(repository):
    put(repository / "configs" / "strategy.yaml", commit=True)
    assert git(repository, "log", "--format=%s").splitlines()[1] == "first"
    assert status(repository) == []


def test_a_switch_that_would_lose_work_is_git_s_refusal(repository):
    git(repository, "switch", "--quiet", "--create", "other")
    (repository / "readme").write_text("on the branch\n")
    git(repository, "commit", "--quiet", "--all", "--message", "second")
    git(repository, "switch", "--quiet", "main")
    (repository / "readme").write_text("my work\n")
    with pytest.raises(UserError, match="git switch"):
        put(repository / "new.yaml", branch="other", commit=True)
    assert (repository / "readme").read_text() == "my work\n"
    assert not (repository / "new.yaml").exists()


def test_what_git_cannot_take(repository, tmp_path):
    with pytest.raises(UserError, match="no git working tree"):
        put(tmp_path / "elsewhere.yaml")
    with pytest.raises(UserError, match=r"git's own folder|no git working tree"):
        put(repository / ".git" / "strategy.yaml")
    with pytest.raises(UserError, match="ignores"):
        put(repository / "build" / "strategy.yaml", commit=True)
    for name in ("-d", "a..b", "", "a b"):
        with pytest.raises(UserError, match="no name for a branch"):
            put(repository / "x.yaml", branch=name)
    (repository / "link").symlink_to(tmp_path)
    with pytest.raises(UserError, match=r"leads out of the working tree|no git working tree"):
        put(repository / "link" / "x.yaml")
    (repository / "file-link").symlink_to(tmp_path / "target")
    with pytest.raises(UserError, match="symbolic link"):
        put(repository / "file-link")
    with pytest.raises(UserError, match="belong to --into-git"):
        export_to(CONTENT, "json", tmp_path / "x.json", branch="main")
    git(repository, "checkout", "--quiet", "--detach")
    with pytest.raises(UserError, match="on no branch"):
        put(repository / "x.yaml", commit=True)
    assert not (repository / "x.yaml").exists()
    assert not (tmp_path / "x.yaml").exists()


def test_odd_names_and_surrounding_git_variables(repository, monkeypatch, tmp_path):
    """As in a hook of another repository, whose variables would lead astray; and names that are patterns to git."""
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    path = repository / "wörk [1] *.yaml"
    (repository / "wörk 1 x.yaml").write_text("not to be added")
    put(path, commit=True)
    monkeypatch.delenv("GIT_DIR")
    monkeypatch.delenv("GIT_INDEX_FILE")
    assert git(repository, "-c", "core.quotepath=off", "show", "--name-only", "--format=") == path.name
    path.write_text("changed")
    with pytest.raises(UserError, match="not committed there"):
        put(path)


def test_a_failing_hook_is_one_line(repository):
    hook = repository / ".git" / "hooks" / "pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho no commits today >&2\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(UserError, match="no commits today"):
        put(repository / "x.yaml", commit=True)
