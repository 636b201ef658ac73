"""tools/compare.py: its statistics on known cases, what adds up and what does not, and a kill that changes nothing."""

import json
import math
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

pytest.importorskip("mmseg")

import tiny
from mmengine.hooks import Hook
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import HOOKS, DefaultScope

from mmattn.cli import UserError
from mmattn.engine.compare import comparison, jobs, page, worker
from mmattn.engine.compare.jobs import Job
from mmattn.engine.compare.results import Result, load, load_all, select
from mmattn.engine.compare.statistics import (
    holm,
    iou,
    miou,
    over_images,
    over_seeds,
    spread_over_images,
)
from mmattn.engine.config import build_model, load_config
from mmattn.engine.costs import model_costs

CONFIGS = tiny.REPOSITORY / "configs"
FCN, GC = str(CONFIGS / "fcn_r50.py"), str(CONFIGS / "gcnet_r50.py")
ITERS = 3
MEASURED = ("train_seconds", "test_seconds", "machine")  # what two runs may differ in


# -- statistics ----------------------------------------------------------------------------------------------------


def some_counts(images: int = 9, seed: int = 0, skill: float = 0.7) -> np.ndarray:
    """Counts of a model that is right with a probability, (images, 3, 4 classes)."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(images):
        label = rng.integers(0, 4, 200)
        predicted = np.where(rng.random(200) < skill, label, rng.integers(0, 4, 200))
        both = [((label == c) & (predicted == c)).sum() for c in range(4)]
        found.append([both, np.bincount(predicted, minlength=4), np.bincount(label, minlength=4)])
    return np.array(found)


def test_iou_of_counts() -> None:
    """Class 0: 2 of 2 + 3 - 2; class 1: none of 1 + 1; class 2 is nowhere."""
    counts = np.array([[2, 0, 0], [2, 1, 0], [3, 1, 0]])
    np.testing.assert_allclose(iou(counts), [200 / 3, 0, np.nan])
    assert miou(counts) == pytest.approx(100 / 3)
    np.testing.assert_allclose(miou(np.stack([counts, counts])), [100 / 3] * 2)


def test_three_seeds_by_hand() -> None:
    """Differences 1, 2, 3: mean 2, standard error 1 / sqrt(3), t = 3.4641 with two degrees of freedom."""
    found = over_seeds([51, 53, 52], [50, 51, 49])
    assert found.mean == pytest.approx(2)
    assert found.p == pytest.approx(1 - 3.4641016 / math.sqrt(2 + 3.4641016**2), abs=1e-6)  # Student's t in closed form
    assert found.high - found.mean == found.mean - found.low == pytest.approx(4.302653 / math.sqrt(3), abs=1e-5)
    assert found.over == "3 seeds"


def test_seeds_as_scipy_tests_them() -> None:
    rng = np.random.default_rng(3)
    for count in (2, 3, 5, 10):
        a, b = rng.normal(50, 1, count), rng.normal(50.5, 1, count)
        theirs = stats.ttest_rel(a, b)
        ours = over_seeds(a, b)
        assert ours.p == pytest.approx(theirs.pvalue)
        assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval()))


def test_seeds_without_spread() -> None:
    assert over_seeds([50, 51], [50, 51]).p == 1
    assert over_seeds([51, 52], [50, 51]).p == 0


def numbered(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, Callable]:
    """Images as numbers, whose statistic is the difference in mIoU: what scipy can exchange and draw."""
    both = np.concatenate([a, b])
    score = lambda rows: miou(both[np.asarray(rows, dtype=int)].sum(axis=0))  # noqa: E731
    return np.arange(len(a)), np.arange(len(a)) + len(a), lambda x, y: score(x) - score(y)


@pytest.mark.parametrize("skill", [0.7, 0.76, 0.8, 0.9])  # p from nearly 1 to nearly 0
def test_images_as_all_exchanges_say(skill: float) -> None:
    """scipy tries all 2^9 exchanges; ours draws them."""
    a, b = some_counts(seed=1, skill=skill), some_counts(seed=2)
    x, y, statistic = numbered(a, b)
    exact = stats.permutation_test((x, y), statistic, permutation_type="samples", n_resamples=np.inf, vectorized=False)
    found = over_images(a, b)
    assert found.mean == pytest.approx(exact.statistic)
    assert found.p == pytest.approx(exact.pvalue, abs=0.02)
    assert found.over == "9 images"


def test_intervals_as_scipy_draws_them() -> None:
    a, b = some_counts(12, seed=1, skill=0.8), some_counts(12, seed=2)
    x, y, statistic = numbered(a, b)
    options = {"paired": True, "vectorized": False, "method": "percentile", "n_resamples": 3000}
    theirs = stats.bootstrap((x, y), statistic, **options, rng=np.random.default_rng(5)).confidence_interval
    ours = over_images(a, b)
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs), abs=0.25)
    single = stats.bootstrap((x,), lambda rows: miou(a[rows.astype(int)].sum(0)), **options | {"paired": False})
    assert spread_over_images(a) == pytest.approx(tuple(single.confidence_interval), abs=0.25)


def test_the_images_are_paired() -> None:
    """A model that is a little better on each of very different images is better; without pairs that would not show."""
    hits, size = np.linspace(100, 900, 12).astype(int), np.full(12, 1000)
    worse = np.stack([hits, size, size], axis=1)[:, :, None]  # one class
    better = worse + np.array([[[9], [0], [0]]])
    found = over_images(better, worse)
    assert found.p < 0.01
    assert found.low > 0
    low, high = spread_over_images(worse)
    assert high - low > 10 * found.mean


def test_the_same_counts_do_not_differ() -> None:
    found = over_images(some_counts(), some_counts())
    assert (found.mean, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_neighbours_count_as_one() -> None:
    a, b = some_counts(8, seed=1, skill=0.8), some_counts(8, seed=2)
    alone = over_images(a, b)
    together = over_images(a, b, block=3)
    parts = [np.array([counts[i : i + 3].sum(axis=0) for i in (0, 3, 6)]) for counts in (a, b)]
    summed = over_images(*parts)
    assert (together.mean, together.low, together.p) == (summed.mean, summed.low, summed.p)
    assert together.mean == alone.mean
    assert together.p > alone.p
    assert together.over == "3 groups of 3 images"
    repeated = over_images(a.repeat(5, axis=0), b.repeat(5, axis=0), block=5)  # a film that stands still
    assert repeated.p == pytest.approx(alone.p)
    assert over_images(a.repeat(5, axis=0), b.repeat(5, axis=0)).p < alone.p


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1, 1]
    assert holm([]) == []


def test_holm_is_the_closure_of_bonferroni() -> None:
    """Corrected: the worst of all sets of tests that a test is in."""
    ps = np.random.default_rng(0).random(6) ** 3
    sets = [chosen for size in range(1, 7) for chosen in combinations(range(6), size)]
    worst = [max(len(s) * min(ps[j] for j in s) for s in sets if i in s) for i in range(6)]
    assert holm(ps) == pytest.approx(np.minimum(worst, 1))


# -- results and the page ------------------------------------------------------------------------------------------


def result(config: str = "fcn", seed: int = 0, skill: float = 0.7, **changed: Any) -> Result:
    counts = some_counts(seed=10 + seed + round(100 * skill), skill=skill)
    training = {
        "model": {"decode_head": config},
        "train_cfg": {"max_iters": 800},
        "train_dataloader": {"batch_size": 4},
        "optim_wrapper": {"type": "AmpOptimWrapper"},
        "data": {"images": 367, "digest": "a"},
    }
    settings = {"training": training, "testing": {"data": {"images": len(counts), "digest": "b"}}}
    fields = {
        "config": config,
        "file": f"configs/{config}.py",
        "seed": seed,
        "settings": settings,
        "scores": {"mIoU": float(miou(counts.sum(axis=0)))},
        "classes": ["road", "sky", "car", "tree"],
        "images": {f"{i}.png": image.tolist() for i, image in enumerate(counts)},
        "parameters": 1_000_000,
        "flops": 2_000_000_000,
        "size": [180, 240],
        "train_seconds": 0.5,
        "test_seconds": 0.1,
        "machine": {"date": "2026-11-20T12:00", "cpu": "AMD EPYC", "cores": 2, "threads": 1, "torch": "2.13"},
        "versions": {},
    }
    return Result(**fields | changed)


def other_settings(of: Result, **training: Any) -> dict:
    return of.settings | {"training": of.settings["training"] | training}


def test_a_result_survives_its_file(tmp_path: Path) -> None:
    result().save(tmp_path / "new" / "fcn_seed0.json")
    assert load(tmp_path / "new" / "fcn_seed0.json") == result()
    (tmp_path / "new" / "cc_seed0.json").write_text('{"config": "cc"}')
    with pytest.raises(UserError, match=r"cc_seed0\.json is no result"):
        load_all(tmp_path / "new")


def test_what_cannot_be_compared_is_named() -> None:
    longer = result("cc", settings=other_settings(result("cc"), train_cfg={"max_iters": 1600}))
    moved = {**result("gc").settings, "testing": {"data": {"images": 9, "digest": "c"}}}
    kept, left = select([result(), result("da"), result(seed=1), longer, result("gc", settings=moved)])
    assert [(r.config, r.seed) for r in kept] == [("fcn", 0), ("da", 0), ("fcn", 1)]
    assert left == [
        "cc seed 0, of other settings: train_cfg.max_iters is 800, was 1600",
        "gc seed 0, of other settings: testing.data.digest is 'b', was 'c'",
    ]


def test_a_config_that_was_changed_is_named() -> None:
    """Its old result has the protocol of the others, and still is another model's."""
    now = other_settings(result("cc"), model={"decode_head": "wider"})
    kept, left = select([result(), result("cc"), result("cc", seed=1, settings=now)], {"cc": now})
    assert [(r.config, r.seed) for r in kept] == [("fcn", 0), ("cc", 1)]
    assert left == ["cc seed 0, of other settings: training.model.decode_head is 'wider', was 'cc'"]


