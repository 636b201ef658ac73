"""Tried hard: whatever comes in, a tool works or says in one clear message what is wrong.

Each test tries a few cases, drawn alike each time; ``make slow`` tries all of them, drawn anew.
"""

import contextlib
import copy
import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from PIL import Image

pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mmattn.cli import UserError
from mmattn.datasets import cache, prepare
from mmattn.engine import config, evaluate, export, train, weights
from mmattn.engine.doctor import findings, remedies, report, splits
from mmattn.engine.export.agreement import batches
from mmattn.registry import DATASETS, TRANSFORMS
from mmattn.visualization import draw, images
from mmattn.visualization.look import _palette
from mmattn.visualization.options import Options

CONFIG = tiny.REPOSITORY / "configs" / "gcnet_r50.py"
FEW = 0.02  # of the cases, tried by default
SHARES = [pytest.param(FEW, id="some"), pytest.param(1, id="all", marks=pytest.mark.slow)]
CASES = {
    "arguments": 5000,
    "overrides": 6000,
    "image files": 3000,
    "labels": 3000,
    "checkpoints": 1500,
    "doctor": 700,
    "cityscapes": 400,
    "camvid": 400,
    "cache": 300,
    "training prepared": 400,
    "figures": 150,
    "trainings": 50,
    "tests": 50,
    "exports": 500,
}


def try_hard(what: str, share: float, check: Callable[..., None], **drawn: st.SearchStrategy) -> None:
    """Call ``check`` with what is drawn, so many times."""
    how = settings(
        max_examples=max(3, round(CASES[what] * share)),
        derandomize=share < 1,
        deadline=None,
        database=None,
        phases=[Phase.generate],  # a case made smaller would be easier to read, and take minutes to find
        suppress_health_check=list(HealthCheck),
    )
    how(given(**drawn)(check))()


@contextlib.contextmanager
def clear() -> Iterator[None]:
    """Nothing but our own clear error may come out."""
    with contextlib.suppress(UserError):
        yield


def test_there_are_enough_cases() -> None:
    assert sum(CASES.values()) >= 20_000


# -- what is drawn -------------------------------------------------------------------------------------------------

LETTERS = st.characters(codec="utf-8") | st.sampled_from("\x1b\n\r\t\u202e<>&'\"/\\$;|= .,-_0123456789")
WORDS = st.text(LETTERS, max_size=12).filter(lambda text: "\0" not in text)
NUMBERS = st.integers(-3, 700) | st.sampled_from([10**9, -(10**9), 2**40])
VALUES = st.one_of(
    NUMBERS.map(str),
    st.floats().map(str),
    st.sampled_from(
        ["None", "True", "False", "", "[]", "()", "[1,2", "(8,8)", "1e-3", "nan", "a,b", "[(1,2),(3,4)]", "{}"]
    ),
    st.lists(NUMBERS, max_size=4).map(lambda numbers: f"[{','.join(map(str, numbers))}]"),
    WORDS,
)


def keys_of(cfg: Config) -> list[str]:
    """The dotted keys of all that a config states."""
    found = []
    for path, node in config.walk(cfg):
        found += [f"{path}.{key}".lstrip(".") for key in node]
    return [key for key in found if not key.startswith("env_cfg")]


@st.composite
def pictures(
    draw: st.DrawFn, modes: tuple[str, ...] = ("L", "P", "RGB", "RGBA", "LA", "1", "I;16", "I", "F")
) -> Image.Image:
    """Of any mode and of few pixels."""
    width, height = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    mode, most = draw(st.sampled_from(modes)), draw(st.sampled_from([1, 3, 19, 255, 70_000]))
    values = np.random.default_rng(draw(st.integers(0, 9))).integers(0, most + 1, (height, width, 4))
    if mode in ("I;16", "I", "F"):
        kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
        return Image.fromarray(values[..., 0].astype(kind))
    pixels = values.astype(np.uint8)
    if mode in ("RGB", "RGBA"):
        return Image.fromarray(np.ascontiguousarray(pixels[..., : len(mode)]))
    plain = Image.fromarray(np.ascontiguousarray(pixels[..., 0]))
    return plain if mode == "L" else plain.convert(mode)


