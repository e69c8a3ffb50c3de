import pytest

from autonat.importance import importance


def decision(gradient, errors, phase="schedule"):
    return {"phase": phase, "gradient": gradient, "gradient_standard_errors": errors}


def test_what_exceeds_its_noise_comes_first():
    rows = importance(
        [
            {"purpose": "schedule"},
            decision([0.0, 1.0, -3.0, 0.5, 0.0, 0.1], [0.1] * 6),
            decision([0.0, 1.0, -1.0, 0.5, 0.0, -0.1], [0.1] * 6),
            *[decision([9.0] * 10, [0.1] * 10, "front T=3")] * 3,  # of another number of steps, and more of them
            {"phase": "schedule", "gradient": [1.0] * 6},  # the published search's, without errors
            decision([1.0] * 6, None),
        ]
    )
    assert [(row.family, row.step) for row in rows[:3]] == [
        ("sampling_temperatures", 1), ("sampling_temperatures", 0), ("choice_temperatures", 0)
    ]  # fmt: skip
    assert rows[0].slope == -2.0
    assert rows[0].size == pytest.approx((3 - 0.01 / 3 + 1 - 0.01) / 2)
    assert rows[0].standard_error == pytest.approx(0.1 / 2**0.5)
    assert {row.size for row in rows[3:]} == {0.0}


def test_nothing_measured():
    assert importance([]) == []
