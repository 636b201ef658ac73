"""Checkpoints that are whole or not there: written aside, found again, and kept until the next one is written."""

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook
from mmengine.hooks import LoggerHook as MMEngineLoggerHook
from mmengine.runner import Runner

from mmattn.cli import UserError
from mmattn.engine.weights import read_checkpoint

WHOLE = "whole"  # the name of the backend
PART = ".part"
PATTERNS = ("iter_*.pth", "epoch_*.pth")


def write_whole(path: str | Path, content: bytes) -> None:
    """Write a file aside, flush it to the disk and rename it: whoever reads finds the old content or the new.

    Raises:
        OSError: It could not be written; what was there is untouched.
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}{PART}")
    try:
        with open(aside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        with suppress(OSError):
            aside.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name, too, outlives a power failure
    finally:
        os.close(folder)


class WholeFiles(LocalBackend):
    """mmengine's local files, each written by :func:`write_whole`; a folder that is gone stays gone."""

    def __init__(self) -> None:
        self.later: list[str] | None = None

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write a file."""
        write_whole(filepath, obj)

    def remove(self, filepath: str | Path) -> None:
        """Delete a file, or note it inside :meth:`removing_later`."""
        if self.later is None:
            super().remove(filepath)
        else:
            self.later.append(str(filepath))

    @contextmanager
    def removing_later(self) -> Iterator[list[str]]:
        """Delete nothing inside, and collect what was to go."""
        self.later = []
        try:
            yield self.later
        finally:
            self.later = None


register_backend(WHOLE, WholeFiles, force=True)


class CheckpointHook(MMEngineCheckpointHook):
    """mmengine's hook, which goes on training when a checkpoint cannot be saved, and deletes none before its successor
    is whole.

    Attributes:
        failed: Why the last save failed; None when it did not.
    """

    failed: str | None = None

    def before_train(self, runner: Runner) -> None:
        """Look where to save, and clear away what a kill left half written."""
        folder = str(self.out_dir or runner.work_dir)
        if self.backend_args is None and self.file_client_args is None and "://" not in folder:
            self.backend_args = {"backend": WHOLE}
        super().before_train(runner)
        if is_main_process() and isinstance(self.file_backend, WholeFiles):
            Path(self.out_dir).mkdir(parents=True, exist_ok=True)
            for part in Path(self.out_dir).glob(f".*{PART}"):
                part.unlink()

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        name = self.filename_tmpl.format(step)
        path = self.file_backend.join_path(self.out_dir, name)
        keep = [*(kept for kept in getattr(self, "keep_ckpt_ids", ()) if kept != step), step]
        self._note(runner, path, keep)  # with the one to go: after a kill the next run deletes it
        try:
            runner.save_checkpoint(
                self.out_dir,
                name,
                self.file_client_args,
                save_optimizer=self.save_optimizer,
                save_param_scheduler=self.save_param_scheduler,
                meta=meta,
                by_epoch=self.by_epoch,
                backend_args=self.backend_args,
                **self.args,
            )
            if is_main_process():
                write_whole(Path(runner.work_dir, "last_checkpoint"), path.encode())
        except OSError as error:
            self._note(runner, self.last_ckpt, list(getattr(self, "keep_ckpt_ids", ())))
            self._fail(runner, path, error)
            return
        self.failed, self.last_ckpt = None, path
        if self.max_keep_ckpts > 0:
            self.keep_ckpt_ids = keep[-self.max_keep_ckpts :]
            self._note(runner, path, self.keep_ckpt_ids)
            for old in keep[: -self.max_keep_ckpts] if is_main_process() else ():
                self._remove(runner, self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(old)))

    def _note(self, runner: Runner, last: str | None, keep: list[int]) -> None:
        runner.message_hub.update_info("last_ckpt", last)
        if self.max_keep_ckpts > 0:
            runner.message_hub.update_info("keep_ckpt_ids", list(keep))

    def _fail(self, runner: Runner, path: str, error: OSError) -> None:
        self.failed = f"{path} could not be saved: {error.strerror or error}"
        last = f"the last whole checkpoint is {self.last_ckpt}" if self.last_ckpt else "there is no checkpoint yet"
        runner.logger.error(f"{self.failed}; {last}. Training goes on and tries again at the next interval")

    def _remove(self, runner: Runner, path: str) -> None:
        try:
            if self.file_backend.isfile(path):
                self.file_backend.remove(path)
        except OSError as error:
            runner.logger.warning(f"{path} could not be deleted: {error.strerror or error}")

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        if not isinstance(self.file_backend, WholeFiles):
            return super()._save_best_checkpoint(runner, metrics)
        before = {key: value for key, value in runner.message_hub.runtime_info.items() if key.startswith("best_")}
        try:
            with self.file_backend.removing_later() as outdated:
                super()._save_best_checkpoint(runner, metrics)
        except OSError as error:
            for key in [key for key in runner.message_hub.runtime_info if key.startswith("best_")]:
                runner.message_hub.pop_info(key)
            runner.message_hub.update_info_dict(before)
            self.best_ckpt_path = before.get("best_ckpt")
            self.best_ckpt_path_dict = {key: before.get(f"best_ckpt_{key}") for key in self.key_indicators}
            self._fail(runner, "the best checkpoint", error)
            return
        for path in set(outdated) - set(map(str, runner.message_hub.runtime_info.values())):
            self._remove(runner, path)

    def after_train(self, runner: Runner) -> None:
        """Try once more what could not be saved, the second time beside the other temporary files.

        Raises:
            UserError: It could not be saved where it belongs.
        """
        if self.failed and is_main_process():
            self._save_last(runner)
        super().after_train(runner)

    def _save_last(self, runner: Runner) -> None:
        step = runner.epoch if self.by_epoch else runner.iter
        meta = {"epoch": runner.epoch, "iter": runner.iter}
        self._save_checkpoint_with_step(runner, step, meta)
        if self.failed is None:
            return
        name, refuge = self.filename_tmpl.format(step), None
        with suppress(OSError):
            refuge = mkdtemp(prefix="mmattn_")
            runner.save_checkpoint(refuge, name, meta=meta, by_epoch=self.by_epoch, backend_args={"backend": WHOLE})
        kept = f"its last state is in {refuge}/{name}" if refuge and Path(refuge, name).is_file() else "nor elsewhere"
        raise UserError(f"the training is done, but {self.failed}; {kept}. --resume goes on from {self.last_ckpt}")


class LoggerHook(MMEngineLoggerHook):
    """mmengine's hook, for which a log that cannot be written is no reason to end a training."""

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Log an iteration."""
        with _without_a_disk(runner):
            super().after_train_iter(runner, *args, **kwargs)

    def after_val_epoch(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Log a validation."""
        with _without_a_disk(runner):
            super().after_val_epoch(runner, *args, **kwargs)


