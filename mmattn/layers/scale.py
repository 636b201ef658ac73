"""A learned factor on a residual branch, usually called gamma."""

import torch
from torch import Tensor, nn


class Scale(nn.Module):
    """Multiplies by one learned number.

    Args:
        scale: Its start. At 0 a residual mechanism starts as the identity.
    """

    def __init__(self, scale: float = 0.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(float(scale)))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """``x`` and the branch ``y``, scaled, in one pass; without gradients in the memory of ``y``."""
        reuse = not torch.is_grad_enabled() and x.dtype == y.dtype
        return torch.addcmul(x, y, self.scale, out=y if reuse else None)