def test_budgets_must_agree() -> None:
    longer = other_settings(result("cc"), train_cfg={"max_iters": 1600})
    with pytest.raises(UserError, match=r"fcn and cc differ in iterations: 800, 1600.*--budget"):
        jobs.expect_one_budget({"fcn": result().settings, "cc": longer})
    jobs.expect_one_budget({"fcn": result().settings, "cc": result("cc").settings})


def test_seeds_are_tested_over_seeds_and_one_over_images() -> None:
    one, three = [result("cc", 0, 0.75)], [result("da", seed, 0.8) for seed in range(3)]
    floor = [result("fcn", seed, 0.7) for seed in range(3)]
    rows = {row.name: row for row in page.rows([*one, *three, *floor])}
    over = page.difference(rows["da"], rows["fcn"])
    assert over == over_seeds([r.miou for r in three], [r.miou for r in floor])
    assert page.difference(rows["cc"], rows["fcn"]) == over_images(one[0].counts, floor[0].counts)
    assert page.difference(rows["cc"], page.Row("late", [result("late", 7)], 0, 0)) is None
    text = page.markdown(page.compose(list(rows.values()), "fcn"), "title", "figure.svg")
    line = next(line for line in text.splitlines() if line.startswith("| da |"))
    miou_of = [r.miou for r in three]
    assert f"{np.mean(miou_of):.2f} ± {np.std(miou_of, ddof=1):.2f}" in line
    corrected = holm([over.p, page.difference(rows["cc"], rows["fcn"]).p])[0]
    assert f"| {over.mean:+.2f} ({over.low:+.2f} to {over.high:+.2f}) | {corrected:.4f} |" in line
    assert "One seed does not measure the spread between trainings" in text
    assert "paired t test" in text


