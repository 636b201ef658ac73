"""The newest checkpoint is cut short, as by a file system that lost its end; then ``--resume``."""

from stage import EVERY, Stage, expect, play, same


def fault(stage: Stage) -> str:
    """A damaged checkpoint."""
    stage.kill(stage.start("torn"), lambda: 2 * EVERY in stage.saved("torn"))
    newest = stage.folder / "torn" / f"iter_{2 * EVERY}.pth"
    newest.write_bytes(newest.read_bytes()[:-1000])
    said = stage.train("torn", "--resume")
    expect(f"skipped, torn/iter_{2 * EVERY}.pth cannot be read: it is truncated" in said, f"it was not said:\n{said}")
    stage.train("once")
    expect(same(stage.state("once"), stage.state("torn")), "the resumed training ended differently")
    return "named, with the reason, and passed over for the one before; the result is the same. Lost: nothing"


if __name__ == "__main__":
    play(fault)
