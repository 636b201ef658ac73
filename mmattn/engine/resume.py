"""Exact resume: everything random is drawn by its place in the training, so that nothing has to be replayed.

A sample is augmented with numbers drawn for (seed, epoch, its place in the order of samples), a step of training draws
for (seed, iteration, process). Neither knows what was drawn before: a training goes on to the bit from any checkpoint,
with any number of worker processes, and several processes augment the samples as one would.
"""

import itertools
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_dist_info
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import DATA_SAMPLERS, DATASETS
from mmengine.runner import IterBasedTrainLoop as MMEngineIterBasedTrainLoop
from mmengine.runner import Runner
from torch.utils.data import BatchSampler, Sampler

SAMPLE, STEP = 0, 1  # what is drawn for
IMAGES = "images_per_iteration"  # in a checkpoint's meta: it was drawn in this way


def seed_all(*place: int, gpu: bool = False) -> None:
    """Seed Python's, NumPy's and torch's generators for a place in the training."""
    words = np.random.SeedSequence(place).generate_state(8)
    random.seed(words[:2].tobytes())
    np.random.seed(words[2:6])
    seed = int(words[6]) << 32 | int(words[7])
    if gpu:
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)  # in a worker, which must not touch the GPU


class Place(int):
    """The index of an image that knows its place in the training.

    Attributes:
        epoch: Passes over the data before it; 0 for a sampler without end.
        position: Its number among the samples of the epoch, counted over all processes.
    """

    epoch: int
    position: int

    @classmethod
    def of(cls, index: int, epoch: int, position: int) -> "Place":
        """An index at a place."""
        place = cls(index)
        place.epoch, place.position = epoch, position
        return place


class Drawn:
    """A dataset whose samples are augmented by their place; in all else the dataset inside.

    Args:
        dataset: A dataset, or the config of one.
        seed: Of the training.
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        self.seed = seed

    def __getattr__(self, name: str) -> Any:
        if name == "dataset" or name.startswith("__"):  # a copy in the making has none
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __getitem__(self, index: int) -> Any:
        if isinstance(index, Place):
            seed_all(self.seed, SAMPLE, index.epoch, index.position)
        return self.dataset[int(index)]

    def __len__(self) -> int:
        return len(self.dataset)


class Places:
    """Batches of :class:`Place`, from any batch on. What comes before is counted, not loaded.

    Args:
        sampler: Of images, one process's share.
        batch_size: Samples of this process in a batch.
        drop_last: Leave out a last batch that is not full.
        batches: The config of a batch sampler; torch's when None.
        endless: Begin the next epoch where one ends, and wait for :attr:`begin`.

    Attributes:
        begin: How many batches of the coming epoch were done already; None to wait.
    """

    def __init__(
        self,
        sampler: Sampler,
        batch_size: int,
        drop_last: bool = False,
        batches: dict | None = None,
        endless: bool = False,
    ) -> None:
        self.sampler, self.batch_size, self.endless = sampler, batch_size, endless
        self.batches = (
            DATA_SAMPLERS.build(batches, default_args={"sampler": sampler, "batch_size": batch_size})
            if batches
            else BatchSampler(sampler, batch_size, drop_last)
        )
        self.begin: int | None = None if endless else 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Place]]:
        if self.begin is not None:
            begin, self.begin = self.begin, 0
            yield from itertools.islice(self._all(), begin, None)

    def _all(self) -> Iterator[list[Place]]:
        rank, processes = get_dist_info()
        while True:
            epoch = getattr(self.sampler, "epoch", 0)
            positions = itertools.count(rank, processes)
            for batch in self.batches:
                yield [Place.of(index, epoch, next(positions)) for index in batch]
            if not self.endless:
                return
            self.sampler.set_epoch(epoch + 1)


def by_place(loader: dict, seed: int, *, endless: bool) -> dict:
    """The config of a training data loader whose samples are drawn by their place."""
    loader = dict(loader)
    options = {"drop_last": loader.pop("drop_last", False), "batches": loader.get("batch_sampler"), "endless": endless}
    loader["batch_sampler"] = {"type": Places, **options}
    loader["dataset"] = {"type": Drawn, "dataset": loader["dataset"], "seed": seed}
    return loader


class IterBasedTrainLoop(MMEngineIterBasedTrainLoop):
    """mmengine's loop by iterations, going on after so many without loading what comes before.

    It validates first where the checkpoint was written just before a validation: its numbers, and the best checkpoint
    that hangs on them, are as in a training that was never interrupted.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        del self.dataloader_iterator  # upstream mmengine opens it here; `Places` waits and has given it nothing

    def run(self) -> torch.nn.Module:
        """Train; the batches begin where :class:`PlaceHook` says."""
        self.runner.call_hook("before_train")
        self.runner.call_hook("before_train_epoch")
        if 0 < self._iter < self._max_iters:
            self._decide_current_val_interval()
            self._validate()
        batches = iter(self.dataloader)
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self.run_iter(next(batches))
            self._decide_current_val_interval()
            self._validate()
        self.runner.call_hook("after_train_epoch")
        self.runner.call_hook("after_train")
        return self.runner.model

    def _validate(self) -> None:
        due = self._iter % self.val_interval == 0 or self._iter == self._max_iters
        if due and self.runner.val_loop is not None and self._iter >= self.val_begin:
            self.runner.val_loop.run()


class PlaceHook(Hook):
    """Seeds every step of training, begins the batches where a checkpoint ends, and keeps what it would lose.

    That is the gradient of a step whose batches are accumulated and not all seen yet.
    """

    priority = "HIGHEST"

    def before_train(self, runner: Runner) -> None:
        """Say where the batches begin."""
        batches = runner.train_dataloader.batch_sampler
        if isinstance(batches, Places):
            batches.begin = runner.iter - runner.epoch * (0 if batches.endless else len(batches))

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Draw for this iteration."""
        seed_step(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Note how the samples were drawn, and a gradient in the making."""
        checkpoint["meta"][IMAGES] = _images_per_iteration(runner)
        parameters = _model(runner).named_parameters()
        gradients = {name: value.grad.cpu() for name, value in parameters if value.grad is not None}
        if gradients:
            checkpoint["gradients"] = gradients

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Take up the gradient, and say when the training will not be the same to the bit."""
        if not runner._resume:
            return
        own, theirs = _images_per_iteration(runner), checkpoint["meta"].get(IMAGES)
        if theirs is None:
            runner.logger.warning("the checkpoint does not say how its samples were drawn: the resume is not exact")
        elif theirs != own:
            runner.logger.warning(f"{own} images an iteration, the checkpoint had {theirs}: the resume is not exact")
        for name, value in _model(runner).named_parameters():
            if name in checkpoint.get("gradients", {}):
                value.grad = checkpoint["gradients"][name].to(value)


def seed_step(runner: Runner) -> None:
    """Seed what the model draws in the runner's present iteration."""
    seed_all(runner.seed, STEP, runner.iter, runner.rank, gpu=True)


def _images_per_iteration(runner: Runner) -> int | None:
    batches = runner.train_dataloader.batch_sampler
    return batches.batch_size * runner.world_size if isinstance(batches, Places) else None


def _model(runner: Runner) -> torch.nn.Module:
    return runner.model.module if is_model_wrapper(runner.model) else runner.model