def test_names_cannot_break_the_page(tmp_path: Path) -> None:
    bad = '<script>alert("1")</script>|$a$_`&'
    for each in (result(bad), result("fcn"), result("cc", skill=0.9)):
        each.save(tmp_path / f"{len(each.config)}_seed0.json")
    jobs_of = [Job(f"{bad}.py", 1, (), (), False, "", "")]
    comparison.write(tmp_path, "fcn", command=f"python tools/compare.py '{bad}'", jobs=jobs_of)
    written = (tmp_path / "comparison.html").read_text()
    assert "<script" not in written
    assert "&lt;script&gt;alert(" in written
    assert "http" not in written.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    ).replace("https://matplotlib.org", "")
    ElementTree.parse(tmp_path / "comparison.svg")
    lines = (tmp_path / "comparison.md").read_text().splitlines()
    line = next(line for line in lines if line.startswith("| \\<script"))
    header = next(line for line in lines if line.startswith("| config"))
    assert line.replace("\\|", "").count("|") == header.count("|")


# -- trainings -----------------------------------------------------------------------------------------------------


class Killed(Exception):
    """In the place of a signal that cannot be caught."""


@HOOKS.register_module()
class FallHook(Hook):
    """Ends everything at an iteration, before it is saved."""

    priority = "LOW"
    at: int | None = None

    def after_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        if runner.iter + 1 == self.at:
            raise Killed


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A folder with data to work in; what to lay over a config."""
    monkeypatch.chdir(tmp_path)
    tiny.cityscapes(tmp_path / "data" / "cityscapes", train=4, val=3)
    (tmp_path / "hook.py").write_text("custom_hooks = [dict(type='FallHook')]")
    return [*tiny.bases(tmp_path), str(tmp_path / "hook.py")]


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Stages are done in this process, and noted."""
    done = []

    def run(stage: str, job: Job, watch: Callable) -> None:
        done.append((stage, str(job)))
        for manager in (MMLogger, MessageHub, DefaultScope):  # mmengine's singletons outlive a run
            manager._instance_dict.clear()
        {"train": worker.train_job, "test": worker.test_job}[stage](job)

    monkeypatch.setattr(comparison, "work", partial(jobs.work, run=run))
    return done


