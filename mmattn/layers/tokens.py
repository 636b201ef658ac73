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


def last(x: Tensor) -> Tensor:
    """(b, c, h, w) as (b, h, w, c) with the channels next to each other; copied only where they are not."""
    last = x.permute(0, 2, 3, 1)
    if last.stride(3) == 1:
        return last
    copy = torch.empty_like(last, memory_format=torch.contiguous_format)
    for to, image in zip(copy.flatten(1, 2), x.flatten(2), strict=True):
        to.copy_(image.mT)  # torch is fast where it turns a matrix
    return copy


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
