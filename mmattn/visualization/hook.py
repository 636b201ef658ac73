"""The figure of chosen validation images, again and again while a model trains."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from mmattn.cli import UserError
from mmattn.registry import HOOKS
from mmattn.visualization.look import draw
from mmattn.visualization.options import Options
from mmattn.visualization.scene import Point


@HOOKS.register_module()
class DrawAttention(Hook):
    """Draws what :func:`mmattn.visualization.draw` draws, before training and after each validation.

    The figures go to mmengine's visualizer: files with ``LocalVisBackend``, the images of TensorBoard with
    ``TensorboardVisBackend``. In a config: ``custom_hooks = [dict(type="mmattn.DrawAttention", images=(0, 7))]``.

    Args:
        images: Which images of ``val_dataloader``, by their number.
        points: Query pixels (x, y), the same for all images; by default three, chosen anew for each figure.
        interval: Validations from one figure to the next.
        dpi: Pixels for each of the 12 inches that a figure is wide.
        options: Arguments of :class:`mmattn.visualization.Options`.

    Raises:
        UserError: Before training: there is no such image, or the model has no attention to show. Later what is wrong
            is logged, and training goes on.
    """

    priority = "ABOVE_NORMAL"  # before the hook that takes averaged weights away

    def __init__(
        self,
        images: Sequence[int] = (0,),
        points: Sequence[Point] = (),
        interval: int = 1,
        dpi: int = 80,
        **options: Any,
    ) -> None:
        self.images, self.interval, self.dpi = images, interval, dpi
        self.points, self.options = [tuple(point) for point in points], Options(**options)
        self.validations = 0

    def before_train(self, runner: Runner) -> None:
        """The figures of the start."""
        self._draw(runner)

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """The figures of now."""
        self.validations += 1
        if self.validations % self.interval == 0:
            try:
                self._draw(runner)
            except UserError as error:
                runner.logger.warning(f"no figure of the attention: {error}")

    @master_only
    def _draw(self, runner: Runner) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        dataset = runner.val_dataloader.dataset
        model.cfg, model.dataset_meta = runner.cfg, dataset.metainfo
        training = model.training
        model.eval()
        try:
            for number in self.images:
                if not 0 <= number < len(dataset):
                    raise UserError(f"DrawAttention: no image {number}, val_dataloader has {len(dataset)} from 0 on")
                path = Path(dataset.get_data_info(number)["img_path"])
                page = draw(model, path, points=self.points, note=f"iteration {runner.iter}", options=self.options)
                page.set_dpi(self.dpi)
                page.canvas.draw()
                picture = np.asarray(page.canvas.buffer_rgba())[..., :3]
                runner.visualizer.add_image(f"attention_{path.stem}", picture, step=runner.iter)
        finally:
            model.train(training)
