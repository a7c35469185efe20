"""Lengths of axes that only a run shows.

Where batch and sequence are open, exporters compute shapes in ways that inference does not follow,
and heads of an attention end up on an axis of unknown length. So the model is run on inputs of
different sizes. An axis that has one length in all runs, while every open dimension of the inputs
had more than one, is taken to have it always. That is no proof: the certificate of a cut is, on
inputs of yet other sizes or values, and a group whose cut does not hold there stays whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper

from onnxopt import shapes
from onnxopt.errors import SamplesError
from onnxopt.model import Exported
from onnxopt.runtime import CannotRun, Session
from onnxopt.samples import synthetic

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from onnxopt.model import Model
    from onnxopt.model.interface import Port
    from onnxopt.runtime import Settings
    from onnxopt.samples import Feed

    Lengths = Mapping[str, tuple[int | None, ...]]
    """By the name of a tensor, the length of each axis; None where it varies."""

DRAWN = 4
"""Inputs that are drawn."""

SUFFIX = ".onnxopt_shape"
"""Of the names of outputs that are put in."""


def observe(model: Model, feeds: Iterable[Feed], settings: Settings) -> Lengths:
    """Return lengths that shape inference does not find, of tensors of the main graph.

    Args:
        model: Not changed, but shapes are inferred anew.
        feeds: Inputs of different sizes; those that the model does not run on are left out.
        settings: How it is loaded.

    Returns:
        Nothing where all lengths are known, the model cannot be run, or some open dimension of the
        inputs had one length only.
    """
    shapes.infer(model)
    exported, names = model.export_named()
    wanted = [names.get(id(t), t.name) for t in _unknown(model)]
    if not wanted:
        return {}
    try:
        session = Session(_with_shapes(exported, wanted), settings)
    except CannotRun:
        return {}
    sizes: list[dict[tuple[str, int], int]] = []
    found: list[dict[str, np.ndarray]] = []
    for feed in feeds:
        try:
            outputs = session.run(feed)
        except CannotRun:
            continue
        found.append({name: outputs[f"{name}{SUFFIX}"] for name in wanted})
        sizes.append(_open_sizes(exported.inputs, feed))
    if not sizes or any(len({s[key] for s in sizes}) < 2 for key in sizes[0]):
        return {}
    return {name: _steady([shape[name] for shape in found]) for name in wanted}


def drawn(model: Model, seed: int = 0) -> list[Feed]:
    """Return drawn inputs of different sizes; none where the interface does not allow it."""
    try:
        return list(synthetic(model.export().inputs, seed=seed, n=DRAWN).feeds())
    except SamplesError:
        return []


def _unknown(model: Model) -> list[Any]:
    """Return tensors with an axis whose length is neither known nor that of an input."""
    given = {d for t in model.graph.inputs for d in shapes.dims(t) or () if isinstance(d, str)}
    found = []
    for node in model.graph.nodes:
        for tensor in node.outputs:
            known = shapes.dims(tensor)
            if not tensor.name or shapes.dtype(tensor) is None:
                continue
            if known is None or any(not isinstance(d, int) and d not in given for d in known):
                found.append(tensor)
    return found


def _with_shapes(exported: Exported, names: Iterable[str]) -> Exported:
    """Return a model that also gives out the shapes of tensors, and nothing else of them."""
    proto = onnx.ModelProto()
    proto.CopyFrom(exported.proto)
    for name in names:
        out = f"{name}{SUFFIX}"
        proto.graph.node.append(helper.make_node("Shape", [name], [out]))
        proto.graph.output.append(helper.make_tensor_value_info(out, onnx.TensorProto.INT64, None))
    return Exported(proto, exported.weights)


def _open_sizes(inputs: Iterable[Port], feed: Feed) -> dict[tuple[str, int], int]:
    """Return the sizes that the open dimensions of the inputs have."""
    return {
        (port.name, i): size
        for port in inputs
        if port.name in feed and port.shape is not None
        for i, (dim, size) in enumerate(zip(port.shape, np.shape(feed[port.name]), strict=False))
        if not isinstance(dim, int) or dim < 0
    }


def _steady(found: list[np.ndarray]) -> tuple[int | None, ...]:
    """Return the length of each axis where it is the same in all runs."""
    if len({len(shape) for shape in found}) > 1:
        return ()
    columns = zip(*(shape.tolist() for shape in found), strict=True)
    return tuple(column[0] if len(set(column)) == 1 else None for column in columns)
