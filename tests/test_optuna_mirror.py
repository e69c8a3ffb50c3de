"""A study in Optuna's own tables."""

import optuna
import pytest
from test_dashboards_studies import BETA, TUNED, Writer, whole_study

from autonat.errors import UserError
from autonat.storage.optuna_mirror import mirror
from autonat.storage.store import Store


@pytest.fixture
def store(tmp_path):
    store = Store.open(str(tmp_path / "autonat.db"))
    yield store
    store.close()


def load(path, name="whole"):
    return optuna.load_study(storage=f"sqlite:///{path}", study_name=name)


def test_optuna_reads_the_mirror(store, tmp_path):
    whole_study(store)
    assert mirror(store, "whole", tmp_path / "optuna.db") == (11, 11)
    study = load(tmp_path / "optuna.db")
    assert [trial.value for trial in study.trials] == [3.0, 2.5, 3.0, 2.8, 2.4, 2.6, 1.5, 1.75, 2.9, 2.3, 1.4]
    best = study.best_trial
    assert best.user_attrs["phase"] == "held-out"
    assert best.user_attrs["standard error"] == 0.05
    assert best.params["mask_ratios_0"] == TUNED.mask_ratios[0]
    assert (best.params["alpha"], best.params["beta"]) == (BETA.mask_ratio.alpha, BETA.mask_ratio.beta)
    assert "alpha" not in study.trials[0].params
    assert study.user_attrs["metric"] == best.user_attrs["metric"]
    assert optuna.visualization.plot_optimization_history(study).data


def test_mirroring_again_adds_what_is_new_alone(store, tmp_path):
    writer = Writer(store, "growing")
    writer.measured("schedule", 0, "warm start", 3.0)
    path = tmp_path / "optuna.db"
    assert mirror(store, "growing", path) == (1, 1)
    assert mirror(store, "growing", path) == (0, 1)
    writer.measured("schedule", 0, "warm start", 2.0, schedule=TUNED)
    assert mirror(store, "growing", path) == (1, 2)
    assert [trial.value for trial in load(path, "growing").trials] == [3.0, 2.0]


def test_a_study_without_evaluations_has_an_empty_mirror(store, tmp_path):
    Writer(store, "empty")
    assert mirror(store, "empty", tmp_path / "optuna.db") == (0, 0)
    assert load(tmp_path / "optuna.db", "empty").trials == []


def test_what_is_no_mirror_is_left_alone(store, tmp_path):
    whole_study(store)
    with pytest.raises(UserError, match="autonat's own studies"):
        mirror(store, "whole", tmp_path / "autonat.db")
    notes = tmp_path / "notes.txt"
    notes.write_text("no database at all\n" * 100)
    with pytest.raises(UserError, match="not a database"):
        mirror(store, "whole", notes)
    assert notes.read_text() == "no database at all\n" * 100
    other = optuna.create_study(storage=f"sqlite:///{tmp_path / 'other.db'}", study_name="whole")
    other.add_trial(optuna.trial.create_trial(value=1.0))
    with pytest.raises(UserError, match="another study 'whole'"):
        mirror(store, "whole", tmp_path / "other.db")
    with pytest.raises(UserError, match="no study 'none'"):
        mirror(store, "none", tmp_path / "new.db")
    assert not (tmp_path / "new.db").exists()