def arguments(base: list[str], *configs: str, seeds: int = 1, budget: int = ITERS) -> list[str]:
    return [*configs, "--seeds", str(seeds), "--budget", str(budget), "--base", *base]


def compare(*given: str, expect: int = 0) -> None:
    try:
        tiny.tool("compare").main(list(given))
    except UserError:
        assert expect == 2
        raise
    assert expect == 0


def kept(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text())
    return {key: value for key, value in found.items() if key not in MEASURED}


def test_trains_tests_and_adds_up(place: list[str], stages: list, capsys: pytest.CaptureFixture) -> None:
    compare(*arguments(place, FCN))
    assert stages == [("train", "fcn_r50 seed 0"), ("test", "fcn_r50 seed 0")]
    found = load(Path("work_dirs/compare/fcn_r50_seed0.json"))
    [tested] = Path("work_dirs/compare/fcn_r50/seed0").glob("*/metrics.json")
    theirs = json.loads(tested.read_text())
    assert list(found.images) == ["0_leftImg8bit.png", "1_leftImg8bit.png", "2_leftImg8bit.png"]
    for i, name in enumerate(found.classes):
        assert theirs["classes"][name]["IoU"] == (
            None if np.isnan(found.iou[i]) else pytest.approx(found.iou[i], rel=1e-12)
        )
    assert theirs["scores"] == pytest.approx(found.scores, abs=0.006)
    assert found.size == [64, 64]
    stages.clear()

    compare(*arguments(place, FCN, GC, seeds=2))
    assert ("train", "fcn_r50 seed 0") not in stages
    assert len(stages) == 6
    printed = capsys.readouterr().out
    assert "4 trainings to compare, 1 of them measured already" in printed
    text = Path("work_dirs/compare/comparison.md").read_text()
    assert "| fcn_r50 | 2 |" in text
    assert "| gcnet_r50 | 2 |" in text
    stages.clear()

    compare("--report-only", "--floor", "gcnet_r50")
    assert not stages
    assert "against gcnet_r50" in Path("work_dirs/compare/comparison.md").read_text()
    with pytest.raises(UserError, match="--floor"):
        compare("--report-only", expect=2)


