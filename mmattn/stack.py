"""The packages that the tools need beneath them: present, new enough, of one family, and able to load.

The maintained and the upstream OpenMMLab packages share their import names, so that only the names of the installed
distributions tell them apart.
"""

import importlib
import re
import shutil
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from mmattn.cli import UserError

MAINTAINED = {"mmengine": "onedl-mmengine", "mmcv": "onedl-mmcv", "mmseg": "onedl-mmsegmentation"}
UPSTREAM = {"mmengine": "mmengine", "mmcv": "mmcv-lite", "mmseg": "mmsegmentation"}

# module -> the distributions that bring it, each with the oldest version that works
MINIMUM = {
    "torch": {"torch": "2.6"},
    "mmengine": {"onedl-mmengine": "0.10.12", "mmengine": "0.10.7", "mmengine-lite": "0.10.7"},
    "mmcv": {"onedl-mmcv": "2.3.6", "mmcv-lite": "2.1.0", "mmcv": "2.1.0", "mmcv-full": "2.1.0"},
    "mmseg": {"onedl-mmsegmentation": "1.4.2", "mmsegmentation": "1.2.2"},
    "cv2": {
        "opencv-python": "4.5",
        "opencv-python-headless": "4.5",
        "opencv-contrib-python": "4.5",
        "opencv-contrib-python-headless": "4.5",
    },
    "matplotlib": {"matplotlib": "3.5"},
    "PIL": {"pillow": "9.1"},
    "ftfy": {"ftfy": "6"},  # mmseg imports ftfy and regex, and upstream does not declare them
    "regex": {"regex": "2022"},
    "distutils": {"setuptools": "40"},  # mmengine imports it; from Python 3.12 on it comes with setuptools
}

# system libraries that OpenCV loads, and the Debian packages that bring them
DEBIAN = {"libGL": "libgl1", "libgthread-2.0": "libglib2.0-0", "libSM": "libsm6", "libXext": "libxext6"}


def check() -> None:
    """Look at everything that the tools import, before they import it.

    Raises:
        UserError: A package is missing or too old, both OpenMMLab families are installed, or OpenCV does not load. The
            message is one line and ends in the command to type.
    """
    found = {module: _installed(MINIMUM[module]) for module in MINIMUM}
    openmmlab = {name for module in MAINTAINED for name in found[module]}
    ours, theirs = openmmlab & set(MAINTAINED.values()), openmmlab - set(MAINTAINED.values())
    if ours and theirs:
        raise UserError(
            f"both families of OpenMMLab packages are installed and overwrite each other's files, {_list(ours)} and "
            f"{_list(theirs)}. Remove both and install one: "
            f'pip uninstall --yes {" ".join(sorted(openmmlab))} && pip install ".[mmseg]"'
        )

    problems, wanted = [], []
    for module, minimum in MINIMUM.items():
        name = next(iter(found[module]), UPSTREAM.get(module, next(iter(minimum))))
        number = found[module].get(name)
        if number is not None and _parts(number) < _parts(minimum[name]):
            problems.append(f"{name} {number} is older than {minimum[name]}")
        elif not _present(module) and number is not None:
            raise UserError(f"the files of {name} are gone: pip install --force-reinstall --no-deps {name}=={number}")
        elif not _present(module):
            problems.append(f"{module if module != 'distutils' else name} is missing")
        else:
            continue
        wanted.append(f'"{name}>={minimum[name]}"')
    if problems:
        packages = " ".join(wanted) if theirs else '".[mmseg]"'
        raise UserError(f"{', '.join(problems)}: pip install --upgrade {packages}")

    _load_opencv()


def _installed(distributions: dict[str, str]) -> dict[str, str]:
    """The distributions of these that are installed, with their versions."""
    found = {}
    for name in distributions:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _present(module: str) -> bool:
    """Whether the module can be imported; a folder that an uninstall left behind does not count."""
    spec = find_spec(module)
    return spec is not None and spec.loader is not None


def _parts(number: str) -> tuple[int, ...]:
    """``2.13.0+cpu`` as (2, 13, 0)."""
    return tuple(int(part) for part in re.match(r"\d+(\.\d+)*", number)[0].split("."))


def _list(names: set[str]) -> str:
    return ", ".join(sorted(names))


def _load_opencv() -> None:
    """Import OpenCV: its wheel for desktops needs system libraries that servers and containers lack."""
    try:
        importlib.import_module("cv2")
    except ImportError as error:
        library = re.match(r"((lib\S+?)\.so\S*): cannot open shared object", str(error))
        if library is None:
            raise UserError(f"OpenCV does not load ({error}): pip install --force-reinstall opencv-python") from error
        advice = "pip install --force-reinstall --no-deps opencv-python-headless"
        if library[2] in DEBIAN and shutil.which("apt-get"):
            advice = f"apt-get install {DEBIAN[library[2]]}, or without root {advice}"
        raise UserError(f"OpenCV needs the system library {library[1]}: {advice}") from error
