"""The whole of a comparison: look at everything, train and test what is left, write the page."""

import io
from collections.abc import Sequence
from pathlib import Path

from mmattn.cli import UserError
from mmattn.engine.compare import figure, page
from mmattn.engine.compare.jobs import Job, expect_one_budget, wanted, work
from mmattn.engine.compare.results import load_all, select

PAGE = "comparison"
TITLE = "Which one pays?"


def compare(
    configs: Sequence[str],
    *,
    seeds: int,
    base: Sequence[str],
    options: Sequence[str],
    amp: bool,
    work_dir: str,
    out: Path,
    floor: str,
    block: int = 1,
    train: bool = True,
    command: str = "",
) -> None:
    """Train and test each config with each seed, where that is not done yet, and write the page.

    The page holds every result in ``out`` that can be compared with those asked for, and names the others.

    Args:
        configs: Config files.
        seeds: Trainings of each.
        base: As of ``--base``.
        options: As of ``--cfg-options``.
        amp: Train in mixed precision.
        work_dir: Folder of the trainings.
        out: Folder of the results and of the page.
        floor: Name of the config that the others are compared with.
        block: Test images that follow each other and count as one.
        train: Do what is left; otherwise only write the page.
        command: As typed, for the page.

    Raises:
        UserError: What is asked for cannot be compared, nothing is measured, or trainings failed; those that did not
            are on the page.
    """
    names = [Path(config).stem for config in configs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"two configs are called {' and '.join(twice)}: results go by the name; rename one, or a copy")
    jobs = [
        Job(config, seed, tuple(base), tuple(options), amp, work_dir, str(out))
        for seed in range(seeds)
        for config in configs
    ]
    found = {job.name: wanted(job) for job in jobs[: len(configs)]}
    if found:
        expect_one_budget(found)
    failed = work(jobs, found, lambda text: print(text, flush=True)) if train else {}
    if not jobs or len(failed) < len(jobs):
        write(out, floor, found=found, block=block, command=command, jobs=jobs, failed=failed)
    if failed:
        told = "\n  ".join(f"{job}: {reason}" for job, reason in failed.items())
        raise UserError(f"{len(failed)} of {len(jobs)} did not end well; the same command tries them again\n  {told}")


def write(
    out: Path,
    floor: str,
    *,
    found: dict[str, dict] | None = None,
    block: int = 1,
    command: str = "",
    jobs: Sequence[Job] = (),
    failed: dict[str, str] | None = None,
) -> None:
    """Write the page of the results in a folder, as Markdown, as HTML and its figure.

    Args:
        out: The folder.
        floor: Name of the config that the others are compared with.
        found: Settings by name of the config, of those asked for.
        block: Test images that follow each other and count as one.
        command: As typed.
        jobs: What was asked for.
        failed: Why some of it has no result.

    Raises:
        UserError: There is no result of ``floor``, or the page cannot be written.
    """
    kept, left = select(load_all(out), found)
    measured = {(result.config, result.seed) for result in kept}
    missing = [
        f"{job}, {(failed or {}).get(str(job), 'not measured').splitlines()[0]}"
        for job in jobs
        if (job.name, job.seed) not in measured
    ]
    for note in (notes := [*missing, *left]):
        print(f"not in the page: {note}")
    if not kept:
        raise UserError(f"nothing in {out} can be compared" + (f": {notes[0]}" if notes else ""))
    rows = page.rows(kept, block)
    if floor not in {row.name for row in rows}:
        print(f"there is no result of {floor} yet: nothing is compared with it")
    parts = page.compose(rows, floor, block=block, command=command, notes=notes)
    svg = io.StringIO()
    figure.draw(rows, floor, kept[0].classes).savefig(svg, format="svg", metadata={"Date": None})
    try:
        (out / f"{PAGE}.svg").write_text(svg.getvalue())
        (out / f"{PAGE}.md").write_text(page.markdown(parts, TITLE, f"{PAGE}.svg"))
        (out / f"{PAGE}.html").write_text(page.html(parts, TITLE, svg.getvalue()))
    except OSError as error:
        raise UserError(f"the page cannot be written into {out}: {error.strerror}") from error
    print(f"page: {out / PAGE}.md, .html and .svg")
