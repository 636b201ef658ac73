"""Looks at the data before a training starts: what is missing is said at once, with its place."""

import os
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.dataset import BaseDataset
from mmengine.registry import init_default_scope

from mmattn.cli import UserError
from mmattn.engine.config import clear_registry_errors, datasets
from mmattn.registry import DATASETS

CITYSCAPES = Path("data/cityscapes")
LABELS, IDS = "_gtFine_labelTrainIds.png", "_gtFine_labelIds.png"


def nothing_configured(cfg: Config) -> bool:
    """Whether the config trains on Cityscapes at its usual place, and nothing at all is there."""
    found = [dataset for _, dataset in datasets(cfg)]
    if not found or "classes" in cfg or os.path.lexists(CITYSCAPES):
        return False
    return all(
        str(dataset.type).endswith("CityscapesDataset") and Path(dataset.get("data_root") or "") == CITYSCAPES
        for dataset in found
    )


def check_data(cfg: Config, *loaders: str) -> None:
    """Compare the folders that the datasets name with what is on disk.

    Args:
        cfg: The config.
        *loaders: Such as ``test_dataloader``; those of training and validation when none is named.

    Raises:
        UserError: A dataset has no class names; a folder is missing, a dangling link or without images; images lack
            their labels.
    """
    for key, dataset in datasets(cfg, *(loaders or ("train_dataloader", "val_dataloader"))):
        built = open_dataset(cfg, key, dataset)
        if not hasattr(built, "seg_map_suffix"):
            continue
        listed = built.load_data_list()
        expect_images(key, built, listed)
        root = Path(dataset.get("data_root") or ".")
        for part, what in (("img_path", "images"), ("seg_map_path", "label images")):
            paths = [item[part] for item in listed if part in item]
            missing = [path for path in paths if not os.path.exists(path)]
            if missing:
                first = f"{missing[0]}{_hint(missing[0], root)}"
                raise UserError(f"{key}: {len(missing)} of {len(paths)} {what} are missing, the first {first}")


def open_dataset(cfg: Config, key: str, dataset: ConfigDict) -> BaseDataset:
    """A dataset of the config, which has listed no files yet and runs no pipeline.

    Args:
        cfg: The config.
        key: Where the dataset stands in it.
        dataset: As of :func:`~mmattn.engine.config.datasets`.

    Raises:
        UserError: It has no class names, or a folder or the list of its files is missing.
    """
    init_default_scope(cfg.default_scope)
    root = Path(dataset.get("data_root") or ".")
    _expect_folder(root, f"{key}.data_root")
    with clear_registry_errors(cfg):
        try:
            built = DATASETS.build({**dataset, "pipeline": [], "lazy_init": True})
        except ValueError as error:  # mmseg: the class names are no subset of the dataset's own
            raise UserError(f"{key}: {error}") from error
    if not built.metainfo.get("classes"):
        raise UserError(f"{key} has no class names: state them once in the config, classes = ('road', 'car', ...)")
    if not hasattr(built, "seg_map_suffix"):
        return built
    if built.ann_file and not os.path.isdir(built.ann_file) and not os.path.isfile(built.ann_file):
        raise UserError(f"{key}.ann_file: there is no {built.ann_file}")
    for part in ("img_path", "seg_map_path"):
        if built.data_prefix.get(part):
            _expect_folder(Path(built.data_prefix[part]), f"{key}.data_prefix.{part}", root)
    return built


def expect_images(key: str, built: BaseDataset, listed: Sequence) -> None:
    """Raises UserError when the dataset found no image."""
    if not listed:
        raise UserError(
            f"{key}: no image in {built.data_prefix.get('img_path')}: expected files whose names end in "
            f"{getattr(built, 'img_suffix', '')}"
        )


def _hint(missing: str, root: Path) -> str:
    """Cityscapes comes without the labels that training reads."""
    if missing.endswith(LABELS) and os.path.exists(missing.removesuffix(LABELS) + IDS):
        return f"; make them from the labelIds there: python tools/prepare_data.py cityscapes {root}"
    return ""


def _expect_folder(path: Path, key: str, root: Path | None = None) -> None:
    if path.is_dir():
        return
    if path.is_symlink():
        raise UserError(f"{key}: {path} is a link to {os.readlink(path)}, which does not exist")
    if path.exists():
        raise UserError(f"{key}: {path} is a file, expected a folder")
    inside = ""
    if root is not None:
        found = sorted(entry.name for entry in root.iterdir())
        inside = f"; {root} holds {', '.join(found[:8]) if found else 'nothing'}"
    raise UserError(f"{key}: there is no folder {path}{inside}. data/README.md says where each dataset goes")
