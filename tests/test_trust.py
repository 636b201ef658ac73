"""What comes with data stays data: checkpoints run no code, and names break out of nothing."""

import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import tiny
import torch

from mmattn.compat.checkpoints import TRUSTED
from mmattn.datasets import cache
from mmattn.visualization import album

CONFIG = tiny.REPOSITORY / "configs" / "gcnet_r50.py"
IMAGE = "data/cityscapes/leftImg8bit/val/town/0_leftImg8bit.png"
PLANTED = "import os\nos.mkdir('ran')\n"
# what loads a checkpoint CHECKPOINT
LOADS = {
    "train: load_from": ("train", "CONFIG", "--cfg-options", "load_from=CHECKPOINT"),
    "train: pretrained": ("train", "CONFIG", "--cfg-options", "model.pretrained=CHECKPOINT"),
    "train: init_cfg of the backbone": (
        *("train", "CONFIG", "--cfg-options", "model.pretrained=None", "model.backbone.init_cfg.type=Pretrained"),
        "model.backbone.init_cfg.checkpoint=CHECKPOINT",
    ),
    "train: init_cfg of the model": (
        *("train", "CONFIG", "--cfg-options", "model.pretrained=None", "model.init_cfg.type=Pretrained"),
        "model.init_cfg.checkpoint=CHECKPOINT",
    ),
    "train: init_cfg of a head": (
        *("train", "CONFIG", "--cfg-options", "model.pretrained=None", "model.decode_head.init_cfg.type=Pretrained"),
        *("model.decode_head.init_cfg.checkpoint=CHECKPOINT", "model.decode_head.init_cfg.prefix=decode_head."),
    ),
    "train: resume": ("train", "CONFIG", "--resume", "--cfg-options", "load_from=CHECKPOINT"),
    "test": ("test", "CONFIG", "CHECKPOINT"),
    "visualize": ("visualize", "CONFIG", "CHECKPOINT", IMAGE),
    "visualize: page": ("visualize", "CONFIG", "CHECKPOINT", IMAGE, "--html", "page.html"),
    "visualize: compare": ("visualize", "CONFIG", "whole.pth", IMAGE, "--compare", "CONFIG", "CHECKPOINT"),
    "export": ("export", "CONFIG", "CHECKPOINT", "out.pt2", "--fixed", "--size", "32x32"),
    "analyze": ("analyze_attention", "CONFIG", "CHECKPOINT", "--limit", "1", "--no-ablation"),
}


class Code:
    """Leaves a folder where it is unpickled."""

    def __reduce__(self) -> tuple:
        return os.makedirs, ("ran", 0o777, True)


