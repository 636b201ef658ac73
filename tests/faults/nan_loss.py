"""A layer's output is infinite in one iteration; the training is resumed with ``--on-nan skip``."""

from stage import EVERY, Stage, expect, play

POISON = f"""
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
@HOOKS.register_module()
class Poison(Hook):
    def before_train(self, runner):
        def spoil(module, given, output):
            return output / 0 if runner.iter == {EVERY + 2} else None
        runner.model.backbone.layer3.register_forward_hook(spoil)
"""


def fault(stage: Stage) -> str:
    """A loss that is not finite."""
    hook = stage.folder / "hook.py"
    hook.write_text("custom_hooks = [dict(type='Poison')]")
    stage.base.append(str(hook))
    said = stage.train("nan", code=2, first=POISON)
    expect(f"the loss of iteration {EVERY + 3} is nan, of data/cityscapes" in said, said[-3000:])
    expect("first: backbone.layer3 (ResLayer)" in said, said[-3000:])
    expect((stage.folder / "nan" / f"nonfinite_iter_{EVERY + 3}.pth").is_file(), "there is no post-mortem")
    said = stage.train("nan", "--resume", "--on-nan", "skip", first=POISON)
    expect("batches left out because their loss was not finite: 1" in said, said[-3000:])
    return "stopped before the weights changed, with images, module and state; skip left it out. Lost: that batch"


if __name__ == "__main__":
    play(fault)
