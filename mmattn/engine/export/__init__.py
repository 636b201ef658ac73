"""A trained segmentor as one file that runs where mmattn is not: ONNX, or a program of ``torch.export``."""

import io
import json
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.export import Dim, ExportedProgram

import mmattn
from mmattn.cli import UserError
from mmattn.engine.checkpoints import write_whole
from mmattn.engine.export.agreement import batches, compare, expected, photos
from mmattn.engine.export.graphs import Labels, Logits, ready

OPSET = 18
PACKAGES = {".onnx": ("onnx", "onnxscript", "onnxruntime"), ".pt2": ()}
SIZES = ((256, 512), (232, 328))  # an even and an odd map at strides 8, 16 and 32
Graph = Callable[[np.ndarray], np.ndarray]


def export(
    model: nn.Module,
    out: Path,
    *,
    argmax: bool = False,
    fixed: bool = False,
    sizes: Sequence[tuple[int, int]] = SIZES,
    images: Sequence[Path] = (),
    say: Callable[[str], None] = print,
) -> None:
    """Trace a segmentor, compare the graph with it, and write the file if they agree.

    Args:
        model: As of :func:`mmattn.engine.config.build_model`, on the CPU.
        out: The file, ``.onnx`` or ``.pt2``.
        argmax: From images as OpenCV reads them to labels, instead of from normalised images to logits.
        fixed: Only images of the first size; the number of images stays open.
        sizes: Heights and widths to compare at.
        images: Photographs to compare with; see :func:`mmattn.engine.export.agreement.photos`.
        say: Gets each line of progress.

    Raises:
        UserError: The file cannot be written, a package is missing, the model does something that a graph of whole
            images cannot, or graph and model disagree; then no file is written.
    """
    check_output(out)
    _check_model(model, argmax)
    shown = list(batches(photos(model, images), [sizes[0]] * 2 if fixed else sizes))
    wanted = [expected(model, pixels) for _, pixels in shown]
    begin = time.perf_counter()
    say(f"tracing {type(model).__name__}, which takes a minute or two ...")
    program = trace(model, sizes[0], argmax=argmax, fixed=fixed)
    say(f"traced in {_since(begin)}; making {out.name} of it, which takes up to three times as long ...")
    make = _onnx if out.suffix == ".onnx" else _pt2
    content, graph = make(program, describe(model, argmax))
    say(f"{len(content) / 2**20:.1f} MiB after {_since(begin)}; {_form(program, out.suffix)}")
    for i, ((name, _), right) in enumerate(zip(shown, wanted, strict=True), start=1):
        try:
            text, agrees = compare(graph, right, argmax)
        except Exception as error:  # onnxruntime and torch raise what they like where a graph does not fit a size
            text, agrees = f"it stops, {str(error).strip().splitlines()[0]}", False
        say(f"compared {i} of {len(shown)}: {name}: {text}")
        if not agrees:
            hint = "" if fixed else "; a model that depends on the size of the image needs --fixed"
            raise UserError(f"{out} is not written, the graph disagrees with the model: {name}: {text}{hint}")
    try:
        write_whole(out, content)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}") from error


def check_output(out: Path) -> None:
    """Look before minutes of work whether the file can be written.

    Raises:
        UserError: Its suffix or folder is wrong, or a package for it is missing.
    """
    if out.suffix not in PACKAGES:
        raise UserError(f"{out}: the file must end in .onnx or .pt2")
    missing = [name for name in PACKAGES[out.suffix] if find_spec(name) is None]
    if missing:
        raise UserError(f'{out.suffix} files need {", ".join(missing)}: pip install ".[export]"')
    if out.is_dir():
        raise UserError(f"cannot write {out}: it is a folder")
    if not out.absolute().parent.is_dir():
        raise UserError(f"cannot write {out}: there is no folder {out.parent}")
    if not os.access(out.absolute().parent, os.W_OK):
        raise UserError(f"cannot write {out}: the folder {out.parent} is read-only")


