"""One stage of one job, in a process of its own: ``python -m mmattn.engine.compare.worker train|test JOB``."""

import fcntl
import json
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub

from mmattn.cli import UserError, run
from mmattn.engine import costs, train
from mmattn.engine.benchmark.measure import machine
from mmattn.engine.checkpoints import find_newest, read_whole
from mmattn.engine.compare.jobs import Job
from mmattn.engine.compare.results import Result
from mmattn.engine.compare.settings import settings, with_data
from mmattn.engine.compare.statistics import miou
from mmattn.engine.evaluate import evaluate
from mmattn.evaluation.metrics import IoUMetric
from mmattn.registry import METRICS

COUNTS = "compare/counts"  # in the message hub


@METRICS.register_module()
class ImageCounts(IoUMetric):
    """Our IoU, which leaves the pixel counts of each image in the message hub."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.paths: list[str] = []
        self.size: tuple[int, int] | None = None

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Count the pixels of one batch."""
        super().process(data_batch, data_samples)
        self.paths += [sample["img_path"] for sample in data_samples]
        self.size = self.size or tuple(data_samples[0]["img_shape"][:2])

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Scores over all images."""
        above = os.path.commonpath([Path(path).parent for path in self.paths])
        images = {
            Path(path).relative_to(above).as_posix(): [counts.tolist() for counts in (both, predicted, true)]
            for path, (both, _, predicted, true) in zip(self.paths, results, strict=True)
        }
        MessageHub.get_current_instance().update_info(COUNTS, (images, self.size))
        return super().compute_metrics(results)


def train_job(job: Job) -> None:
    """Train from the beginning, or from where it was interrupted.

    Raises:
        UserError: As of :func:`mmattn.engine.train.train`; another process trains in the folder.
    """
    with _alone(job.folder):
        cfg = job.prepare()
        cfg.resume = find_newest(cfg)[0] is not None
        train.train(cfg)


def test_job(job: Job) -> Result:
    """Test the last checkpoint of a training and write the result.

    Raises:
        UserError: As of :func:`mmattn.engine.evaluate.evaluate`; the config does not measure IoU.
    """
    with _alone(job.folder):
        cfg = job.prepare()
        checkpoint, _ = find_newest(cfg)
        found = with_data(settings(cfg), cfg)
        batch = cfg.test_dataloader.get("batch_size", 1)
        _count(cfg)
        written = json.loads(evaluate(cfg, str(checkpoint)).read_text())
        hub, curves = MessageHub.get_current_instance(), read_whole(checkpoint)["message_hub"]["log_scalars"]
        images, size = hub.get_info(COUNTS)
        parts = costs.model_costs(job.folder / Path(job.config).name, size)
        result = Result(
            config=job.name,
            file=job.config,
            seed=job.seed,
            settings=found,
            scores=_scores(np.array(list(images.values())).sum(axis=0)),
            classes=list(written["classes"]),
            images=images,
            parameters=sum(part.parameters for part in parts),
            flops=sum(part.flops for part in parts),
            size=list(size),
            train_seconds=median(curves["train/time"].data[0].tolist()),
            test_seconds=median(hub.get_scalar("test/time").data[0].tolist()) / batch,
            machine=machine("cuda" if torch.cuda.is_available() else "cpu"),
            versions=written["versions"],
        )
        result.save(job.result)
        return result


def _count(cfg: Config) -> None:
    """Let the config's IoU metric keep the counts of each image."""
    found = cfg.test_evaluator if isinstance(cfg.test_evaluator, list | tuple) else [cfg.test_evaluator]
    metrics = [metric for metric in found if str(metric.get("type")).rpartition(".")[2] == "IoUMetric"]
    if len(metrics) != 1:
        raise UserError("test_evaluator: models are compared by one IoUMetric, dict(type='IoUMetric')")
    metrics[0].type = "mmattn.ImageCounts"


def _scores(counts: np.ndarray) -> dict[str, float]:
    """Of counts over all images, (3, classes), in percent."""
    both, _, true = counts
    accuracy = 100 * both[true > 0] / true[true > 0]
    return {"mIoU": float(miou(counts)), "mAcc": accuracy.mean(), "aAcc": 100 * both.sum() / true.sum()}


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a folder for this process.

    Raises:
        UserError: Another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # which processes that load data do not inherit
        except (BlockingIOError, PermissionError) as error:
            raise UserError(f"another comparison is at work in {folder}") from error
        yield


def _end_with_parent() -> None:
    """The parent holds our stdin open, and writes nothing, as long as it lives."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


def main() -> None:
    """Do what the command line says."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    stage, text = sys.argv[1:]
    {"train": train_job, "test": test_job}[stage](Job(**json.loads(text)))


if __name__ == "__main__":
    run(main)
