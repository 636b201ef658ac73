"""A prediction that does not fit into memory is done again in smaller parts, and is the same."""

import pytest
import tiny
import torch
from mmengine.model import BaseModel
from torch import Tensor

from mmattn.attention import NonLocal
from mmattn.cli import UserError
from mmattn.engine import memory
from mmattn.engine.memory import sparing
from mmattn.ops import attention

USUAL = attention.CHUNK


class Small(BaseModel):
    """Attends where there is memory for so many images and queries."""

    def __init__(self, images: int, queries: int) -> None:
        super().__init__()
        self.attention = NonLocal(8)
        self.images, self.queries = images, queries

    def forward(self, inputs: list[Tensor], mode: str) -> list[Tensor]:
        if len(inputs) > self.images or self.queries < attention.CHUNK:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has")
        return list(self.attention(torch.stack(inputs)))


@pytest.mark.parametrize(("images", "queries"), [(3, 64), (1, USUAL), (1, 64)])
def test_it_is_done_again_in_smaller_parts(images: int, queries: int) -> None:
    model = Small(3, USUAL).eval()
    inputs = {"inputs": [torch.rand(8, 30, 30) for _ in range(3)]}
    with torch.no_grad():
        expected = model.val_step(inputs)
        model.images, model.queries = images, queries
        found = sparing(model, "val_step")(inputs)
    assert attention.CHUNK == USUAL
    assert len(found) == 3
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_it_says_what_needs_less() -> None:
    with pytest.raises(UserError, match=r"CUDA out of memory, for one image .*test_cfg\.mode=slide"):
        sparing(Small(0, USUAL), "val_step")({"inputs": [torch.rand(8, 4, 4)]})
    assert attention.CHUNK == USUAL


def test_every_training_validates_so(tmp_path, monkeypatch, capfd) -> None:
    """Once the memory is full: the third prediction of a training's validation."""
    monkeypatch.chdir(tmp_path)
    tiny.cityscapes(tmp_path / "data" / "cityscapes")
    calls = []
    predict = BaseModel.val_step

    def full_once(self, data):
        calls.append(attention.CHUNK)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried")
        return predict(self, data)

    monkeypatch.setattr(BaseModel, "val_step", full_once)
    arguments = [tiny.REPOSITORY / "configs" / "gcnet_r50.py", "--base", *tiny.bases(tmp_path)]
    assert tiny.call("train", [*arguments, "--cfg-options", "train_cfg.max_iters=1"], monkeypatch) == 0
    assert calls == [USUAL, USUAL, memory.CHUNK]
    assert "CUDA out of memory: the same images again, one by one" in capfd.readouterr().out
