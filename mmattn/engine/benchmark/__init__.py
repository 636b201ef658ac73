"""What our modules cost beside mmseg's: time, memory and agreement, measured on the machine at hand."""

import mmattn.registry  # noqa: F401  mmseg is mended and quiet when it comes in through this door
