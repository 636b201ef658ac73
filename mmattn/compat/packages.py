"""Mends to how mmengine, mmcv and mmseg find each other."""

import contextlib
import importlib
import io
import sys
import warnings
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType


def accept_newer_mmcv() -> bool:
    """Let upstream mmseg import beside mmcv 2.2, which differs from 2.1 in nothing that mmseg uses.

    mmseg 1.2.2 asserts mmcv < 2.2.0 at import (open-mmlab/mmsegmentation issue 3729). May go with upstream mmseg 1.2.2.
    """
    import mmcv

    try:
        import mmseg  # noqa: F401
    except AssertionError:
        number = mmcv.__version__
        if mmcv.version_info[:2] < (2, 2):
            raise
        mmcv.__version__ = "2.1.0"
        try:
            importlib.import_module("mmseg")
        finally:
            mmcv.__version__ = number
        return True
    return False


def stand_in_for_mmcv_ext() -> bool:
    """Give mmcv-lite an ``mmcv._ext`` whose operators exist and say that they are missing when they are called.

    mmcv-lite has no compiled operators, and upstream ``mmseg.utils`` imports ``mmcv.ops``, which asks for them. The
    maintained mmseg does without. May go with upstream mmseg 1.2.2.
    """
    try:
        import mmseg.utils  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "mmcv._ext":
            raise
        sys.modules["mmcv._ext"] = _MissingOperators("mmcv._ext")
        importlib.import_module("mmseg.utils")
        return True
    return False


class _MissingOperators(ModuleType):
    """A module that has every operator and can run none."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, loader=None)  # without a loader mmengine sees that mmcv is not the full one

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in ("get_compiler_version", "get_compiling_cuda_version"):
            return lambda: "not compiled"

        def refuse(*args: object, **kwargs: object) -> None:
            raise RuntimeError(f"mmcv-lite has no compiled operator {name}: install the full mmcv instead")

        return refuse


def import_without_noise() -> bool:
    """Import mmseg without its words on optional parts that nobody asked for.

    The maintained mmcv 2.3.6 warns of a compiled operator that it does not ship, and mmseg 1.4.2 prints that its
    vendor's datasets are absent. May go when both keep quiet.
    """
    printed = io.StringIO()
    with warnings.catch_warnings(record=True) as warned, contextlib.redirect_stdout(printed):
        warnings.simplefilter("always", UserWarning)
        for module in ("mmseg.models", "mmseg.datasets", "mmseg.engine", "mmseg.evaluation", "mmseg.visualization"):
            importlib.import_module(module)
    return bool(printed.getvalue() or warned)


def find_packages_by_import_name() -> bool:
    """Let ``_base_ = 'mmseg::...'`` find mmseg's configs.

    Upstream mmengine 0.10.7 asks ``pkg_resources``, which setuptools 82 dropped (open-mmlab/mmengine pull request
    1676); the maintained 0.10.12 asks for a distribution named mmsegmentation, which is called onedl-mmsegmentation
    there. May go when both resolve the import name.
    """
    from mmengine.utils import get_installed_path, is_installed

    try:
        if is_installed("mmsegmentation"):
            return False
    except ModuleNotFoundError as error:
        if error.name != "pkg_resources":
            raise
    for original, mend in ((is_installed, _is_installed), (get_installed_path, _get_installed_path)):
        for module in [module for name, module in sys.modules.items() if name.partition(".")[0] == "mmengine"]:
            if vars(module).get(original.__name__) is original:
                setattr(module, original.__name__, mend)
    return True


def _is_installed(package: str) -> bool:
    """Whether a distribution, or the module that mmengine knows by this distribution, is installed."""
    try:
        version(package)
    except PackageNotFoundError:
        return _origin(package) is not None
    return True


def _get_installed_path(package: str) -> str:
    """Folder of the module that mmengine knows by this distribution."""
    origin = _origin(package)
    if origin is None:
        raise PackageNotFoundError(package)
    return str(Path(origin).parent)


def _origin(package: str) -> str | None:
    from mmengine.config.utils import MODULE2PACKAGE

    modules = {distribution: module for module, distribution in MODULE2PACKAGE.items()}
    spec = find_spec(modules.get(package, package))
    return spec and spec.origin