def weights(folder: Path) -> dict[str, Any]:
    """What a training of one iteration leaves."""
    from mmattn.engine.config import build_model, load_config

    model = build_model(load_config(CONFIG, base=tiny.bases(folder)))
    return {"state_dict": model.state_dict(), "meta": {"iter": 1, "epoch": 0}}


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, base files and a checkpoint that holds weights alone."""
    folder = tmp_path_factory.mktemp("street")
    tiny.cityscapes(folder / "data" / "cityscapes")
    torch.save(weights(folder), folder / "whole.pth")
    return folder


@pytest.fixture
def call(
    street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> Iterator[Callable[..., tuple[int, str]]]:
    """Call a tool where data lie: exit code, and what it said."""
    shutil.copytree(street, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)

    def run(tool: str, *arguments: str) -> tuple[int, str]:
        arguments = [str(CONFIG) if each == "CONFIG" else each for each in arguments]
        settings = ["train_cfg.max_iters=2", "work_dir=run"]
        at = arguments.index("--cfg-options") + 1 if "--cfg-options" in arguments else None
        options = [*settings, *arguments[at:]] if at else settings
        rest = arguments[: at - 1] if at else arguments
        base = ["--base", "tiny_data.py", "tiny_backbone.py"]
        code = tiny.call(tool, [*rest, *base, "--cfg-options", *options], monkeypatch)
        return code, "".join(capfd.readouterr())

    yield run
    TRUSTED.clear()


def naming(path: str, arguments: tuple[str, ...]) -> list[str]:
    return [each.replace("CHECKPOINT", path) for each in arguments]


# -- checkpoints ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", LOADS.values(), ids=LOADS)
def test_code_in_a_checkpoint_is_refused_by_its_name(arguments: tuple[str, ...], call: Callable, street: Path) -> None:
    torch.save(weights(street) | {"optimizer": Code()}, "evil.pth")
    code, said = call(*naming("evil.pth", arguments))
    assert code == 2, said
    assert "evil.pth holds code (os.makedirs) and is refused; nothing of it ran" in said
    assert "--trust-checkpoint evil.pth" in said
    assert "Traceback" not in said
    assert not Path("ran").exists()


@pytest.mark.parametrize("note", [True, False], ids=["last_checkpoint", "newest"])
def test_resume_passes_over_code(note: bool, call: Callable, street: Path) -> None:
    Path("run").mkdir()
    path = Path("evil.pth" if note else "run/iter_1.pth")
    torch.save(weights(street) | {"optimizer": Code()}, path)
    if note:
        Path("run/last_checkpoint").write_text("evil.pth")
    code, said = call("train", "CONFIG", "--resume", "--from-scratch")
    assert code == 2, said
    assert f"{path} holds code (" in said
    assert not Path("ran").exists()


def test_pretrained_weights_behind_a_url_are_data(
    call: Callable, street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub/checkpoints/evil.pth"  # where a download lands
    cached.parent.mkdir(parents=True)
    torch.save(weights(street) | {"optimizer": Code()}, cached)
    for arguments in (("load_from=",), ("model.pretrained=",)):
        code, said = call("train", "CONFIG", "--cfg-options", f"{arguments[0]}https://example.org/evil.pth")
        assert code == 2, said
        assert f"{cached} holds code (" in said
    assert not Path("ran").exists()


def test_an_own_file_is_let_through_by_its_name(call: Callable, street: Path) -> None:
    torch.save(weights(street) | {"optimizer": Code()}, "old.pth")
    torch.save(weights(street) | {"optimizer": Code()}, "other.pth")
    visualize = ["visualize", "CONFIG", "old.pth", IMAGE]
    code, said = call(*visualize, "--trust-checkpoint", "other.pth")
    assert code == 2
    assert "old.pth holds code" in said
    assert "trusting other.pth" in said
    assert not Path("ran").exists()
    code, said = call(*visualize, "--trust-checkpoint", "old.pth")
    assert code == 0, said
    assert "trusting old.pth: the code in it runs when it is loaded" in said
    assert Path("ran").is_dir()
    assert call(*visualize, "--trust-checkpoint", "nowhere.pth")[0] == 2


@pytest.mark.parametrize("tool", ["train", "test", "visualize", "analyze_attention", "export"])
def test_every_tool_that_loads_offers_it(tool: str, call: Callable, street: Path) -> None:
    torch.save(weights(street) | {"optimizer": Code()}, "old.pth")
    arguments = next(arguments for arguments in LOADS.values() if arguments[0] == tool)
    given = [*naming("old.pth", arguments)]
    given[2:2] = ["--trust-checkpoint", "old.pth"]
    code, said = call(*given)
    assert "trusting old.pth" in said
    assert "is refused" not in said
    assert Path("ran").is_dir(), said
    assert code in (0, 2), said


@pytest.mark.parametrize(
    "arguments", [LOADS[each] for each in ("train: resume", "test", "visualize", "analyze")], ids=lambda each: each[0]
)
def test_a_config_inside_a_checkpoint_is_never_run(arguments: tuple[str, ...], call: Callable, street: Path) -> None:
    """mmengine runs ``meta['config']`` when it resumes, and writes ``meta['cfg']``."""
    code, said = call("train", "CONFIG", "--from-scratch", "--cfg-options", "train_cfg.max_iters=1")
    assert code == 0, said
    state = torch.load("run/iter_1.pth", weights_only=False)
    state["meta"] |= {"config": PLANTED, "cfg": PLANTED + state["meta"]["cfg"]}
    torch.save(state, "planted.pth")
    code, said = call(*naming("planted.pth", arguments))
    assert code == 0, said
    assert not Path("ran").exists()


# -- names ---------------------------------------------------------------------------------------------------------

CLEAR = "\x1b[2J\x1b]0;title\x07"  # what a terminal obeys
NAMES = {
    "terminal": f"{CLEAR}\r\n\u202egnp",
    "tags": "</script><img src=x onerror=alert(1)>",
    "shell": "$(touch ran); 'touch' \"ran\" && `touch ran`",
    "not UTF-8": os.fsdecode(b"caf\xe9"),
    "formula": r"$\frac{x$",
}
PRINTED = {"\n", "\t"}


def readable(text: str) -> bool:
    """Whether a terminal shows it and does nothing."""
    return all(character.isprintable() or character in PRINTED for character in text)


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_names_of_images(name: str, call: Callable, street: Path) -> None:
    """Through test, visualize and its page: what is said can be read, what is written is where it belongs."""
    image = renamed(name)
    before = everything()
    code, said = call("test", "CONFIG", "whole.pth", "--out", "out/predictions")
    assert code == 0, said
    assert readable(plain(said))
    code, said = call("visualize", "CONFIG", "whole.pth", image, "--out-dir", "out")
    assert code == 0, said
    assert readable(said)
    code, said = call("visualize", "CONFIG", "whole.pth", image, "--html", "out/page.html")
    assert code == 0, said
    assert readable(said)
    page = Path("out/page.html").read_text(encoding="utf-8")
    assert "onerror" not in page.replace("\\u003cimg src=x onerror", "").replace("&lt;img src=x onerror", "")
    assert {path for path in everything() - before if path.split("/")[0] not in ("out", "run")} == set()
    assert not Path("ran").exists()


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_names_in_an_error(name: str, call: Callable, street: Path) -> None:
    """A bad label of that name: the message is one, and its further lines are indented."""
    renamed(name)
    for label in Path("data/cityscapes/gtFine").rglob("*.png"):
        label.write_text("no image")
    for tool in (["train", "CONFIG", "--from-scratch"], ["test", "CONFIG", "whole.pth"]):
        code, said = call(*tool)
        assert code == 2, said
        assert readable(plain(said))
        message = said[said.rindex("error: ") :].strip().splitlines()
        assert "cannot be read as an image" in " ".join(message)
        assert all(line.startswith("  ") for line in message[1:])


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_names_of_classes(name: str, call: Callable, street: Path) -> None:
    """In a checkpoint, where they are anybody's."""
    state = weights(street)
    state["meta"]["dataset_meta"] = {
        "classes": [f"{name} {i}" for i in range(19)],
        "palette": [[i] * 3 for i in range(19)],
    }
    torch.save(state, "named.pth")
    code, said = call("visualize", "CONFIG", "named.pth", IMAGE, "--out-dir", "out", "--suffix", ".svg")
    assert code == 0, said
    assert readable(said)
    figure = next(Path("out").glob("*.svg"))
    assert ElementTree.parse(figure).getroot().tag.endswith("svg")
    code, said = call("visualize", "CONFIG", "named.pth", IMAGE, "--html", "out/page.html")
    assert code == 0, said
    page = Path("out/page.html").read_text(encoding="utf-8")
    assert "<img src=x" not in page
    assert page.count("</script>") == page.count("<script")


