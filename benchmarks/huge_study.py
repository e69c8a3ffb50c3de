"""A finished-looking study of many evaluations, written straight into the tables: nothing of it was measured."""

import json
import math
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import sqlalchemy as sa

from autonat.specs import EvaluationSpec, FeatureSpec, TrainSpec, canonical_json
from autonat.storage.store import Store, decision_json
from autonat.storage.tables import journal, results
from models.enat import ENATConfig
from models.features import ClassifierConfig
from models.mask_ratio import ArccosMaskRatio, BetaMaskRatio
from models.schedule import components, maskgit_cosine
from models.train import TrainingConfig

METRIC = "FD(made-up:00000000)"
STEPS = 8
FEATURES = FeatureSpec("digits", ClassifierConfig(), 1)
NETWORK = ENATConfig(num_tokens=64, width=16, heads=2)
RECIPE = {
    "name": "huge",
    "schedule": {"num_steps": STEPS, "preset": "maskgit-cosine", "rule": "enat", "values": None},
    "mask_ratio": {"kind": "arccos"},
}


def write_huge_study(file: Path, evaluations: int = 10_000, name: str = "huge", blocks: int = 20) -> Store:
    """A database with one study of so many evaluations, and a gradient for every hundred of them."""
    store = Store.open(str(file))
    study = store.claim(name, json.dumps(RECIPE))
    append_evaluations(store, study, 0, evaluations, blocks=blocks)
    store.release(study, "interrupted")
    return store


def append_evaluations(store: Store, study: int, first: int, count: int, *, blocks: int = 20) -> None:
    """So many evaluations more, from journal number `first` on; every hundredth entry is a gradient."""
    random = np.random.default_rng(first)
    base, begun = maskgit_cosine(STEPS), datetime.now(UTC) - timedelta(seconds=count)
    places = components(STEPS)
    recorded, entries = [], []
    for number in range(first, first + count):
        moment = begun + timedelta(seconds=number - first)
        entry = {"study_id": study, "number": number, "created_at": moment, "fingerprint": None, "decision": None}
        if number % 100 == 99:
            facts = {
                "iteration": number // 100,
                "distance": 3.0,
                "schedule": base,
                "mask_ratio": ArccosMaskRatio(),
                "gradient": random.normal(size=len(places)).tolist(),
                "gradient_standard_errors": [0.5] * len(places),
            }
            entries.append(
                entry | {"phase": "schedule", "round": 0, "purpose": "gradient", "decision": decision_json(facts)}
            )
            continue
        confirms = number % 100 >= 89
        mask_ratio = BetaMaskRatio(6.0, 3.0) if number % 7 == 0 else ArccosMaskRatio()
        training = TrainSpec("digits", NETWORK, TrainingConfig(steps=10), mask_ratio, 2)
        schedule = base.with_values([value * (1 + 0.1 * random.random()) / 1.2 for value in base.values()])
        spec = EvaluationSpec(training, FEATURES, schedule, number, 100 * blocks, 100)
        value = 2 + 8 * math.exp(-number / 3000) * float(random.random()) + 0.1 * float(random.random())
        result = {
            "value": value,
            "standard_error": 0.05 * value,
            "num_images": 100 * blocks,
            "metric": METRIC,
            "seed": number,
            "shares": (value + random.normal(size=blocks)).tolist(),
        }
        fingerprint = f"{study:08d}{number:056d}"
        recorded.append(
            {
                "fingerprint": fingerprint,
                "kind": "EvaluationSpec",
                "spec": canonical_json(asdict(spec)),
                "result": json.dumps(result),
                "images": spec.images,
                "seconds": 1.0,
                "created_at": moment,
            }
        )
        purpose = "confirmation of the descent" if confirms else "warm start"
        entries.append(entry | {"phase": "schedule", "round": 0, "purpose": purpose, "fingerprint": fingerprint})
    with store.engine.begin() as connection:
        connection.execute(sa.insert(results), recorded)
        connection.execute(sa.insert(journal), entries)
