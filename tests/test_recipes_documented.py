"""docs/recipes.md has every key of a recipe, in its block's table, with the default that the code has."""

import dataclasses
import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError
from studies_for_tests import tiny_recipe

import autonat.config as recipes
import autonat.search_config as searches
from autonat.config import load_recipe
from autonat.specs import Compute
from autonat.tokenizer_config import TokenizerRecipe, load_tokenizer_recipe
from models import schedule
from models.data import Captions, TokenData
from models.enat import ENATConfig
from models.features import ClassifierConfig
from models.files import File
from models.mask_ratio import ArccosMaskRatio, BetaMaskRatio, FixedMaskRatio, TruncatedGaussianMaskRatio
from models.presets import PRESETS
from models.train import TrainingConfig
from models.train_tokenizer import TokenizerTraining
from models.uvit import TextUViTConfig, UViTConfig
from models.vq_autoencoder import AutoencoderConfig

DOCUMENT = Path(__file__).parents[1] / "docs" / "recipes.md"
HEADER = "| key | default | meaning |"
REQUIRED, NONE = "required", "none"

# Where the keys of each part of a recipe are: a heading and, below it, one more.
PLACES: dict[type, tuple[str, str]] = {
    recipes.Recipe: ("Study keys", ""),
    TokenData: ("Data", "`data`"),
    Captions: ("Data", "`data.captions`"),
    ClassifierConfig: ("Features", "`features.kind: classifier`"),
    recipes.InceptionConfig: ("Features", "`features.kind: inception`"),
    recipes.FeatureFileConfig: ("Features", "`features.kind: network`"),
    recipes.FeatureFacts: ("Features", "`features.found`"),
    recipes.Floor: ("Features", "`features.found.floor`"),
    ENATConfig: ("Network", "`network.kind: enat`"),
    UViTConfig: ("Network", "`network.kind: uvit`"),
    TextUViTConfig: ("Network", "`network.kind: uvit_text`"),
    TrainingConfig: ("Training", "`training`"),
    recipes.ScheduleStart: ("Schedule", "`schedule`"),
    ArccosMaskRatio: ("Mask ratio", "`mask_ratio.kind: arccos`"),
    BetaMaskRatio: ("Mask ratio", "`mask_ratio.kind: beta`"),
    FixedMaskRatio: ("Mask ratio", "`mask_ratio.kind: fixed`"),
    TruncatedGaussianMaskRatio: ("Mask ratio", "`mask_ratio.kind: truncated_gaussian`"),
    searches.StagedSearch: ("Search", "`search.method: staged`"),
    searches.WarmStart: ("Search", "`search.warm_start`"),
    searches.Descent: ("Search", "`search.descent`"),
    searches.BlackBoxSearch: ("Search", "`search.method: tpe, cmaes, gp, random`"),
    searches.SPSASearch: ("Search", "`search.method: spsa`"),
    searches.OfficialSearch: ("Search", "`search.method: official`"),
    searches.BetaSearch: ("Beta", "`beta`"),
    searches.WarmTraining: ("Beta", "`beta.warm_start`"),
    Compute: ("Compute and files", "`compute`"),
    File: ("Compute and files", "Files"),
    TokenizerRecipe: ("The tokenizer recipe", "Tokenizer keys"),
    AutoencoderConfig: ("The tokenizer recipe", "Tokenizer `network`"),
    TokenizerTraining: ("The tokenizer recipe", "Tokenizer `training`"),
}

# Keys that stand for others before a recipe is checked, so that no model has them.
SHORT_FORMS = {("Network", ""): {"preset"}, PLACES[recipes.ScheduleStart]: {"study"}}

# What a section is that does not say its kind.
UNLESS_NAMED = {TokenData, ClassifierConfig, ENATConfig, searches.StagedSearch, AutoencoderConfig}


def keys_of(part: type) -> dict[str, tuple[Any, Any]]:
    """Type and default (REQUIRED: none) of every key."""
    if issubclass(part, BaseModel):
        return {
            key: (field.annotation, REQUIRED if field.is_required() else field.get_default(call_default_factory=True))
            for key, field in part.model_fields.items()
        }
    types = get_type_hints(part)
    found = {}
    for field in dataclasses.fields(part):
        made = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        found[field.name] = types[field.name], REQUIRED if made is dataclasses.MISSING else made
    return found


def inside(annotation: Any) -> list[Any]:
    """A type and all that it is put together from; of a Literal its choices."""
    return [annotation, *(part for argument in get_args(annotation) for part in inside(argument))]


