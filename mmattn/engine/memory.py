"""Predictions that do not fit into a GPU's memory, done again in less of it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel
from torch import nn

from mmattn.cli import UserError
from mmattn.ops import attention

CHUNK = 64  # queries that are attended to at a time


def sparing(model: nn.Module, step: str) -> Callable[[Any], list]:
    """A model's ``val_step`` or ``test_step`` that meets a full memory with the same computation in smaller parts.

    That is one image after the other, and in each :data:`CHUNK` queries of an attention after the other; what the
    allocator holds back is given back before.

    Raises:
        UserError: One image does not fit in this way either.
    """
    predict = getattr(model, step)

    def predict_sparingly(data: Any) -> list:
        try:
            return predict(data)
        except torch.OutOfMemoryError as error:
            reason = str(error).partition(". ")[0]
        # out of the handler, whose traceback keeps alive what did not fit
        torch.cuda.empty_cache()
        print_log(f"{reason}: the same images again, one by one and in smaller parts", "current")
        try:
            with _small_chunks():
                parts = [data] if isinstance(model, BaseTTAModel) else _one_by_one(data)
                return [sample for part in parts for sample in predict(part)]
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"{str(error).partition('. ')[0]}, for one image in the smallest parts too. "
                "Sliding windows need less: --cfg-options model.test_cfg.mode=slide"
            ) from error

    return predict_sparingly


def _one_by_one(data: Any) -> list[Any]:
    """The batches of one image that a collated batch consists of."""
    if not isinstance(data, dict) or not all(isinstance(value, list) for value in data.values()):
        return [data]
    return [dict(zip(data, ([value] for value in values), strict=True)) for values in zip(*data.values(), strict=True)]


@contextmanager
def _small_chunks() -> Iterator[None]:
    usual, attention.CHUNK = attention.CHUNK, CHUNK
    try:
        yield
    finally:
        attention.CHUNK = usual
