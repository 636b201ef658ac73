"""One file for each paper: its equations as slow loops, its published parameter counts, and what else it promises.

:func:`formula` and :func:`count` enter what ``test_formula.py`` and ``test_attention.py`` check for every mechanism;
checks of one mechanism alone are ordinary tests in its file.
"""

import importlib
import math
import pkgutil
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

H, W = 5, 4
#: For each mechanism: arguments, shapes (c, h, w) of its inputs, and the equations for one image.
FORMULAS: dict[type[nn.Module], list[tuple[dict, list[tuple[int, ...]], Callable]]] = {}
#: For each mechanism: arguments, and parameters by channels.
COUNTS: dict[type[nn.Module], list[tuple[dict, dict[int, int]]]] = {}


def load() -> None:
    """Import the file of every paper."""
    for module in pkgutil.iter_modules(__path__, prefix=f"{__name__}."):
        importlib.import_module(module.name)


def formula(cls: type[nn.Module], *, inputs: Sequence[tuple[int, ...]] | None = None, **arguments) -> Callable:
    """Enters the equations of one mechanism for one choice of arguments.

    The function gets the module (float64, evaluation, all weights random) and one image (c, h, w) for each input; its
    output is compared. ``inputs`` are the shapes of those, one of (channels, H, W) when left out.
    """

    def enter(equations: Callable) -> Callable:
        shapes = list(inputs or [(arguments["channels"], H, W)])
        FORMULAS.setdefault(cls, []).append((arguments, shapes, equations))
        return equations

    return enter


def count(cls: type[nn.Module], parameters: dict[int, int], **arguments) -> None:
    """Enters a published parameter count: ``parameters`` by channels, for these other arguments."""
    COUNTS.setdefault(cls, []).append((arguments, parameters))


def linear(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A 1 x 1 convolution of one vector (c,)."""
    y = torch.stack([sum(row[i] * x[i] for i in range(len(x))) for row in conv.weight[:, :, 0, 0]])
    return y if conv.bias is None else y + conv.bias


def normed(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """A batch norm of the running statistics, of one vector (c,)."""
    return (x - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias


def cna(block: nn.Module, x: Tensor) -> Tensor:
    """1 x 1 convolution, batch norm where there is one, ReLU where there is one, of one vector (c,)."""
    y = linear(block.conv, x)
    y = normed(block.bn, y) if hasattr(block, "bn") else y
    return y.clamp(min=0) if hasattr(block, "activate") else y


def conv(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """Any convolution of one image (c, h, w), with zeros around: kernel, stride, dilation and groups as slow loops."""
    (kh, kw), (sy, sx), (py, px), (dy, dx) = layer.kernel_size, layer.stride, layer.padding, layer.dilation
    c, h, w = x.shape
    rows, columns = (h + 2 * py - dy * (kh - 1) - 1) // sy + 1, (w + 2 * px - dx * (kw - 1) - 1) // sx + 1
    weight, step = layer.weight, c // layer.groups
    y = x.new_zeros(len(weight), rows, columns)
    for o in range(len(weight)):
        first = o // (len(weight) // layer.groups) * step
        for i in range(rows):
            for j in range(columns):
                for u in range(kh):
                    for v in range(kw):
                        r, s = i * sy - py + u * dy, j * sx - px + v * dx
                        if 0 <= r < h and 0 <= s < w:
                            y[o, i, j] += weight[o, :, u, v] @ x[first : first + step, r, s]
    return y if layer.bias is None else y + layer.bias[:, None, None]


def each(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``function`` of the vector at each position of (c, h, w)."""
    return picture([function(p) for p in pixels(x)], x)


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def softmax(logits: list[Tensor]) -> list[Tensor]:
    total = sum(torch.exp(z) for z in logits)
    return [torch.exp(z) / total for z in logits]


def mix(weights: list[Tensor], values: list[Tensor]) -> Tensor:
    return sum(a * v for a, v in zip(weights, values, strict=True))


def mean(vectors: list[Tensor]) -> Tensor:
    return sum(vectors) / len(vectors)


def pixels(x: Tensor) -> list[Tensor]:
    """(c, h, w) as its vectors in reading order."""
    return [x[:, i, j] for i in range(x.shape[1]) for j in range(x.shape[2])]


def picture(vectors: list[Tensor], like: Tensor) -> Tensor:
    return torch.stack(vectors, 1).unflatten(1, like.shape[1:])


def cells(length: int, count: int) -> list[range]:
    """The positions that each cell of adaptive pooling covers."""
    return [range(i * length // count, math.ceil((i + 1) * length / count)) for i in range(count)]


def pyramid(vectors: list[Tensor], h: int, w: int, scales: tuple[int, ...]) -> list[Tensor]:
    """Means of ``vectors`` in the cells of each scale, coarse scales as they are listed."""
    return [
        mean([vectors[y * w + x] for y in rows for x in columns])
        for s in scales
        for rows in cells(h, s)
        for columns in cells(w, s)
    ]


def bilinear(x: Tensor, size: tuple[int, int], *, aligned: bool = False) -> Tensor:
    """Bilinear resizing of (c, h, w): the centres of the pixels count, or their corner ones when ``aligned``."""
    _, h, w = x.shape
    y = x.new_zeros(len(x), *size)

    def source(i: int, length: int, resized: int) -> float:
        if aligned:
            return i * (length - 1) / max(resized - 1, 1)
        return max((i + 0.5) * length / resized - 0.5, 0)

    for i in range(size[0]):
        for j in range(size[1]):
            r, s = source(i, h, size[0]), source(j, w, size[1])
            top, left = int(r), int(s)
            below, right = min(top + 1, h - 1), min(left + 1, w - 1)
            a, b = r - top, s - left
            y[:, i, j] = (1 - a) * ((1 - b) * x[:, top, left] + b * x[:, top, right])
            y[:, i, j] += a * ((1 - b) * x[:, below, left] + b * x[:, below, right])
    return y


def max_pooled(x: Tensor, k: int) -> Tensor:
    """Maxima of (c, h, w) in k x k cells, the last ones of what is left."""
    rows, columns = (range(0, n, k) for n in x.shape[1:])
    return torch.stack([torch.stack([x[:, i : i + k, j : j + k].amax((1, 2)) for j in columns], 1) for i in rows], 1)
