"""mmengine's Runner without the hundreds of lines that it prints before anything happens."""

import logging
from typing import Any

from mmengine.hooks import LoggerHook
from mmengine.logging import MMLogger
from mmengine.runner import Runner


class QuietRunner(Runner):
    """Runner that writes what it says while it is built, some 400 lines, to the log file alone."""

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        logger = super().build_logger(*args, **kwargs)
        self._consoles = [handler for handler in logger.handlers if type(handler) is logging.StreamHandler]
        self._levels = [handler.level for handler in self._consoles]
        for handler in self._consoles:
            handler.setLevel(max(handler.level, logging.WARNING))
        return logger

    def speak(self, every: int | None = None) -> None:
        """Log to the console again; a line of progress every so many batches, as configured when None."""
        for handler, level in zip(self._consoles, self._levels, strict=True):
            handler.setLevel(level)
        for hook in self.hooks:
            if every is not None and isinstance(hook, LoggerHook):
                hook.interval = every
