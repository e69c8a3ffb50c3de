"""How much memory a task took: the process's peak between two calls."""

import resource
import sys
from typing import Any


def reset_peak() -> None:
    """Start anew, where the system can (Linux); elsewhere the peak is the one since the process began."""
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as handle:
            handle.write("5")
    except OSError:
        pass
    torch = _torch_on_gpu()
    if torch is not None:
        torch.cuda.reset_peak_memory_stats()


def peak_bytes() -> int:
    """Main memory at its peak, and GPU memory where this process uses one."""
    return _main_bytes() + _gpu_bytes()


def _main_bytes() -> int:
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as handle:
            for line in handle:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _gpu_bytes() -> int:
    torch = _torch_on_gpu()
    return 0 if torch is None else int(torch.cuda.max_memory_allocated())


def _torch_on_gpu() -> Any:
    """torch where this process has it and used a GPU; never imports it."""
    torch = sys.modules.get("torch")
    return torch if torch is not None and torch.cuda.is_initialized() else None