def parts_of(root: type) -> set[type]:
    """A model with all models and dataclasses that its keys may hold, members of unions included."""
    found, ahead = set(), [root]
    while ahead:
        part = ahead.pop()
        if part in found:
            continue
        found.add(part)
        for annotation, _ in keys_of(part).values():
            types = [entry for entry in inside(annotation) if isinstance(entry, type)]
            ahead += [entry for entry in types if issubclass(entry, BaseModel) or dataclasses.is_dataclass(entry)]
    return found


def choices_of(annotation: Any) -> list[Any]:
    return [choice for entry in inside(annotation) if get_origin(entry) is Literal for choice in get_args(entry)]


def rows_below(text: str, header: str) -> dict[tuple[str, str], list[list[str]]]:
    """Cells of the rows of all tables with a header, by the headings that they stand below."""
    found: dict[tuple[str, str], list[list[str]]] = {}
    place, within, fenced = ("", ""), False, False
    for line in text.splitlines():
        fenced ^= line.startswith("```")
        within = line.startswith("|") and (within or line == header)
        if within and line != header and not line.startswith("|---"):
            found.setdefault(place, []).append([cell.strip() for cell in line.strip("|").split("|")])
        elif not fenced and line.startswith("## "):
            place = line.removeprefix("## "), ""
        elif not fenced and line.startswith("### "):
            place = place[0], line.removeprefix("### ")
    return found


@cache
def tables() -> dict[tuple[str, str], dict[str, tuple[str, str]]]:
    """By headings, default and meaning of each key."""
    found = {}
    for place, rows in rows_below(DOCUMENT.read_text(), HEADER).items():
        keys = [key for key, _, _ in rows]
        assert all(re.fullmatch(r"`\w+`", key) for key in keys), f"{place}: {keys}"
        assert len(set(keys)) == len(keys), f"{place} has a key twice: {keys}"
        found[place] = {key.strip("`"): (default, meaning) for key, default, meaning in rows}
    return found


def section(heading: str) -> str:
    return DOCUMENT.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]


def is_stated(default: Any, cell: str, annotation: Any) -> bool:
    """Whether a cell says a default: the word for none, or its YAML; of a section what is checked to become it."""
    if default is REQUIRED or cell == REQUIRED:
        return default is REQUIRED and cell == REQUIRED
    if not re.fullmatch(r"`[^`]+`", cell):
        return False
    value = yaml.safe_load(cell.strip("`"))
    if default is None or isinstance(default, bool | int | float | str):
        numbers = [isinstance(one, int | float) and not isinstance(one, bool) for one in (value, default)]
        return value == default and (all(numbers) or type(value) is type(default))
    return TypeAdapter(annotation).validate_python(value) == default


def names_its_kind(annotation: Any) -> bool:
    return get_origin(annotation) is Literal and len(get_args(annotation)) == 1


def test_every_part_has_a_table_and_every_table_a_part():
    parts = parts_of(recipes.Recipe) | parts_of(TokenizerRecipe)
    assert parts == set(PLACES)
    assert set(tables()) == set(PLACES.values()) | set(SHORT_FORMS)
    assert len(set(PLACES.values())) == len(PLACES)


@pytest.mark.parametrize("part", PLACES, ids=lambda part: part.__name__)
def test_every_key_is_in_its_table_with_its_default(part):
    place = PLACES[part]
    table = tables()[place]
    documented, known = set(table) - SHORT_FORMS.get(place, set()), set(keys_of(part))
    assert not known - documented, f"{place} lacks {known - documented}"
    assert not documented - known, f"{place} has {documented - known}, which no recipe may have"
    for key, (annotation, default) in keys_of(part).items():
        stated, _ = table[key]
        if names_its_kind(annotation) and part not in UNLESS_NAMED:
            assert stated == REQUIRED, f"{place}: {key} must be given to say which kind it is"
        else:
            assert is_stated(default, stated, annotation), f"{place}: {key} is {default!r}, not {stated}"


@pytest.mark.parametrize("part", PLACES, ids=lambda part: part.__name__)
def test_every_choice_is_in_the_meaning(part):
    for key, (annotation, _) in keys_of(part).items():
        stated, meaning = tables()[PLACES[part]][key]
        choices = [] if names_its_kind(annotation) and part in UNLESS_NAMED else choices_of(annotation)
        missing = [choice for choice in choices if f"`{choice}`" not in meaning]
        assert not missing, f"{PLACES[part]}: {key} ({stated}) may also be {missing}"


