"""Timing two ways of doing the same thing in turn, so that a drifting machine does not favour one."""

import statistics
import time
from collections.abc import Callable

import torch


def ratio(plain: Callable[[], object], ours: Callable[[], object], repeats: int = 7) -> tuple[float, float, float]:
    """Median over `repeats` pairs of plain time / our time, and the smallest and largest. One pair warms up."""
    ratios = []
    for repeat in range(repeats + 1):
        seconds = []
        for work in (plain, ours):
            started = time.perf_counter()
            work()
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
        if repeat:
            ratios.append(seconds[0] / seconds[1])
    return statistics.median(ratios), min(ratios), max(ratios)


def show(what: str, measured: tuple[float, float, float]) -> None:
    median, low, high = measured
    print(f"{what:70} {median:6.2f}x  ({low:.2f} to {high:.2f})", flush=True)
