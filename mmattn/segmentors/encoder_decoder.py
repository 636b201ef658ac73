"""mmseg's segmentors that train on what mechanisms ask for, such as the budget of a hard mask.

A mechanism offers its loss through a :class:`~mmattn.layers.LossTap`, wherever it stands. Without one the results are
mmseg's.
"""

from collections import defaultdict
from contextlib import ExitStack

import torch
from mmseg.models import segmentors
from torch import Tensor, nn

from mmattn.layers import LossTap
from mmattn.registry import MODELS


class _MechanismLosses(nn.Module):
    def loss(self, inputs: Tensor, data_samples: list) -> dict[str, Tensor]:
        """mmseg's losses, and those that mechanisms offer.

        Those of one name are added up under ``loss_<name>``. What is offered without a gradient is logged alone: the
        mean under ``<name>``.
        """
        offered: dict[str, list[Tensor]] = defaultdict(list)

        def note(name: str, value: Tensor) -> None:
            offered[f"loss_{name}" if value.requires_grad else name].append(value)

        with ExitStack() as stack:
            for module in self.modules():
                if isinstance(module, LossTap):
                    module.listeners.append(note)
                    stack.callback(module.listeners.remove, note)
            losses = super().loss(inputs, data_samples)
        for key, values in offered.items():
            total = torch.stack(values).sum()
            losses[key] = total if total.requires_grad else total / len(values)
        return losses


@MODELS.register_module()
class EncoderDecoder(_MechanismLosses, segmentors.EncoderDecoder):
    """mmseg's EncoderDecoder with the losses of the mechanisms inside. Arguments are mmseg's."""


@MODELS.register_module()
class CascadeEncoderDecoder(_MechanismLosses, segmentors.CascadeEncoderDecoder):
    """mmseg's CascadeEncoderDecoder with the losses of the mechanisms inside. Arguments are mmseg's."""
