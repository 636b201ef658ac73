"""The fastest setting in which a model predicts what it predicts.

Batch norms are folded into the convolutions before them and weights are laid out channels last, which is the same
function; where the machine is quicker in bfloat16, that is what it computes in. ``torch.compile`` is no part of it: it
takes a minute before the first image, which a thousand images win back and ten do not.
"""

import time
from collections.abc import Iterator
from itertools import pairwise

import torch
from mmcv.cnn import ConvModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

GAIN = 0.8  # of float32's time; what takes more does not pay


def quicken(model: nn.Module) -> tuple[str, ...]:
    """Bring a segmentor into the fastest setting, for prediction alone.

    Its attention can be captured as before. Logits are float32, whatever the rest computes in.

    Args:
        model: With its weights and on its device; is changed.

    Returns:
        What was done, in words.
    """
    done = [f"{fold_batch_norms(model.eval())} batch norms folded", "channels_last"]
    model.to(memory_format=torch.channels_last)
    device = next(model.parameters()).device
    if bfloat16_pays(device):
        compute_in_bfloat16(model)
        done.append("bfloat16")
    return tuple(done)


def fold_batch_norms(model: nn.Module) -> int:
    """Put each batch norm that follows a convolution into its weights, in place.

    The pairs are those of mmcv's ConvModule, of mmseg's residual blocks and stems (``conv1`` and what ``norm1_name``
    says), and neighbours in an ``nn.Sequential``. A convolution that does more than its weights say, that two norms
    follow, or that something is hooked to, is left as it is.

    Returns:
        How many were folded.
    """
    pairs = [pair for pair in _pairs(model) if _foldable(*(getattr(pair[0], name) for name in pair[1:]))]
    convs = [id(getattr(parent, conv)) for parent, conv, _ in pairs]
    users = [id(child) for module in model.modules() for child in module.children()]
    folded = 0
    for parent, conv, norm in pairs:
        layers = getattr(parent, conv), getattr(parent, norm)
        if convs.count(id(layers[0])) == 1 and users.count(id(layers[0])) == users.count(id(layers[1])) == 1:
            setattr(parent, conv, fuse_conv_bn_eval(*layers))
            setattr(parent, norm, nn.Identity())
            folded += 1
    return folded


def _pairs(model: nn.Module) -> Iterator[tuple[nn.Module, str, str]]:
    """Modules, and the names in them of a convolution and of what its result goes to next."""
    for module in model.modules():
        if isinstance(module, ConvModule):
            if module.with_norm and ("conv", "norm") in pairwise(module.order):
                yield module, "conv", module.norm_name
        elif type(module).forward is nn.Sequential.forward:
            yield from ((module, a, b) for a, b in pairwise(module._modules))
        else:
            for i in (1, 2, 3):
                norm = getattr(module, f"norm{i}_name", None)
                if norm and hasattr(module, f"conv{i}") and hasattr(module, norm):
                    yield module, f"conv{i}", norm


def _foldable(conv: nn.Module, norm: nn.Module) -> bool:
    plain = not any(layer._forward_hooks or layer._forward_pre_hooks for layer in (conv, norm))
    return plain and type(conv) is nn.Conv2d and isinstance(norm, _BatchNorm) and norm.running_var is not None


def compute_in_bfloat16(model: nn.Module) -> None:
    """Let a segmentor run under bfloat16 autocast; its logits become float32 before they are interpolated."""
    kind = next(model.parameters()).device.type
    model.forward = torch.autocast(kind, torch.bfloat16)(model.forward)
    for name, layer in model.named_modules():
        if name.rpartition(".")[2].endswith("conv_seg"):
            layer.register_forward_hook(_as_float32)


def _as_float32(layer: nn.Module, inputs: tuple[Tensor, ...], logits: Tensor) -> Tensor:
    return logits.float()


def bfloat16_pays(device: torch.device) -> bool:
    """Whether a 3 x 3 convolution is quicker in bfloat16 than in float32. CPUs without instructions for it are not.

    On a GPU it is what the hardware says, on a CPU it is measured, which takes some hundredths of a second.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    times = {dtype: _convolution(dtype) for dtype in (torch.float32, torch.bfloat16)}
    return times[torch.bfloat16] < GAIN * times[torch.float32]


def _convolution(dtype: torch.dtype) -> float:
    """Seconds of a convolution, the best of five."""
    x = torch.ones(1, 128, 32, 64, dtype=dtype).to(memory_format=torch.channels_last)
    layer = nn.Conv2d(128, 128, kernel_size=3, padding=1).to(dtype).to(memory_format=torch.channels_last)
    best = float("inf")
    with torch.no_grad():
        for _ in range(6):  # the first one prepares
            begin = time.perf_counter()
            layer(x)
            best = min(best, time.perf_counter() - begin)
    return best
