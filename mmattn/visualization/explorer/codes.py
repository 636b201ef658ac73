"""Numbers as bytes: whole numbers in columns, each with its step, their low and high bytes apart.

High bytes that are mostly zero cost nearly nothing once deflated, so that a column takes the bits it needs.
"""

import base64
import zlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Codes:
    """Columns of numbers, ``(codes + low) * step`` of each.

    Attributes:
        codes: (columns, n) uint32.
        low: (columns,) whole numbers.
        step: (columns,) distances between neighbouring values.
    """

    codes: np.ndarray
    low: np.ndarray
    step: np.ndarray

    def values(self) -> Tensor:
        """(n, columns), float32 as the page has them."""
        columns = (self.codes + self.low[:, None]) * self.step[:, None]
        return torch.from_numpy(columns.T.astype(np.float32))


def encode(values: Tensor, step: Tensor | float) -> Codes:
    """Round columns to multiples of their steps.

    Args:
        values: (n, columns).
        step: One for each column, or one for all. It is widened where a column needs more than 24 bits.
    """
    columns = values.detach().double().cpu().numpy().T
    span = columns.max(1) - columns.min(1)
    step = np.maximum(np.broadcast_to(np.asarray(step, dtype=np.float64), len(columns)), span / (2**24 - 1))
    step = np.where(step > 0, step, 1.0)
    codes = np.rint(columns / step[:, None])
    low = codes.min(1)
    return Codes((codes - low[:, None]).astype(np.uint32), low, step)


class Blob:
    """Collects arrays; the page finds each by what :meth:`put` returns."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.length = 0

    def put(self, codes: Codes) -> dict:
        """Append an array, and say where and how it lies."""
        planes = max(1, (int(codes.codes.max(initial=0)).bit_length() + 7) // 8)
        data = codes.codes.astype("<u4").reshape(-1, 1).view(np.uint8)[:, :planes].T.tobytes()
        place = {
            "at": self.length,
            "n": codes.codes.shape[1],
            "planes": planes,
            "low": codes.low.astype(int).tolist(),
            "step": [float(f"{step:.9g}") for step in codes.step],
        }
        self.parts.append(data)
        self.length += len(data)
        return place

    def text(self) -> str:
        """All of it, deflated, in base64."""
        squeeze = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
        return base64.b64encode(squeeze.compress(b"".join(self.parts)) + squeeze.flush()).decode()
