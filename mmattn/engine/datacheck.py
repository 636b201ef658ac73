"""Looks at the data before a training starts: what is missing is said at once, with its place."""

import os
from collections.abc import Mapping
from pathlib import Path

from mmengine.config import Config
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
    init_default_scope(cfg.default_scope)
    for key, dataset in datasets(cfg, *(loaders or ("train_dataloader", "val_dataloader"))):
        root = Path(dataset.get("data_root") or ".")
        _expect_folder(root, f"{key}.data_root")
        with clear_registry_errors(cfg):
            try:
                built = DATASETS.build({**dataset, "pipeline": [], "lazy_init": True})
            except ValueError as error:  # mmseg: the class names are no subset of the dataset's own
                raise UserError(f"{key}: {error}") from error
        if not built.metainfo.get("classes"):
            raise UserError(f"{key} has no class names: state them once in the config, classes = ('road', 'car', ...)")
        if hasattr(built, "seg_map_suffix"):
            _check_pairs(key, root, built)


def _check_pairs(key: str, root: Path, dataset: object) -> None:
    prefix: Mapping[str, str] = dataset.data_prefix
    if dataset.ann_file and not os.path.isdir(dataset.ann_file) and not os.path.isfile(dataset.ann_file):
        raise UserError(f"{key}.ann_file: there is no {dataset.ann_file}")
    for part in ("img_path", "seg_map_path"):
        if prefix.get(part):
            _expect_folder(Path(prefix[part]), f"{key}.data_prefix.{part}", root)
    listed = dataset.load_data_list()
    if not listed:
        raise UserError(
            f"{key}: no image in {prefix.get('img_path')}: expected files whose names end in {dataset.img_suffix}"
        )
    for part, what in (("img_path", "images"), ("seg_map_path", "label images")):
        paths = [item[part] for item in listed if part in item]
        missing = [path for path in paths if not os.path.exists(path)]
        if missing:
            first = f"{missing[0]}{_hint(missing[0], root)}"
            raise UserError(f"{key}: {len(missing)} of {len(paths)} {what} are missing, the first {first}")


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
