"""A study whose schedule begins where an earlier one ended, and studies that differ in their mask ratio alone."""

import json

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from strategies import schedules
from studies_for_tests import query, run_cli, run_ok, tiny, write_recipe

from autonat.config import load_recipe
from autonat.earlier_study import tuned_schedule, with_schedule_found
from autonat.errors import UserError
from autonat.storage.store import Store
from models.mask_ratio import ArccosMaskRatio, BetaMaskRatio, FixedMaskRatio, TruncatedGaussianMaskRatio
from models.schedule import FAMILIES, GenerationSchedule, autonat_initial, maskgit_cosine, resampled

SHORT = {"phases": ["schedule"], "search__descent": None, "name": "earlier"}


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    folder = tmp_path_factory.mktemp("earlier")
    recipe = write_recipe(folder, **SHORT, front=[2], mask_ratio={"kind": "beta", "alpha": 3.0, "beta": 2.0})
    run_ok("run", recipe, "--db", folder / "study.db", "--workers", 0)
    # What a short search finds may be the start again; its summary is given other values to be told apart.
    summary = summary_of(folder / "study.db", "earlier")
    for point, steps in ((summary, 3), (summary["front"][1], 3), (summary["front"][0], 2)):
        point["schedule"] = written(autonat_initial(steps, "autonat"))
    query(folder / "study.db", "UPDATE studies SET summary = ?", json.dumps(summary))
    return folder / "study.db"


def summary_of(database, study):
    return json.loads(query(database, "SELECT summary FROM studies WHERE name = ?", study)[0][0])


def written(schedule):
    return {family: list(getattr(schedule, family)) for family in FAMILIES} | {"rule": schedule.rule}


def recorded(database, study):
    return json.loads(query(database, "SELECT recipe FROM studies WHERE name = ?", study)[0][0])


@pytest.mark.parametrize(
    ("num_steps", "expected"),
    [
        (None, autonat_initial(3, "autonat")),
        (3, autonat_initial(3, "autonat")),
        (2, autonat_initial(2, "autonat")),  # of the front
        (1, resampled(autonat_initial(2, "autonat"), 1)),
        (5, resampled(autonat_initial(3, "autonat"), 5)),
    ],
)
def test_the_nearest_tuned_schedule_is_taken(database, num_steps, expected):
    assert tuned_schedule(Store.open(str(database), readonly=True), "earlier", num_steps) == expected


@given(schedules(), st.integers(1, 9) | st.none())
def test_what_is_recorded_stands_alone(schedule, num_steps):
    asked = []

    def find(study, steps):
        asked.append((study, steps))
        return schedule if steps is None else resampled(schedule, steps)

    section = {"study": "earlier", "preset": "linear"} | ({} if num_steps is None else {"num_steps": num_steps})
    data = {"schedule": section, "seed": 3}
    found = with_schedule_found(data, find)
    assert asked == [("earlier", num_steps)]
    assert data["schedule"] is section  # what was read is left as it was
    assert found["seed"] == 3
    plain = json.loads(json.dumps(found["schedule"]))
    values = {family: tuple(plain["values"][family]) for family in FAMILIES}
    assert GenerationSchedule(**values, rule=plain["rule"]) == find("earlier", num_steps)
    assert set(plain) == {"num_steps", "rule", "values"}
    assert with_schedule_found(found, None) == found


def test_a_run_starts_from_it_and_records_values(database, tmp_path):
    recipe = write_recipe(tmp_path, **{**SHORT, "name": "later", "schedule": {"num_steps": 2}})
    run_ok("run", recipe, "--db", database, "--workers", 0, "--from-study", "earlier")
    section = recorded(database, "later")["schedule"]
    assert "study" not in section
    baseline = summary_of(database, "later")["baseline_schedule"]
    assert written(autonat_initial(2, "autonat")) == json.loads(json.dumps(baseline))
    results = query(database, "SELECT count(*) FROM results")
    run_ok("run", recipe, "--db", database, "--workers", 0, "--from-study", "earlier")
    assert query(database, "SELECT count(*) FROM results") == results
    # The recorded recipe needs no earlier study.
    path = tmp_path / "recorded.yaml"
    path.write_text(yaml.safe_dump(recorded(database, "later")))
    assert load_recipe(str(path)).schedule.build() == autonat_initial(2, "autonat")


def test_in_a_recipe_the_rest_of_the_section_holds(database, tmp_path):
    def loaded(**section):
        path = write_recipe(tmp_path, **{**SHORT, "schedule": section})
        store = Store.open(str(database), readonly=True)
        return load_recipe(str(path), (), lambda study, steps: tuned_schedule(store, study, steps)).schedule.build()

    assert loaded(study="earlier") == autonat_initial(3, "autonat")
    assert loaded(study="earlier", rule="enat").rule == "enat"
    longer = loaded(study="earlier", num_steps=6, preset="linear", interpolate=True)
    assert longer == resampled(autonat_initial(3, "autonat"), 6)


