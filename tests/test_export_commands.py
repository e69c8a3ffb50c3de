"""A tiny study tuned, taken away in every form, read back and evaluated: the same bits. By the command line."""

import json

import pytest
import yaml
from studies_for_tests import query, run_cli, run_ok, tiny, write_recipe

from autonat.config import load_recipe
from autonat.export.formats import FORMATS, read_schedule

SCHEDULE_FORMS = [name for name in FORMATS if name not in ("halton", "checkpoint")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a finished study and every form of its result."""
    folder = tmp_path_factory.mktemp("exports")
    changes = {"search__warm_start__trials": 2, "search__descent": None}
    recipe = write_recipe(folder, **changes)
    run_ok("run", recipe, "phases=[schedule]", "--db", folder / "autonat.db", "--workers", 0)
    for name in FORMATS:
        run_ok("export", "tiny", "--db", folder / "autonat.db", "--format", name, "--to", path_of(folder, name))
    return folder


def path_of(folder, name):
    return folder / (f"{name}.py" if name == "python" else name)


@pytest.fixture(autouse=True)
def _here(folder, monkeypatch):
    monkeypatch.chdir(folder)


def refused(status, out, err, *words):
    assert (status, err.count("\n")) == (2, 1), (out, err)
    assert err.startswith("error:")
    assert all(word in err for word in words), err


def tuned():
    return json.loads(run_ok("best", "tiny"))["schedule"]


def test_every_form_comes_back(folder):
    schedule = tuned()
    for name in FORMATS:
        found, imported = read_schedule(path_of(folder, name))
        assert found == name
        if name != "halton":
            assert list(imported.schedule.guidance_scales) == schedule["guidance_scales"]
        assert imported.provenance["study"] == "tiny"
        assert imported.provenance["metric"].startswith("FD(digits-cnn:")
        assert set(imported.provenance["distance"]) == {"value", "standard_error", "num_images"}
        assert {"baseline", "date", "protocol", "versions"} <= set(imported.provenance)


def test_fingerprints_name_recorded_results(folder):
    """The evaluation that the provenance names is the one whose distance it states."""
    _, imported = read_schedule(folder / "json")
    for kind, fingerprint in imported.provenance["fingerprints"].items():
        (row,) = query(folder / "autonat.db", "SELECT result FROM results WHERE fingerprint = ?", fingerprint)
        if kind == "evaluation":
            assert json.loads(row[0])["value"] == imported.provenance["distance"]["value"]


@pytest.mark.parametrize("name", ["improvednat", "json"])
def test_exported_imported_evaluated_the_same_bits(folder, tmp_path, name):
    """Evaluated in a database of its own, so that nothing can be looked up: the same value to the last bit."""
    run_ok("import", folder / name, "--to", tmp_path / "again.yaml", "--recipe", folder / "recipe.yaml")
    recipe = load_recipe(str(tmp_path / "again.yaml"))
    assert json.loads(json.dumps(recipe.model_dump()["schedule"]["values"])) == {
        key: value for key, value in tuned().items() if key != "rule"
    }
    # A study that begins with the imported schedule measures it as its baseline, on the same held-out seed.
    db = tmp_path / "fresh.db"
    run_ok("run", tmp_path / "again.yaml", "phases=[schedule]", "--db", db, "--workers", 0)
    first = json.loads(run_ok("best", "tiny"))["tuned"]
    second = json.loads(run_ok("best", "again", "--db", db))["baseline"]
    assert first == second


@pytest.mark.parametrize("name", SCHEDULE_FORMS)
def test_evaluate_a_file_beside_the_study(folder, name):
    out = run_ok("evaluate", "tiny", "--images", 40, "--seed", 3, "--schedule", path_of(folder, name), "--workers", 0)
    rows = {line[:8].strip(): line.split()[-3:] for line in out.splitlines() if "+-" in line}
    assert rows["file"] == rows["tuned"]
    assert rows["of file"] == rows["change"]


def test_evaluate_refuses_another_number_of_steps(folder, tmp_path):
    path = tmp_path / "other.yaml"
    path.write_text("manual_ratios: [0.5]\nmanual_temp: [1]\nmanual_samp_temp: [1, 1]\nmanual_cfg: [0, 1]\n")
    refused(*run_cli("evaluate", "tiny", "--schedule", path), "T = 2", "T = 3")
    refused(*run_cli("evaluate", "tiny", "--schedule", tmp_path / "none"), "there is no")
    scalars = tmp_path / "scalars.yaml"
    scalars.write_text("{cfg_scale: 2, mask_temp: 1, samp_temp: 1}")
    out = run_ok("evaluate", "tiny", "--images", 40, "--schedule", scalars, "--workers", 0)
    assert "file " in out


def test_import_shows_the_schedule_and_its_section(folder):
    out = run_ok("import", folder / "improvednat")
    assert "improvednat, T = 3, rule enat" in out
    section = yaml.safe_load(out[out.index("schedule:\n") :])
    assert section["schedule"]["values"] == {key: value for key, value in tuned().items() if key != "rule"}
    assert section["schedule"]["rule"] == "enat"
    assert "whole counts of 64 tokens" in run_ok("import", folder / "halton")


def test_import_into_a_recipe_for_another_number_of_steps(folder, tmp_path):
    to = tmp_path / "new.yaml"
    refused(*run_cli("import", folder / "json", "--to", to), "T = 3", "T = 4", "--steps 3")
    assert not to.exists()
    assert "recipe new" in run_ok("import", folder / "json", "--to", to, "--steps", 3)
    assert load_recipe(str(to)).schedule.num_steps == 3
    refused(*run_cli("import", folder / "json", "--steps", 5), "T = 3", "T = 5")


def test_import_refuses(folder, tmp_path):
    refused(*run_cli("import", tmp_path / "none"), "there is no")
    refused(*run_cli("import", folder / "recipe.yaml"), "none of the forms")
    refused(*run_cli("import", folder / "json", "--format", "xml"), "unknown export format")
    refused(*run_cli("import", folder / "json", "--format", "halton"), "halton")
    refused(*run_cli("import", folder / "json", "--to", tmp_path / "x.yaml", "--recipe", "nowhere"), "no recipe")
    recipe = folder / "recipe.yaml"
    refused(*run_cli("import", folder / "json", "--to", recipe, "--recipe", recipe), "base recipe itself")
    assert yaml.safe_load(recipe.read_text())["name"] == tiny()["name"]
    refused(*run_cli("import", folder / "json", "--to", tmp_path / "no" / "x.yaml", "--recipe", recipe), "cannot write")


def test_export_refuses(folder, tmp_path):
    refused(*run_cli("export", "tiny", "--format", "xml", "--to", tmp_path / "x"), "unknown export format 'xml'")
    refused(*run_cli("export", "tiny", "--to", tmp_path / "x", "--commit"), "--into-git")
    refused(*run_cli("export", "tiny", "--to", tmp_path / "x", "--into-git"), "no git working tree")
    refused(*run_cli("export", "tiny", "--to", tmp_path / "no" / "x"), "cannot write")
    assert not list(tmp_path.iterdir())


def test_export_prints_the_residual(tmp_path):
    out = run_ok("export", "tiny", "--format", "enat", "--to", tmp_path / "enat.yaml")
    for words in ("nearest scalars: cfg_scale", "residual of mask_ratios", "residual of guidance_scales"):
        assert words in out


def test_export_names_every_file_and_keeps_others(tmp_path):
    out = run_ok("export", "tiny", "--format", "python", "--to", tmp_path / "config.py").replace("\n", "")
    assert all(f"config.{suffix}" in out for suffix in ("py", "json", "schema.json"))
    (tmp_path / "config.json").write_text("{}")
    refused(*run_cli("export", "tiny", "--format", "python", "--to", tmp_path / "config.py"), "config.json is there")
    assert (tmp_path / "config.json").read_text() == "{}"


def test_exporting_twice_gives_the_same_bytes(folder, tmp_path):
    for name in ("json", "improvednat", "enat", "halton"):
        run_ok("export", "tiny", "--format", name, "--to", tmp_path / name)
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
