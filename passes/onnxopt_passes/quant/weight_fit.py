"""Integers of weights that are computed in float: fitted to what layers read, and fine enough.

1  rounded to nearest
2  biases that make up for the mean of the error, kept where the held-out noise falls
3  scales and integers refined on what each layer reads, kept alike; where that is not known
   (bodies, embeddings), scales of few bits by the weight alone
4  while the metric still falls too far, the weights that cost most a byte saved are stored finer:
   in 8 bits a channel, then in 16, then in float; with the steps that were kept for them

Without real samples, and with `recover=none`, only the first is done.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
import onnx_graphsurgeon as gs

from onnxopt.errors import SamplesError
from onnxopt.margins import CAUTION
from onnxopt.runtime import CannotRun, room
from onnxopt.statistics import linear, recurrent
from onnxopt_passes.quant import finer, forms, readings, recovery, scales, trial
from onnxopt_passes.quant.layer_fit import Item, LayerFit, Won
from onnxopt_passes.quant.refine import FEW_BITS
from onnxopt_passes.quant.trial import Trial

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from onnxopt.base import Context
    from onnxopt.model import Exported, Model
    from onnxopt.statistics import Linear
    from onnxopt_passes.quant import Quant
    from onnxopt_passes.quant.coded import Coded
    from onnxopt_passes.quant.forms import Form, Forms
    from onnxopt_passes.quant.layer_fit import Recovered

    Finer = Literal["int8", "int16"]

FINER: tuple[Finer | None, ...] = ("int8", "int16", None)
"""What weights that cost too much are stored in instead, in turn; None is float."""

SHARE = 0.1
"""Part of the run's budget that weights may use at least, whatever integers have used before."""


@dataclass(frozen=True)
class Fitted:
    """A weight as it is going to be stored.

    Attributes:
        form: Its form.
        coded: Its integers and scales.
        layer: The layer that reads it, None if that is no linear layer or not the only reader.
        offsets: What is added to the layer's bias, float64, one an output; None for nothing.
    """

    form: Form
    coded: Coded
    layer: Linear | None = None
    offsets: np.ndarray | None = None

    @property
    def name(self) -> str:
        """The weight's name."""
        return self.form.weight.name

    @property
    def bytes(self) -> float:
        """What its integers take."""
        return self.coded.integers.size * self.coded.grid.bits / 8


def fit(model: Model, found: Forms, options: Quant, ctx: Context, source: Exported) -> list[Fitted]:
    """Return how weights are stored; those that cannot be are left out, with a reason.

    Args:
        model: The model, unchanged when this returns.
        found: The forms that were asked for.
        options: What was asked for.
        ctx: Its calibration samples are fitted to, and tried on.
        source: The model before the pass, whose outputs are wanted: `model` may compute in
            integers already, and then is not its own measure.
    """
    plain = [Fitted(form, form.code()) for form in found.chosen]
    if not plain or options.recover == "none":
        return plain
    if ctx.calibration is None or ctx.calibration.synthetic:
        return plain
    try:
        return _Fit(model, plain, found.counts, options, ctx, source).run()
    except (CannotRun, SamplesError) as e:
        ctx.notes.append(f"weights are rounded to nearest: {e}")
        return plain


