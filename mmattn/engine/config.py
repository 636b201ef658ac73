"""Config files, read with clear errors; what they state once is carried to every place that needs it."""

import difflib
import inspect
import re
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import Registry, init_default_scope
from mmengine.runner import Runner
from torch import nn

import mmattn.registry
from mmattn.cli import UserError
from mmattn.engine import weights

# the configs that come with mmattn: inside the installed package, or beside it in the repository
BUNDLED = Path(__file__).parents[1] / "configs"
CONFIGS = BUNDLED if BUNDLED.is_dir() else Path(__file__).parents[2] / "configs"
BASES = (CONFIGS / "_base_", Path("configs", "_base_"))
# what an option may put in the place of a value of the config
EXPECTED = (
    (bool, bool | int, "True or False"),
    (int | float, int | float | list | tuple, "a number"),
    (Mapping, Mapping, "a dict"),
)
# what is a text, though it may look like a number
PATHS = {"data_root", "img_path", "seg_map_path", "ann_file", "img_suffix", "seg_map_suffix", "work_dir", "load_from"}
LABELS = "LoadAnnotations"
IMAGES = "LoadImageFromFile"


def load_config(
    path: str | Path, options: Mapping[str, Any] | Sequence[str] | None = None, base: Sequence[str | Path] = ()
) -> Config:
    """Read a config, lay base files over it, then the options of the command line.

    Args:
        path: The config file, or as :func:`find` takes it.
        options: As of ``--cfg-options``: ``{"key.to.value": value}``, or strings ``key.to.value=value``. ``data_root``
            and ``crop_size`` reach every place that uses them; a schedule follows ``train_cfg.max_iters``.
        base: Files to lay over the config: a path, or a name in ``configs/_base_``. ``model`` is merged into the
            config's, each other key replaces the config's.

    Returns:
        The config. Its scope is ``mmattn`` where it names none; class names and crop size are spread.

    Raises:
        UserError: A file is missing or does not load, or an option does not fit the config.
    """
    cfg = read(path)
    cfg.setdefault("default_scope", "mmattn")
    for name in base:
        lay_over(cfg, read(base_file(name)))
    settle(cfg, options if isinstance(options, Mapping) else parse_options(options or ()))
    return cfg


def settle(cfg: Config, options: Mapping[str, Any]) -> None:
    """Let the options of the command line win, then spread what is stated once: classes, crop, length of the schedule.

    Raises:
        UserError: An option does not fit the config.
    """
    _apply(cfg, options)
    spread_classes(cfg)
    _spread_crop(cfg)


def read(path: str | Path) -> Config:
    """A config file and its ``_base_`` files, as they are.

    Raises:
        UserError: It is missing, or does not load.
    """
    path = find(path)
    if not path.is_file():
        near = difflib.get_close_matches(path.stem, [p.stem for p in path.parent.glob("*.py")], n=1)
        near = [str(path.with_name(f"{name}.py")) for name in near]
        near = near or difflib.get_close_matches(path.stem, [p.stem for p in CONFIGS.glob("*.py")], n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"there is no config file {path}{hint}")
    try:
        return Config.fromfile(path)
    except Exception as error:  # the file is the user's program: whatever it raises is a mistake in it
        raise UserError(f"{path} does not load: {type(error).__name__}: {error}") from error


def find(path: str | Path) -> Path:
    """A config by its path or, where there is no such file, by its name among those that come with mmattn.

    ``ccnet_r50``, ``configs/ccnet_r50.py`` and ``attention/senet_r50`` work in any folder. The path itself when there
    is neither.
    """
    path = Path(path)
    name = path if path.suffix == ".py" else Path(f"{path}.py")
    ours = CONFIGS / (name.relative_to("configs") if name.parts[0] == "configs" else name)
    return ours if ours.is_file() and not path.is_file() else path


def base_file(name: str | Path) -> Path:
    """A base file by its path, or by its name in ``configs/_base_``.

    Raises:
        UserError: It is neither.
    """
    known = {path.stem: path for base in reversed(BASES) for path in base.glob("*.py")}
    if str(name) in known:
        return known[str(name)]
    if not Path(name).is_file():
        raise UserError(f"--base {name}: neither a file nor one of {', '.join(sorted(known))}")
    return Path(name)


