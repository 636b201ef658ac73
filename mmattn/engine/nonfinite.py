"""A loss that is not finite: caught before its gradient reaches the weights, explained, and kept for a post-mortem."""

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from itertools import groupby
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import Tensor, nn

from mmattn.cli import UserError
from mmattn.engine.checkpoints import WHOLE
from mmattn.engine.resume import seed_step

IN_A_ROW = 20  # batches left out, before a training stops all the same
SKIPPED = "batches_skipped"


class NonFiniteHook(Hook):
    """Looks at each loss between forward and backward, once.

    mmengine waits for the value of every loss after each step, to log it; here that wait comes a little earlier. What a
    loss scaler does with infinite gradients is its own matter: the loss that is looked at is not scaled.

    Args:
        skip: Leave out the batch and go on, instead of stopping.

    Raises:
        UserError: The loss is not finite; the message names the images, the first module whose output was not, and
            the file with the state before the batch. With ``skip``, after :data:`IN_A_ROW` batches in a row.
    """

    priority = "HIGHEST"

    def __init__(self, skip: bool = False) -> None:
        self.skip = skip
        self.in_a_row = 0
        self.inputs: Any = None  # of the model in the present iteration
        self.post_mortem: dict | None = None

    def before_train(self, runner: Runner) -> None:
        """Come between the model and its optimizer."""
        model = _model(runner)
        buffers = sorted(model.buffers(), key=_kind)
        self.buffers = [list(group) for _, group in groupby(buffers, key=_kind)]  # as torch copies them in one go
        self.copies = [[buffer.clone() for buffer in group] for group in self.buffers]
        model.data_preprocessor.register_forward_hook(self._remember)
        update = runner.optim_wrapper.update_params

        def update_if_finite(loss: Tensor, *args: Any, **kwargs: Any) -> None:
            if _everywhere(loss.isfinite().all()):
                self.in_a_row = 0
                update(loss, *args, **kwargs)
            else:
                self._caught(runner, loss)

        runner.optim_wrapper.update_params = update_if_finite

    def _remember(self, module: nn.Module, given: Any, inputs: Any) -> None:
        self.inputs = inputs

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Keep what a forward pass changes: the running statistics."""
        self._copy(self.buffers, self.copies)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Keep the loss of a batch that was left out off the curves."""
        self.inputs = None
        if self.in_a_row and outputs:
            outputs.clear()

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add the batch to a post-mortem."""
        if self.post_mortem:
            checkpoint["post_mortem"] = self.post_mortem

    def after_train(self, runner: Runner) -> None:
        """Say how many batches were left out."""
        if skipped := runner.message_hub.runtime_info.get(SKIPPED):
            runner.logger.warning(f"batches left out because their loss was not finite: {skipped}")

    def _caught(self, runner: Runner, loss: Tensor) -> None:
        self._copy(self.copies, self.buffers)
        value, files = loss.item(), _files(self.inputs)
        own = not math.isfinite(value)
        what = f"the loss of iteration {runner.iter + 1} is {value if own else 'not finite in another process'}"
        what += f", of {', '.join(files)}" if own and files else ""
        self.in_a_row += 1
        if self.skip and self.in_a_row <= IN_A_ROW:
            skipped = (runner.message_hub.runtime_info.get(SKIPPED) or 0) + 1
            runner.message_hub.update_info(SKIPPED, skipped)
            runner.logger.warning(f"{what}: left out, number {skipped}")
            _without_gradient(runner.optim_wrapper)
            return
        source = self._source(runner)  # in all processes, whose modules may wait for each other
        source = source if own else "that process says it"
        again = f"; {IN_A_ROW} batches before it were left out for the same reason" if self.skip else ""
        hint = "" if self.skip else ". --on-nan skip goes on without such batches"
        raise UserError(f"{what}{again}\n  first: {source}\n  {self._save(runner, value, files, source)}{hint}")

    @staticmethod
    @torch.no_grad()
    def _copy(source: list[list[Tensor]], target: list[list[Tensor]]) -> None:
        for here, there in zip(source, target, strict=True):
            torch._foreach_copy_(there, here)

    def _source(self, runner: Runner) -> str:
        """The first module whose output is not finite, when the batch is run again."""
        model, found = _model(runner), []

        def look(name: str, module: nn.Module, given: Any, output: Any) -> None:
            if not found and not _finite(output):
                own = "" if _finite(list(module.parameters(recurse=False))) else ", whose weights are not finite"
                fed = "" if _finite(given) else ", whose input was not finite"
                found.append(f"{name} ({type(module).__name__}){own or fed}")

        with ExitStack() as stack:
            for name, module in model.named_modules():
                if name:
                    hook = module.register_forward_hook(lambda *seen, name=name: look(name, *seen))
                    stack.callback(hook.remove)
            seed_step(runner)
            with torch.no_grad(), runner.optim_wrapper.optim_context(runner.model):
                model._run_forward(self.inputs, mode="loss")
            self._copy(self.copies, self.buffers)
        if not _finite(self.inputs):
            return "the images are not finite as they come out of the data preprocessor"
        return found[0] if found else "no module; what is computed between them"

    def _save(self, runner: Runner, loss: float, files: list[str], source: str) -> str:
        """Write the state before the batch, and the batch; where it is."""
        name = f"nonfinite_iter_{runner.iter + 1}.pth"
        self.post_mortem = {"loss": loss, "files": files, "source": source, "batch": dict(_tensors(self.inputs))}
        meta = {"epoch": runner.epoch, "iter": runner.iter}
        try:
            runner.save_checkpoint(runner.work_dir, name, meta=meta, by_epoch=False, backend_args={"backend": WHOLE})
        except OSError as error:
            return f"the state could not be saved: {error.strerror or error}"
        return f"the state before this batch, and the batch, are in {runner.work_dir}/{name}"


def _kind(tensor: Tensor) -> str:
    return f"{tensor.device} {tensor.dtype}"


def _without_gradient(wrapper: OptimWrapper) -> None:
    """Count a batch that adds nothing, and step where it was the last of those that are accumulated."""
    wrapper._inner_count += 1
    parameters = (value for group in wrapper.optimizer.param_groups for value in group["params"])
    if wrapper.should_update() and any(value.grad is not None for value in parameters):
        wrapper.step()
        wrapper.zero_grad()


def _everywhere(finite: Tensor) -> bool:
    """Whether it holds in every process: they step together or not at all."""
    finite = finite.float()
    all_reduce(finite, "min")
    return bool(finite)


def _tensors(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors inside lists, dicts and mmengine's data elements, with their dotted names."""
    if isinstance(value, Tensor):
        yield name, value.detach().cpu()
        return
    items: Any = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    elif hasattr(value, "all_items"):
        items = value.all_items()
    for key, inner in items:
        yield from _tensors(inner, f"{name}.{key}" if name else str(key))


def _finite(value: Any) -> bool:
    return all(bool(tensor.isfinite().all()) for _, tensor in _tensors(value))


def _files(inputs: Any) -> list[str]:
    """The image files of a batch."""
    samples = inputs.get("data_samples") if isinstance(inputs, Mapping) else None
    return [path for sample in samples or () if (path := getattr(sample, "img_path", None))]


def _model(runner: Runner) -> nn.Module:
    return runner.model.module if is_model_wrapper(runner.model) else runner.model
