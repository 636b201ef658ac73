"""Packaging of mmattn.

``pip install .`` brings torch and numpy alone, so that an environment with its own mmengine, mmcv and mmseg stays as
it is. ``pip install ".[mmseg]"`` adds the maintained OpenMMLab packages and what the tools need.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
EXPORT = ["onnx>=1.18", "onnxscript>=0.5", "onnxruntime>=1.20"]

setup(
    name="mmattn",
    version=re.search(r'^__version__ = "(.+)"$', (HERE / "mmattn/__init__.py").read_text(), re.MULTILINE)[1],
    description="Attention mechanisms for semantic segmentation, used like MMSegmentation",
    license="Apache-2.0",
    packages=find_packages(include=["mmattn", "mmattn.*"]),
    package_data={"mmattn.visualization.explorer": ["*.html", "*.css", "*.js"]},
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
            "zstandard>=0.22",  # the cache of images and labels
        ],
        "export": EXPORT,
        "test": ["pytest>=8", "ruff>=0.12", "cityscapesScripts>=2.2.4", "selenium>=4.20", *EXPORT],
    },
)
