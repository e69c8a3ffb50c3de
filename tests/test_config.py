"""Recipes: files, overrides and checks that the command line's tests leave out."""

from pathlib import Path

import pytest
from studies_for_tests import tiny, write_recipe

import studies
from autonat.config import Recipe, load_recipe
from autonat.errors import UserError
from autonat.plan import forward_passes
from autonat.recipe_files import recipe_path
from autonat.search.alternation import start_of
from models.mask_ratio import ArccosMaskRatio, BetaMaskRatio, FixedMaskRatio
from models.schedule import autonat_initial, maskgit_cosine

BUILT_IN = sorted(path.stem for path in Path(studies.__path__[0]).glob("*.yaml"))


def test_there_are_recipes():
    assert {"quickstart", "digits"} <= set(BUILT_IN)


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_recipes_load(name):
    recipe = load_recipe(name)
    assert recipe.name.replace("-", "_") == name.replace("-", "_")
    assert recipe.held_out_images >= 10_000
    lab, pair = start_of(recipe)
    assert pair.schedule.num_steps == recipe.schedule.num_steps
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    assert forward_passes(lab.evaluation(pair, recipe.held_out_images, 1)) > 0


def test_a_path_is_preferred_to_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    built_in = recipe_path("quickstart")
    assert built_in.name == "quickstart.yaml"
    assert recipe_path("quickstart.yaml") == built_in
    write_recipe(tmp_path).rename("quickstart.yaml")
    assert load_recipe("quickstart.yaml").name == "tiny"


@pytest.fixture
def path(tmp_path):
    return str(write_recipe(tmp_path))


@pytest.mark.parametrize(
    ("override", "read", "value"),
    [
        ("training.learning_rate=1e-4", lambda recipe: recipe.training.learning_rate, 1e-4),
        ("training.learning_rate=2E-3", lambda recipe: recipe.training.learning_rate, 2e-3),
        ("training.learning_rate=1", lambda recipe: recipe.training.learning_rate, 1.0),
        ("seed=-7", lambda recipe: recipe.seed, -7),
        ("name=x-1", lambda recipe: recipe.name, "x-1"),
        ("phases=[schedule]", lambda recipe: recipe.phases, ("schedule",)),
        ("search.descent=null", lambda recipe: recipe.search.descent, None),
        ("budget_images=1000", lambda recipe: recipe.budget_images, 1000),
        ("schedule.num_steps=8", lambda recipe: recipe.schedule.build(), maskgit_cosine(8)),
        ("mask_ratio={kind: fixed, ratio: 0.5}", lambda recipe: recipe.mask_ratio, FixedMaskRatio(0.5)),
        ("beta.factors=[0.7,1.5]", lambda recipe: recipe.beta.factors, (0.7, 1.5)),
    ],
)
def test_overrides(path, override, read, value):
    before = load_recipe(path)
    found = read(load_recipe(path, [override]))
    assert found == value
    assert type(found) is type(value)
    assert read(before) != value


def test_several_overrides_the_last_one_counts(path):
    recipe = load_recipe(
        path,
        ["mask_ratio.kind=beta", "mask_ratio.alpha=2", "mask_ratio.beta=3", "schedule.rule=autonat",
         "schedule.preset=linear", "schedule.preset=autonat-initial"],
    )  # fmt: skip
    assert recipe.mask_ratio == BetaMaskRatio(2.0, 3.0)
    assert isinstance(recipe.mask_ratio.alpha, float)
    assert recipe.schedule.build() == autonat_initial(3, "autonat")


@pytest.mark.parametrize("method", ["tpe", "cmaes", "gp", "random", "spsa", "official"])
def test_another_search_by_one_word(method, path):
    """The staged search's keys, which the others do not know, go with it; those that stand beside the word stay."""
    recipe = load_recipe("digits", [f"search.method={method}"])
    assert recipe.search == type(recipe.search)(method=method)
    assert recipe.later_search == load_recipe("digits").later_search
    assert load_recipe(path, ["search.images=600", f"search.method={method}"]).search.images == 600


