"""The door is opened first: it mends what keeps mmseg from being imported."""

import mmattn.registry  # noqa: F401
