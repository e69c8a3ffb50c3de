"""The same bits from run to run on a GPU too, as far as PyTorch has such kernels."""

import os
import warnings

import torch


def in_one_order(device: torch.device) -> torch.device:
    """Have this process's kernels on a GPU add in one order; on a CPU with one thread they do. Returns the device.

    Where PyTorch has no such kernel it takes the other. Before the process's first product on the GPU, as cuBLAS reads
    its workspace's size then.
    """
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        # Else every new tensor is written twice; nothing here reads what it has not written.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = False
        warnings.filterwarnings("ignore", message=".*does not have a deterministic implementation.*")
    return device