class _Fit:
    def __init__(
        self,
        model: Model,
        plain: list[Fitted],
        counts: dict[int, int],
        options: Quant,
        ctx: Context,
        source: Exported,
    ) -> None:
        assert ctx.calibration is not None  # noqa: S101  # `fit` has asked
        self.model, self.options, self.ctx, self.counts = model, options, ctx, counts
        self.samples, check = trial.parts(ctx.calibration, source, ctx.seed)
        self.trial = Trial(source, check, ctx, self.samples)
        found = [*linear.find_all(model.graph), *recurrent.find_all(model.graph)]
        layers = {id(x.weight): x for x in found}
        self.now = {
            one.name: replace(one, layer=layers.get(id(one.form.weight.tensor))) for one in plain
        }
        self.items: dict[str, Item] = {}
        self.kept: Recovered = {}

    def run(self) -> list[Fitted]:
        self._recover()
        self._hold()
        return list(self.now.values())

    def _build(self, other: Mapping[str, Fitted | None] = {}) -> Exported:  # read only
        """Return the model with what its weights would be; some of them other than now."""
        return preview(self.model, [f for f in ({**self.now, **other}).values() if f is not None])

    def _recover(self) -> None:
        """Correct biases, then refine integers, wherever held-out noise falls."""
        able = [f.layer for f in self.now.values() if f.layer is not None]
        found = readings.read(self.model, able, self.samples, self.trial.settings)
        for name, one in self.now.items():
            if one.layer is not None and id(one.layer.weight) in found:
                reading = found[id(one.layer.weight)]
                self.items[name] = Item(reading, one.coded, one.layer.biased)
        fits = LayerFit(self.items)

        def build(won: Won) -> Exported:
            return self._build(_changed(self.now, won))

        self.kept = fits.search("weights", build, self.items, self.trial, self.ctx)
        self.now |= _changed(self.now, fits.won(self.kept))
        self._rescale([name for name in self.now if name not in self.items])

    def _rescale(self, names: Collection[str]) -> None:
        """Choose scales of few bits by the weight alone, where held-out noise falls."""
        able = [self.now[n] for n in names if self.now[n].coded.grid.bits <= FEW_BITS]
        other = {
            one.name: replace(one, coded=scales.shrunk(one.form.weight.values, one.coded))
            for one in able
        }
        if not other:
            return

        def build(part: Collection[str]) -> Exported:
            return self._build({name: other[name] for name in part})

        kept = recovery.keep(scales.STEP, list(other), build, self.trial)
        kept.report(self.ctx, "weights")
        self.now |= {name: other[name] for name in kept.names}

    def _hold(self) -> None:
        """Store weights finer until the metric holds on the trying part."""
        before = self.trial.drop(self.model.export())
        limit = max(CAUTION * self.ctx.max_drop, before + SHARE * self.ctx.max_drop)
        if self.trial.drop(self._build(), limit) <= limit:
            return
        for weights in FINER:
            plain = self._finer(weights)
            if not plain:
                continue
            saved = {name: self._saved(name, plain[name]) for name in plain}
            fits = LayerFit(
                {
                    n: replace(i, plain=one.coded)
                    for n, i in self.items.items()
                    if (one := plain.get(n))
                }
            )
            found = finer.coarse(partial(self._with_finer, plain, fits), saved, self.trial, limit)
            self._replace(self._refitted(plain, fits, plain.keys() - found.names))
            if found.holds:
                return

    def _saved(self, name: str, other: Fitted | None) -> float:
        """Return the bytes that a weight takes less than in another form."""
        now = self.now[name]
        floats = now.coded.integers.size * now.form.weight.values.dtype.itemsize
        return (floats if other is None else other.bytes) - now.bytes

    def _with_finer(
        self, finer: Mapping[str, Fitted | None], fits: LayerFit, coarse: Collection[str]
    ) -> Exported:
        return self._build(self._refitted(finer, fits, finer.keys() - set(coarse)))

    def _refitted(
        self, finer: Mapping[str, Fitted | None], fits: LayerFit, names: Collection[str]
    ) -> dict[str, Fitted | None]:
        """Return finer forms of some weights, with the steps that were kept for them."""
        some = {name: one for name, one in finer.items() if name in names}
        won = fits.won({step: part & some.keys() for step, part in self.kept.items()})
        return {**some, **_changed({n: one for n, one in some.items() if one is not None}, won)}

    def _finer(self, weights: Finer | None) -> dict[str, Fitted | None]:
        """Return the forms of weights that have fewer bits now; None is float."""
        if weights is None:
            return dict.fromkeys(self.now)
        options = replace(
            self.options,
            mode="weights",
            weights=weights,
            activations="auto",
            granularity="auto",
            symmetric=True,
        )
        found: dict[str, Fitted | None] = {}
        for name, one in self.now.items():
            form = forms.form(one.form.weight, options, self.counts)
            if form.grid.bits > one.coded.grid.bits:
                found[name] = Fitted(form, form.code(), one.layer)
        return found

    def _replace(self, changed: Mapping[str, Fitted | None]) -> None:
        for name, one in changed.items():
            if one is None:
                del self.now[name]
                self.ctx.untouched[name] = "it costs too much accuracy in 16 bits"
            else:
                self.now[name] = one
        bits = sorted({f.coded.grid.bits for f in changed.values() if f is not None})
        if bits:
            self.ctx.notes.append(
                f"{len(changed)} of {len(self.now)} weights are stored in {bits[0]} bits, so that"
                " the metric holds"
            )


def _changed(now: Mapping[str, Fitted], won: Won) -> dict[str, Fitted]:
    """Return the weights that steps change, as they are then."""
    return {
        name: replace(
            now[name],
            coded=won.refined.get(name, now[name].coded),
            offsets=won.biases.get(name),
        )
        for name in {*won.biases, *won.refined}
    }


def preview(model: Model, fitted: Iterable[Fitted]) -> Exported:
    """Return a model whose weights are what integers stand for; the model itself is unchanged.

    Args:
        model: The model with its float weights.
        fitted: The weights.
    """
    held: list[tuple[gs.Constant, np.ndarray]] = []
    nodes: list[tuple[gs.Node, list[gs.Tensor]]] = []
    for one in fitted:
        constant = _holder(one.form.weight.tensor)
        held.append((constant, constant.values))
        floats = one.coded.values(room(one.coded.shape, np.float32))
        constant.values = floats.astype(constant.values.dtype, copy=False)
        if one.layer is not None and one.offsets is not None:
            nodes.append((one.layer.node, list(one.layer.node.inputs)))
            if one.layer.bias is not None:
                held.append((one.layer.bias, one.layer.bias.values))
            one.layer.write_bias(one.layer.offsets() + one.offsets)
    exported = model.export()
    for node, inputs in nodes:
        node.inputs = inputs
    for constant, values in reversed(held):
        constant.values = values
    return exported


def _holder(tensor: gs.Tensor) -> gs.Constant:
    """Return what holds a constant's values: itself, or the attribute of its node."""
    if isinstance(tensor, gs.Constant):
        return tensor
    held: gs.Constant = tensor.inputs[0].attrs["value"]
    return held