def test_a_key_of_a_checkpoint_reaches_no_terminal(call: Callable, street: Path) -> None:
    state = weights(street)
    state["state_dict"][f"backbone.{CLEAR}"] = torch.zeros(1)
    torch.save(state, "keyed.pth")
    for tool in (
        ["test", "CONFIG", "keyed.pth"],
        ["train", "CONFIG", "--partial", "--cfg-options", "load_from=keyed.pth"],
    ):
        code, said = call(*tool)
        assert "unexpected: backbone.\\x1b[2J" in said
        assert readable(plain(said))
        assert code == (2 if tool[0] == "test" else 0), said


def test_commands_to_paste_are_quoted(call: Callable, street: Path) -> None:
    renamed(NAMES["shell"])
    code, said = call("train", "CONFIG", "--from-scratch")
    assert code == 0, said
    (line,) = (line for line in said.splitlines() if line.startswith("look at it: "))
    *_, image = shlex.split(line.removeprefix("look at it: "))
    assert Path(image).is_file()


def test_figures_stay_in_their_folder() -> None:
    images = [Path("a/../b/x.png"), Path("a/x.png"), Path("a/../../y/x.png")]
    found = album.targets(images, Path("out"))
    assert len(set(found)) == 3
    assert all(".." not in path.parts and path.parts[0] == "out" for path in found)


def test_the_cache_stays_in_its_folder(tmp_path: Path) -> None:
    """Lists of files may climb out of the folder of the data."""
    root = tmp_path / "data"
    file = cache.File(root / "../elsewhere/x.png", False, root)

    class Listed:
        data_root = str(root)

        def load_data_list(self) -> list[dict[str, str]]:
            return [{"img_path": str(file.path)}]

    (found,) = cache._files(Listed())
    assert cache.target(found).resolve() == tmp_path / "elsewhere" / cache.FOLDER / f"x.png{cache.SUFFIX}"


def renamed(name: str) -> str:
    """A picture of the validation, and its labels, take a name; the picture."""
    for path in list(Path("data/cityscapes").rglob("val/town/0_*.png")):
        path.rename(path.with_name(path.name.replace("0_", f"{name.replace('/', '')}_", 1)))
    return IMAGE.replace("/0_", f"/{name.replace('/', '')}_")


def plain(text: str) -> str:
    """Without the colours in which mmengine says WARNING."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def everything() -> set[str]:
    return {str(path) for path in Path().rglob("*") if path.is_file()}
