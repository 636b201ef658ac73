"""What a user reads about the mechanisms: the table, the page of each one, the short form in the README.

All of it is made from the catalogue, the headers of the files and the docstrings of the classes; torch is enough.
"""

import inspect
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from mmattn.catalogue import Entry

CHANNELS, SIZE = 256, (64, 64)
BASES = '["_base_/r50.py", "_base_/cityscapes.py", "_base_/schedule_40k.py", "_base_/default_runtime.py"]'
COLUMNS = ("mechanism", "paper", "maps", "identity", "places", "parameters", "MACs", "compile", "export")
LEGEND = f"""\
`maps` are the kinds of map that a mechanism shows; `identity` says whether it returns its input until it is trained.
`parameters` and `MACs` are for one image of {CHANNELS} channels, {SIZE[0]} x {SIZE[1]}, with default arguments, or
those of the config where there is no default; a second map is as large, and the regions of `ObjectContext` are five.
MACs are multiplications with an addition, those of attention included; norms, activations, pooling and resizing do not
count. `compile` is `torch.compile(fullgraph=True)`, `export` is `torch.export` with dynamic sizes."""
GROUPS = (
    ("Channel gates", {"channel"}),
    ("Spatial gates", {"spatial"}),
    ("Channel and spatial gates", {"channel", "spatial"}),
    ("Hard masks", {"mask"}),
    ("Attention between positions, regions or channels", {"pairwise", "criss_cross", "regions", "channel_pairwise"}),
)


@dataclass(frozen=True)
class Argument:
    """One argument of a constructor.

    Attributes:
        name: Its name.
        default: Its default as source; None where it must be given.
        text: What the docstring says of it.
    """

    name: str
    default: str | None
    text: str


def instance(entry: Entry, channels: int = CHANNELS) -> tuple[dict[str, Any], list[int]]:
    """Arguments and input channels of an instance to measure.

    Arguments with a default keep it. Of the others those that count channels are ``channels``, the rest as in the
    example.
    """
    arguments = {"channels": channels}
    for name, value in required(entry).items():
        arguments[name] = channels if name.endswith("channels") else value
    widths = {entry.example[name] for name in arguments if name.endswith("channels")}
    return arguments, [channels if width in widths else width for width in entry.inputs]


def factories(entry: Entry) -> set[str]:
    """Its arguments that make layers; in a config ``norm_cfg`` stands for them."""
    return {"layer", "norm"} & set(inspect.signature(entry.cls).parameters)


def required(entry: Entry) -> dict[str, Any]:
    """The arguments beside ``channels`` that have no default, as the example has them."""
    parameters = inspect.signature(entry.cls).parameters.values()
    return {p.name: entry.example[p.name] for p in parameters if p.default is p.empty and p.name != "channels"}


def cost(entry: Entry) -> tuple[int, int]:
    """Parameters and MACs for one image; nothing is computed."""
    arguments, widths = instance(entry)
    with torch.device("meta"), torch.no_grad():
        module = entry.cls(**arguments).eval()
        inputs = [torch.zeros(1, width, *SIZE) for width in widths]
        with FlopCounterMode(display=False) as counter:
            module(*inputs)
    return sum(p.numel() for p in module.parameters()), counter.get_total_flops() // 2


def row(entry: Entry) -> list[str]:
    """The cells of :data:`COLUMNS`."""
    parameters, macs = cost(entry)
    return [
        entry.cls.__name__,
        entry.paper.removeprefix("https://"),
        ", ".join(dict.fromkeys(entry.kinds)),
        "yes" if entry.identity else "no",
        ", ".join(entry.places) or "-",
        short(parameters),
        short(macs),
        *("no" if ability in entry.cannot else "yes" for ability in ("compile", "export")),
    ]


def short(number: int) -> str:
    """Three digits and a unit, ``1.05 M``."""
    for size, unit in ((10**9, " G"), (10**6, " M"), (10**3, " k")):
        if number >= size:
            return f"{number / size:.{2 - (number >= 10 * size) - (number >= 100 * size)}f}{unit}"
    return str(number)


def plain_table(entries: Sequence[Entry]) -> str:
    """The table for a terminal."""
    rows = [COLUMNS, *map(row, entries)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(r, widths, strict=True)).rstrip() for r in rows)