def test_short_forms_are_no_models_keys():
    for place, keys in SHORT_FORMS.items():
        assert keys <= set(tables()[place])
        assert {tables()[place][key][0] for key in keys} == {NONE}


@pytest.mark.parametrize(
    ("cell", "default", "annotation", "says"),
    [
        ("`3`", 3, int, True),
        ("`3`", 4, int, False),
        ("`3`", "3", str, False),
        ("`4.0`", 4, int, True),
        ("`true`", True, bool, True),
        ("`1`", True, bool, False),
        ("`null`", None, int | None, True),
        ("`0`", None, int | None, False),
        ('`""`', "", str, True),
        ("3", 3, int, False),
        ("required", REQUIRED, int, True),
        ("required", 3, int, False),
        ("`3`", REQUIRED, int, False),
        ("`[0.5, 2.0]`", (0.5, 2.0), tuple[float, float], True),
        ("`[0.5, 3.0]`", (0.5, 2.0), tuple[float, float], False),
        ("`{}`", Compute(), Compute, True),
        ("`{device: cuda}`", Compute(), Compute, False),
    ],
)
def test_what_counts_as_a_default_stated(cell, default, annotation, says):
    assert is_stated(default, cell, annotation) is says


def test_kinds_that_go_without_saying():
    """UNLESS_NAMED, which the test above takes for granted, against what recipes become."""
    recipe = tiny_recipe(network=dataclasses.asdict(PRESETS["digits"].config) | {"kind": "enat"})
    assert type(recipe.network) in UNLESS_NAMED
    sizes = {key: value for key, value in dataclasses.asdict(recipe.network).items() if key != "kind"}
    assert tiny_recipe(network=sizes).network == recipe.network
    assert type(tiny_recipe(features={}).features) in UNLESS_NAMED
    assert type(tiny_recipe(search={}).search) in UNLESS_NAMED
    with pytest.raises(ValidationError, match="mask_ratio"):
        tiny_recipe(mask_ratio={})


def test_network_presets():
    header = "| preset | kind | num_tokens | codebook_size | num_classes | width | heads | blocks |"
    rows = rows_below(DOCUMENT.read_text(), header)["Network", ""]
    expected = []
    for name, preset in PRESETS.items():
        sizes = dataclasses.asdict(preset.config)
        blocks = sizes["blocks"] if "blocks" in sizes else "{encoder_blocks} + {decoder_blocks}".format(**sizes)
        expected.append([f"`{name}`", *(str(sizes[key]) for key in header.split(" | ")[1:-1]), str(blocks)])
    assert rows == expected
    guessed = {name for name, preset in PRESETS.items() if preset.guessed}
    assert guessed == set(re.findall(r"`([\w-]+)`", re.search(r"The sizes of .*? guess", section("Network"), re.S)[0]))


def test_schedule_presets_rules_and_families():
    text = DOCUMENT.read_text()
    place = PLACES[recipes.ScheduleStart]
    presets = rows_below(text, "| preset | mask ratio | sampling temperature | choice temperature | guidance scale |")
    assert [row[0] for row in presets[place]] == [f"`{name}`" for name in schedule.PRESETS]
    rules = rows_below(text, "| rule | what differs |")[place]
    assert [row[0] for row in rules] == [f"`{rule}`" for rule in get_args(schedule.DecodingRule)]
    families = rows_below(text, "| family | how many | range | what it is |")[place]
    assert [row[:3] for row in families] == [
        [f"`{family}`", {7: "T - 1", 8: "T"}[schedule.family_length(family, 8)], "{:g} to {:g}".format(*bounds)]
        for family, bounds in schedule.BOUNDS.items()
    ]


def examples(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", DOCUMENT.read_text(), re.S | re.M)


def test_examples_load(tmp_path):
    study, tokenizer = examples("yaml")
    path = tmp_path / "my-digits.yaml"
    path.write_text(study)
    (tmp_path / "tokenizer.yaml").write_text(tokenizer)
    assert load_tokenizer_recipe(str(tmp_path / "tokenizer.yaml")).name == "my-tokenizer"
    (commands,) = examples("sh")
    names = []
    for command in commands.splitlines():
        _, verb, file, *overrides = shlex.split(command)
        assert (verb in ("plan", "run"), file) == (True, path.name)
        recipe = load_recipe(str(path), overrides)
        names.append(recipe.name)
        assert bool(overrides) == (recipe.name != "my-digits"), "a changed recipe needs a name of its own"
    assert len(set(names)) == len(names) - 1
