"""A network's passes through torch.compile, for devices on which starting small kernels takes longer than they do."""

from typing import Any

import torch

# A count of one, no visible tokens, with and without gradients or reuse: each is a compilation of its own, of which
# PyTorch keeps 8 by default and then compiles no more.
VARIANTS = 64
BACKEND = "inductor"


def compiled(network: Any) -> Any:
    """The same network with `forward` and `logits` compiled; returns it. Its weights and their names stay as they are.

    Counts of masked tokens are symbols in what is compiled, so it serves every step of every schedule. Results differ
    from the network's own in their last bits, and may differ between processes that met other counts first.
    """
    torch._dynamo.config.recompile_limit = max(VARIANTS, torch._dynamo.config.recompile_limit)
    for name in ("forward", "logits"):
        setattr(network, name, torch.compile(getattr(network, name), dynamic=True, backend=BACKEND))
    return network
