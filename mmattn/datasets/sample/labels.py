"""What the sample draws, by name: ``Label.ROAD`` is the id of road in a ``*_labelIds.png``."""

from enum import IntEnum

import numpy as np

from mmattn.datasets.labels import CITYSCAPES, IGNORE

Label = IntEnum("Label", {row.name.replace(" ", "_").upper(): row.id for row in CITYSCAPES})

TRAIN_IDS = np.full(256, IGNORE, np.uint8)  # label id -> train id
TRAIN_IDS[[row.id for row in CITYSCAPES]] = [row.train_id for row in CITYSCAPES]