def test_a_section_keeps_its_keys_while_its_kind_stays(path):
    before = load_recipe(path).search
    recipe = load_recipe(path, ["search.method=staged", "search.confirmation_images=700"])
    assert recipe.search == before.model_copy(update={"confirmation_images": 700})
    assert before.confirmation_images != 700


def test_another_mask_ratio_by_one_word(tmp_path):
    path = str(write_recipe(tmp_path, mask_ratio={"kind": "beta", "alpha": 2, "beta": 3}))
    assert load_recipe(path, ["mask_ratio={kind: fixed, ratio: 0.5}"]).mask_ratio == FixedMaskRatio(0.5)
    assert load_recipe(path, ["mask_ratio.kind=arccos"]).mask_ratio == ArccosMaskRatio()
    assert load_recipe(path, ["mask_ratio.kind=beta", "mask_ratio.beta=4"]).mask_ratio == BetaMaskRatio(2.0, 4.0)


def test_numbers_of_a_file_without_a_point_in_them(tmp_path):
    """Plain YAML reads 1e-4 as text."""
    path = write_recipe(tmp_path)
    path.write_text(path.read_text().replace("learning_rate: 0.004", "learning_rate: 4e-3"))
    assert "4e-3" in path.read_text()
    assert load_recipe(str(path)).training.learning_rate == 4e-3


def test_a_schedule_written_out(tmp_path):
    values = {
        "mask_ratios": [0.7, 0.3],
        "sampling_temperatures": [1, 1, 1],
        "choice_temperatures": [3, 1],
        "guidance_scales": [0, 1, 2],
    }
    schedule = load_recipe(str(write_recipe(tmp_path, schedule__values=values))).schedule.build()
    assert schedule.values() == [0.7, 0.3, 1, 1, 1, 3, 1, 0, 1, 2]
    with pytest.raises(UserError, match="has 3 steps, num_steps says 4"):
        load_recipe(str(write_recipe(tmp_path, schedule__values=values, schedule__num_steps=4)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"search__warm_start": None, "search__descent": None}, "needs a warm start, a descent or both"),
        ({"beta__factors": [0.5, 0.9]}, "one below and one above 1"),
        ({"search__descent__scales": {"mask_ratios": 1.0}}, "positive value for each of"),
        ({"search": {"method": "spsa", "scales": {"mask_ratios": 1.0}}}, "positive value for each of"),
        ({"search": {"method": "official", "difference": {"mask_ratios": 1.0}}}, "positive value for each of"),
        ({"search__descent__max_images": 20}, "max_images 20 is less than images"),
        ({"training__warmup_steps": -1}, "warmup_steps must not be negative"),
        ({"search": {"method": "guess"}}, "search"),
        ({"search": {"method": "official", "images": 50}}, "search.images = 50"),
        ({"search__descent__images": 30}, "search.descent.images = 30"),
        ({"search__warm_start__images": 20}, "search.warm_start.images = 20"),
        ({"beta__images": 50}, "beta.images = 50"),
        ({"training__ratio_groups": 3}, "not a multiple of ratio_groups"),
        ({"network__heads": 3}, "not a multiple of heads"),
        ({"network__num_tokens": 16}, "digits needs 64"),
        ({"search__descent__images": 60, "front": [16]}, "above 124, twice the 62 values of T = 16"),
        ({"rounds": 0}, "rounds"),
        ({"budget_images": 0}, "budget_images"),
    ],
)
def test_what_does_not_fit_together(tmp_path, changes, words):
    with pytest.raises(UserError) as caught:
        load_recipe(str(write_recipe(tmp_path, **changes)))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_stored_recipe_is_one_text_for_one_recipe(path):
    """A study is recognised by its recipe's text: the order of keys in a file does not matter."""
    recipe = load_recipe(path)
    backwards = Recipe.model_validate(dict(reversed(tiny().items())))
    assert recipe.model_dump_json() == backwards.model_dump_json()
    assert load_recipe(path, ["seed=1"]).model_dump_json() != recipe.model_dump_json()
