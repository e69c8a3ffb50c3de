"""Every command on a tiny study, and every kind of bad input: one line and exit status 2."""

import io
import json
import math
import re
import subprocess
import sys

import pytest
import yaml
from PIL import Image
from rich.console import Console
from studies_for_tests import TINY, dotted, own_by, query, run_cli, run_ok, tiny, write_recipe

from autonat.cli.tables import summary_table
from autonat.storage.store import Store

RESULT_KEYS = {
    "front",
    "baseline",
    "tuned_schedule",
    "tuned",
    "floor",
    "seconds",
    "images_spent",
    "search_time",
    "trainings",
    "mask_ratio",
    "schedule",
    "study",
    "metric",
    "metrics",
}


def check_result(result):
    assert set(result) == RESULT_KEYS
    for key in ("baseline", "tuned_schedule", "tuned", "floor"):
        assert set(result[key]) == {"value", "standard_error", "num_images"}
        assert math.isfinite(result[key]["value"])
        assert result[key]["standard_error"] >= 0
    assert result["baseline"]["num_images"] == 40
    assert result["floor"]["num_images"] == 500
    assert result["images_spent"] > 0
    assert 1 <= result["trainings"] <= 3
    assert result["seconds"] > 0
    assert len(result["schedule"]["sampling_temperatures"]) == 3
    assert len(result["schedule"]["mask_ratios"]) == 2


