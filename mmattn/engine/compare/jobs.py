"""The trainings of a comparison: what is done already, what is left, and each stage in a process of its own."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from statistics import mean
from typing import Any

from mmengine.config import Config

import mmattn
from mmattn.cli import UserError
from mmattn.engine import train
from mmattn.engine.checkpoints import find_newest, read_whole, write_whole
from mmattn.engine.compare.results import Result, load
from mmattn.engine.compare.settings import differences, named, settings, with_data
from mmattn.engine.config import read

SETTINGS = "compare.json"  # in the folder of a training: what it was begun with
PASSED = re.compile(r"Iter\((train|val|test)\) \[\s*(\d+)/(\d+)\].*? time: ([\d.]+)")
SAVES = 10  # of a training at the least, so that little is lost when it is interrupted
OFTEN = 10.0  # seconds between two lines of progress


@dataclass(frozen=True)
class Job:
    """One config with one seed; its fields are JSON's, to be handed to another process.

    Attributes:
        config: The config file.
        seed: Of the training.
        base: As of ``--base``.
        options: As of ``--cfg-options``.
        amp: Train in mixed precision.
        work_dir: The folder in which every training has its own.
        out: The folder of the results.
    """

    config: str
    seed: int
    base: tuple[str, ...]
    options: tuple[str, ...]
    amp: bool
    work_dir: str
    out: str

    @property
    def name(self) -> str:
        """Of the config."""
        return Path(self.config).stem

    @property
    def folder(self) -> Path:
        """Of the training."""
        return Path(self.work_dir, self.name, f"seed{self.seed}")

    @property
    def result(self) -> Path:
        """The file of its result."""
        return Path(self.out, f"{self.name}_seed{self.seed}.json")

    def __str__(self) -> str:
        return f"{self.name} seed {self.seed}"

    def prepare(self) -> Config:
        """The config to train and to test with.

        Raises:
            UserError: As of :func:`mmattn.engine.train.prepare`.
        """
        options = [*self.options, f"randomness.seed={self.seed}"]
        cfg = train.prepare(self.config, options=options, base=self.base, work_dir=str(self.folder), amp=self.amp)
        saver = cfg.setdefault("default_hooks", {}).setdefault("checkpoint", {"type": "CheckpointHook"})
        iters = cfg.train_cfg.get("max_iters")
        if iters and not any(option.startswith("default_hooks.checkpoint") for option in options):
            interval = min(saver.get("interval", iters), iters // SAVES)
            cfg.default_hooks.checkpoint = {"type": saver.type, "by_epoch": False, "interval": max(1, interval)}
            cfg.default_hooks.checkpoint.max_keep_ckpts = 1
        return cfg


def wanted(job: Job) -> dict[str, Any]:
    """The settings of a job's config, with its data; see :mod:`mmattn.engine.compare.settings`.

    Raises:
        UserError: The config cannot be trained and tested as the tool does it.
    """
    cfg = job.prepare()
    for key in ("test_dataloader", "test_evaluator", "test_cfg"):
        if not cfg.get(key):
            raise UserError(f"{job.config} has no {key}: it is no config to test with")
    if not cfg.train_cfg.get("max_iters"):
        raise UserError(f"{job.config} trains by epochs: give it iterations, --budget 40000")
    return with_data(settings(cfg), cfg)


def expect_one_budget(found: dict[str, dict[str, Any]]) -> None:
    """Look whether configs can be compared at all.

    Args:
        found: Settings by name of the config.

    Raises:
        UserError: They train for another number of iterations, with another batch, or are tested on other images.
    """
    (first, ours), *others = found.items()
    for key, part, path, remedy in (
        ("iterations", "training", ("train_cfg", "max_iters"), "--budget ITERATIONS"),
        ("images per iteration", "training", ("train_dataloader", "batch_size"), "--cfg-options train_dataloader..."),
        ("test images", "testing", ("data",), "--base, such as camvid"),
    ):
        here = _at(ours[part], path)
        for name, theirs in others:
            if here != (there := _at(theirs[part], path)):
                raise UserError(f"{first} and {name} differ in {key}: {here}, {there}. Set them for all: {remedy}")


def measured(job: Job, found: dict[str, Any]) -> Result | None:
    """The result of a job, where there is one of these settings."""
    if not job.result.is_file():
        return None
    result = load(job.result)
    return result if result.settings == found else None


def trained(job: Job, found: dict[str, Any]) -> Path | None:
    """The checkpoint at the end of a job's training; None where something is left to do.

    Raises:
        UserError: Its folder holds a training with other settings, or no checkpoint in it is whole.
    """
    checkpoint, _ = find_newest(Config({"work_dir": str(job.folder)}))
    if checkpoint is None:
        return None
    if reason := named(differences(found["training"], _begun(job, found))):
        raise UserError(
            f"{job.folder} holds a training of other settings: {reason}. "
            "Delete it to train anew, or choose another --work-dir"
        )
    done = read_whole(checkpoint)["meta"]["iter"]
    return checkpoint if done >= found["training"]["train_cfg"]["max_iters"] else None


def begin(job: Job, found: dict[str, Any]) -> None:
    """Note in the folder of a training what it trains with.

    Raises:
        UserError: It cannot be written.
    """
    try:
        job.folder.mkdir(parents=True, exist_ok=True)
        write_whole(job.folder / SETTINGS, json.dumps(found["training"], indent=1).encode())
    except OSError as error:
        raise UserError(f"{job.folder} cannot be written: {error.strerror}") from error


def _begun(job: Job, found: dict[str, Any]) -> dict[str, Any]:
    """What the training in a job's folder trains with; tools/train.py leaves its config alone, which names no data."""
    noted, written = job.folder / SETTINGS, job.folder / Path(job.config).name
    if noted.is_file():
        return json.loads(noted.read_text())
    if not written.is_file():
        raise UserError(f"{job.folder} holds checkpoints and no {written.name}: what made them is unknown; delete them")
    return settings(read(written))["training"] | {"data": found["training"]["data"]}


