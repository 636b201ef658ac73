"""Triton kernels for CUDA, beside the torch paths; torch is used until a program asks: ``mmattn.ops.use_triton()``.

A switch in the program, as torch has them for its own kernels, and none in the environment: one process can compare
both, and what is computed does not depend on where it runs.

    attention.flash                        dense attention and its gradients, values wider than keys
    criss_cross.predict_criss_cross        rows and columns in one softmax, without gradients
    upsample_argmax.label_map, confusion   classes of bilinearly interpolated logits, and their counts against labels

The functions may be called as they are, on tensors of any strides; importing one of their modules imports triton, this
package does not. Block sizes are made for the shared memory of an H100 and its successors.
"""

from importlib.util import find_spec

import torch
from torch import Tensor

from mmattn.cli import UserError

#: Bytes of shared memory of an H100 that a program can have.
SHARED = 232448

_asked = False


class use_triton:
    """Compute with Triton kernels where there is one, from now on, or inside a ``with``.

    Switches :func:`mmattn.ops.attend` and what is made of it, where :func:`dense` says so,
    :func:`~mmattn.ops.criss_cross`, where :func:`lines` says so, and
    :func:`~mmattn.ops.upsample_argmax.upsample_argmax`. Everything else, and every tensor that is not on a CUDA device,
    is computed by torch as before.

    Args:
        mode: False switches them off.

    Raises:
        UserError: If there is no triton, no CUDA device, or a device with too little shared memory.
    """

    def __init__(self, mode: bool = True) -> None:
        global _asked
        if mode and (lack := missing()):
            raise UserError(f"use_triton: {lack}. Without use_triton torch computes the same")
        self.before, _asked = _asked, mode

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        global _asked
        _asked = self.before


def missing() -> str | None:
    """What the kernels lack in this environment, and how to get it; None if nothing."""
    if find_spec("triton") is None:
        return "triton is not installed; it comes with torch's CUDA builds for Linux, and with pip install triton"
    if not torch.cuda.is_available():
        return "no CUDA device is available; see python -c 'import torch; print(torch.cuda.is_available())'"
    device = torch.cuda.get_device_properties()
    if device.shared_memory_per_block_optin < SHARED:
        return f"{device.name} has {device.shared_memory_per_block_optin} bytes of shared memory, fewer than {SHARED}"
    return None


def dense(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether :func:`mmattn.ops.attend` takes the kernel for (b, n, d), (b, m, d), (b, m, e).

    Few queries or keys leave nothing to save, and few programs to run at a time.
    """
    return _asked and min(q.shape[1], k.shape[1]) >= 512 and v.shape[2] <= 512 and suits(q, q.shape[2], v.shape[2])


def lines(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether :func:`mmattn.ops.criss_cross` takes the kernel for (b, d, h, w), (b, d, h, w), (b, c, h, w)."""
    learns = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    return _asked and not learns and suits(q, q.shape[1], v.shape[1])


def labels(logits: Tensor) -> bool:
    """Whether :func:`~mmattn.ops.upsample_argmax.upsample_argmax` takes the kernel."""
    return _asked and logits.device.type == "cuda" and logits.dtype != torch.float64


def suits(q: Tensor, d: int, e: int) -> bool:
    """Whether kernels are made for keys of width d and values of width e, in the type of q or of autocast.

    Tensor cores multiply half precision, in rows of 16; float32 is quicker in torch.
    """
    kind = q.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else q.dtype
    half = dtype in (torch.float16, torch.bfloat16)
    return kind == "cuda" and half and d <= 256 and d % 16 == e % 16 == 0
