"""Graphs under construction, for networks with random weights."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Net:
    """A graph under construction; methods return names of tensors."""

    def __init__(self, *shape, seed=0):
        self.rng = np.random.default_rng(seed)
        self.nodes, self.held = [], []
        self.inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))]

    def const(self, values):
        name = f"w{len(self.held)}"
        self.held.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def weight(self, *shape):
        scale = 1 / np.sqrt(max(1, np.prod(shape[1:])))
        return self.const((self.rng.normal(size=shape) * scale).astype(np.float32))

    def op(self, kind, *inputs, outputs=1, **attrs):
        names = [f"t{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(
            helper.make_node(kind, list(inputs), names, f"n{len(self.nodes)}", **attrs)
        )
        return names[0] if outputs == 1 else names

    def ints(self, *values):
        return self.const(np.array(values, np.int64))

    def reshape(self, x, *shape):
        return self.op("Reshape", x, self.ints(*shape))

    def conv(self, x, cin, cout, k=3, group=1, **attrs):
        w, b = self.weight(cout, cin // group, k, k), self.weight(cout)
        return self.op("Conv", x, w, b, group=group, pads=[k // 2] * 4, **attrs)

    def relu(self, x):
        return self.op("Relu", x)

    def norm(self, x, c):
        parts = [self.weight(c), self.weight(c), self.weight(c)]
        var = self.const((self.rng.random(c) + 0.5).astype(np.float32))
        return self.op("BatchNormalization", x, *parts, var)

    def linear(self, x, cin, cout):
        return self.op("Add", self.op("MatMul", x, self.weight(cin, cout)), self.weight(cout))

    def layer_norm(self, x, c):
        return self.op("LayerNormalization", x, self.weight(c), self.weight(c), axis=-1)

    def head(self, x, c, classes=10):
        x = self.op("Flatten", self.op("GlobalAveragePool", x))
        return self.op("Gemm", x, self.weight(c, classes), self.weight(classes))

    def build(self, *outputs):
        made = [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs]
        graph = helper.make_graph(self.nodes, "g", self.inputs, made, self.held)
        opset = [helper.make_opsetid("", 17)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=8)
        inferred = onnx.shape_inference.infer_shapes(model).graph
        for value, found in zip(model.graph.output, inferred.output, strict=True):
            value.CopyFrom(found)
        return model
