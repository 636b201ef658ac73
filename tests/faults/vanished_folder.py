"""The folder of the checkpoints is gone for a while, as a mount that is lost and comes back."""

from stage import EVERY, Stage, expect, play, same


def fault(stage: Stage) -> str:
    """A folder that vanishes."""
    back = "assert not os.path.exists('lost'); os.rename('away', 'lost')"  # nothing was made in its place
    said = stage.train("lost", plan={EVERY: "os.rename('lost', 'away')", 2 * EVERY: back})
    expect(f"iter_{2 * EVERY}.pth could not be saved: No such file" in said, f"it was not said:\n{said[-3000:]}")
    expect("Traceback" not in said, said)
    expect(stage.saved("lost") == [3 * EVERY, 4 * EVERY], f"saved: {stage.saved('lost')}")
    stage.train("once")
    expect(same(stage.state("once"), stage.state("lost")), "the training ended differently")
    return "said, no folder made in its place, training went on and saved when it was back. Lost: one checkpoint"


if __name__ == "__main__":
    play(fault)
