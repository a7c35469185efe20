"""What every pass must satisfy, ours or a third party's.

A case is a text file: ONNX text (https://onnx.ai/onnx/repo-docs/Syntax.html) with a header.

    # run:    clean
    # expect: Identity -1
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N,3,8,8] x) => (float[N,4,6,6] y) <float[4,3,3,3] w>
    {
       c = Conv(x, w)
       y = Identity(c)
    }

`run` is a pipeline. `expect` lists by how much the count of each op changes; `nothing` says that no
edit is made, `rewired` that edits are made and all counts stay.
Names in the list of types that no node produces become initializers with seeded random values,
positive where the name contains `var`. `# inputs: N=2 M=5` binds symbols; by default several
bindings are tried. `# target: ort-cpu` runs the passes for that target.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx.parser

from onnxopt import cost, spec
from onnxopt.base import Context, Pass
from onnxopt.bisect import Gate
from onnxopt.model import Exported, Model
from onnxopt.model.interface import numpy_dtype
from onnxopt.parity import Tolerance
from onnxopt.runtime import CannotRun, Session, Settings
from onnxopt.samples import synthetic

if TYPE_CHECKING:
    from collections.abc import Iterator

SAMPLES = 4
ATTEMPTS = 24
"""Bindings of symbols that are tried to find inputs the model accepts."""


@dataclass(frozen=True)
class Case:
    """A parsed case.

    Attributes:
        passes: What to run.
        expect: Op -> change of its count.
        edited: Whether there are edits.
        model: The model, weights filled in.
        symbols: Sizes of symbolic dimensions; empty to try several.
        target: What the passes are run for.
    """

    passes: tuple[Pass, ...]
    expect: dict[str, int]
    edited: bool
    model: onnx.ModelProto
    symbols: dict[str, int] = field(default_factory=dict)
    target: str = "portable"


def parse_case(text: str) -> Case:
    """Read a case.

    Raises:
        ValueError: The header lacks `run` or `expect`, or has something else.
    """
    header: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.lstrip("# ").partition(":")
        if line.startswith("#") and colon and key in ("run", "expect", "inputs", "target"):
            header[key] = value.strip()
    if not {"run", "expect"} <= header.keys():
        raise ValueError("a case needs lines `# run:` and `# expect:`")
    words = [] if header["expect"] in ("nothing", "rewired") else header["expect"].split(",")
    expect = {op: int(n) for op, n in (w.split() for w in words)}
    bindings = header.get("inputs", "").replace(",", " ").split()
    symbols = dict(pair.split("=") for pair in bindings)
    model = fill(onnx.parser.parse_model(text))
    sizes = {k: int(v) for k, v in symbols.items()}
    target = header.get("target", "portable")
    edited = header["expect"] != "nothing"
    return Case(spec.parse(header["run"]), expect, edited, model, sizes, target)


def fill(model: onnx.ModelProto, seed: int = 0) -> onnx.ModelProto:
    """Give listed names that nothing produces seeded random values, as initializers."""
    rng = np.random.default_rng(seed)
    graph = model.graph
    known = {o for n in graph.node for o in n.output} | {t.name for t in graph.initializer}
    types = list(graph.value_info)
    del graph.value_info[:]
    for value in types:
        if value.name in known:
            graph.value_info.append(value)
            continue
        dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
        dtype = numpy_dtype(value.type.tensor_type.elem_type)
        if dtype is None:
            raise ValueError(f"{value.name!r} has no element type")
        values = _random(rng, dims, dtype)
        if "var" in value.name:
            values = np.abs(values) + np.asarray(0.5, values.dtype)
        graph.initializer.append(onnx.numpy_helper.from_array(values, value.name))
    return model


def _random(rng: np.random.Generator, dims: list[int], dtype: np.dtype) -> np.ndarray:
    if dtype.kind == "O":
        return np.full(dims, "text", object)
    if dtype.kind == "b":
        return rng.random(dims) < 0.5
    if dtype.kind in "iu":
        return rng.integers(0, 3, dims).astype(dtype)
    return rng.normal(0, 0.5, dims).astype(dtype)


def check_case(text: str) -> None:
    """Assert all that a pass promises, on one case.

    The ops change as expected; the result passes onnx.checker with full shape inference; outputs
    are equal up to rounding at ORT_DISABLE_ALL and ORT_ENABLE_ALL; the number of edits is honest;
    a second run finds nothing; two runs give the same bytes.

    Raises:
        AssertionError: It breaks a promise.
    """
    case = parse_case(text)
    before = Model.from_proto(case.model).export()
    after, edits = apply(case.passes, before, case.target)
    again, _ = apply(case.passes, before, case.target)
    settled, more = apply(case.passes, after, case.target)

    assert _bytes(after) == _bytes(again), "two runs give different bytes"
    changed = _bytes(after) != _bytes(before)
    assert changed == bool(edits), f"it reports {edits} edits; the model changed: {changed}"
    assert case.edited == bool(edits), f"it makes {edits} edits"
    assert more == 0, f"a second run makes {more} edits"
    assert _bytes(settled) == _bytes(after), "a second run changes the model"
    _expect(case.expect, before, after)
    onnx.checker.check_model(after.whole(), full_check=True)
    assert before.proto.graph.input == after.proto.graph.input, "the inputs changed"
    assert before.proto.graph.output == after.proto.graph.output, "the outputs changed"
    if all(p.exact for p in case.passes):
        assert_parity(before, after, case.symbols)


def apply(
    passes: tuple[Pass, ...], exported: Exported, target: str = "portable"
) -> tuple[Exported, int]:
    """Run passes without proof; return the result and how many edits were made."""
    model = Model.from_exported(exported)
    total = 0
    for item in passes:
        gate = Gate()
        context = Context(
            target=target, allow=gate, retract=gate.retract, source_bytes=exported.nbytes
        )
        edits = item.run(model, context)
        assert bool(edits) == bool(gate.made), f"{edits} edits, but it asked for {list(gate.made)}"
        total += edits
        model = Model.from_exported(model.export())
    return model.export(), total


def assert_parity(before: Exported, after: Exported, symbols: dict[str, int] | None = None) -> None:
    """Assert that two models give the same outputs up to rounding, at both levels.

    Raises:
        AssertionError: They differ, or no inputs can be found that the first model runs on.
    """
    written, optimized = Settings(), Settings(optimize=True)
    reference, tolerance = Session(before, written), Tolerance()
    deployed = Session(before, optimized)
    runs = []
    for feed in _feeds(before, symbols or {}):
        try:
            want = reference.run(feed)
            tolerance.learn(want, deployed.run(feed))
        except CannotRun:
            continue
        runs.append((feed, want))
        if len(runs) == SAMPLES:
            break
    assert runs, "the model runs on no inputs that were tried"
    for settings in (written, optimized):
        session = Session(after, settings)
        for feed, want in runs:
            drift, guilty = tolerance.breach(want, session.run(feed))
            level = "ORT_ENABLE_ALL" if settings.optimize else "ORT_DISABLE_ALL"
            assert guilty is None, f"{level}: {guilty} (drift {drift:.3g})"


def _feeds(exported: Exported, symbols: dict[str, int]) -> Iterator[dict[str, Any]]:
    pool = {name: [size] for name, size in symbols.items()}
    samples = synthetic(exported.inputs, n=ATTEMPTS, pool=pool or None)
    yield from (s.feed for s in samples)


def _expect(expect: dict[str, int], before: Exported, after: Exported) -> None:
    old, new = (Counter(cost.measure(m).ops) for m in (before, after))
    delta = {op: new[op] - old[op] for op in sorted({*old, *new}) if new[op] != old[op]}
    assert delta == expect, f"ops changed by {delta}, not {expect}"


def _bytes(exported: Exported) -> bytes:
    return bytes(exported.whole().SerializeToString(deterministic=True))
