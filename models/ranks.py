"""Processes that train one network together (data parallelism): what they have to say to each other.

Each has the whole network and a share of every batch. With the same weights and the mean of their gradients, all of
them take the same step.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process's number among `size`. With more than one, torch.distributed's process group must be there."""

    rank: int = 0
    size: int = 1

    def share(self, count: int) -> slice:
        """This rank's part of `count` things in a row, which the number of ranks divides."""
        each = count // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def agree(self, number: int, tensors: Sequence[Tensor]) -> int:
        """Rank 0's number, after writing rank 0's values into the tensors of all."""
        if self.size == 1:
            return number
        agreed = torch.tensor(number, device=tensors[0].device)
        for tensor in (agreed, *tensors):
            whole = tensor.contiguous()
            torch.distributed.broadcast(whole, 0)
            with torch.no_grad():
                tensor.copy_(whole)
        return int(agreed)

    def averaged(self, loss: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """The ranks' mean loss, after replacing the parameters' gradients by their means.

        A parameter that no rank's part of the batch came to has no gradient, as on one device.
        """
        if self.size == 1:
            return loss
        dtype, device = parameters[0].dtype, parameters[0].device
        has_gradient = [parameter.grad is not None for parameter in parameters]
        parts = [
            loss.to(dtype).reshape(1),
            torch.tensor(has_gradient, dtype=dtype, device=device),
            *(torch.zeros_like(each).flatten() if each.grad is None else each.grad.flatten() for each in parameters),
        ]
        bucket = torch.cat(parts)  # one message a step
        torch.distributed.all_reduce(bucket)
        bucket /= self.size
        means = bucket.split([len(part) for part in parts])
        # Without a gradient of its own, a rank has to look whether others have one.
        found = has_gradient if all(has_gradient) else means[1].gt(0).tolist()
        for parameter, is_found, mean in zip(parameters, found, means[2:], strict=True):
            parameter.grad = mean.view_as(parameter) if is_found else None
        return means[0][0]


ALONE = Ranks()