def trace(
    model: nn.Module, size: tuple[int, int] = SIZES[0], *, argmax: bool = False, fixed: bool = False
) -> ExportedProgram:
    """A segmentor as a program of ``torch.export``, from images to logits or labels.

    Args:
        model: A segmentor; is not changed.
        size: Height and width to trace at.
        argmax: See :class:`~mmattn.engine.export.graphs.Labels`.
        fixed: Whether height and width stay what they are.
    """
    module = (Labels if argmax else Logits)(ready(model)).eval()
    inputs = torch.zeros(2, *size, 3, dtype=torch.uint8) if argmax else torch.zeros(2, 3, *size)
    open_axes = dict.fromkeys(_axes(argmax, fixed), Dim.AUTO)
    with torch.no_grad(), _quiet():
        return torch.export.export(module, (inputs,), dynamic_shapes=(open_axes,))


def describe(model: nn.Module, argmax: bool) -> dict[str, str]:
    """What the file says of itself, each value JSON."""
    meta = getattr(model, "dataset_meta", None) or {}
    given = model.data_preprocessor
    plain = {
        "classes": list(meta.get("classes") or ()),
        "palette": [list(map(int, colour)) for colour in meta.get("palette") or ()],  # red green blue
        "config": Path(model.cfg.filename or "").name,
        "mmattn": mmattn.__version__,
        "opset": OPSET,
    }
    if not argmax:
        order = "rgb" if given._channel_conversion else "bgr"
        mean, std = (x.flatten().tolist() if given._enable_normalize else None for x in (given.mean, given.std))
        plain |= {"order": order, "mean": mean, "std": std}
    return {key: json.dumps(value) for key, value in plain.items()}


def _axes(argmax: bool, fixed: bool = False) -> dict[int, str]:
    sides = {1: "height", 2: "width"} if argmax else {2: "height", 3: "width"}
    return {0: "batch"} | ({} if fixed else sides)


def _input(program: ExportedProgram) -> torch.Tensor:
    """What the program is given, a tensor without content."""
    return next(node.meta["val"] for node in program.graph.nodes if node.name == "images")


def _form(program: ExportedProgram, suffix: str) -> str:
    """Input and output in words, an open axis by its name."""
    images = _input(program)
    argmax = images.dtype == torch.uint8
    names = _axes(argmax)
    batch, *rest = (str(side) if isinstance(side, int) else names[axis] for axis, side in enumerate(images.shape))
    result = [batch, *rest[:2]] if argmax else [batch, "classes", *rest[1:]]
    kind, out = ("uint8", "uint8 labels") if argmax else ("float32", "float32 logits")
    opset = f"opset {OPSET}, " if suffix == ".onnx" else ""
    return f"{opset}{kind} ({batch}, {', '.join(rest)}) to {out} ({', '.join(result)})"


def _since(begin: float) -> str:
    return f"{time.perf_counter() - begin:.0f} s"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch says of guards that it cannot simplify and of packages that nobody asked for."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _check_model(model: nn.Module, argmax: bool) -> None:
    if model.test_cfg.get("mode", "whole") != "whole":
        raise UserError(
            "the model slides a window over images, a graph takes them whole: --cfg-options model.test_cfg.mode=whole"
        )
    if argmax and model.out_channels > 256:
        raise UserError(f"{model.out_channels} classes do not fit into the uint8 labels of --argmax: export logits")


def _onnx(program: ExportedProgram, about: dict[str, str]) -> tuple[bytes, Graph]:
    """The program as an ONNX file, and a function that runs that file in onnxruntime."""
    import onnxruntime

    from mmattn.engine.export.operators import TABLE

    argmax = _input(program).dtype == torch.uint8
    with _quiet():
        exported = torch.onnx.export(
            program,
            input_names=["images"],
            output_names=["labels" if argmax else "logits"],
            dynamic_shapes=(_axes(argmax),),  # names alone
            opset_version=OPSET,
            custom_translation_table=TABLE,
            dynamo=True,
            verbose=False,
        )
    exported.model.metadata_props.update(about)
    content = exported.model_proto.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # its errors are raised as well
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return content, lambda images: session.run(None, {"images": images})[0]


def _pt2(program: ExportedProgram, about: dict[str, str]) -> tuple[bytes, Graph]:
    """The program as a file, and a function that runs what that file holds."""
    file = io.BytesIO()
    torch.export.save(program, file, extra_files=about)
    file.seek(0)
    module = torch.export.load(file).module()

    def run(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return module(torch.from_numpy(images)).numpy()

    return file.getvalue(), run