def _at(found: Any, path: Sequence[str]) -> Any:
    for key in path:
        found = found.get(key)
    return found


class Progress:
    """Lines that say where a comparison stands and when all of it will be done.

    Args:
        left: Jobs to come, the present one first.
        known: Results that are there, which say how long a job takes.
        say: Where the lines go.
    """

    def __init__(self, left: Sequence[Job], known: Iterable[Result], say: Callable[[str], None]) -> None:
        self.left, self.total, self.say = list(left), len(left), say
        self.took = [r.iterations * r.train_seconds + len(r.images) * r.test_seconds for r in known]
        self.begun = self.said = time.monotonic()

    def watch(self, line: str) -> None:
        """Look at a line that the present job logs."""
        if (found := PASSED.search(line)) is None or time.monotonic() - self.said < OFTEN:
            return
        stage, done, of, seconds = found[1], int(found[2]), int(found[3]), float(found[4])
        rest = (of - done) * seconds
        usual = [*self.took, time.monotonic() - self.begun + rest]
        everything = timedelta(seconds=round(rest + (len(self.left) - 1) * mean(usual)))
        what = {"train": "training", "val": "validating", "test": "testing"}[stage]
        self.say(f"{self} {what} {done}/{of}, {timedelta(seconds=round(rest))} left; all jobs: about {everything} left")
        self.said = time.monotonic()

    def next(self, *, worked: bool) -> None:
        """The present job has ended."""
        if worked:
            self.took.append(time.monotonic() - self.begun)
        self.left.pop(0)
        self.begun = time.monotonic()

    def __str__(self) -> str:
        return f"[{self.total - len(self.left) + 1}/{self.total}] {self.left[0]}:"


def apart(stage: str, job: Job, watch: Callable[[str], None]) -> None:
    """Train or test in a fresh process, which ends when this one does.

    Args:
        stage: ``train`` or ``test``.
        job: What to do; what it prints goes to ``compare.log`` in its folder.
        watch: Called with each line that it prints.

    Raises:
        UserError: It did not come to its end.
    """
    root = str(Path(mmattn.__file__).parents[1])
    paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "mmattn.engine.compare.worker", stage, json.dumps(asdict(job))]
    log, said = job.folder / "compare.log", []
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    env = os.environ | {"PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"}
    with open(log, "a") as file, subprocess.Popen(command, **pipes, text=True, errors="replace", env=env) as child:
        for line in child.stdout:
            file.write(line)
            file.flush()
            watch(line)
            said.append(line)
    if child.returncode < 0:
        raise UserError(f"{stage} ended by signal {-child.returncode}, see {log}")
    if child.returncode:
        text = "".join(said).strip()
        told = text.rpartition("\nerror: ")[2] if "\nerror: " in f"\n{text}" else text.rpartition("\n")[2]
        raise UserError(f"{told.removeprefix('error: ')} (in {stage}, see {log})")


def work(
    jobs: Sequence[Job],
    found: dict[str, dict[str, Any]],
    say: Callable[[str], None],
    run: Callable[[str, Job, Callable[[str], None]], None] = apart,
) -> dict[str, str]:
    """Train and test what has no result yet; one that fails does not cost the others.

    Args:
        jobs: All of them.
        found: Settings by name of the config.
        say: Where lines of progress go.
        run: Does one stage of a job.

    Returns:
        Why jobs failed, by their names.
    """
    results = {job: measured(job, found[job.name]) for job in jobs}
    left = [job for job in jobs if results[job] is None]
    say(f"{len(jobs)} trainings to compare, {len(jobs) - len(left)} of them measured already")
    progress = Progress(left, filter(None, results.values()), say)
    failed = {}
    for job in left:
        try:
            if job.result.is_file():
                changed = named(differences(found[job.name], load(job.result).settings))
                say(f"{progress} {job.result} is of other settings: {changed}; measuring anew")
            if trained(job, found[job.name]) is None:
                begin(job, found[job.name])
                say(f"{progress} training in {job.folder}")
                run("train", job, progress.watch)
            say(f"{progress} testing")
            run("test", job, progress.watch)
            say(f"{progress} mIoU {load(job.result).miou:.2f}")
        except UserError as error:
            failed[str(job)] = str(error)
            say(f"{progress} FAILED, {error}")
        progress.next(worked=str(job) not in failed)
    return failed
