"""What the page shows of each captured map: words for its heading, numbers in the blob."""

from collections.abc import Sequence
from functools import singledispatch
from itertools import groupby

from torch import Tensor

from mmattn.capture import Captured
from mmattn.layers.records import (
    Additive,
    ChannelPairwise,
    CrissCross,
    Gate,
    Pairwise,
    PointWise,
    Pyramid,
    Record,
    Regions,
)
from mmattn.visualization.explorer.codes import Blob, encode
from mmattn.visualization.explorer.factors import Shrunk, offsets, one_image, shrink
from mmattn.visualization.explorer.features import Features
from mmattn.visualization.views import describe

PLANES = 32  # of a gate that differs from channel to channel
FAINT = 16.0  # logits below the row's maximum that count as nothing


def layers(maps: Sequence[Captured], features: Features, classes: Sequence[str], blob: Blob) -> list[dict]:
    """One entry for each tap and step; hops of criss-cross attention are one entry together.

    Args:
        maps: What was captured.
        features: What went into the channel gates.
        classes: Names of the classes.
        blob: Where the numbers go.
    """
    shown = []
    for name, group in groupby(maps, key=lambda m: m.name):
        steps = list(group)
        hops = isinstance(steps[0].record, CrissCross)
        for step in steps[:1] if hops else steps:
            note, unit, _ = describe(step.record, (), classes)[0]
            records = [one_image(s.record) for s in (steps if hops else [step])]
            title = step.mechanism + f", step {step.step + 1} of {len(steps)}" * (len(steps) > 1 and not hops)
            entry = {"title": title, "place": name, "note": note, "unit": unit, "size": list(step.record.size)}
            entry |= packed(records[0], records, blob)
            if (name, step.step) in features:
                entry["features"] = [f.pack(blob) for f in features[name, step.step]]
            shown.append(entry)
    return shown


@singledispatch
def packed(record: Record, hops: Sequence[Record], blob: Blob) -> dict:
    """What the page needs to compute the rows of a record, or its picture."""
    raise TypeError(f"no page for a {type(record).__name__}")


@packed.register
def _(record: Pairwise, hops: Sequence[Record], blob: Blob) -> dict:
    shrunk = shrink([record])
    (arrays,) = shrunk.arrays
    numbers = [str(head or "") for head in range(record.q.shape[1])]
    heads = [{of: blob.put(arrays[of + number]) for of in "qk"} for number in numbers]
    kind = {"kind": "pairwise", "keys": list(record.key_size), "softmax": record.softmax, "heads": heads}
    if isinstance(record, Pyramid):
        kind |= {"kind": "pyramid", "scales": list(record.scales)}
    return kind | _report(shrunk)


@packed.register
def _(record: Additive, hops: Sequence[Record], blob: Blob) -> dict:
    a, b = (encode(x[0, :, None], float(x.abs().max()) * 2**-22) for x in (record.a, record.b))
    return {"kind": "additive", "keys": list(record.key_size), "a": blob.put(a), "b": blob.put(b)}


@packed.register
def _(record: CrissCross, hops: Sequence[Record], blob: Blob) -> dict:
    shrunk = shrink(hops)
    return {
        "kind": "criss_cross",
        "keys": list(record.size),
        "hops": [{of: blob.put(arrays[of]) for of in "qk"} for arrays in shrunk.arrays],
        **_report(shrunk),
    }


@packed.register
def _(record: Regions, hops: Sequence[Record], blob: Blob) -> dict:
    shrunk = shrink([record])
    arrays = {name: blob.put(codes) for name, codes in shrunk.arrays[0].items()}
    return {"kind": "regions", "keys": list(record.soft.shape[2:]), **arrays, **_report(shrunk)}


@packed.register
def _(record: PointWise, hops: Sequence[Record], blob: Blob) -> dict:
    shrunk = shrink([record])
    arrays = {name: blob.put(codes) for name, codes in shrunk.arrays[0].items()}
    return {
        "kind": "point_wise",
        "keys": list(record.size),
        "mask": list(record.mask_size) if record.mask_size else None,
        "offsets": blob.put(encode(offsets(record)[:, None].double(), 1.0)),
        "direction": record.direction,
        "softmax": record.softmax,
        **arrays,
        **_report(shrunk),
    }


@packed.register
def _(record: Gate, hops: Sequence[Record], blob: Blob) -> dict:
    gate = record.gate()[0]  # (c or 1, h or 1, w or 1)
    if record.kind == "channel":
        return {"kind": "channel", "gate": blob.put(encode(gate.flatten()[:, None], _span(gate) * 2**-16))}
    share = gate.numel() > 1 and abs(float(gate.sum()) - 1) < 1e-3
    kind = {"kind": "gate", "keys": list(record.size), "share": share, "hard": record.kind == "mask"}
    channels = list(range(len(gate)))
    if len(gate) > PLANES:
        channels = sorted(gate.flatten(1).std(1).argsort(descending=True)[:PLANES].tolist())
        kind["reduced"] = f"the {PLANES} of {len(gate)} channels that differ most from place to place, and the mean"
    if len(gate) > 1:
        kind["mean"] = blob.put(_fine(gate.mean(0)[None]))
    return kind | {"channels": channels, "planes": blob.put(_fine(gate[channels]))}


def _fine(planes: Tensor) -> object:
    return encode(planes.flatten(1).T, _span(planes) / (2**16 - 1 if len(planes) <= 8 else 255))


def _span(values: Tensor) -> float:
    return float(values.max() - values.min()) or 1.0


@packed.register
def _(record: ChannelPairwise, hops: Sequence[Record], blob: Blob) -> dict:
    logits = record.logits[0]
    logits = (logits - logits.amax(1, keepdim=True)).clamp(min=-FAINT)
    received = record.channels()[0].mean(0)
    order = received.argsort(descending=True)
    return {
        "kind": "channels",
        "logits": blob.put(encode(logits.T, 1 / 512)),
        "order": order.tolist(),
    }


def _report(shrunk: Shrunk) -> dict:
    before, after = shrunk.width
    bits = max(int(codes.codes.max(initial=1)) for codes in shrunk.arrays[0].values()).bit_length()
    text = f"{after} of {before} numbers for each position" if after < before else f"{before} numbers for each position"
    return {"error": shrunk.error, "reduced": f"{text}, rounded to at most {bits} bit" + "s" * (bits > 1)}