def lay_over(cfg: Config, other: Config) -> None:
    """Merge ``other.model`` into the config's, and put every other key of ``other`` in the place of the config's.

    What ``other`` says of a head holds for each where the config has several, and for none where it has None.
    """
    for key, value in other.items():
        if key != "model":
            cfg[key] = value
    if "train_dataloader" in other:
        for _, node in walk(cfg.get("model")):  # the padding belonged to the data that went
            if str(node.get("type")).endswith("DataPreProcessor"):
                node.pop("size", None)
    if "model" in other:
        cfg.merge_from_dict({"model": _to_every_head(cfg.get("model") or {}, other.model)})
        if "backbone" in other.model:
            init_default_scope(cfg.default_scope)
            with clear_registry_errors(cfg):
                fit_heads(cfg.model)


def _to_every_head(model: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Changes that speak of one head, spread over what the model has."""
    changes = dict(changes)
    for key in ("decode_head", "auxiliary_head"):
        change, heads = changes.get(key), model.get(key, {})
        if isinstance(change, dict) and "type" not in change and not isinstance(heads, dict):
            changes[key] = {str(i): change for i in range(len(heads))} if heads else heads
    return changes


def parse_options(pairs: Sequence[str]) -> dict[str, Any]:
    """``key=value`` strings as MMEngine reads them: ``key=1``, ``key=a,b``, ``key="[(1,2),(3,4)]"``.

    Raises:
        UserError: One has no ``=``, or its brackets do not match.
    """
    options = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        try:
            named = key.rpartition(".")[2] in PATHS and value != "None"
            options[key] = value if named else DictAction._parse_iterable(value)
        except (AssertionError, RecursionError) as error:
            raise UserError(f"--cfg-options {pair}: {error or 'its brackets hold no values'}") from error
        if not (key and equals):
            raise UserError(f"--cfg-options {pair}: expected key=value, such as train_cfg.max_iters=1000")
    return options


def walk(node: Any, path: str = "") -> Iterator[tuple[str, dict]]:
    """Every dict inside, with its dotted path."""
    if isinstance(node, Mapping | Config):
        yield path, node
        children = list(node.items())
    elif isinstance(node, list | tuple):
        children = list(enumerate(node))
    else:
        return
    for key, child in children:
        yield from walk(child, f"{path}.{key}" if path else str(key))


def datasets(cfg: Config, *loaders: str) -> Iterator[tuple[str, ConfigDict]]:
    """The datasets of the data loaders, those inside wrappers too, with their dotted paths.

    Args:
        cfg: The config.
        *loaders: Such as ``train_dataloader``; all three when none is named.
    """
    for loader in loaders or ("train_dataloader", "val_dataloader", "test_dataloader"):
        for path, node in walk((cfg.get(loader) or {}).get("dataset"), f"{loader}.dataset"):
            if "type" in node and "pipeline" in node:
                yield path, node


def heads(model: Mapping) -> list[ConfigDict]:
    """The decode and auxiliary heads of a model's config."""
    found = []
    for name in ("decode_head", "auxiliary_head"):
        head = model.get(name) or []
        found += head if isinstance(head, list | tuple) else [head]
    return found


def spread_classes(cfg: Config) -> None:
    """Carry the class names to heads, datasets (hence metric and palette) and label checks.

    They come from the top-level ``classes``, with ``palette`` if there is one, else from the first dataset.

    Raises:
        UserError: Names repeat, or the palette or a loss's class weights are of another number.
    """
    stated = _stated_metainfo(cfg)
    for _, dataset in datasets(cfg):
        dataset.update({"metainfo": stated} if stated else {})
    classes = metainfo(cfg).get("classes")
    found = heads(cfg.get("model") or {})
    _check_while_loading(cfg, classes, next((head.ignore_index for head in found if "ignore_index" in head), None))
    for head in found if classes else ():
        head.num_classes = len(classes)
        for _, loss in walk(head.get("loss_decode")):
            weight = loss.get("class_weight")
            if isinstance(weight, list | tuple) and len(weight) != len(classes):
                raise UserError(f"class_weight of {head.type} has {len(weight)} values for {len(classes)} classes")


def metainfo(cfg: Config) -> dict[str, Any]:
    """Class names and palette of the first dataset; empty when it has none."""
    for _, dataset in datasets(cfg):
        with clear_registry_errors(cfg):
            cls = mmattn.registry.DATASETS.get(dataset.type) if isinstance(dataset.type, str) else dataset.type
        return {**getattr(cls, "METAINFO", {}), **(dataset.get("metainfo") or {})}
    return {}


def _stated_metainfo(cfg: Config) -> dict[str, Any]:
    """The top-level ``classes`` and ``palette`` as datasets take them."""
    classes, palette = cfg.get("classes"), cfg.get("palette")
    if classes is None:
        return {}
    if not isinstance(classes, list | tuple) or len(set(classes)) != len(classes):
        raise UserError(f"classes must be different names, such as classes = ('road', 'car'); got {classes!r}")
    if palette is None:
        return {"classes": tuple(classes)}
    if not isinstance(palette, list | tuple):
        raise UserError(f"palette must be colours, such as palette = [[128, 64, 128], ...]; got {palette!r}")
    if len(palette) != len(classes):
        raise UserError(f"palette has {len(palette)} colours for {len(classes)} classes")
    return {"classes": tuple(classes), "palette": [list(colour) for colour in palette]}


def _check_while_loading(cfg: Config, classes: Sequence[str] | None, ignore_index: int | None) -> None:
    """Exchange mmseg's loading transforms for ours, which name the file that is wrong."""
    scope = "" if cfg.default_scope == "mmattn" else "mmattn."
    for _, node in walk(cfg):
        kind = str(node.get("type")).removeprefix("mmseg.").removeprefix("mmattn.")
        if kind in (LABELS, IMAGES):
            node["type"] = scope + kind
        if kind == LABELS:
            node.update({"num_classes": len(classes)} if classes else {})
            node.update({"ignore_index": ignore_index} if ignore_index is not None else {})


def fit_heads(model: ConfigDict) -> None:
    """Set ``in_channels`` of necks and heads to what comes before them, after the backbone was exchanged."""

    def run(cfg: Mapping, features: Any) -> Sequence[torch.Tensor]:
        given = {key: value for key, value in cfg.items() if key not in ("init_cfg", "pretrained")}
        with torch.no_grad():
            return revert_sync_batchnorm(mmattn.registry.MODELS.build(given)).eval()(features)

    features = run(model.backbone, torch.zeros(1, 3, 64, 64))
    necks = model.get("neck") or []
    for neck in necks if isinstance(necks, list | tuple) else [necks]:
        if isinstance(neck.get("in_channels"), list | tuple):
            neck.in_channels = [feature.shape[1] for feature in features]
        features = run(neck, features)
    channels = [feature.shape[1] for feature in features]
    for head in heads(model):
        index = head.get("in_index", -1)
        head.in_channels = [channels[i] for i in index] if isinstance(index, list | tuple) else channels[index]


def build_model(cfg: Config, checkpoint: str | Path | None = None, device: str = "cpu") -> nn.Module:
    """The model of a config, ready to predict.

    Args:
        cfg: As of :func:`load_config`; the pretrained weights that it names are taken out.
        checkpoint: File or URL; without one the weights are random.
        device: Such as ``cpu`` or ``cuda:0``.

    Returns:
        The model in eval mode, with ``cfg`` and ``dataset_meta`` (classes and palette).

    Raises:
        UserError: The config names what does not exist, or the checkpoint does not fit.
    """
    init_default_scope(cfg.default_scope)
    without_pretrained(cfg)
    with clear_registry_errors(cfg):
        model = revert_sync_batchnorm(mmattn.registry.MODELS.build(cfg.model))
    found = weights.load_weights(model, checkpoint) if checkpoint is not None else {}
    model.dataset_meta = found.get("dataset_meta") or metainfo(cfg)
    model.cfg = cfg
    return model.to(device).eval()


def without_pretrained(cfg: Config) -> None:
    """Take out the weights that the model would start from."""
    for _, node in walk(cfg.model):
        if node.get("pretrained"):
            node["pretrained"] = None
        if isinstance(node.get("init_cfg"), Mapping) and node["init_cfg"].get("type") == "Pretrained":
            del node["init_cfg"]


@contextmanager
def clear_registry_errors(cfg: Config) -> Iterator[None]:
    """Turn what a wrong config makes the builders raise into one clear message.

    That is an unknown ``type``, arguments that the named class refuses, and a :class:`~mmattn.cli.UserError` that comes
    wrapped out of a data loader's worker. Every other error passes through.

    Raises:
        UserError: Naming the key, and the nearest names that exist.
    """
    try:
        yield
    except KeyError as error:
        unknown = _unknown_name(error)
        if unknown is None:
            raise
        raise UserError(_unknown_type(cfg, *unknown)) from error
    except RuntimeError as error:  # of a name with dots, or of none
        before, said, name = str(error).partition("Failed to get ")
        if before or not said:
            raise
        raise UserError(f"{_key(cfg, 'type', name) or 'type'}: there is nothing called {name!r}") from error
    except (TypeError, ValueError, AssertionError) as error:
        refused = _refused_arguments(cfg, error)
        if refused is None:
            raise
        raise UserError(refused) from error
    except UserError as error:
        text = str(error)
        if "in DataLoader worker" not in text:
            raise
        raise UserError(text.rpartition("UserError: ")[2].strip()) from error


def check_optimizer(cfg: Config) -> None:
    """Look the optimizer up before MMEngine does, which would go on with None.

    Raises:
        UserError: There is none of that name.
    """
    name = (cfg.optim_wrapper.get("optimizer") or {}).get("type")
    if isinstance(name, str) and mmattn.registry.OPTIMIZERS.get(name) is None:
        raise UserError(_unknown_type(cfg, name, "optimizer"))


def check_backends(cfg: Config) -> None:
    """Look for TensorBoard before MMEngine does, at the first number that it logs.

    Raises:
        UserError: The visualizer writes for it, and it is not installed.
    """
    for key, node in walk(cfg.get("visualizer"), "visualizer"):
        if str(node.get("type")).endswith("TensorboardVisBackend") and find_spec("tensorboard") is None:
            raise UserError(f"{key} is {node['type']}, and TensorBoard is missing: pip install tensorboard")


def _unknown_name(error: KeyError) -> tuple[str, str] | None:
    """The name that a look-up did not find, and the kind of registry."""
    message = str(error.args[0]) if error.args else ""
    if found := re.match(r"(\S+) is not in the \S+?::(.+?) registry", message):
        return found[1], found[2]
    if message.startswith("Cannot find None in registry"):  # mmcv's layers say None instead of the name
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        return str(frame.f_locals.get("layer_type") or frame.f_locals.get("padding_type")), "model"
    return None


def _unknown_type(cfg: Config, name: str, kind: str) -> str:
    known = set()
    for registry in vars(mmattn.registry).values():
        if isinstance(registry, Registry) and registry.name == kind:
            while registry is not None:
                known |= registry.module_dict.keys()
                registry = registry.parent
    scope, _, plain = name.rpartition(".")
    near = [f"{scope}.{match}" if scope else match for match in difflib.get_close_matches(plain, known)]
    key = _key(cfg, "type", name)
    hint = f"did you mean {' or '.join(near)}?" if near else f"no {kind} of a similar name is registered"
    return f"{key}: there is no {kind} {name!r}; {hint}"


def _refused_arguments(cfg: Config, error: Exception) -> str | None:
    """What to say when a class refuses its arguments; None when the error is another, such as a mistake of ours."""
    calls = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    builders = [frame for frame in calls if frame.f_code.co_name == "build_from_cfg"]
    if not builders or calls[-1].f_code.co_name not in ("__init__", "build_from_cfg"):
        return None
    if isinstance(error, TypeError) and "argument" not in str(error):
        return None
    name = getattr(builders[-1].f_locals.get("obj_cls"), "__name__", "")
    key = _key(cfg, "type", name).rpartition(".type")[0]
    return f"{key or 'config'}: {name} refuses its arguments: {error}"


def _key(cfg: Config, key: str, value: Any = None) -> str:
    """The dotted path of ``key``, of the first that holds ``value``; empty when there is none."""
    for path, node in walk(cfg):
        if key in node and (value is None or str(node[key]).rpartition(".")[2] == str(value).rpartition(".")[2]):
            return f"{path}.{key}".lstrip(".")
    return "" if value is None else key


def _apply(cfg: Config, options: Mapping[str, Any]) -> None:
    """Merge the options one by one, so that an error can name its key."""
    iters = (cfg.get("train_cfg") or {}).get("max_iters")
    known = {*cfg, "classes", "palette", *inspect.signature(Runner.__init__).parameters}
    for key, value in sorted(options.items(), key=lambda item: item[0].count(".")):  # the specific ones last, they win
        top = key.partition(".")[0]
        near = difflib.get_close_matches(top, known, n=1, cutoff=0.8)
        if top not in known and near:
            raise UserError(f"--cfg-options {key}: the config has no {top!r}; did you mean {near[0]!r}?")
        _compare_types(cfg, key, value)
        try:
            cfg.merge_from_dict({key: value})
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise UserError(f"--cfg-options {key}: {error.args[0] if error.args else error}") from error
        for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
            for _, node in walk(cfg.get(loader)):
                if key == "data_root" and "data_root" in node:
                    node["data_root"] = value
                elif key == "crop_size" and str(node.get("type")).endswith("RandomCrop"):
                    node["crop_size"] = _pair(value)
        if key == "crop_size" and "model" in cfg:
            for _, node in walk(cfg.model):
                if "size" in node and str(node.get("type")).endswith("DataPreProcessor"):
                    node["size"] = _pair(value)
    iters_asked = options.get("train_cfg.max_iters", 1)
    if not isinstance(iters_asked, int) or iters_asked < 1:
        raise UserError(f"--cfg-options train_cfg.max_iters={iters_asked}: expected a whole number from 1 on")
    if "train_cfg.max_iters" in options and not any(key.startswith("param_scheduler") for key in options):
        _follow(cfg, iters)


def _follow(cfg: Config, before: int | None) -> None:
    """Let the learning rate end with the training; a phase that would begin after its end falls away."""
    for _, phase in walk(cfg.get("param_scheduler")):
        if phase.get("end") == before:
            phase["end"] = cfg.train_cfg.max_iters
    if isinstance(cfg.get("param_scheduler"), list):
        cfg.param_scheduler = [p for p in cfg.param_scheduler if p.get("begin", 0) < cfg.train_cfg.max_iters]


def _pair(size: Any) -> tuple[int, int]:
    pair = tuple(size) if isinstance(size, list | tuple) else (size, size)
    if len(pair) != 2 or not all(isinstance(side, int) and side > 0 for side in pair):
        raise UserError(f"--cfg-options crop_size={size}: expected height,width, such as 512,1024")
    return pair


def _compare_types(cfg: Config, key: str, value: Any) -> None:
    if key.rpartition(".")[2] == "type" and not isinstance(value, str):
        raise UserError(f"--cfg-options {key}={value}: expected the name of a class")
    node: Any = cfg
    for part in key.split("."):
        if isinstance(node, list | tuple) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        elif isinstance(node, Mapping | Config) and part in node:
            node = node[part]
        else:
            return
    for kind, fits, name in EXPECTED:
        if isinstance(node, kind):
            if value is not None and not isinstance(value, fits):
                raise UserError(f"--cfg-options {key}={value}: expected {name}, as in the config")
            return


def _spread_crop(cfg: Config) -> None:
    """Pad training images to the crop where the model's preprocessor states no size."""
    preprocessor = (cfg.get("model") or {}).get("data_preprocessor")
    if not preprocessor or preprocessor.get("size") or preprocessor.get("size_divisor"):
        return
    crops = [node["crop_size"] for _, node in walk(cfg.get("train_dataloader")) if "crop_size" in node]
    if crops:
        preprocessor["size"] = crops[0]
    else:
        preprocessor["size_divisor"] = 32
