"""Images that are made when they are looked at, and only the part that is looked at."""

from collections import UserDict
from typing import Any

import numpy as np


class Promise:
    """An 8-bit image that is known by its shape: ``promise[rows, columns]``, two slices, makes that part of it."""

    shape: tuple[int, ...]

    def __getitem__(self, window: tuple[slice, slice]) -> np.ndarray:
        raise NotImplementedError

    def bounds(self, window: tuple[slice, slice]) -> tuple[int, int, int, int]:
        """Top, bottom, left and right of a window, inside the image."""
        (top, bottom, _), (left, right, _) = (part.indices(n) for part, n in zip(window, self.shape, strict=False))
        return top, bottom, left, right


class Results(UserDict):
    """What a pipeline carries along, where an image may be a promise.

    Whoever asks for a promised image gets it whole, an array as any other: no transform has to know of promises. One
    that does finds them in ``data``.
    """

    def __getitem__(self, key: str) -> Any:
        value = super().__getitem__(key)
        if isinstance(value, Promise):
            value = self.data[key] = value[:, :]
        return value

    def __reduce__(self) -> tuple:
        return dict, (dict(self),)  # what goes to another process has been looked at


def unmade(results: dict | Results, key: str) -> np.ndarray | Promise:
    """The image of ``key`` as it is, promise or not."""
    return (results.data if isinstance(results, Results) else results)[key]
