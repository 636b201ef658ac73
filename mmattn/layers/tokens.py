"""Feature maps as the tokens that products want, and the type they are multiplied in."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def tokens(x: Tensor) -> Tensor:
    """A feature map (b, c, h, w) as its positions in reading order, (b, h * w, c)."""
    return x.flatten(2).mT


def plane(x: Tensor, size: tuple[int, int]) -> Tensor:
    """The inverse of :func:`tokens`: (b, h * w, c) as (b, c, h, w)."""
    return x.mT.unflatten(2, size)


def without_autocast(x: Tensor) -> AbstractContextManager[None]:
    """Inside, products keep the type of their operands even under autocast."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def autocast_to(*operands: Tensor) -> tuple[Tensor, ...]:
    """The operands in the type in which autocast would multiply them; the same ones where it is off."""
    kind = operands[0].device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return operands
    dtype = torch.get_autocast_dtype(kind)
    return tuple(x.to(dtype) if x.dtype in (torch.float32, torch.float16, torch.bfloat16) else x for x in operands)
