"""``kill -9`` in mid-training, twice, and ``--resume`` after each."""

from stage import EVERY, Stage, expect, play, same


def fault(stage: Stage) -> str:
    """A killed process."""
    for step in (EVERY, 2 * EVERY):
        stage.kill(stage.start("killed", "--resume"), lambda step=step: step in stage.saved("killed"))
    stage.train("killed", "--resume")
    stage.train("once")
    expect(same(stage.state("once"), stage.state("killed")), "the resumed training ended differently")
    return (
        "killed twice: weights, optimizer, schedule and loss curve are those of the undisturbed training. Lost: nothing"
    )


if __name__ == "__main__":
    play(fault)
