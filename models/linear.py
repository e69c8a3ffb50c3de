"""Linear layers that use oneDNN's matrix product where it is the faster one."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Below this many multiply-accumulates its fixed cost of about 10 microseconds outweighs what it saves.
WORTHWHILE_MACS = 2_000_000


def _by_onednn(x: Tensor, weight: Tensor) -> bool:
    return bool(
        torch.is_inference_mode_enabled()  # it has no gradient
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() * weight.shape[0] >= WORTHWHILE_MACS
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
    )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear``; in inference mode, on the CPU and in float32, by oneDNN.

    PyTorch takes MKL's product for float32, which is half as fast on CPUs with AVX-512 that are not Intel's, and about
    the same on those that are. The two differ by rounding alone. x: [..., I], weight: [O, I], bias: [O].
    """
    if _by_onednn(x, weight):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.gelu(linear(x, weight, bias), approximate="tanh")``, in one pass where oneDNN does it.

    PyTorch's own tanh form takes longer than the product before it: 1.3 against 0.5 ns a value on one core.
    """
    if _by_onednn(x, weight):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu", [], "tanh")
    return F.gelu(F.linear(x, weight, bias), approximate="tanh")


class Linear(nn.Linear):
    """``nn.Linear`` by ``linear``."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)
