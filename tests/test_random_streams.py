import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.random_streams import gumbel, stream

seeds = st.integers(0, 2**63 - 1)
addresses = st.lists(st.integers(0, 10**9) | st.text(max_size=6), max_size=4).map(tuple)


@given(seeds, addresses)
def test_an_address_always_gives_the_same_numbers(seed, address):
    first = stream(seed, *address).random(8)
    stream(seed, *address, "something else").random(3)
    assert np.array_equal(stream(seed, *address).random(8), first)


@given(seeds, addresses, seeds, addresses)
def test_different_addresses_give_different_numbers(seed, address, other_seed, other_address):
    same = (seed, address) == (other_seed, other_address)
    numbers, others = stream(seed, *address).random(4), stream(other_seed, *other_address).random(4)
    assert np.array_equal(numbers, others) == same


@pytest.mark.parametrize(
    ("first", "second"), [((1, 23), (12, 3)), ((1, 2), (2, 1)), ((1,), ("1",)), (("a", "b"), ("ab",)), ((), (0,))]
)
def test_addresses_are_not_run_together(first, second):
    assert not np.array_equal(stream(0, *first).random(4), stream(0, *second).random(4))


def test_numbers_stay_what_they_were():
    """A change here would silently change every recorded result."""
    assert stream(7, "draw", 2, 5).integers(0, 1000, 6).tolist() == [178, 511, 606, 698, 894, 276]
    assert gumbel(stream(7, "choice", 2, 5), (3,)).tolist() == pytest.approx(
        [0.4450998, -0.1745339, 3.8319023], rel=1e-6
    )


def test_another_process_gives_the_same_numbers():
    code = "from models.random_streams import stream; print(stream(7, 'draw', 2, 5).integers(0, 1000, 6).tolist())"
    environment = {"PYTHONHASHSEED": "1", "PYTHONPATH": ":".join(filter(None, sys.path))}
    printed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == str(stream(7, "draw", 2, 5).integers(0, 1000, 6).tolist())


def test_neighbouring_streams_are_uncorrelated():
    rows = np.stack([stream(0, "draw", block, step).standard_normal(4000) for block in range(4) for step in range(4)])
    off_diagonal = np.corrcoef(rows) - np.eye(len(rows))
    assert np.abs(off_diagonal).max() < 5 / np.sqrt(4000)


def test_gumbel_noise_has_its_moments():
    noise = gumbel(stream(1), (200, 500))
    assert noise.dtype == np.float32
    assert noise.shape == (200, 500)
    assert noise.mean() == pytest.approx(np.euler_gamma, abs=5 * np.pi / np.sqrt(6 * noise.size))
    assert noise.var() == pytest.approx(np.pi**2 / 6, rel=0.03)


class Zeros:
    def standard_exponential(self, shape, dtype):
        return np.zeros(shape, dtype)


def test_gumbel_noise_is_finite_where_the_exponential_is_zero():
    assert np.isfinite(gumbel(Zeros(), (3,))).all()
