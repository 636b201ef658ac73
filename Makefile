# Two commands are enough, and each does all of its own set-up:
#   make demo   train CCNet on the built-in sample, evaluate it, draw its attention
#   make test   run the test suite
# Another Python:          make demo PYTHON=python3.12
# Another index for torch: make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=

RUN := $(VENV)/bin/python
READY := $(VENV)/ready
CONFIG := configs/ccnet_r50.py
WORK_DIR := work_dirs/ccnet_r50_sample

.PHONY: demo test slow check

demo: $(READY)
	$(RUN) tools/train.py $(CONFIG)

test: $(READY)
	$(RUN) -m pytest

slow: $(READY)
	$(RUN) -m pytest -m slow

check: $(READY)
	$(RUN) -m ruff check .

$(READY): setup.py constraints.txt
	@$(PYTHON) -c "import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))" || { \
	  echo "mmattn needs Python 3.11, 3.12 or 3.13, and $(PYTHON) is $$($(PYTHON) --version 2>&1). Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	@$(PYTHON) -c "import ensurepip, venv" || { \
	  echo "$(PYTHON) cannot make a virtual environment. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --disable-pip-version-check $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) \
	  --constraint constraints.txt --editable ".[mmseg,test]"
	@touch $@
