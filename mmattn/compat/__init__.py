"""Mends to the host stack, so that one code runs on the maintained and on the upstream OpenMMLab packages.

Each mend is one function that looks whether it is needed, says so by what it returns, and names what would make it
superfluous. :func:`apply` runs them all; ``mmattn.registry`` calls it before it touches mmseg.
"""

from collections.abc import Callable
from functools import cache

from mmattn.compat import backbones, blocks, checkpoints, devices, losses, packages

# in this order: mmseg does not import before the first two
MENDS: tuple[Callable[[], bool], ...] = (
    packages.accept_newer_mmcv,
    packages.stand_in_for_mmcv_ext,
    packages.import_without_noise,
    packages.find_packages_by_import_name,
    checkpoints.load_weights_only,
    devices.mixed_precision_on_cpu,
    devices.distributed_on_cpu,
    blocks.chain_plugins,
    blocks.plug_into_every_block,
    blocks.recompute_with_gradients,
    backbones.return_self_from_train,
    losses.weigh_labelled_pixels_alone,
)


@cache
def apply() -> tuple[str, ...]:
    """Mend what needs it, once.

    Returns:
        Names of the mends that this environment needed.
    """
    return tuple(mend.__name__ for mend in MENDS if mend())
