"""A segmentor as a function of tensors alone, which can be traced."""

import copy

import torch
from mmseg.models.utils import Upsample
from torch import Tensor, nn

from mmattn.engine.fast import fold_batch_norms


class Logits(nn.Module):
    """Logits at the size of the image, of images that are normalised already.

    Args:
        model: A segmentor.

    Shape:
        images: (b, 3, h, w), float32; returns (b, classes, h, w).
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model.encode_decode(images, [{"img_shape": images.shape[2:]}])


class Labels(nn.Module):
    """Classes of images as OpenCV reads them; the preprocessing of the segmentor is inside.

    Args:
        model: A segmentor.

    Shape:
        images: (b, h, w, 3), uint8, blue green red; returns (b, h, w), uint8.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.logits = Logits(model)
        self.threshold = None if model.out_channels > 1 else model.decode_head.threshold
        given = model.data_preprocessor
        self.turned = given._channel_conversion
        self.register_buffer("mean", given.mean.clone() if given._enable_normalize else torch.zeros(3, 1, 1))
        self.register_buffer("std", given.std.clone() if given._enable_normalize else torch.ones(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        x = images.permute(0, 3, 1, 2).float()  # (b, 3, h, w)
        x = x.flip(1) if self.turned else x
        logits = self.logits((x - self.mean) / self.std)  # (b, classes, h, w)
        if self.threshold is not None:
            return (logits.sigmoid() > self.threshold).squeeze(1).to(torch.uint8)
        return logits.argmax(dim=1).to(torch.uint8)


def ready(model: nn.Module) -> nn.Module:
    """A copy to trace: batch norms folded, which shortens the graph by a third, and mmseg's ``Upsample`` as torch's,
    whose size may stay open."""
    model = copy.deepcopy(model).cpu().eval().requires_grad_(False)
    fold_batch_norms(model)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is Upsample and not child.size:
                upsample = nn.Upsample(None, child.scale_factor, child.mode, child.align_corners)
                setattr(module, name, upsample)
    return model