def markdown_table(entries: Sequence[Entry]) -> str:
    """The table for a page that has a section for each entry."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for entry in entries:
        name, _, *cells = row(entry)
        lines.append(f"| {' | '.join([f'[{name}](#{name.lower()})', link(entry), *cells])} |")
    return "\n".join(lines)


def link(entry: Entry) -> str:
    url = entry.paper if "://" in entry.paper else f"https://arxiv.org/abs/{entry.paper}"
    return f"[{'paper' if '://' in entry.paper else entry.paper}]({url})"


def header(entry: Entry) -> str:
    """The header of the file without its first line: paper, equations, deviations."""
    return (inspect.getdoc(inspect.getmodule(entry.cls)) or "").partition("\n")[2].strip("\n")


def parts(entry: Entry) -> tuple[str, dict[str, str]]:
    """The docstring of the class: what stands before ``Args:``, and its sections."""
    plain = re.sub(r":\w+:`(\w+)`", r"``\1``", inspect.getdoc(entry.cls) or "")
    text, *sections = re.split(r"^(\w+):\n", plain, flags=re.MULTILINE)
    return text.strip(), {
        name: inspect.cleandoc(body) for name, body in zip(sections[::2], sections[1::2], strict=True)
    }


def arguments(entry: Entry) -> list[Argument]:
    """The arguments of the constructor, in their order."""
    described = dict(re.findall(r"^(\w+): (.*(?:\n +.*)*)", parts(entry)[1]["Args"], re.MULTILINE))
    return [
        Argument(p.name, None if p.default is p.empty else source(p.default), " ".join(described[p.name].split()))
        for p in inspect.signature(entry.cls).parameters.values()
    ]


def in_config(entry: Entry, argument: Argument) -> str:
    return " In a config: norm_cfg." if argument.name in factories(entry) else ""


def source(value: object) -> str:
    return value.__name__ if isinstance(value, type) or inspect.isfunction(value) else repr(value)


def config(entry: Entry) -> str:
    """The mechanism as a config names it: ``dict(type="GlobalContext")``."""
    cells = [f'type="{entry.cls.__name__}"', *(f"{name}={value!r}" for name, value in required(entry).items())]
    return f"dict({', '.join(cells)})"


def snippets(entry: Entry) -> dict[str, str]:
    """For each place the mechanism can stand in, a config that puts it there; in Python where no config can."""
    made = {place: SNIPPETS[place](entry) for place in entry.places if place in SNIPPETS}
    return made or {"python": in_python(entry)}


def in_plugin(entry: Entry) -> str:
    position = "conv2" if entry.replaces else "after_conv3"
    return f"""\
_base_ = "fcn_r50.py"
plugin = dict(cfg={config(entry)}, position="{position}", stages=(False, True, True, True))
model = dict(backbone=dict(plugins=[plugin]))
"""


def in_wrapper(entry: Entry) -> str:
    return f"""\
_base_ = "attention/eca_mobilenetv2.py"
attention = [dict(cfg={config(entry)}, after=["layer5", "layer7"])]
model = dict(backbone=dict(attention=attention))
"""


def in_neck(entry: Entry) -> str:
    norm = ", norm_cfg=_base_.norm_cfg" if factories(entry) else ""
    if len(entry.inputs) > 1:  # the neck knows the channels of the other level
        return f"""\
_base_ = "attention/attention_gate_neck.py"
fpn = dict(type="FPN", in_channels=[256, 512, 1024, 2048], out_channels=256, num_outs=4)
attention = dict(type="{entry.cls.__name__}")
model = dict(neck=[fpn, dict(type="GatedNeck", in_channels=[256] * 4, attention=attention{norm})])
"""
    return f"""\
_base_ = "fcn_r50.py"
levels = dict(in_channels=[256, 512, 1024, 2048], levels=[3])
model = dict(neck=dict(type="AttentionNeck", **levels, attention={config(entry)}{norm}))
"""


def in_head(entry: Entry) -> str:
    return f"""\
_base_ = {BASES}
model = dict(decode_head=dict(type="AttentionHead", attention={config(entry)}))
"""


def in_python(entry: Entry) -> str:
    arguments, widths = instance(entry)
    given = ", ".join([str(CHANNELS), *(f"{k}={v!r}" for k, v in arguments.items() if k != "channels")])
    inputs = ", ".join(f"torch.rand(2, {width}, {SIZE[0]}, {SIZE[1]})" for width in widths)
    return f"""\
import torch

from mmattn.attention import {entry.cls.__name__}

