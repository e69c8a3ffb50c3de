"""Kernels on a GPU add in one order. There is none here, but the switches are PyTorch's own and can be looked at."""

import os
import subprocess
import sys

import torch

from models.determinism import in_one_order


def test_a_cpu_needs_nothing():
    before = torch.are_deterministic_algorithms_enabled()
    assert in_one_order(torch.device("cpu")) == torch.device("cpu")
    assert torch.are_deterministic_algorithms_enabled() == before


def test_on_a_gpu_the_switches_are_set():
    """In a process of its own, as they are the whole process's."""
    code = (
        "import os, torch; from models.determinism import in_one_order; in_one_order(torch.device('cuda')); "
        "print(torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled(), "
        "os.environ['CUBLAS_WORKSPACE_CONFIG'])"
    )
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert found.stdout.split() == ["True", "True", ":4096:8"]
