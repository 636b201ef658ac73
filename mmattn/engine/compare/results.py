"""One file for each model and seed: what was measured, and all that it depends on."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from mmattn.cli import UserError
from mmattn.engine.checkpoints import write_whole
from mmattn.engine.compare.settings import differences, named, protocol
from mmattn.engine.compare.statistics import iou


@dataclass(frozen=True)
class Result:
    """One training, tested.

    Attributes:
        config: Name of the config.
        file: Its path.
        seed: Of the training.
        settings: As of :func:`~mmattn.engine.compare.settings.with_data`.
        scores: mIoU, mAcc and aAcc in percent, of all images together.
        classes: Names of the classes.
        images: Pixels of each class that are both, predicted and true, (3, classes), by image.
        parameters: Of backbone, neck and decode heads.
        flops: Of them, for one image.
        size: Rows and columns of that image, the first that was tested.
        train_seconds: Of one iteration, the median over all.
        test_seconds: Of one image, loading and scoring included, the median over all.
        machine: What it ran on, and when it was tested.
        versions: Of the packages.
    """

    config: str
    file: str
    seed: int
    settings: dict[str, dict[str, Any]]
    scores: dict[str, float]
    classes: list[str]
    images: dict[str, list[list[int]]]
    parameters: int
    flops: int
    size: list[int]
    train_seconds: float
    test_seconds: float
    machine: dict[str, Any]
    versions: dict[str, str]

    @property
    def counts(self) -> np.ndarray:
        """(images, 3, classes), images by name."""
        return np.array([self.images[name] for name in sorted(self.images)])

    @property
    def miou(self) -> float:
        """Of all images together, in percent."""
        return self.scores["mIoU"]

    @property
    def iou(self) -> np.ndarray:
        """By class, (classes,), in percent; NaN where a class is neither predicted nor there."""
        return iou(self.counts.sum(axis=0))

    @property
    def iterations(self) -> int:
        """Of the training."""
        return self.settings["training"]["train_cfg"]["max_iters"]

    def save(self, path: Path) -> None:
        """Write it, whole or not at all, a line for each key.

        Raises:
            UserError: It cannot be written.
        """
        lines = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in asdict(self).items())
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, ("{\n" + ",\n".join(lines) + "\n}\n").encode())
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}") from error


def load(path: Path) -> Result:
    """The result in a file.

    Raises:
        UserError: It is none.
    """
    try:
        found = json.loads(path.read_text())
        return Result(**{field.name: found[field.name] for field in fields(Result)})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no result of a comparison ({error!r}); delete it, or move it away") from error


def load_all(folder: Path) -> list[Result]:
    """All results in a folder, by name and seed.

    Raises:
        UserError: A file is none.
    """
    found = [load(path) for path in folder.glob("*_seed*.json")]
    return sorted(found, key=lambda result: (result.config, result.seed))


def select(
    results: Iterable[Result], wanted: Mapping[str, Mapping[str, Any]] | None = None
) -> tuple[list[Result], list[str]]:
    """The results that can be compared, and why each other one cannot.

    Args:
        results: In any number.
        wanted: Settings by name of the config: a result of such a config has just these, any other result shares the
            protocol of one of them. By default most results decide.

    Returns:
        Those to compare; a line for each of the others.
    """
    results, kept, left = list(results), [], []
    wanted = dict(wanted or {})
    allowed = [protocol(found) for found in wanted.values()] or [_most([protocol(r.settings) for r in results])]
    for result in results:
        same = [r.settings for r in results if r.config == result.config and protocol(r.settings) in allowed]
        expected = wanted.get(result.config) or (_most(same) if same else None)
        if expected is None:
            reason = named(differences(allowed[0], protocol(result.settings)))
        else:
            reason = named(differences(expected, result.settings))
        if reason:
            left.append(f"{result.config} seed {result.seed}, of other settings: {reason}")
        else:
            kept.append(result)
    return kept, left


def by_config(results: Iterable[Result]) -> dict[str, dict[int, Result]]:
    """Results by config, then by seed."""
    found: dict[str, dict[int, Result]] = {}
    for result in results:
        found.setdefault(result.config, {})[result.seed] = result
    return found


def _most(found: Sequence[Any]) -> Any:
    counted = Counter(json.dumps(value, sort_keys=True) for value in found)
    return json.loads(counted.most_common(1)[0][0]) if counted else None
