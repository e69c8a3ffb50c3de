"""Linear layers that use oneDNN's matrix product where it is the faster one.

PyTorch takes MKL's product for float32, which is half as fast on CPUs with AVX-512 that are not Intel's, and about the
same on those that are. The two differ by rounding alone.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Below so many multiply-accumulates the fixed cost of about 10 microseconds outweighs what is saved. In training every
# mask count makes new shapes, and oneDNN compiles a kernel for each, in about half a millisecond.
WORTHWHILE_MACS = 2_000_000
WORTHWHILE_MACS_IN_TRAINING = 16_000_000


def _by_onednn(x: Tensor, weight: Tensor) -> bool:
    if torch.compiler.is_compiling():  # the compiler has products of its own
        return False
    return bool(
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() * weight.shape[0]
        >= (WORTHWHILE_MACS if torch.is_inference_mode_enabled() else WORTHWHILE_MACS_IN_TRAINING)
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
    )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None, gelu: bool = False) -> Tensor:
    """x weight^T + bias, without a gradient, whatever the strides; x: [..., I], weight: [O, I], bias: [O]."""
    activation, form = ("gelu", "tanh") if gelu else ("none", "")
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], form)


class _Differentiable(torch.autograd.Function):
    """The product and its first derivative by oneDNN."""

    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        context.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = context.saved_tensors
        for_x, for_weight, for_bias = context.needs_input_grad
        rows, outputs = x.flatten(0, -2), gradient.flatten(0, -2)
        return (
            _product(gradient, weight.t()) if for_x else None,
            _product(outputs.t(), rows.t()) if for_weight else None,
            outputs.sum(0) if for_bias else None,
        )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear``, by oneDNN on the CPU in float32. x: [..., I], weight: [O, I], bias: [O]. Differentiable once."""
    if not _by_onednn(x, weight):
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled():
        return _Differentiable.apply(x, weight, bias)
    return _product(x, weight, bias)


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.gelu(linear(x, weight, bias), approximate="tanh")``, in one pass where oneDNN does it.

    PyTorch's own tanh form takes longer than the product before it: 1.3 against 0.5 ns a value on one core.
    """
    if _by_onednn(x, weight) and not torch.is_grad_enabled():
        return _product(x, weight, bias, gelu=True)
    return F.gelu(linear(x, weight, bias), approximate="tanh")


class Linear(nn.Linear):
    """``nn.Linear`` by ``linear``."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)
