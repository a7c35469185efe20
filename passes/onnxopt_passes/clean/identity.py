"""Nodes that return their first input as it is: op(x) -> x.

Those that take arithmetic to see it are in `arithmetic`, `repeated` and `casts`; `RULES` has all.
Each test below proves that shape, dtype and every value stay. What a test cannot prove (a shape
that depends on the feed, an attribute of a function) keeps the node. An end of a Slice from
2**31 - 1 on counts as "to the end", since no tensor is that long. A MaxPool over single elements
stays: onnxruntime's turns -inf and NaN into the smallest number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxopt import match, shape_values, shapes
from onnxopt.model.interface import numpy_dtype
from onnxopt.rewrite import Rule
from onnxopt_passes.clean import arithmetic, axes, casts, cuts, repeated
from onnxopt_passes.clean.bypass import bypass

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx_graphsurgeon as gs

    Test = Callable[[gs.Graph, gs.Node], bool]

EXACT_COORDINATES = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "asymmetric",
    "align_corners",
)
"""Where scale 1 maps each output onto the same input; tf_half_pixel_for_nn and crops do not."""


def _always(graph: gs.Graph, node: gs.Node) -> bool:
    return True


def _dropout(graph: gs.Graph, node: gs.Node) -> bool:
    if graph.opset < 7:
        return axes.integer(node, "is_test", 0) not in (None, 0)
    return graph.opset < 12 or not match.given(node, 2) or match.scalar(node.inputs[2]) is False


def _cast(graph: gs.Graph, node: gs.Node) -> bool:
    target = axes.integer(node, "to")
    wanted = None if target is None else numpy_dtype(target)
    return wanted is not None and shapes.dtype(node.inputs[0]) == wanted


def _cast_like(graph: gs.Graph, node: gs.Node) -> bool:
    wanted = shapes.dtype(node.inputs[1])
    return wanted is not None and shapes.dtype(node.inputs[0]) == wanted


def _transpose(graph: gs.Graph, node: gs.Node) -> bool:
    perm = node.attrs.get("perm")
    if perm is None:
        return axes.rank(node.inputs[0]) in (0, 1)
    return isinstance(perm, list) and perm == list(range(len(perm)))


def _slice(graph: gs.Graph, node: gs.Node) -> bool:
    found = cuts.read(node)
    source = node.inputs[0]
    return found is not None and all(c.whole(axes.size(source, a)) for a, c in found.items())


def _pad(graph: gs.Graph, node: gs.Node) -> bool:
    pads = match.integers(node, 1, "pads")
    return pads is not None and not any(pads)


def _alone(graph: gs.Graph, node: gs.Node) -> bool:
    return len(node.inputs) == 1


def _expand(graph: gs.Graph, node: gs.Node) -> bool:
    """Every size asked for is 1 or that of the same axis, and there are not more of them."""
    source = node.inputs[0]
    wanted, rank = shape_values.elements(node.inputs[1]), axes.rank(source)
    if wanted is None or rank is None or len(wanted) > rank:
        return False
    first = rank - len(wanted)
    return all(e == 1 or e == shapes.axis(source, first + i) for i, e in enumerate(wanted))


def _reshape(graph: gs.Graph, node: gs.Node) -> bool:
    """Every axis keeps its size; one of them may be the -1 that follows from the others."""
    source = node.inputs[0]
    if not match.given(node, 1):
        return False
    wanted, literal = shape_values.elements(node.inputs[1]), axes.integer(node, "allowzero", 0)
    if wanted is None or literal is None or axes.rank(source) != len(wanted):
        return False
    kept = [e == shapes.axis(source, i) or (e == 0 and literal == 0) for i, e in enumerate(wanted)]
    open_ = [i for i, keeps in enumerate(kept) if not keeps]
    return not open_ or (len(open_) == 1 and wanted[open_[0]] == -1)


def _flatten(graph: gs.Graph, node: gs.Node) -> bool:
    return axes.rank(node.inputs[0]) == 2 and axes.integer(node, "axis", 1) in (1, -1)


def _squeeze(graph: gs.Graph, node: gs.Node) -> bool:
    return axes.squeezed(node) == []


def _unsqueeze(graph: gs.Graph, node: gs.Node) -> bool:
    return axes.axes_of(node) == []


def _tile(graph: gs.Graph, node: gs.Node) -> bool:
    if graph.opset < 6 or len(node.inputs) != 2:
        return False
    repeats = match.constant(node.inputs[1])
    return repeats is not None and bool((repeats == 1).all())


def _split(graph: gs.Graph, node: gs.Node) -> bool:
    return len(node.outputs) == 1


def _pool(graph: gs.Graph, node: gs.Node) -> bool:
    """A window of one element, moved by one, without padding."""

    def only(name: str, value: int) -> bool:
        found = node.attrs.get(name)
        return isinstance(found, list) and all(v == value for v in found)

    return (
        only("kernel_shape", 1)
        and ("strides" not in node.attrs or only("strides", 1))
        and ("pads" not in node.attrs or only("pads", 0))
        and match.attribute(node, "auto_pad", "NOTSET") in ("NOTSET", "VALID")
    )


def _resize(graph: gs.Graph, node: gs.Node) -> bool:
    """All scales are exactly 1, and the coordinates are those of the input."""
    if graph.opset > 10 and match.given(node, 3):
        return False
    index = 2 if node.op == "Resize" and graph.opset > 10 else 1
    scales = node.attrs.get("scales")
    if scales is None and match.given(node, index):
        values = match.constant(node.inputs[index])
        scales = None if values is None else values.reshape(-1).tolist()
    mode = match.attribute(node, "coordinate_transformation_mode", "half_pixel")
    exact = mode in EXACT_COORDINATES
    return exact and isinstance(scales, list) and bool(scales) and all(s == 1.0 for s in scales)


def _reduce(graph: gs.Graph, node: gs.Node) -> bool:
    """No axes, and the node says that this means none of them."""
    none = axes.silent(node) or axes.axes_of(node) == []
    return none and axes.integer(node, "noop_with_empty_axes", 0) == 1


def _block(graph: gs.Graph, node: gs.Node) -> bool:
    return axes.integer(node, "blocksize") == 1


def _dropping(test: Test) -> Test:
    def rewrite(graph: gs.Graph, node: gs.Node) -> bool:
        return test(graph, node) and bypass(graph, node, node.inputs[0])

    return rewrite


RULES: tuple[Rule, ...] = (
    Rule("identity", ("Identity",), _dropping(_always)),
    Rule("dropout", ("Dropout",), _dropping(_dropout)),
    Rule("noop_cast", ("Cast",), _dropping(_cast)),
    Rule("noop_cast_like", ("CastLike",), _dropping(_cast_like)),
    Rule("noop_transpose", ("Transpose",), _dropping(_transpose)),
    Rule("noop_slice", ("Slice",), _dropping(_slice)),
    Rule("noop_pad", ("Pad",), _dropping(_pad)),
    Rule("single_input", ("Concat", "Sum", "Max", "Min", "Mean"), _dropping(_alone)),
    Rule("noop_expand", ("Expand",), _dropping(_expand)),
    Rule("noop_reshape", ("Reshape",), _dropping(_reshape)),
    Rule("noop_flatten", ("Flatten",), _dropping(_flatten)),
    Rule("noop_squeeze", ("Squeeze",), _dropping(_squeeze)),
    Rule("noop_unsqueeze", ("Unsqueeze",), _dropping(_unsqueeze)),
    Rule("noop_tile", ("Tile",), _dropping(_tile)),
    Rule("noop_split", ("Split",), _dropping(_split)),
    Rule("noop_pool", ("AveragePool",), _dropping(_pool)),
    Rule("noop_resize", ("Resize", "Upsample"), _dropping(_resize)),
    Rule(
        "noop_reduce",
        ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd"),
        _dropping(_reduce),
    ),
    Rule("noop_block", ("DepthToSpace", "SpaceToDepth"), _dropping(_block)),
    *arithmetic.RULES,
    *repeated.RULES,
    *casts.RULES,
)
"""In the order in which they are tried."""
