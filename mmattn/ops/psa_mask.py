"""From a mask predicted around each position to weights between all positions."""

from typing import Literal

import torch
from torch import Tensor

Direction = Literal["collect", "distribute"]


def psa_mask(logits: Tensor, mask_size: tuple[int, int], direction: Direction) -> Tensor:
    """Unfold over-complete masks into a full map between positions.

    The mask of position p holds the logit of p + (i - (mh - 1) // 2, j - (mw - 1) // 2) in channel i * mw + j;
    positions that the mask does not reach get 0. Masks may be smaller or larger than the map, odd or even.

    Args:
        logits: (b, mh * mw, h, w).
        mask_size: (mh, mw).
        direction: ``collect`` when the mask of p weights what p receives, ``distribute`` when it weights what p sends.

    Returns:
        (b, h * w, h, w): for each receiver (last two axes) the logits of its sources (axis 1).

    Raises:
        ValueError: ``logits`` does not have mh * mw channels.

    Source: Zhao et al., PSANet, ECCV 2018, section 3.2.
    """
    (mh, mw), (h, w) = mask_size, logits.shape[2:]
    if logits.shape[1] != mh * mw:
        raise ValueError(f"masks of {mh} x {mw} need {mh * mw} channels, not {logits.shape[1]}")
    dy = offsets(h, mh, logits.device)  # (h, h), other row by own row
    dx = offsets(w, mw, logits.device)  # (w, w)
    inside = ((dy >= 0) & (dy < mh))[:, None, :, None] & ((dx >= 0) & (dx < mw))[None, :, None]  # (h, w, h, w)
    channel = (dy[:, None, :, None] * mw + dx[None, :, None]).where(inside, 0).flatten(2).flatten(0, 1)
    full = logits.flatten(2).gather(1, channel.expand(logits.shape[0], -1, -1))  # (b, h * w, h * w), other by own
    full = full * inside.flatten(2).flatten(0, 1)
    return (full if direction == "collect" else full.mT).unflatten(2, (h, w))


def offsets(length: int, mask: int, device: torch.device) -> Tensor:
    """Where position i lies in the mask centred at position j, (i, j) -> i - j + (mask - 1) // 2."""
    at = torch.arange(length, device=device)
    return at[:, None] - at + (mask - 1) // 2
