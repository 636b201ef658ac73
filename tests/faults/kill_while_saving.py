"""``kill -9`` while a checkpoint is half written, then ``--resume``."""

from stage import EVERY, Stage, expect, play, same


def fault(stage: Stage) -> str:
    """A process that is killed while it saves."""
    slow = "import os, time; sync = os.fsync; os.fsync = lambda file: (time.sleep(0.5), sync(file))"  # to hit it surely
    half = stage.folder / "killed" / f".iter_{2 * EVERY}.pth.part"
    stage.kill(stage.start("killed", first=slow), half.is_file)
    expect(half.is_file() and stage.saved("killed") == [EVERY], f"not killed while it saved: {stage.saved('killed')}")
    said = stage.train("killed", "--resume")
    expect(f"Load checkpoint from killed/iter_{EVERY}.pth" in said, "it did not go on from the checkpoint before")
    expect(not list((stage.folder / "killed").glob(".*.part")), "half a file is still there")
    stage.train("once")
    expect(same(stage.state("once"), stage.state("killed")), "the resumed training ended differently")
    return (
        "the checkpoint before is whole and resumed from, half a file cleared away, the result the same. Lost: nothing"
    )


if __name__ == "__main__":
    play(fault)