def test_plan_knows_of_it_too(database, tmp_path):
    """What it plans is what it plans for the same values written out."""

    def planned(**section):
        recipe = write_recipe(tmp_path, **{**SHORT, "schedule": section})
        lines = run_ok("plan", recipe, "--db", database, "--workers", 0).splitlines()
        return [line for line in lines if not line.lstrip().startswith("time")]

    plans = []
    for num_steps in (2, 3):
        schedule = autonat_initial(num_steps, "autonat")
        values = {family: list(getattr(schedule, family)) for family in FAMILIES}
        plans.append(planned(study="earlier", num_steps=num_steps))
        assert plans[-1] == planned(num_steps=num_steps, rule=schedule.rule, values=values)
        assert plans[-1] != planned(num_steps=num_steps)
    assert planned(study="earlier") == plans[1] != plans[0]


@pytest.mark.parametrize(
    ("section", "options", "part"),
    [
        ({"study": "nowhere"}, [], "no study 'nowhere'"),
        ({"study": 7}, [], "study's name"),
        ({"study": "earlier", "num_steps": 0}, [], "num_steps"),
        ({"study": "earlier", "num_steps": "many"}, [], "num_steps"),
        ({"study": "earlier", "more": 1}, [], "unknown key"),
        ({"num_steps": 2}, ["--from-study", "7"], "no study '7'"),
        ({"num_steps": 2}, ["--from-study", "it's"], "cannot read override"),
        ({"study": "earlier"}, ["--db", "nothing.db"], "no database"),
    ],
)
def test_what_cannot_be_found_is_one_line(database, tmp_path, monkeypatch, section, options, part):
    monkeypatch.chdir(tmp_path)
    recipe = write_recipe(tmp_path, **{**SHORT, "name": "later", "schedule": section})
    status, _, err = run_cli("run", recipe, "--db", database, *options)
    assert (status, len(err.splitlines())) == (2, 1), err
    assert part in err


def test_without_a_database_or_a_result_it_is_one_line(database, tmp_path):
    path = write_recipe(tmp_path, **{**SHORT, "schedule": {"study": "earlier"}})
    with pytest.raises(UserError, match="needs the database"):
        load_recipe(str(path))
    store = Store.open(str(tmp_path / "study.db"))
    store.claim("earlier", "{}")
    with pytest.raises(UserError, match="no schedule yet"):
        tuned_schedule(store, "earlier")
    store.close()


def test_a_front_of_earlier_versions_may_be_missing(database, tmp_path):
    store = Store.open(str(tmp_path / "study.db"))
    study = store.claim("earlier", "{}")
    store.release(study, "finished", summary={"schedule": written(maskgit_cosine(4))})
    assert tuned_schedule(store, "earlier", 4) == maskgit_cosine(4)
    assert tuned_schedule(store, "earlier", 6) == resampled(maskgit_cosine(4), 6)
    store.close()


# Other mask ratios


CHOICES = {
    "arccos": ArccosMaskRatio(),
    "fixed": FixedMaskRatio(0.5),
    "truncated_gaussian": TruncatedGaussianMaskRatio(),
    "beta": BetaMaskRatio(6.0, 3.0),
}


@pytest.mark.parametrize("kind", CHOICES)
def test_every_mask_ratio_is_read_from_a_recipe(tmp_path, kind):
    section = {"fixed": {"ratio": 0.5}, "beta": {"alpha": 6, "beta": 3}}.get(kind, {})
    recipe = write_recipe(tmp_path, mask_ratio={"kind": kind, **section})
    assert load_recipe(str(recipe)).mask_ratio == CHOICES[kind]


def test_studies_that_differ_in_their_mask_ratio_compare(database, tmp_path):
    """The table says of both what they were trained with."""
    changes = {**SHORT, "name": "other", "training__steps": 3, "mask_ratio": {"kind": "truncated_gaussian"}}
    changes["search__warm_start"] = {**tiny()["search"]["warm_start"], "trials": 2, "keep": 1}
    run_ok("run", write_recipe(tmp_path, **changes), "--db", database, "--workers", 0)
    lines = run_ok("compare", "earlier", "other", "--db", database).splitlines()
    (row,) = [line for line in lines if "mask ratio" in line]
    assert [cell.strip() for cell in row.strip("│ ").split("│")] == [
        "mask ratio",
        "Beta(3, 2)",
        "Gaussian(0.55, 0.25) on [0.5, 1]",
    ]


def test_the_choices_differ():
    """In what they draw from the same uniforms."""
    uniform = np.linspace(0.05, 0.95, 5)
    drawn = {tuple(ratio.from_uniform(uniform)) for ratio in CHOICES.values()}
    assert len(drawn) == len(CHOICES)
