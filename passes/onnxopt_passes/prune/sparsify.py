"""Sparsify: single weights become zero, a share of them or a pattern such as 2:4.

For runtimes that have kernels for sparse weights, and for files that are compressed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from onnxopt import match
from onnxopt.base import Pass
from onnxopt.errors import SamplesError
from onnxopt.model import ir
from onnxopt.runtime import Settings
from onnxopt.statistics import linear
from onnxopt.statistics.dependence import levels
from onnxopt.statistics.grams import Moments
from onnxopt.statistics.stages import Stages
from onnxopt_passes.prune import mask

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from onnxopt.base import Context
    from onnxopt.model import Model
    from onnxopt.statistics.grams import Statistics
    from onnxopt.statistics.layer import Linear

PATTERN = re.compile(r"([1-9]\d*):([1-9]\d*)")
"""How many weights stay, of how many neighbours."""

LARGEST = 4608
"""Columns of the widest layer that is updated; its matrices take half a gigabyte."""

ROWS = 64
"""Rows of a layer that are read of one sample, at least."""

ENOUGH = 8
"""Rows that are wanted in all, for each input of a layer."""

SIZE_ONLY = (
    "onnxruntime on the CPU multiplies zeros like other numbers: no faster there, and the file gets"
    " smaller only when it is compressed"
)


@dataclass(frozen=True)
class Sparsify(Pass):
    """Set weights of Conv, Gemm and MatMul to zero, and update the others to make up for it.

    onnxruntime on the CPU gains nothing but size after compression; runtimes with sparse kernels
    gain time.

    Attributes:
        ratio: Share of each layer's weights that become zero.
        pattern: `2:4`: of every 4 neighbours along the input channels 2 stay. Overrides the ratio.
        update: `obs`: what costs least on the calibration samples becomes zero, and the other
            weights are updated; `none`: what is smallest becomes zero, the others stay.
        min_weights: Layers with fewer weights are left alone.
        exclude: Globs of node names to leave alone, separated by `+`.
    """

    name: ClassVar[str] = "sparsify"
    exact: ClassVar[bool] = False
    requires: ClassVar[tuple[str, ...]] = ("clean", "fuse")

    ratio: float = 0.5
    pattern: str | None = None
    update: Literal["obs", "none"] = "obs"
    min_weights: int = 1024
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise ValueError("ratio lies between 0 and 1")
        if self.pattern is not None:
            found = PATTERN.fullmatch(self.pattern)
            if not found or int(found[1]) >= int(found[2]):
                raise ValueError(
                    "pattern is KEPT:SIZE, such as 2:4, with fewer kept than there are"
                )

    @property
    def _sizes(self) -> tuple[int, int]:
        kept, _, size = (self.pattern or "1:1").partition(":")
        return int(kept), int(size)

    def run(self, model: Model, ctx: Context) -> int:
        """Set weights to zero, layer by layer in the order of the data flow."""
        found = linear.find_all(model.graph)
        self._name_others(model, {id(layer.node) for layer in found}, ctx)
        layers = [layer for layer in found if self._wanted(layer, ctx)]
        allowed = [layer for layer in layers if ctx.allow(f"sparsify@{layer.name}")]
        if not allowed:
            return 0
        if self.update == "none":
            for layer in allowed:
                _write(layer, mask.by_magnitude(_columns(layer), *self._choice()))
        else:
            self._update_all(model, allowed, ctx)
        ctx.evidence["zeros"] = {
            layer.name: round(float(np.mean(layer.weight.values == 0)), 4) for layer in allowed
        }
        ctx.notes.append(SIZE_ONLY)
        return len(allowed)

    def _name_others(self, model: Model, known: set[int], ctx: Context) -> None:
        """Say which nodes with large weights are no layers that can be changed."""
        for path, graph in model.graphs():
            for node in graph.nodes:
                values = [v for t in node.inputs if (v := match.constant(t)) is not None]
                large = any(v.dtype.kind == "f" and v.size >= self.min_weights for v in values)
                if large and id(node) not in known:
                    where = (
                        "in a body" if path else "shared, or no weight of a Conv, Gemm or MatMul"
                    )
                    ctx.untouched[f"{path}{ir.label(node)}"] = f"{node.op}: its weight is {where}"

    def _wanted(self, layer: Linear, ctx: Context) -> bool:
        """Whether a layer is to be changed; says why if it is not."""
        name, channels, size = layer.name, layer.shape[2] // layer.taps, self._sizes[1]
        if any(fnmatchcase(name, glob) for glob in self.exclude):
            ctx.untouched[name] = "excluded"
        elif layer.weight.values.size < self.min_weights:
            ctx.untouched[name] = f"fewer than {self.min_weights} weights"
        elif channels % size:
            ctx.untouched[name] = f"{channels} input channels are no multiple of {size}"
        else:
            return not mask.holds(_columns(layer), *self._choice())
        return False

    def _choice(self) -> tuple[Callable[[np.ndarray], np.ndarray], int]:
        """Return what chooses, and the length of its blocks."""
        if self.pattern is None:
            return mask.share(self.ratio), mask.BLOCK
        kept, size = self._sizes
        return mask.pattern(kept, size), -(-mask.BLOCK // size) * size

    def _update_all(self, model: Model, layers: Sequence[Linear], ctx: Context) -> None:
        """Choose by what it costs on the samples, with what the layers before now compute."""
        if ctx.calibration is None:
            raise SamplesError("sparsify:update=obs needs calibration data; or give update=none")
        by_node = {id(layer.node): layer for layer in layers}
        stages = [
            [by_node[id(n)] for n in level]
            for level in levels(model.graph, [layer.node for layer in layers])
        ]
        run = Stages(
            model,
            [[layer.source for layer in stage] for stage in stages],
            ctx.calibration.feeds(),
            Settings(optimize=True, threads=ctx.threads, custom_ops=ctx.custom_ops),
        )
        for number, stage in enumerate(stages):
            ctx.progress(number / len(stages))
            sums = [_Sums(layer, (ctx.seed, number, i), ctx) for i, layer in enumerate(stage)]
            for sample, values in enumerate(run.run()):
                for one, x in zip(sums, values, strict=True):
                    one.add(sample, x)
            for layer, one in zip(stage, sums, strict=True):
                self._update(layer, one, ctx)

    def _update(self, layer: Linear, sums: _Sums, ctx: Context) -> None:
        columns, found = _columns(layer), sums.found()
        if found is None:
            ctx.notes.append(f"{layer.name}: by magnitude: {sums.why}")
            _write(layer, mask.by_magnitude(columns, *self._choice()))
            return
        shifts = layer.bias is not None
        order = _order(layer)
        second = (found if shifts else found.raw()).xx[:, order[:, None], order[None, :]]
        matrix = mask.with_updates(columns, second, *self._choice())
        shift = np.einsum("goi,gi->go", columns - matrix, found.x[:, order]).reshape(-1)
        _write(layer, matrix, layer.offsets() + shift if shifts else None)


class _Sums:
    """Moments of what a layer reads; `why` says why there are none."""

    def __init__(self, layer: Linear, seed: tuple[int, ...], ctx: Context) -> None:
        self._layer, self._seed = layer, seed
        groups, _, inputs = layer.shape
        self.why = f"{inputs} columns are more than {LARGEST}" if inputs > LARGEST else ""
        self._moments = None if self.why else Moments(groups, inputs, threads=ctx.threads)
        samples = ctx.calibration.count() if ctx.calibration is not None else 0
        self._most = max(ROWS, -(-ENOUGH * inputs // max(samples, 1)))

    def add(self, sample: int, x: np.ndarray) -> None:
        """Add rows of one sample."""
        if self._moments is not None:
            picks = self._layer.pick(x.shape, self._most, (*self._seed, sample))
            self._moments.add(self._layer.rows(x, picks))

    def found(self) -> Statistics | None:
        """Return the moments; None with a reason where there are none."""
        try:
            return None if self._moments is None else self._moments.statistics()
        except ValueError as e:
            self.why = str(e)
            return None


def _order(layer: Linear) -> np.ndarray:
    """Return the columns so that neighbours are input channels under one tap of the kernel."""
    columns = np.arange(layer.shape[2]).reshape(-1, layer.taps)
    return np.concatenate(list(columns.T))


def _columns(layer: Linear) -> np.ndarray:
    return np.ascontiguousarray(layer.matrix()[:, :, _order(layer)])


def _write(layer: Linear, columns: np.ndarray, offsets: np.ndarray | None = None) -> None:
    matrix = np.empty_like(columns)
    matrix[:, :, _order(layer)] = columns
    layer.write(matrix, offsets)
