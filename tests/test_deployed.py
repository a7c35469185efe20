import numpy as np
import onnx.parser

from onnxopt import deployed
from onnxopt.model import Model
from onnxopt.runtime import Session, Settings

TEXT = """<ir_version: 8, opset_import: ["" : 17]>
g (float[4,8] x) => (float[4,8] y) {
   a = %s(x)
   y = Erf(a)
}"""


def _named(op):
    model = Model.from_proto(onnx.parser.parse_model(TEXT % op))
    for node in model.graph.nodes:
        node.name = f"{node.op}_here"
    return model.export()


def test_models_are_timed_node_by_node_and_in_turn(monkeypatch):
    runs = []
    run = Session.run

    def counted(self, feed):
        runs.append(id(self))
        return run(self, feed)

    monkeypatch.setattr(Session, "run", counted)
    feed = {"x": np.ones((4, 8), np.float32)}
    first, second = deployed.times([_named("Sin"), _named("Cos")], Settings(), feed, runs=3)
    assert set(first) == {"Sin_here", "Erf_here"}
    assert set(second) == {"Cos_here", "Erf_here"}
    assert all(cost.microseconds >= 0 for cost in (*first.values(), *second.values()))
    assert [c.op for c in first.values()] == ["Sin", "Erf"]
    assert len(runs) == 8
    assert len({*runs[::2]}) == len({*runs[1::2]}) == 1
    assert runs[0] != runs[1]
