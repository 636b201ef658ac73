# Two commands are enough, and each does all of its own set-up:
#   make demo   train CCNet on the built-in sample, test it, draw what it attends to
#   make test   run the test suite
# Another Python:          make demo PYTHON=python3.12
# Another index for torch: make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=

RUN := $(VENV)/bin/python
READY := $(VENV)/ready
DEMO := work_dirs/ccnet_r50_sample

.PHONY: demo test slow bench check mutate faults

demo: $(READY)
	@if [ -e data/cityscapes ]; then \
	  echo "make demo trains on the built-in sample, and data/cityscapes is there: python tools/train.py configs/ccnet_r50.py trains on it" >&2; exit 2; fi
	$(RUN) tools/train.py configs/ccnet_r50.py
	$(RUN) tools/test.py $(DEMO)/ccnet_r50.py $$(cat $(DEMO)/last_checkpoint)
	$(RUN) tools/visualize.py $(DEMO)/ccnet_r50.py $$(cat $(DEMO)/last_checkpoint) --out-dir $(DEMO)/attention \
	  $$(find data/sample/leftImg8bit/val -name '*.png' | sort | awk 'NR % 8 == 1')
	@$(RUN) -c "import glob, json; \
	  print('\nmIoU %.2f' % json.load(open(max(glob.glob('$(DEMO)/*/metrics.json'))))['scores']['mIoU']); \
	  print(*sorted(glob.glob('$(DEMO)/attention/*.png')), sep='\n')"

test: $(READY)
	$(RUN) -m pytest

slow: $(READY)
	$(RUN) -m pytest -m slow

# kills, tears and starves trainings on purpose, see docs/faults.md
faults: $(READY)
	$(RUN) tests/faults/run.py

# beside MMSegmentation's modules, see docs/performance.md
bench: $(READY)
	$(RUN) tools/benchmark.py peers

# MECHANISMS=criss_cross breaks one; all of them take half an hour
mutate: $(READY)
	$(RUN) tests/mutation.py $(MECHANISMS)

check: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

$(READY): setup.py constraints.txt
	@$(PYTHON) -c "import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))" || { \
	  echo "mmattn needs Python 3.11, 3.12 or 3.13; $(PYTHON) is $$($(PYTHON) --version 2>&1). Name one: make PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -c "import ensurepip, venv" 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments. On Debian or Ubuntu: apt-get install python3-venv" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --disable-pip-version-check $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) \
	  --constraint constraints.txt --editable ".[mmseg,test]"
	@$(RUN) -c "import cv2" 2>/dev/null || { echo "OpenCV's desktop build does not load here: taking the headless one"; \
	  $(RUN) -m pip install --disable-pip-version-check --force-reinstall --no-deps --constraint constraints.txt opencv-python-headless; }
	@touch $@
