"""The door between mmattn and MMSegmentation: a child of each of its registries, under the scope ``mmattn``.

mmengine imports this module by the name of the scope, so a config needs no ``custom_imports``: under
``default_scope = 'mmattn'`` it sees all names of mmseg and ours, ours first; elsewhere it writes ``mmattn.CCHead``.

Everything above the door speaks of dicts and registries; nothing below does.
"""

from mmattn import compat

compat.apply()

import mmseg.registry  # noqa: E402
from mmengine import Registry  # noqa: E402
from mmseg.utils import register_all_modules  # noqa: E402

register_all_modules(init_default_scope=False)  # a child's look-up does not import what its parent would

#: Where our modules of each registry are; they are imported at its first look-up.
_LOCATIONS = {
    "MODELS": [f"mmattn.{room}" for room in ("plugins", "backbones", "necks", "heads", "segmentors")],
    "DATASETS": ["mmattn.datasets.camvid"],
    "TRANSFORMS": ["mmattn.datasets.check_labels"],
    "METRICS": ["mmattn.evaluation.metrics"],
    "HOOKS": ["mmattn.visualization.hook"],
}

for _name, _parent in vars(mmseg.registry).copy().items():
    if isinstance(_parent, Registry):
        globals()[_name] = Registry(_parent.name, parent=_parent, scope="mmattn", locations=_LOCATIONS.get(_name, []))

MODELS: Registry
DATASETS: Registry
TRANSFORMS: Registry
METRICS: Registry
HOOKS: Registry