def plain(text):
    assert "\x1b" not in text
    assert "\r" not in text
    return text


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a database of two finished studies."""
    folder = tmp_path_factory.mktemp("cli")
    recipe = write_recipe(folder)
    first = run_ok("run", recipe, "--db", folder / "autonat.db", "--workers", 0)
    run_ok("run", recipe, "name=other", "phases=[schedule]", "--db", folder / "autonat.db", "--workers", 0)
    (folder / "first.txt").write_text(first)
    return folder


@pytest.fixture(autouse=True)
def _here(folder, monkeypatch):
    monkeypatch.chdir(folder)


def unfinished(name="half"):
    """Put a study without a result into the database."""
    store = Store.open("autonat.db")
    store.release(store.claim(name, "{}"), "interrupted")
    store.close()
    return name


# Commands


def test_run_says_what_it_does_in_plain_lines(folder):
    text = plain((folder / "first.txt").read_text())
    for words in ("feature network: test accuracy", "warm start", "gradient", "training of Beta(", "tuned pair"):
        assert words in text


@pytest.mark.slow
def test_quickstart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changes = {key: value for key, value in TINY.items() if key not in ("name", "data")}
    out = plain(run_ok("quickstart", *dotted(changes), "--json", "result.json", "--workers", 0))
    result = json.loads((tmp_path / "result.json").read_text())
    check_result(result)
    assert result["study"] == "quickstart"
    assert "Tuned schedule" in out
    assert "<html" in (tmp_path / "quickstart.html").read_text().lower()
    assert (tmp_path / "autonat.db").exists()
    assert json.loads(run_ok("best", "quickstart")) == result


def test_plan():
    out = plain(run_ok("plan", "recipe.yaml", "--workers", 2))
    numbers = {line.split()[0]: line.split()[1] for line in out.splitlines()[1:]}
    assert numbers["trainings"] in ("2", "3")
    assert numbers["gradients"] in ("1", "2")
    assert int(numbers["images"].replace(",", "")) > 1000
    assert "on 2 workers" in out


def test_list():
    lines = plain(run_ok("list")).splitlines()
    (row,) = [line for line in lines if "tiny" in line]
    assert "finished" in row
    assert any("other" in line for line in lines)


def test_list_shows_a_killed_study(folder):
    name = unfinished("dead")
    process = subprocess.Popen(["true"])
    process.wait()
    own_by(folder / "autonat.db", name, process.pid, mark="1")
    (row,) = [line for line in run_ok("list").splitlines() if "dead" in line]
    assert "killed" in row


def test_show():
    out = plain(run_ok("show", "tiny"))
    result = json.loads(run_ok("best", "tiny"))
    assert "Study tiny: finished" in out
    assert f"{result['tuned']['value']:.3f}" in out
    assert "Default schedule" in out
    assert f"{result['schedule']['guidance_scales'][0]:.3f}" in out
    assert "gain" in out


def test_show_of_a_failed_study_says_why():
    store = Store.open("autonat.db")
    store.release(store.claim("failed", "{}"), "failed", "it went [/wrong] in a [b]way[/b]")
    store.close()
    assert "failed, 0 s. it went [/wrong] in a [b]way[/b]" in plain(run_ok("show", "failed"))


def test_compare():
    out = plain(run_ok("compare", "tiny", "other"))
    result = json.loads(run_ok("best", "tiny"))
    assert f"{result['tuned']['value']:.3f} +- {result['tuned']['standard_error']:.3f}" in out
    assert "other" in out
    assert "do not compare" not in out


def test_one_study_does_not_compare():
    refused(*run_cli("compare", "tiny"), "two studies", "autonat show tiny")


def test_the_closing_table_has_other_numbers_of_steps():
    summary = Store.open("autonat.db", readonly=True).study("tiny").summary
    point = {**summary["tuned"], "num_steps": 2, "value": 12.5}
    console = Console(width=200, file=io.StringIO())
    console.print(summary_table("tiny", {**summary, "front": [point, {**point, "num_steps": 3}], "trainings": 1}, 1.0))
    out = console.file.getvalue()
    assert out.count("tuned for T") == 1  # the study's own T is the tuned pair's row
    assert re.search(r"tuned for T = 2 .* 12\.500 \+- ", out)
    assert "1 training," in out


def test_best():
    result = json.loads(run_ok("best", "tiny"))
    check_result(result)
    assert json.loads(run_ok("best", "other"))["mask_ratio"] == {"kind": "arccos"}


def test_sample(tmp_path):
    paths = [tmp_path / name for name in ("one.png", "two.png", "three.png")]
    for path, seed in zip(paths, (0, 0, 1), strict=True):
        assert str(path) in plain(run_ok("sample", "tiny", "--to", path, "--per-class", 2, "--seed", seed))
    with Image.open(paths[0]) as image:
        image.load()
        assert image.format == "PNG"
        assert image.size == (4 * (2 * (2 * 10 - 2) + 8), 4 * (10 * 10 - 2))
    assert paths[0].read_bytes() == paths[1].read_bytes() != paths[2].read_bytes()


def test_evaluate(folder):
    count = "SELECT count(*) FROM results"
    before = query(folder / "autonat.db", count)
    command = ("evaluate", "tiny", "--images", 60, "--seed", 3, "--workers", 0)
    out = plain(run_ok(*command))
    lines = out.splitlines()
    values = {line.split()[0]: float(line.split()[1]) for line in lines[-3:]}
    assert set(values) == {"default", "tuned", "change"}
    assert values["tuned"] - values["default"] == pytest.approx(values["change"], abs=2e-4)
    assert query(folder / "autonat.db", count)[0][0] > before[0][0]
    after = query(folder / "autonat.db", count)
    assert run_ok(*command) == out
    assert query(folder / "autonat.db", count) == after


@pytest.mark.parametrize("format", ["json", "improvednat"])
def test_export(tmp_path, format):
    path = tmp_path / "schedule"
    assert str(path) in plain(run_ok("export", "tiny", "--format", format, "--to", path))
    schedule = json.loads(run_ok("best", "tiny"))["schedule"]
    data = yaml.safe_load(path.read_text())
    found = data["schedule"]["guidance_scales"] if format == "json" else data["manual_cfg"]
    assert found == schedule["guidance_scales"]


def test_a_path_with_brackets_is_shown_as_it_is(tmp_path):
    path = tmp_path / "a[b]c.json"
    assert str(path) in run_ok("export", "tiny", "--to", path).replace("\n", "")
    assert path.exists()


def test_report(tmp_path):
    path = tmp_path / "report.html"
    assert str(path) in plain(run_ok("report", "tiny", "--to", path))
    text = path.read_text()
    assert "tiny" in text
    assert "data:image/png;base64" in text


def test_delete(folder):
    name = unfinished("gone")
    status, _, err = run_cli("delete", name)
    assert (status, err.count("\n")) == (2, 1)
    assert "gone" in run_ok("list")
    assert "Deleted gone" in plain(run_ok("delete", name, "--yes"))
    assert "gone" not in run_ok("list")
    assert json.loads(run_ok("best", "tiny"))


def test_help_names_every_command():
    out = run_ok("--help")
    for command in ("quickstart", "run", "plan", "list", "show", "compare", "best", "sample", "evaluate", "export"):
        assert command in out


# Bad input


def refused(status, out, err, *words):
    assert status == 2, (out, err)
    assert err.startswith("error:")
    assert err.count("\n") == 1, err
    assert "Traceback" not in out + err
    assert all(word in err for word in words), err


BAD_RECIPES = {
    "unknown key": (["networks.width=3"], "networks: unknown key"),
    "unknown nested key": (["training.stepz=3"], "stepz"),
    "unknown mask ratio": (["mask_ratio.kind=gamma"], "mask_ratio"),
    "alpha zero": (["mask_ratio={kind: beta, alpha: 0, beta: 3}"], "alpha"),
    "beta negative": (["mask_ratio={kind: beta, alpha: 2, beta: -3}"], "beta"),
    "alpha not finite": (["mask_ratio={kind: beta, alpha: .inf, beta: 3}"], "alpha"),
    "search's alpha": (["beta.start_alpha=0"], "start_alpha"),
    "search's alpha not finite": (["beta.start_alpha=.inf"], "start_alpha"),
    "difference not finite": (["search.descent.difference=.inf"], "difference"),
    "learning rate not finite": (["training.learning_rate=.nan"], "finite"),
    "embedding not finite": (["network.embedding_std=.inf"], "finite"),
    "no steps": (["schedule.num_steps=0"], "num_steps"),
    "half a step": (["schedule.num_steps=1.5"], "num_steps"),
    "images": (["held_out_images=50"], "held_out_images"),
    "one block": (["held_out_images=20"], "held_out_images"),
    "block": (["block_size=15"], "15"),
    "unknown data": (["data=cifar"], "data"),
    "wrong codebook": (["network.codebook_size=1024"], "codebook_size"),
    "name": (["name=../up"], "name"),
    "text for a number": (["training.steps=many"], "steps"),
    "no number": (["training.steps="], "steps"),
    "list for a section": (["network=[1]"], "container types"),
    "below a number": (["seed.more=1"], "seed: Input should be a valid integer"),
    "no equals sign": (["seed"], "key.subkey=value"),
    "broken override": (["seed=[1"], "cannot read override 'seed=[1': while parsing"),
    "broken interpolation": (["seed=${nowhere}"], "nowhere"),
}


@pytest.mark.parametrize("case", BAD_RECIPES)
@pytest.mark.parametrize("command", ["run", "plan"])
def test_bad_override(case, command, tmp_path):
    overrides, words = BAD_RECIPES[case]
    assert words
    database = () if command == "plan" else ("--db", tmp_path / "none.db")
    refused(*run_cli(command, "recipe.yaml", *overrides, *database), words)
    assert not (tmp_path / "none.db").exists()


VALUES = {
    "mask_ratios": [0.7, 0.3],
    "sampling_temperatures": [1, 1, 1],
    "choice_temperatures": [3, 1],
    "guidance_scales": [0, 1, 2],
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mask_ratios": [0.7, 0.3, 0.1]}, "need 2 values, got 3"),
        ({"guidance_scales": [0, 1]}, "need 3 values, got 2"),
        ({"mask_ratios": [0.7, 1.3]}, "mask_ratios[1] = 1.3 is outside"),
        ({"guidance_scales": [-2, 1, 2]}, "guidance_scales[0]"),
        ({"sampling_temperatures": [1, 1, float("nan")]}, "sampling_temperatures.2"),
        ({"sampling_temperatures": []}, "at least one step"),
        ({"sampling_temperatures": [1] * 4, "guidance_scales": [1] * 4}, "need 3"),
        ({"sampling_temperatures": ["warm", 1, 1]}, "sampling_temperatures"),
        ({"more": [1]}, "exactly the keys"),
    ],
)
def test_bad_schedule(tmp_path, changes, words):
    recipe = write_recipe(tmp_path, schedule__values={**VALUES, **changes})
    refused(*run_cli("run", recipe, "--db", tmp_path / "none.db"), words)
    write_recipe(tmp_path, schedule__values=VALUES)
    assert run_cli("plan", recipe, "--workers", 1)[0] == 0


@pytest.mark.parametrize(
    "content",
    [
        "name: [unclosed",
        "- a\n- list",
        "just words",
        "",
        "name: a\nname: b",
        "\t- tab",
        "name: !!python/object/apply:os.mkdir [executed]",
        "name: !!python/object/new:os.mkdir [executed]",
        "!!python/object/apply:subprocess.check_call [[mkdir, executed]]",
        "name: !!python/name:os.mkdir",
        "name: !unknown x",
        "\x00\x01",
        "1: 2",
        "name: ${oc.env:NOWHERE}",
    ],
)
def test_malformed_yaml(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(content)
    refused(*run_cli("run", "recipe.yaml"), "recipe.yaml")
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


def test_recipe_that_is_no_text(tmp_path):
    (tmp_path / "recipe.yaml").write_bytes(bytes(range(128, 256)))
    refused(*run_cli("run", tmp_path / "recipe.yaml"), "recipe.yaml")


def test_unknown_recipe():
    refused(*run_cli("run", "nothing"), "nothing", "quickstart")


STUDY_COMMANDS = [
    ("show",),
    ("best",),
    ("sample",),
    ("evaluate",),
    ("report",),
    ("delete", "--yes"),
    ("export", "--to", "x"),
    ("compare",),
]


@pytest.mark.parametrize("command", STUDY_COMMANDS)
def test_unknown_study(command):
    refused(*run_cli(command[0], "nothing", *command[1:]), "no study 'nothing'", "tiny")


@pytest.mark.parametrize("command", STUDY_COMMANDS)
def test_no_database(command, tmp_path):
    path = tmp_path / "none.db"
    refused(*run_cli(command[0], "tiny", *command[1:], "--db", path), "no database")
    assert not path.exists()


@pytest.mark.parametrize(
    "command", [*[(c[0], "tiny", *c[1:]) for c in STUDY_COMMANDS], ("run", "recipe.yaml"), ("list",)]
)
def test_file_that_is_no_database(command, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("no database at all\n" * 100)
    refused(*run_cli(*command, "--db", path), "not a database")
    assert path.read_text() == "no database at all\n" * 100


@pytest.mark.parametrize("command", [c for c in STUDY_COMMANDS if c[0] not in ("show", "report", "delete")])
def test_unfinished_study(command):
    refused(*run_cli(command[0], unfinished(), *command[1:]), "'half' is interrupted")


def test_unknown_format(tmp_path):
    refused(*run_cli("export", "tiny", "--format", "xml", "--to", tmp_path / "x"), "'xml'", "improvednat", "json")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("command", ["export", "sample", "report"])
def test_path_that_cannot_be_written(tmp_path, command):
    (tmp_path / "file").touch()
    for path in (tmp_path / "none" / "x", tmp_path, tmp_path / "file" / "x", tmp_path / ("x" * 300)):
        refused(*run_cli(command, "tiny", "--to", path))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("images", [0, -20, 20, 50])
def test_number_of_images_that_is_no_number_of_blocks(images):
    refused(*run_cli("evaluate", "tiny", "--images", images), str(images))


def test_unknown_executor(tmp_path):
    refused(*run_cli("run", "recipe.yaml", "--executor", "cloud", "--db", tmp_path / "x.db"), "'cloud'")


def test_another_recipe_under_the_same_name():
    refused(*run_cli("run", "recipe.yaml", "seed=5", "--workers", 0), "another recipe")


def test_study_that_another_process_runs(folder):
    name = unfinished("busy")
    with subprocess.Popen(["sleep", "600"]) as process:
        try:
            own_by(folder / "autonat.db", name, process.pid)
            recipe = json.loads(query(folder / "autonat.db", "SELECT recipe FROM studies WHERE name = 'tiny'")[0][0])
            stored = json.dumps({**recipe, "name": name}, separators=(",", ":"), ensure_ascii=False)
            query(folder / "autonat.db", "UPDATE studies SET recipe = ? WHERE name = ?", stored, name)
            refused(*run_cli("run", "recipe.yaml", f"name={name}", "--workers", 0), f"process {process.pid} on")
            refused(*run_cli("delete", name, "--yes"), "being run")
        finally:
            process.kill()
    run_ok("delete", name, "--yes")


# Real processes


def autonat(*arguments, **more):
    command = [sys.executable, "-m", "autonat", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **more)


def test_exit_status_and_stderr_of_a_process():
    done = autonat("best", "tiny", "--db", "missing.db")
    refused(done.returncode, done.stdout, done.stderr, "no database")
    assert done.stdout == ""


def test_a_closed_pipe_is_no_error():
    done = subprocess.run(
        f"{sys.executable} -m autonat best tiny | true; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode in (0, 1, 141)


def test_the_tiny_recipe_is_what_the_store_has(folder):
    stored = json.loads(query(folder / "autonat.db", "SELECT recipe FROM studies WHERE name = 'other'")[0][0])
    assert stored["phases"] == ["schedule"]
    assert stored["features"]["steps"] == tiny()["features"]["steps"]