@contextmanager
def _without_a_disk(runner: Runner) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        runner.logger.warning(f"the curves of {runner.log_dir} lack a point: {error.strerror or error}")


def folder_of(cfg: Config) -> Path:
    """Where a config's checkpoints go."""
    out = (cfg.get("default_hooks") or {}).get("checkpoint", {}).get("out_dir")
    return Path(out, Path(cfg.work_dir).name) if out else Path(cfg.work_dir)


def find_newest(cfg: Config) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that is whole, by the time it was written: of its folder, and of ``last_checkpoint``.

    Returns:
        Its path, None where there are no checkpoints; what was skipped, and why.

    Raises:
        UserError: There are some, and none is whole.
    """
    template = (cfg.get("default_hooks") or {}).get("checkpoint", {}).get("filename_tmpl")
    patterns = (template.format("*"),) if template else PATTERNS
    found = {path.resolve(): path for pattern in patterns for path in folder_of(cfg).glob(pattern)}
    with suppress(OSError):
        last = Path(Path(cfg.work_dir, "last_checkpoint").read_text())
        found |= {last.resolve(): last} if last.is_file() and last.resolve() not in found else {}
    skipped = []
    for path in sorted(found.values(), key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True):
        try:
            read_whole(path)
        except UserError as error:
            skipped.append(str(error))
        else:
            return path, skipped
    if skipped:
        reasons = "\n  ".join(skipped)
        raise UserError(f"no checkpoint to resume from is whole:\n  {reasons}\nDelete them to start from the beginning")
    return None, []


def read_whole(path: str | Path) -> dict[str, Any]:
    """A checkpoint of a training, every byte of which was looked at.

    Raises:
        UserError: It is damaged, or holds no training to resume.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch does not compare checksums
    except (zipfile.BadZipFile, OSError):
        damaged = None  # torch's older format, or what no reader takes
    if damaged:
        raise UserError(f"{path} is damaged: {damaged} is not what was written")
    checkpoint = read_checkpoint(path)
    if "iter" not in (checkpoint.get("meta") or {}):
        raise UserError(f"{path} holds weights but no training to resume")
    return checkpoint
