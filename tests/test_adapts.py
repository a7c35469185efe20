"""Passes that choose how far to go, where what they choose does not hold on held-out samples."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import onnx
import onnx.parser
import pytest

import onnxopt
from onnxopt.base import Pass
from onnxopt.errors import BudgetError

if TYPE_CHECKING:
    from onnxopt import Context, Model


@dataclass(frozen=True)
class Greedy(Pass):
    """Loses `times` as much as it is allowed to."""

    name: ClassVar[str] = "greedy"
    exact: ClassVar[bool] = False

    times: float = 1.0
    listens: bool = True
    tries: list[float] = field(default_factory=list, compare=False)

    @property
    def adapts(self) -> bool:
        return self.listens

    def run(self, model: Model, ctx: Context) -> int:
        self.tries.append(ctx.max_drop)
        if not ctx.allow("all"):
            return 0
        scale = model.graph.nodes[0].inputs[1]
        scale.values = np.float32(1 - self.times * ctx.max_drop)
        return 1


SCALED = """<ir_version: 8, opset_import: ["" : 17]>
g (float[1,8] x) => (float[1,8] y) <float s = {1}> { y = Mul(x, s) }"""


def size(outputs, reference, label) -> float:
    """Return how large the output is beside the source's."""
    return float(outputs["y"].sum() / reference["y"].sum())


def _greedy(item: Greedy) -> onnxopt.Result:
    feeds = [{"x": np.full((1, 8), i + 1, np.float32)} for i in range(20)]
    return onnxopt.optimize(
        onnx.parser.parse_model(SCALED),
        (item,),
        feeds,
        max_drop=0.1,
        metric=f"{__name__}:size",
        timing=False,
    )


def test_a_pass_that_adapts_is_made_to_lose_less_where_its_choice_does_not_hold() -> None:
    item = Greedy(times=1.5)
    step = _greedy(item).report["steps"][0]
    assert item.tries == [0.1, 0.05]
    assert (
        "it was made to lose no more than 0.05: with more, tests.test_adapts:size falls by 0.15"
        in str(step)
    )


def test_a_pass_is_made_to_lose_less_twice_and_no_more() -> None:
    item = Greedy(times=5.0)
    with pytest.raises(BudgetError, match=r"greedy: tests.test_adapts:size falls by 0\.12"):
        _greedy(item)
    assert item.tries == [0.1, 0.05, 0.025]


def test_a_pass_that_does_not_adapt_is_tried_once() -> None:
    item = Greedy(times=1.5, listens=False)
    with pytest.raises(BudgetError):
        _greedy(item)
    assert item.tries == [0.1]
