"""Every head learns in bfloat16 as it does in float32."""

from pathlib import Path

import pytest
import tiny
import torch

from mmattn.datasets import sample

CONFIGS = sorted(path.stem for path in (tiny.REPOSITORY / "configs").glob("*.py"))
ITERS, LAST = 200, 50


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A part of the built-in sample."""
    with pytest.MonkeyPatch.context() as patch:
        few = {"train": (sample.CITIES["train"][0], 16), "val": (sample.CITIES["val"][0], 1)}
        patch.setattr(sample, "CITIES", few)
        return sample.ensure(tmp_path_factory.mktemp("data") / "sample", progress=False)


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS)
def test_the_loss_is_that_of_float32(
    config: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both draw the same samples; of the last iterations the mean, which one step does not decide."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "sample").symlink_to(pictures)
    monkeypatch.setattr(sample, "ensure", lambda root: root)
    losses = []
    for flags in ([], ["--amp"]):
        settings = [f"train_cfg.max_iters={ITERS}", "randomness.seed=0"]
        arguments = [
            tiny.REPOSITORY / "configs" / f"{config}.py",
            "--base",
            "sample",
            *flags,
            "--cfg-options",
            *settings,
        ]
        assert tiny.call("train", arguments, monkeypatch) == 0
        checkpoint = torch.load(f"work_dirs/{config}_sample/iter_{ITERS}.pth", weights_only=False)
        curve = checkpoint["message_hub"]["log_scalars"]["train/loss"].data[0]
        assert len(curve) == ITERS
        losses.append(curve[-LAST:].mean())
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert losses[1] != losses[0]
