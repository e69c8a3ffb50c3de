"""Counter-based random numbers: every draw has an address, so no draw depends on what was drawn before it."""

import hashlib

import numpy as np


def stream(seed: int, *address: int | str) -> np.random.Generator:
    """The generator at an address, for instance ``stream(seed, "choice", block, step)``.

    The same seed and address give the same numbers on every machine, in any order and in any process; different
    addresses are independent (Philox-4x64, keyed by a hash of seed and address).
    """
    plain = tuple(part if isinstance(part, str) else int(part) for part in (seed, *address))
    digest = hashlib.sha256(repr(plain).encode()).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest[:16], dtype=np.uint64)))


def gumbel(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Standard Gumbel noise, float32, drawn as ``-log(Exp(1))``; always finite."""
    exponential = generator.standard_exponential(shape, dtype=np.float32)
    return -np.log(np.maximum(exponential, np.float32(1e-30)))
