"""Fine levels gated by coarse ones, from the top down.

    neck=[dict(type='FPN', in_channels=[256, 512, 1024, 2048], out_channels=256, num_outs=4),
          dict(type='mmattn.GatedNeck', in_channels=[256] * 4)]
    neck=dict(type='mmattn.GatedNeck', in_channels=[64, 128, 256],
              attention=dict(type='FeatureFusion'), refine=dict(type='AttentionRefinement'))

The first is Attention U-Net's gate on its skip connections, the second what BiSeNet does to its levels.
"""

import inspect
from collections.abc import Sequence

from mmengine.model import BaseModule, ModuleDict
from torch import Tensor

from mmattn.attention import entries
from mmattn.cli import UserError
from mmattn.plugins import build, entry_of
from mmattn.registry import MODELS


@MODELS.register_module()
class GatedNeck(BaseModule):
    """Each level goes, together with what came of the coarser one, through a mechanism of two feature maps.

    Args:
        in_channels: Channels of each level, in and out; fine levels first.
        attention: Config of the mechanism, ``AttentionGate`` or ``FeatureFusion``.
        refine: Config of a mechanism that each level but the finest goes through first.
        levels: Indices of the levels that are gated; all but the coarsest when None.
        norm_cfg: Norm of the mechanisms, unless their config names one.

    Shape:
        inputs: One map (b, c, h, w) for each of ``in_channels``; returns as many of the same sizes.

    Raises:
        UserError: A level that has no coarser one, or a mechanism that does not stand here.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        attention: dict | None = None,
        refine: dict | None = None,
        levels: Sequence[int] | None = None,
        norm_cfg: dict | None = None,
    ) -> None:
        super().__init__()
        attention = attention or {"type": "AttentionGate"}
        coarsest = len(in_channels) - 1
        levels = range(coarsest) if levels is None else levels
        if wrong := [level for level in levels if not 0 <= level < coarsest]:
            raise UserError(
                f"levels of GatedNeck: {wrong}; of {coarsest + 1} levels 0 to {coarsest - 1} have a coarser one"
            )
        coarse = _coarse_channels(attention)
        self.refine = ModuleDict(
            {f"level{i}": build(refine, in_channels[i], norm_cfg, "neck") for i in range(1, coarsest + 1) if refine}
        )
        self.attention = ModuleDict(
            {
                f"level{i}": build(attention, in_channels[i], norm_cfg, "neck", **{coarse: in_channels[i + 1]})
                for i in levels
            }
        )

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        outputs: list[Tensor] = []
        for level in reversed(range(len(inputs))):
            name, x = f"level{level}", inputs[level]
            if name in self.refine:
                x = self.refine[name](x)
            if name in self.attention:
                x = self.attention[name](x, outputs[0])
            outputs.insert(0, x)
        return tuple(outputs)


def _coarse_channels(attention: dict) -> str:
    """Name of the argument for the channels of the second map: the one that has no default."""
    entry = entry_of(attention)
    if entry is None:
        return "gate_channels"
    if len(entry.inputs) != 2:
        fitting = [known.cls.__name__ for known in entries() if "neck" in known.places and len(known.inputs) == 2]
        raise UserError(
            f"GatedNeck takes a mechanism of two feature maps, {' or '.join(fitting)}; {entry.cls.__name__} takes "
            f"{len(entry.inputs)}, as in an AttentionNeck"
        )
    arguments = inspect.signature(entry.cls).parameters.values()
    return next(a.name for a in arguments if a.kind is a.KEYWORD_ONLY and a.default is a.empty)