def encoded(picture: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    try:
        picture.save(buffer, kind)
    except (OSError, ValueError, KeyError):  # a mode that the format does not know
        picture.convert("RGB").save(buffer, kind)
    return buffer.getvalue()


@st.composite
def files(draw: st.DrawFn, **how: Any) -> bytes:
    """A picture in a file, whole or spoilt."""
    content = bytearray(
        encoded(draw(pictures(**how)), draw(st.sampled_from(["PNG", "PNG", "JPEG", "BMP", "GIF", "TIFF"])))
    )
    match draw(st.sampled_from(["whole", "whole", "cut", "flipped", "noise", "empty"])):
        case "cut":
            content = content[: draw(st.integers(0, len(content)))]
        case "flipped":
            for _ in range(draw(st.integers(1, 4))):
                content[draw(st.integers(0, len(content) - 1))] ^= draw(st.integers(1, 255))
        case "noise":
            content = bytearray(draw(st.binary(max_size=40)))
        case "empty":
            content = bytearray()
    return bytes(content)


# -- arguments -----------------------------------------------------------------------------------------------------

OPTIONS = {
    "train": ["c.py"],
    "test": ["c.py", "w.pth"],
    "visualize": ["c.py", "w.pth", "i.png"],
    "analyze_attention": ["c.py", "w.pth"],
    "check_dataset": ["c.py"],
    "prepare_data": ["cityscapes", "folder"],
    "export": ["c.py", "w.pth", "o.onnx"],
}
FLAGS = ["--point", "--size", "--alpha", "--clip", "--head", "--limit", "--queries", "--seed", "--out", "--base"]
FLAGS += [
    "--cfg-options",
    "--work-dir",
    "--resume",
    "--on-nan",
    "--suffix",
    "--html",
    "--json",
    "--launcher",
    "--image",
]
FLAGS += ["--trust-checkpoint", "--compare", "--device", "--wait-time", "--log", "--argmax", "--to", "--verify", "--"]
SHAPED = st.tuples(VALUES, st.sampled_from([",", "x", "=", ":"]), VALUES).map("".join)


@pytest.mark.parametrize("share", SHARES)
def test_arguments(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """argparse ends with 2 and its usage, or gives what the tool asked for."""
    parsers = {name: tiny.tool(name).parse_args for name in OPTIONS}

    def check(name: str, more: list[str]) -> None:
        monkeypatch.setattr(sys, "argv", [name, *OPTIONS[name], *more])
        code = None
        with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(io.StringIO()):
            try:
                args = parsers[name](None) if parsers[name].__code__.co_argcount else parsers[name]()
            except SystemExit as end:
                code = end.code
        if code is not None:
            assert code == 0 or (code == 2 and "usage: " in said.getvalue())
            return
        for x, y in getattr(args, "point", ()):
            assert isinstance(x, int)
            assert isinstance(y, int)
        assert 0 <= getattr(args, "alpha", 0) <= 1

    words = st.lists(st.sampled_from(FLAGS) | VALUES | SHAPED, max_size=5)
    try_hard("arguments", share, check, name=st.sampled_from(list(OPTIONS)), more=words)


# -- configs -------------------------------------------------------------------------------------------------------


@pytest.fixture
def city(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    tiny.cityscapes(tmp_path / "data" / "cityscapes")
    return tmp_path


@st.composite
def overrides(draw: st.DrawFn, keys: list[str]) -> list[str]:
    """Options for keys of a config, some misspelt, with any values."""
    pairs = []
    for _ in range(draw(st.integers(1, 3))):
        key = draw(st.sampled_from([*keys, "crop_size", "data_root", "classes", "palette", "work_dir", "on_nan"]))
        if draw(st.integers(0, 9)) == 0:
            key = draw(
                st.sampled_from([f"{key}.x", f"{key}.0", key[:-1], key.replace(".", "..", 1), f".{key}", "", "="])
            )
        pairs.append(
            draw(st.sampled_from([f"{key}=", f"{key}=", key]) if not draw(st.integers(0, 20)) else st.just(f"{key}="))
        )
        pairs[-1] += draw(VALUES)
    return pairs


@pytest.mark.parametrize("share", SHARES)
def test_overrides(share: float, city: Path) -> None:
    """Of any key by any value: a config, or what is wrong with the option."""
    whole = config.load_config(CONFIG, base=tiny.bases(city))
    plain = config.read(CONFIG)
    plain.default_scope = "mmattn"

    def check(pairs: list[str], small: bool) -> None:
        cfg = copy.deepcopy(whole if small else plain)
        with clear():
            config.settle(cfg, config.parse_options(pairs))

    try_hard("overrides", share, check, pairs=overrides(keys_of(whole)), small=st.booleans())


TRAINED = ["crop_size", "data_root", "train_cfg.max_iters", "train_cfg.val_interval", "train_dataloader.batch_size"]
TRAINED += [
    "model.decode_head.channels",
    "model.decode_head.num_classes",
    "model.decode_head.type",
    "model.backbone.depth",
]
TRAINED += ["train_dataloader.dataset.data_prefix.img_path", "train_dataloader.dataset.data_root", "load_from"]
TRAINED += ["train_dataloader.dataset.img_suffix", "train_dataloader.dataset.type", "train_dataloader.dataset.ann_file"]
TRAINED += ["optim_wrapper.type", "optim_wrapper.optimizer.lr", "optim_wrapper.optimizer.type", "classes", "palette"]
TRAINED += ["model.pretrained", "default_hooks.checkpoint.interval", "default_hooks.logger.interval", "work_dir"]


@pytest.mark.parametrize("share", SHARES)
def test_training_prepared(share: float, city: Path) -> None:
    """Everything that is found out before the first iteration."""
    base = tiny.bases(city)

    def check(pairs: list[str], amp: bool, resume: bool) -> None:
        with clear(), contextlib.redirect_stdout(io.StringIO()):
            train.prepare(CONFIG, options=pairs, base=base, amp=amp, resume=resume, work_dir="run")

    drawn = {"amp": st.booleans(), "resume": st.booleans()}
    try_hard("training prepared", share, check, pairs=overrides(TRAINED), **drawn)


# -- images and labels ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", SHARES)
def test_image_files(share: float, tmp_path: Path) -> None:
    """Whole, cut off, spoilt: read as an image, as a label, and by the transforms of training."""
    path = tmp_path / "file"
    load = TRANSFORMS.build({"type": "mmattn.LoadImageFromFile"})
    annotate = TRANSFORMS.build({"type": "mmattn.LoadAnnotations", "num_classes": 3})

    def check(content: bytes) -> None:
        path.write_bytes(content)
        with clear():
            image = images.read_image(path)
            assert image.ndim == 3
            assert image.dtype == np.uint8
        with clear():
            assert images.read_label(path).ndim == 2
        with clear():
            assert prepare.read_labels(path).ndim == 2
        with clear():
            assert load({"img_path": str(path)})["img"].shape[2] == 3
        with clear():
            entry = {"seg_map_path": str(path), "reduce_zero_label": False, "label_map": None, "seg_fields": []}
            labels = annotate(entry)["gt_seg_map"]
            assert np.isin(labels, [0, 1, 2, 255]).all()

    try_hard("image files", share, check, content=files())


@pytest.mark.parametrize("share", SHARES)
def test_labels(share: float, tmp_path: Path) -> None:
    """A label that is let through holds classes and what is ignored; one that is refused does not."""
    image, label = tmp_path / "image.png", tmp_path / "label.png"

    def check(picture: Image.Image, same: bool, classes: int, ignore: int, reduce: bool) -> None:
        reduce &= picture.size != (1, 1)  # which mmseg cannot
        picture.save(label)
        width, height = picture.size if same else (picture.width + 1, picture.height)
        Image.new("RGB", (width, height)).save(image)
        steps = [
            {"type": "mmattn.LoadImageFromFile"},
            {"type": "mmattn.LoadAnnotations", "num_classes": classes, "ignore_index": ignore},
        ]
        entry = {"img_path": str(image), "seg_map_path": str(label), "reduce_zero_label": reduce}
        entry |= {"label_map": None, "seg_fields": []}
        values = np.array(picture).astype(np.uint8)
        expected = np.where(values == 0, 255, values - 1) if reduce else values
        if reduce:
            expected = np.where(values == 255, 255, expected)
        right = values.ndim == 2 and same and ((expected < classes) | (expected == ignore)).all()
        try:
            for step in steps:
                entry = TRANSFORMS.build(step)(entry)
        except UserError:
            assert not right
            return
        assert right
        np.testing.assert_array_equal(entry["gt_seg_map"], expected)

    try_hard(
        *("labels", share, check),
        picture=pictures(modes=("L", "L", "L", "P", "RGB", "RGBA", "I;16")),
        same=st.integers(0, 9).map(bool),
        classes=st.integers(1, 256),
        ignore=st.sampled_from([255, 255, 0, 3]),
        reduce=st.booleans(),
    )


# -- datasets ------------------------------------------------------------------------------------------------------

MINE = """
classes = {classes!r}
def loader(split):
    pipeline = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations"), dict(type="PackSegInputs")]
    prefix = dict(img_path=f"img_dir/{{split}}", seg_map_path=f"ann_dir/{{split}}")
    return dict(dataset=dict(type="BaseSegDataset", data_root={root!r}, data_prefix=prefix, img_suffix=".png",
                             reduce_zero_label={reduce}, pipeline=pipeline))
train_dataloader = loader("train")
val_dataloader = loader("val")
model = dict(type="EncoderDecoder", decode_head=dict(type="FCNHead", loss_decode=dict(type="CrossEntropyLoss")))
del loader
"""
NAMES = st.text(LETTERS, min_size=1, max_size=8).map(lambda name: name.replace("/", "").replace("\0", ""))
NAMES = NAMES.filter(lambda name: name.strip(". ") and len(name.encode("utf-8", "surrogateescape")) < 60)


@st.composite
def folders(draw: st.DrawFn) -> dict[str, bytes]:
    """A few images and labels by their place, some spoilt, some missing."""
    found = {}
    for split in ("train", "val"):
        for name in draw(st.lists(NAMES, max_size=3)):
            picture = draw(pictures(modes=("L",)))
            fault = draw(st.integers(0, 5))
            if fault != 1:
                spoilt = draw(files()) if fault == 2 else encoded(picture.convert("RGB"))
                found[f"img_dir/{split}/{name}.png"] = spoilt
            if fault != 3:
                found[f"ann_dir/{split}/{name}.png"] = draw(files()) if fault == 4 else encoded(picture)
    return found


def lay_out(root: Path, content: dict[str, bytes]) -> None:
    for split in ("train", "val"):
        for kind in ("img_dir", "ann_dir"):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
    for place, data in content.items():
        (root / place).write_bytes(data)


@pytest.mark.parametrize("share", SHARES)
def test_doctor(share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What check_dataset does after its arguments; what it advises is a config that loads."""
    monkeypatch.chdir(tmp_path)
    number = iter(range(10**9))

    def check(content: dict[str, bytes], classes: list[str], reduce: bool) -> None:
        root = Path(f"data{next(number)}")
        lay_out(root, content)
        path = root / "mine.py"
        path.write_text(MINE.format(classes=tuple(classes), root=str(root), reduce=reduce), encoding="utf-8")
        with clear():
            cfg = config.load_config(path)
            parts = splits.splits(cfg)
            splits.examine(parts)
            found = findings.diagnose(parts)
            said = [
                report.summary(parts),
                report.chart(parts, 80),
                report.findings(found),
                report.verdict(parts, found, 1.0),
            ]
            assert all(c.isprintable() or c == "\n" for text in said for c in text)
            wrong = any(finding.is_error for finding in found)
            advised = remedies.remedies(cfg, parts, found, root) if wrong else remedies.weights(cfg, parts)
            report.record(parts, found, advised, 1.0)
            for remedy in advised:
                remedies.to_paste(remedy, path, [], [])

    classes = st.lists(WORDS, max_size=5)
    try_hard("doctor", share, check, content=folders(), classes=classes, reduce=st.booleans())


@pytest.mark.parametrize("share", SHARES)
def test_cache(share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the cache holds is what the files hold; what cannot be read is named."""
    monkeypatch.chdir(tmp_path)
    number = iter(range(10**9))

    def check(content: dict[str, bytes]) -> None:
        root = Path(f"data{next(number)}")
        lay_out(root, content)
        path = root / "mine.py"
        path.write_text(MINE.format(classes=("a", "b"), root=str(root), reduce=False))
        with clear():
            cfg = config.load_config(path)
            with DefaultScope.overwrite_default_scope("mmattn"):
                loaded = [
                    DATASETS.build({**each, "pipeline": [], "lazy_init": True}) for _, each in config.datasets(cfg)
                ]
            made = cache.build(loaded)
            assert made.made + len(made.problems) == sum(made.counts.values())
            assert cache.build(loaded, verify=True).made == 0

    try_hard("cache", share, check, content=folders())


@pytest.mark.parametrize("share", SHARES)
def test_cityscapes(share: float, tmp_path: Path) -> None:
    """Labels of any content, in cities of any name."""
    number = iter(range(10**9))

    def check(labels: dict[str, bytes], split: str) -> None:
        root = tmp_path / f"city{next(number)}"
        for name, content in labels.items():
            for kind, suffix in (("gtFine", prepare.IDS), ("leftImg8bit", prepare.IMAGE)):
                folder = root / kind / split / "ulm"
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"{name}{suffix}").write_bytes(content)
        with clear(), contextlib.redirect_stderr(io.StringIO()):
            made = prepare.cityscapes(root)
            assert made.made + made.kept <= len(labels)
            assert made.problems

    labels = st.dictionaries(NAMES, files(modes=("L", "L", "P", "RGB", "I;16")), max_size=3)
    try_hard("cityscapes", share, check, labels=labels, split=st.sampled_from(["train", "val", "test"]))


@pytest.mark.parametrize("share", SHARES)
def test_camvid(share: float, tmp_path: Path) -> None:
    """A folder, finished or as in the tutorial, or an archive that may be anything."""
    number = iter(range(10**9))

    def check(content: dict[str, bytes], form: str, junk: bytes) -> None:
        root = tmp_path / f"camvid{next(number)}"
        lay_out(root, content)
        source = root
        if form == "archive":
            source = root.with_suffix(".tar")
            source.write_bytes(junk)
        elif form == "tutorial":
            for kind, suffix in (("img_dir", ""), ("ann_dir", "annot")):
                for split in ("train", "val"):
                    (root / kind / split).rename(root / f"{split}{suffix}")
        with clear(), contextlib.redirect_stderr(io.StringIO()):
            prepare.camvid(source, root.with_name(f"{root.name}_made"))

    forms = st.sampled_from(["finished", "tutorial", "archive"])
    try_hard("camvid", share, check, content=folders(), form=forms, junk=st.binary(max_size=600))


# -- checkpoints ---------------------------------------------------------------------------------------------------

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    NUMBERS,
    st.floats(),
    WORDS,
    st.sampled_from(
        [torch.zeros(2), torch.zeros(()), torch.zeros(0), torch.ones(3, 4), torch.zeros(2, dtype=torch.int8)]
    ),
)
NAMED = st.sampled_from(
    ["state_dict", "meta", "optimizer", "dataset_meta", "classes", "palette", "cfg", "iter", "0.weight"]
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMED | WORDS | NUMBERS, inner, max_size=4),
    max_leaves=8,
)


@pytest.mark.parametrize("share", SHARES)
def test_checkpoints(share: float, tmp_path: Path) -> None:
    """Of any content: it fits, or the message says why not."""
    path = tmp_path / "weights.pth"

    def check(tree: Any, meta: Any, fitting: bool, spoil: int, finetune: bool, partial: bool) -> None:
        model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
        content = {"state_dict": model.state_dict(), "meta": meta} if fitting else tree
        torch.save(content, path)
        if spoil < 0:
            path.write_bytes(path.read_bytes()[:spoil])
        with clear():
            found = weights.load_weights(model, path, finetune=finetune, partial=partial)
            palette = _palette(SimpleNamespace(dataset_meta=found.get("dataset_meta"), num_classes=3))
            assert len(palette.classes) == len(palette.colours) >= 3
        with clear():
            weights.check_backbone(model, path)

    try_hard(
        *("checkpoints", share, check),
        tree=TREES,
        meta=TREES,
        fitting=st.booleans(),
        spoil=st.integers(-400, 1200),
        finetune=st.booleans(),
        partial=st.booleans(),
    )


# -- models --------------------------------------------------------------------------------------------------------


@pytest.fixture
def model(city: Path) -> torch.nn.Module:
    torch.manual_seed(0)
    return config.build_model(config.load_config(CONFIG, base=tiny.bases(city)))


@pytest.mark.parametrize("share", SHARES)
def test_figures(share: float, model: torch.nn.Module, city: Path) -> None:
    """Images and points and options of any kind; names of classes as a checkpoint may hold them."""
    path = city / "photo.png"

    def check(content: bytes, points: list[tuple[int, int]], meta: dict, options: Options, note: str) -> None:
        path.write_bytes(content)
        model.dataset_meta = meta
        with clear():
            figure = draw(model, path, points=points, note=note, options=options)
            figure.set_dpi(10)
            figure.savefig(io.BytesIO(), format="png")

    options = st.builds(
        Options,
        layer=st.sampled_from(["", "decode_head", "nowhere"]),
        mechanism=st.sampled_from(["", "globalcontext", "CrissCross"]),
        head=st.none() | st.integers(-1, 2),
        saliency=st.booleans(),
        alpha=st.floats(0, 1),
        clip=st.floats(0, 100),
        log=st.booleans(),
    )
    points = st.lists(st.tuples(st.integers(-2, 9), st.integers(-2, 9)), max_size=4)
    colours = st.lists(st.lists(st.integers(0, 255), min_size=3, max_size=3), max_size=25)
    meta = st.fixed_dictionaries({}, optional={"classes": st.lists(WORDS, max_size=25), "palette": colours})
    try_hard("figures", share, check, content=files(), points=points, meta=meta, options=options, note=WORDS)


@pytest.mark.parametrize("share", SHARES)
def test_exports(share: float, city: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is looked at before a graph is made."""
    monkeypatch.setattr(export, "PACKAGES", {".onnx": (), ".pt2": ()})
    path = city / "photo.png"
    size = st.tuples(st.integers(32, 80), st.integers(32, 80))

    def check(content: bytes, out: str, sizes: list[tuple[int, int]]) -> None:
        path.write_bytes(content)
        with clear():
            export.check_output(Path(out))
        with clear():
            for (_, pixels), shape in zip(batches([path], sizes), [each for each in sizes for _ in "np"], strict=True):
                assert pixels.shape[1:] == (*shape, 3)

    out = st.tuples(WORDS, st.sampled_from(["", ".onnx", ".pt2", "/x.onnx"])).map("".join)
    sizes = st.lists(size, min_size=1, max_size=2)
    try_hard("exports", share, check, content=files(), out=out, sizes=sizes)


@st.composite
def streets(draw: st.DrawFn) -> dict[str, Any]:
    """A small data set, and how to train on it."""
    classes = draw(st.integers(1, 5))
    size = draw(st.sampled_from([(1, 1), (7, 3), (33, 70), (64, 64)]))
    return {
        "classes": tuple(draw(st.lists(WORDS.filter(bool), min_size=classes, max_size=classes, unique=True))),
        "size": size,
        "values": draw(st.sampled_from([range(classes), [0], [255], [0, 255], [classes], [0, classes - 1, 255]])),
        "seed": draw(st.integers(0, 9)),
        "options": {
            "crop_size": draw(st.sampled_from([(8, 8), (64, 64), (32, 48), (1, 1), (64, 8)])),
            "train_dataloader.batch_size": draw(st.sampled_from([1, 2, 3])),
            "model.decode_head.loss_decode.avg_non_ignore": draw(st.booleans()),
        },
    }


def drawn_street(root: Path, street: dict[str, Any]) -> Path:
    rng = np.random.default_rng(street["seed"])
    h, w = street["size"]
    lay_out(root, {})
    for split in ("train", "val"):
        for i in range(2):
            Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)).save(root / f"img_dir/{split}/{i}.png")
            label = rng.choice(np.array([*street["values"]], dtype=np.uint8), (h, w))
            Image.fromarray(label).save(root / f"ann_dir/{split}/{i}.png")
    text = (
        tiny.DATA.replace("leftImg8bit/", "img_dir/")
        .replace("gtFine/", "ann_dir/")
        .replace("data/cityscapes", str(root))
    )
    text = text.replace("CityscapesDataset", "BaseSegDataset").replace(
        "data_prefix=prefix", 'data_prefix=prefix, img_suffix=".png"'
    )
    path = root / "street.py"
    path.write_text(f"classes = {street['classes']!r}\n{text}", encoding="utf-8")
    return path


@pytest.mark.parametrize("share", SHARES)
def test_trainings(share: float, city: Path) -> None:
    """One iteration and a validation."""
    backbone, number = tiny.bases(city)[1], iter(range(10**9))

    def check(street: dict[str, Any]) -> None:
        run = next(number)
        path = drawn_street(Path(f"street{run}"), street)
        options = street["options"] | {
            "train_cfg.max_iters": 1,
            "train_cfg.val_interval": 1,
            "experiment_name": f"s{run}",
        }
        with clear(), contextlib.redirect_stdout(io.StringIO()):
            base = config.read(path)
            cfg = prepared(path, backbone, options, f"run{run}")
            assert tuple(cfg.classes) == tuple(base.classes)
            train.train(cfg)

    try_hard("trainings", share, check, street=streets())


def prepared(path: Path, backbone: str, options: dict[str, Any], work_dir: str) -> Config:
    """The config of a training on a street."""
    mine = path.with_name("mine.py")
    mine.write_text(f'_base_ = ["{CONFIG}"]\nclasses = {config.read(path).classes!r}\n', encoding="utf-8")
    pairs = [f"{key}={value}".replace(" ", "") for key, value in options.items()]
    return train.prepare(mine, options=pairs, base=[str(path), backbone], work_dir=work_dir)


@pytest.mark.parametrize("share", SHARES)
def test_tests(share: float, city: Path) -> None:
    """A test with predictions as files, of data and settings of any kind."""
    backbone, number = tiny.bases(city)[1], iter(range(10**9))

    def check(street: dict[str, Any], values: str, slide: bool, crop: int) -> None:
        run = next(number)
        root = Path(f"test{run}")
        path = drawn_street(root, street)
        mine = root / "mine.py"
        mine.write_text(f'_base_ = ["{CONFIG}"]\nclasses = {street["classes"]!r}\n', encoding="utf-8")
        options = [f"experiment_name=t{run}"]
        options += [f"model.test_cfg.mode={'slide' if slide else 'whole'}", f"model.test_cfg.crop_size={crop},{crop}"]
        with clear(), contextlib.redirect_stdout(io.StringIO()):
            base = [str(path), backbone]
            built = config.build_model(config.load_config(mine, options, base))
            torch.save({"state_dict": built.state_dict()}, root / "w.pth")
            cfg = evaluate.prepare(mine, str(root / "w.pth"), options=options, base=base, work_dir=f"tested{run}")
            evaluate.evaluate(cfg, str(root / "w.pth"), out=root / "out", values=values)
            assert len(list((root / "out").glob("*.png"))) == 2

    values = st.sampled_from(["palette", "palette", "labelids"])
    crop = st.sampled_from([32, 64, 0, -1])
    try_hard("tests", share, check, street=streets(), values=values, slide=st.booleans(), crop=crop)
