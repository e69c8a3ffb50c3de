"""Schedules as files for others."""

import json
from dataclasses import asdict

import pytest
import yaml

from autonat.errors import UserError
from autonat.exports import FORMATS, export, provenance
from models.schedule import GenerationSchedule

SCHEDULE = GenerationSchedule(
    (0.1 + 0.2, 1 / 3, 1e-12), (1.0, 0.5, 2 / 3, 1e-3), (4.5, 0.0, 1e-7), (-0.5, 0.0, 1.0, 7.25), rule="autonat"
)


def summary(schedule=SCHEDULE):
    distance = {"value": 1.25, "standard_error": 0.1, "num_images": 1000}
    return {
        "metric": "FD(digits-cnn:12345678)",
        "tuned": distance,
        "baseline": {**distance, "value": 2.5},
        "mask_ratio": {"kind": "beta", "alpha": 12.0, "beta": 3.0},
        "schedule": json.loads(json.dumps(asdict(schedule))),
    }


@pytest.mark.parametrize("schedule", [SCHEDULE, GenerationSchedule((), (1.0,), (), (0.0,))])
def test_strategy_file(tmp_path, schedule):
    path = tmp_path / "strategy.yaml"
    export("study", summary(schedule), "improvednat", path)
    data = yaml.safe_load(path.read_text())
    assert data == {
        "manual_ratios": list(schedule.mask_ratios),
        "manual_temp": list(schedule.choice_temperatures),
        "manual_samp_temp": list(schedule.sampling_temperatures),
        "manual_cfg": list(schedule.guidance_scales),
    }
    steps = schedule.num_steps
    assert [len(values) for values in data.values()] == [steps - 1, steps - 1, steps, steps]


def test_small_numbers_are_numbers_to_plain_yaml(tmp_path):
    """1e-12 has no point in it: YAML 1.1 reads it as text."""
    path = tmp_path / "strategy.yaml"
    export("study", summary(), "improvednat", path)
    values = [value for family in yaml.safe_load(path.read_text()).values() for value in family]
    assert [type(value) for value in values] == [float] * 14


def test_strategy_file_says_where_it_comes_from(tmp_path):
    path = tmp_path / "strategy.yaml"
    export("study", summary(), "improvednat", path)
    comments = [line for line in path.read_text().splitlines() if line.startswith("#")]
    for key, value in provenance("study", summary()).items():
        assert f"# {key}: {json.dumps(value, sort_keys=True)}" in comments
    assert not any("decoding rule" in line for line in comments)
    other = GenerationSchedule(**{**asdict(SCHEDULE), "rule": "enat"})
    export("study", summary(other), "improvednat", path)
    assert "tuned under ENAT's decoding rule" in path.read_text()


def test_json_comes_back_to_the_last_bit(tmp_path):
    path = tmp_path / "schedule.json"
    export("study", summary(), "json", path)
    data = json.loads(path.read_text())
    assert GenerationSchedule(**data["schedule"]) == SCHEDULE
    assert (data["format"], data["format_version"], data["num_steps"]) == ("autonat-schedule", 1, 4)
    assert set(data["meaning"]) == set(data["schedule"])
    assert data["training_mask_ratio"] == summary()["mask_ratio"]
    assert data["provenance"] == provenance("study", summary())
    assert data["provenance"]["distance"]["value"] == 1.25


def test_formats(tmp_path):
    for name in FORMATS:
        export("study", summary(), name, tmp_path / name)
        assert (tmp_path / name).stat().st_size > 100
    with pytest.raises(UserError, match="unknown export format 'xml'"):
        export("study", summary(), "xml", tmp_path / "xml")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FORMATS)


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "schedule.json"
    path.write_text("x" * 100_000)
    export("study", summary(), "json", path)
    assert json.loads(path.read_text())
    with pytest.raises(UserError, match="cannot write"):
        export("study", summary(), "json", tmp_path / "none" / "x")
    assert [file.name for file in tmp_path.iterdir()] == ["schedule.json"]
