"""mmengine's Runner without the hundreds of lines that it prints before anything happens, and fit for long runs."""

import logging
import sys
from functools import partial
from typing import Any

from mmengine import hooks
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.registry import HOOKS, LOOPS
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner, loops

from mmattn.engine.checkpoints import CheckpointHook, LoggerHook
from mmattn.engine.memory import sparing
from mmattn.engine.nonfinite import NonFiniteHook
from mmattn.engine.processes import TogetherHook, expect_launcher
from mmattn.engine.resume import IterBasedTrainLoop, PlaceHook, by_place

# what takes the place of mmengine's, in any scope
OUR_HOOKS = {hooks.CheckpointHook: CheckpointHook, hooks.LoggerHook: LoggerHook}
OUR_LOOPS = {loops.IterBasedTrainLoop: IterBasedTrainLoop, EpochBasedTrainLoop: EpochBasedTrainLoop}


class QuietRunner(Runner):
    """Runner that writes what it says while it is built, some 400 lines, to the log file alone.

    A training resumes exactly, saves checkpoints that are whole, and stops at a loss that is not finite; the config's
    ``on_nan = 'skip'`` leaves out such a batch instead.
    """

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        logger = super().build_logger(*args, **kwargs)
        self._consoles = [handler for handler in logger.handlers if type(handler) is logging.StreamHandler]
        self._levels = [handler.level for handler in self._consoles]
        for handler in self._consoles:
            handler.setLevel(max(handler.level, logging.WARNING))
        for handler in logger.handlers:
            if isinstance(handler, logging.FileHandler):
                handler.handleError = partial(_say_once, handler)
        return logger

    def setup_env(self, *args: Any, **kwargs: Any) -> None:
        """Meet the other processes, where there are some."""
        expect_launcher(self.launcher)
        super().setup_env(*args, **kwargs)

    def speak(self, every: int | None = None) -> None:
        """Log to the console again; a line of progress every so many batches, as configured when None."""
        for handler, level in zip(self._consoles, self._levels, strict=True):
            handler.setLevel(level)
        for hook in self.hooks:
            if every is not None and isinstance(hook, hooks.LoggerHook):
                hook.interval = every

    def register_hooks(self, *args: Any, **kwargs: Any) -> None:
        """The config's hooks, and those of a long run."""
        super().register_hooks(*args, **kwargs)
        if self._train_dataloader is not None:
            self.register_hook(NonFiniteHook(skip=self.cfg.get("on_nan") == "skip"))
            self.register_hook(PlaceHook())
            if self.world_size > 1:
                self.register_hook(TogetherHook())

    def register_hook(self, hook: Hook | dict, *args: Any, **kwargs: Any) -> None:
        """A hook, ours in the place of mmengine's."""
        if isinstance(hook, dict):
            kind = HOOKS.get(hook["type"]) if isinstance(hook["type"], str) else hook["type"]
            hook = {**hook, "type": OUR_HOOKS.get(kind, hook["type"])}
        super().register_hook(hook, *args, **kwargs)

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """The loop and its data, drawn by their place."""
        if isinstance(loop, BaseLoop) or not isinstance(self._train_dataloader, dict):
            return super().build_train_loop(loop)
        kind = loop.get("type") or ("EpochBasedTrainLoop" if loop.get("by_epoch") else "IterBasedTrainLoop")
        kind = OUR_LOOPS.get(LOOPS.get(kind) if isinstance(kind, str) else kind)
        if kind and "num_batch_per_epoch" not in self._train_dataloader:
            loop = {key: value for key, value in loop.items() if key != "by_epoch"} | {"type": kind}
            endless = kind is IterBasedTrainLoop
            self._train_dataloader = by_place(self._train_dataloader, self.seed, endless=endless)
        return super().build_train_loop(loop)

    def build_val_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """The loop, with a model that makes do with the memory there is."""
        if not isinstance(loop, BaseLoop):
            self.model.val_step = sparing(self.model, "val_step")
        return super().build_val_loop(loop)

    def build_test_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """The loop, with a model that makes do with the memory there is."""
        if not isinstance(loop, BaseLoop):
            self.model.test_step = sparing(self.model, "test_step")
        return super().build_test_loop(loop)


def _say_once(handler: logging.Handler, record: logging.LogRecord) -> None:
    """In the place of a traceback for each line that the log file does not take."""
    if not getattr(handler, "said", False):
        handler.said = True
        print("the log file cannot be written: from here on it lacks lines", file=sys.stderr)