attention = {entry.cls.__name__}({given})
y = attention({inputs})
"""


SNIPPETS = {"plugin": in_plugin, "wrapper": in_wrapper, "neck": in_neck, "head": in_head}
WHERE = {
    "plugin": "In the blocks of a backbone, here of the last three stages of ResNet-50",
    "wrapper": "After modules of any backbone, here of MobileNetV2",
    "neck": "On levels of a neck",
    "head": "In the decode head, between its convolutions",
    "python": "In Python",
}


def page(entry: Entry) -> str:
    """All about one mechanism, for a terminal."""
    name, text = entry.cls.__name__, parts(entry)
    _, _, maps, identity, places, parameters, macs, compiles, exports = row(entry)
    lines = [name, "", entry.summary, "", header(entry), "", text[0], "", "Arguments"]
    for argument in arguments(entry):
        default = "" if argument.default is None else f" = {argument.default}"
        lines += [f"  {argument.name}{default}", f"      {argument.text}{in_config(entry, argument)}"]
    for section in ("Shape", "Raises"):
        if section in text[1]:
            lines += ["", section, *(f"  {line}" for line in text[1][section].splitlines())]
    lines += [
        "",
        f"Maps: {maps}. Places: {places}. Starts as the identity: {identity}.",
        f"{CHANNELS} channels, {SIZE[0]} x {SIZE[1]}: {parameters} parameters, {macs} MACs.",
        f"torch.compile: {compiles}. torch.export: {exports}.",
    ]
    for place, snippet in snippets(entry).items():
        where = WHERE[place] + ("" if place == "python" else f": paste into configs/my_{entry.name}.py")
        lines += ["", where, "", *(f"    {line}".rstrip() for line in snippet.splitlines())]
    return "\n".join(lines)


def document(entries: Sequence[Entry]) -> str:
    """The Markdown page: the table, and a section for each mechanism."""
    lines = [
        "<!-- written by: python tools/catalogue.py --write -->",
        "# The mechanisms",
        "",
        f"{len(entries)} of them. Each config below goes as it is into a file in `configs/`; for every place that a",
        "mechanism can stand in there is one in what `python tools/catalogue.py NAME` prints.",
        "",
        LEGEND,
        "",
        markdown_table(entries),
    ]
    for entry in entries:
        lines += ["", *section(entry)]
    return "\n".join(lines) + "\n"


def section(entry: Entry) -> Iterator[str]:
    text, _ = parts(entry)
    file = Path(inspect.getfile(entry.cls)).name
    links = f"{link(entry)}, [{file}](../mmattn/attention/{file})"
    yield from (f"## {entry.cls.__name__}", "", f"{entry.summary} {links}", "")
    yield from ("```text", header(entry), "```", "", code(text), "", "| argument | default | |", "|---|---|---|")
    for argument in arguments(entry):
        default = "" if argument.default is None else f"`{argument.default}`"
        yield f"| `{argument.name}` | {default} | {code(argument.text)}{in_config(entry, argument)} |"
    place, snippet = usual(entry)
    yield from ("", f"{WHERE[place]}:", "", "```python", snippet.rstrip(), "```")


def code(text: str) -> str:
    """Docstring text for a Markdown table."""
    return text.replace("``", "`").replace("|", "&#124;")


def usual(entry: Entry) -> tuple[str, str]:
    """The place to show on the page, and its snippet: gates stand in blocks, what relates positions in the head."""
    made = snippets(entry)
    place = "plugin" if set(entry.kinds) <= {"channel", "spatial"} else "head"
    place = place if place in made else next(iter(made))
    return place, made[place]


def readme(entries: Sequence[Entry]) -> str:
    """The short form: the names by the maps they show."""
    lines = ["| maps | mechanisms |", "|---|---|"]
    for title, kinds in GROUPS:
        names = [f"`{entry.cls.__name__}`" for entry in entries if group(entry) == kinds]
        if names:
            lines.append(f"| {title} | {', '.join(names)} |")
    return "\n".join(lines) + "\n"


def group(entry: Entry) -> set[str]:
    """Which of the :data:`GROUPS` it is in."""
    kinds = set(entry.kinds)
    if kinds <= {"channel", "spatial"}:
        return kinds
    return next(group for _, group in reversed(GROUPS) if kinds & group)


def write(root: Path) -> None:
    """Write the page, and the short form between its marks in the README."""
    from mmattn.attention import entries

    (root / "docs/mechanisms.md").write_text(document(entries()))
    readme_file = root / "README.md"
    before, mark, rest = readme_file.read_text().partition("<!-- mechanisms -->\n")
    readme_file.write_text(before + mark + readme(entries()) + rest[rest.index("<!-- end -->") :])