def test_what_train_py_trained_is_only_tested(place: list[str], stages: list, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = "work_dirs/compare/gcnet_r50/seed0"
    options = [f"train_cfg.max_iters={ITERS}", "randomness.seed=0"]
    given = [GC, "--base", *place, "--work-dir", folder, "--resume", "--amp", "--cfg-options", *options]
    assert tiny.call("train", given, monkeypatch) == 0
    with pytest.raises(UserError, match=r"gcnet_r50 seed 0: .*optim_wrapper\.type is 'OptimWrapper', was 'Amp"):
        compare(*arguments(place, GC), expect=2)
    with pytest.raises(UserError, match=r"other settings: [\s\S]*train_cfg\.max_iters is 4, was 3"):
        compare(*arguments(place, GC, budget=4), "--amp", expect=2)
    assert not stages
    compare(*arguments(place, GC), "--amp")
    assert stages == [("test", "gcnet_r50 seed 0")]


def test_other_test_data_are_noticed(place: list[str], stages: list, capsys: pytest.CaptureFixture) -> None:
    compare(*arguments(place, GC))
    before = load(Path("work_dirs/compare/gcnet_r50_seed0.json"))
    stages.clear()
    for path in Path("data/cityscapes").rglob("val/town/2_*.png"):
        path.unlink()
    compare(*arguments(place, GC))
    assert stages == [("test", "gcnet_r50 seed 0")]
    assert "of other settings: testing.data.digest is" in capsys.readouterr().out
    assert len(load(Path("work_dirs/compare/gcnet_r50_seed0.json")).images) == len(before.images) - 1


def test_one_that_fails_does_not_cost_the_others(
    place: list[str], stages: list, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    own = tmp_path / "own.py"
    own.write_text(f'_base_ = "{GC}"\nmodel = dict(decode_head=dict(pooling_type="of no kind"))\n')
    with pytest.raises(UserError, match=r"1 of 2 did not end well[\s\S]*own seed 0: "):
        compare(*arguments(place, str(own), GC), "--floor", "gcnet_r50", expect=2)
    text = Path("work_dirs/compare/comparison.md").read_text()
    assert "| gcnet_r50 | 1 |" in text
    assert "Not in the tables: own seed 0, " in text
    assert "[1/2] own seed 0: FAILED" in capsys.readouterr().out
    own.write_text(f'_base_ = "{GC}"\n')  # mended: it trains, and only it
    stages.clear()
    compare(*arguments(place, str(own), GC))
    assert stages == [("train", "own seed 0"), ("test", "own seed 0")]


@pytest.mark.parametrize("config", ["missing.py", "twice"])
def test_bad_input_costs_nothing(config: str, place: list[str], stages: list, tmp_path: Path) -> None:
    (tmp_path / "fcn_r50.py").write_text(f'_base_ = "{FCN}"\n')
    given, told = ([FCN, "missing.py"], "no config file missing.py") if config == "missing.py" else ([], "two configs")
    with pytest.raises(UserError, match=told):
        compare(*arguments(place, *(given or [FCN, "fcn_r50.py"])), expect=2)
    assert not stages


def test_killed_anywhere_ends_the_same(
    place: list[str], stages: list, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = arguments(place, GC, budget=4)
    compare(*given, "--work-dir", "once")
    with monkeypatch.context() as patch:
        patch.setattr(FallHook, "at", 3)  # in training, with a checkpoint of the second iteration
        with pytest.raises(Killed):
            compare(*given, "--work-dir", "killed")
    assert Path("killed/gcnet_r50/seed0/iter_2.pth").is_file()
    with monkeypatch.context() as patch:
        patch.setattr(worker, "machine", lambda _: (_ for _ in ()).throw(Killed))  # after the test, before its result
        with pytest.raises(Killed):
            compare(*given, "--work-dir", "killed")
    assert not Path("killed/gcnet_r50_seed0.json").exists()
    stages.clear()
    compare(*given, "--work-dir", "killed")
    assert stages == [("test", "gcnet_r50 seed 0")]
    assert kept(Path("killed/gcnet_r50_seed0.json")) == kept(Path("once/gcnet_r50_seed0.json"))


def test_a_process_that_fails_is_quoted(tmp_path: Path) -> None:
    job = Job(str(tmp_path / "nothing.py"), 0, (), (), False, str(tmp_path), str(tmp_path))
    job.folder.mkdir(parents=True)
    lines = []
    with pytest.raises(UserError, match=r"there is no config file .*nothing\.py.*\(in train, see .*compare\.log\)"):
        jobs.apart("train", job, lines.append)
    assert (job.folder / "compare.log").read_text() == "".join(lines)


def test_progress_looks_at_what_is_left() -> None:
    said, line = [], "mmengine - INFO - Iter(train) [ 40/100]  lr: 1e-2  eta: 0:01:00  time: 0.5000  data_time: 9.0"
    job = Job("configs/a.py", 0, (), (), False, "w", "o")
    progress = jobs.Progress([job, job, job], [result()], said.append)  # 800 x 0.5 s and 9 x 0.1 s
    progress.said = -1e9
    progress.watch("something else")
    progress.watch(line)
    assert said == ["[1/3] a seed 0: training 40/100, 0:00:30 left; all jobs: about 0:07:41 left"]  # 30 + 400.9 + 30
    progress.watch(line)
    assert len(said) == 1
    progress.next(worked=True)
    assert str(progress) == "[2/3] a seed 0:"


def test_costs_count_the_neck(tmp_path: Path) -> None:
    config = CONFIGS / "attention" / "attention_gate_neck.py"
    model = build_model(load_config(config))
    parts = (model.backbone, model.neck, model.decode_head)
    ours = model_costs(config, (64, 64))
    assert sum(cost.parameters for cost in ours) == sum(p.numel() for part in parts for p in part.parameters())
    assert all(cost.flops > 0 for cost in ours)


@pytest.mark.slow
def test_kill_9_at_any_point(place: list[str], tmp_path: Path) -> None:
    """The tool itself, with its processes, is killed again and again, and ends as one that was left in peace."""
    base = place[:2]
    command = [sys.executable, str(tiny.REPOSITORY / "tools/compare.py"), *arguments(base, GC, FCN, budget=20)]
    env = {"PYTHONPATH": str(tiny.REPOSITORY), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "--work-dir", "once"], check=True, env=env)
    begin, kills = time.monotonic(), 0
    for patience in np.random.default_rng(0).uniform(5, 40, 40):
        with subprocess.Popen([*command, "--work-dir", "killed"], env=env) as process:
            try:
                process.wait(timeout=float(patience))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                kills += 1
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
    assert process.returncode == 0, f"{kills} kills in {time.monotonic() - begin:.0f} s"
    assert kills
    for name in ("gcnet_r50_seed0.json", "fcn_r50_seed0.json"):
        assert kept(tmp_path / "killed" / name) == kept(tmp_path / "once" / name)
