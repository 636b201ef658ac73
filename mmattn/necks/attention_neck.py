"""One mechanism on each chosen level.

neck=dict(type='mmattn.AttentionNeck', in_channels=[256, 512, 1024, 2048], levels=[3],
          attention=dict(type='CrissCross'))
neck=[dict(type='FPN', in_channels=[256, 512, 1024, 2048], out_channels=256, num_outs=4),
      dict(type='mmattn.AttentionNeck', in_channels=[256] * 4, attention=dict(type='SqueezeExcite'))]
"""

from collections.abc import Sequence

from mmengine.model import BaseModule, ModuleDict
from torch import Tensor

from mmattn.cli import UserError
from mmattn.plugins import build, entry_of
from mmattn.registry import MODELS


@MODELS.register_module()
class AttentionNeck(BaseModule):
    """A mechanism of its own for each chosen level; the others pass through. Chained necks give levels different ones.

    Args:
        in_channels: Channels of each level, in and out.
        attention: Config of the mechanism.
        levels: Indices of the levels that get one; all when None.
        norm_cfg: Norm of the mechanisms, unless their config names one.

    Shape:
        inputs: One map (b, c, h, w) for each of ``in_channels``; returns as many of the same sizes.

    Raises:
        UserError: There is no such level, or the mechanism does not stand in a neck.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        attention: dict,
        levels: Sequence[int] | None = None,
        norm_cfg: dict | None = None,
    ) -> None:
        super().__init__()
        count = len(in_channels)
        levels = range(count) if levels is None else levels
        if wrong := [level for level in levels if not -count <= level < count]:
            raise UserError(f"levels of AttentionNeck: {wrong} of {count} levels, which are counted from 0")
        if (entry := entry_of(attention)) and len(entry.inputs) != 1:
            raise UserError(
                f"AttentionNeck takes a mechanism of one feature map; {entry.cls.__name__} goes to a GatedNeck"
            )
        self.attention = ModuleDict(
            {f"level{level % count}": build(attention, in_channels[level], norm_cfg, "neck") for level in levels}
        )

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        names = (f"level{level}" for level in range(len(inputs)))
        return tuple(
            self.attention[name](x) if name in self.attention else x for name, x in zip(names, inputs, strict=True)
        )
