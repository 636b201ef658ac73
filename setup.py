"""Packaging of mmattn.

``pip install .`` brings torch and numpy alone, so that an environment with its own mmengine, mmcv and mmseg stays as
it is. ``pip install ".[mmseg]"`` adds the maintained OpenMMLab packages and what the tools need.

The tools and configs stand beside the package and become part of it: ``python -m mmattn.tools.train ccnet_r50`` needs
no clone.
"""

import re
from pathlib import Path

from setuptools import find_namespace_packages, find_packages, setup

HERE = Path(__file__).parent
EXPORT = ["onnx>=1.18", "onnxscript>=0.5", "onnxruntime>=1.20"]
BESIDE = find_namespace_packages(str(HERE), include=["tools", "configs", "configs.*"], exclude=["*__pycache__"])


def description() -> str:
    """The README as a package index shows it: without the pictures and links into the repository."""
    readme = (HERE / "README.md").read_text(encoding="utf-8")
    readme = re.sub(r"!\[[^\]]*\]\((?!https?:)[^)]*\)\n(\n\*[^*]+\*\n)?", "", readme)  # a picture and its caption
    return re.sub(r"\[([^\]]+)\]\((?!https?:)[^)]*\)", r"\1", readme)


setup(
    name="mmattn",
    version=re.search(r'^__version__ = "(.+)"$', (HERE / "mmattn/__init__.py").read_text(), re.MULTILINE)[1],
    description="Attention mechanisms for semantic segmentation, used like MMSegmentation",
    long_description=description(),
    long_description_content_type="text/markdown",
    author="The mmattn maintainers",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["semantic segmentation", "attention", "PyTorch", "MMSegmentation"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    packages=[*find_packages(include=["mmattn", "mmattn.*"]), *(f"mmattn.{name}" for name in BESIDE)],
    package_dir={"mmattn.tools": "tools", "mmattn.configs": "configs"},
    package_data={"mmattn": ["py.typed"], "mmattn.visualization.explorer": ["*.html", "*.css", "*.js"]},
    python_requires=">=3.11,<3.14",
    install_requires=["torch>=2.6", "numpy>=1.26"],
    extras_require={
        "mmseg": [
            "onedl-mmengine>=0.10.12,<0.11",
            "onedl-mmcv>=2.3.6,<2.4",
            "onedl-mmsegmentation>=1.4.2,<1.5",
            "opencv-python>=4.5",
            "matplotlib>=3.5",
            "pillow>=9.1",
            "rich>=13",  # progress
            "scipy>=1.11",  # the tests of compare
            "zstandard>=0.22",  # the cache of images and labels
        ],
        "export": EXPORT,
        "tensorboard": ["tensorboard>=2.15"],
        "test": [
            "pytest>=8",
            "ruff>=0.12",
            "cityscapesScripts>=2.2.4",
            "selenium>=4.20",
            "tensorboard>=2.15",
            "hypothesis>=6.100",
            *EXPORT,
        ],
    },
)
