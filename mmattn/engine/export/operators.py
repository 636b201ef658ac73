"""What torch's exporter has no ONNX for, or none that fits every size and stays small."""

import onnx_ir as ir
import torch
from onnxscript import opset18 as op

from mmattn.ops.attention import CHUNK

AXES = {"rows": 2, "columns": 3}


def attention(
    q: ir.Value,
    k: ir.Value,
    v: ir.Value,
    attn_mask: ir.Value | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> ir.Value:
    """``softmax(scale q k^T) v``, some queries after the others where the keys are as many as the image has positions.

    Args:
        q: (b, heads, n, d).
        k: (b, heads, m, d).
        v: (b, heads, m, e).
        attn_mask: None.
        dropout_p: 0.
        is_causal: False.
        scale: Factor on the logits; one over the root of d when None.
        enable_gqa: False.

    Returns:
        (b, heads, n, e).
    """
    if attn_mask is not None or is_causal or enable_gqa:
        raise NotImplementedError("attention with a mask")
    q = op.Mul(q, op.Constant(value_float=float(q.shape[3] ** -0.5 if scale is None else scale)))
    k = op.Transpose(k, perm=[0, 1, 3, 2])  # (b, heads, d, m)
    if isinstance(k.shape and k.shape[3], int):  # regions or cells of a pyramid: they are few
        return op.MatMul(op.Softmax(op.MatMul(q, k), axis=-1), v)
    n, chunk = op.Shape(q, start=2, end=3), ints(CHUNK)
    outer, rest = op.Shape(q, start=0, end=2), ints(-1)
    padding = op.Concat(ints(0, 0, 0, 0, 0, 0), op.Mod(op.Neg(n), chunk), ints(0), axis=0)
    parts = op.Reshape(op.Pad(q, padding), op.Concat(outer, rest, chunk, op.Shape(q, start=3), axis=0))
    parts = op.Transpose(parts, perm=[2, 0, 1, 3, 4])  # (chunks, b, heads, CHUNK, d)
    parts = op.Scan(parts, body=_some(k, v), num_scan_inputs=1)  # (chunks, b, heads, CHUNK, e)
    out = op.Reshape(op.Transpose(parts, perm=[1, 2, 0, 3, 4]), op.Concat(outer, rest, op.Shape(v, start=3), axis=0))
    return op.Slice(out, ints(0), n, ints(2))


def adaptive_avg_pool2d(x: ir.Value, output_size: list[int]) -> ir.Value:
    """Means of (b, c, h, w) in cells that share the map out, of any size: two products with what each row or column
    gives to each cell."""
    for (name, axis), cells in zip(AXES.items(), output_size, strict=True):
        if not isinstance(cells, int):
            raise NotImplementedError("a number of cells that depends on the image")
        n = op.Shape(x, start=axis, end=axis + 1)
        cell = op.Constant(value=ir.tensor([[i] for i in range(cells + 1)], dtype=ir.DataType.INT64))  # (cells + 1, 1)
        first = op.Div(op.Mul(op.Slice(cell, ints(0), ints(cells), ints(0)), n), ints(cells))  # (cells, 1)
        stop = op.Mul(op.Slice(cell, ints(1), ints(cells + 1), ints(0)), n)
        stop = op.Div(op.Add(stop, ints(cells - 1)), ints(cells))
        at = op.Range(op.Constant(value_int=0), op.Squeeze(n), op.Constant(value_int=1))  # (n,)
        inside = op.And(op.GreaterOrEqual(at, first), op.Less(at, stop))  # (cells, n)
        share = op.Div(op.CastLike(inside, x), op.CastLike(op.Sub(stop, first), x))
        x = op.MatMul(share, x) if name == "rows" else op.MatMul(x, op.Transpose(share, perm=[1, 0]))
    return x


def ints(*values: int) -> ir.Value:
    """A vector of integers."""
    return op.Constant(value_ints=list(values))


def _some(k: ir.Value, v: ir.Value) -> ir.Graph:
    """Attention of some queries (b, heads, CHUNK, d) to all keys (b, heads, d, m) and values (b, heads, m, e)."""
    q = ir.Input("queries")
    logits = ir.node("MatMul", [q, k])
    attn = ir.node("Softmax", logits.outputs, {"axis": -1})
    out = ir.node("MatMul", [attn.outputs[0], v])
    return ir.Graph([q], out.outputs, nodes=[logits, attn, out], name="attention_of_some_queries")


TABLE = {
    torch.ops.aten.scaled_dot_product_attention.default: attention,
    torch.ops.aten.adaptive_avg_pool2d.default: adaptive_avg_pool2d,
}
