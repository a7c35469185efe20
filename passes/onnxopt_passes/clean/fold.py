"""op(constants) -> constant, computed by onnxruntime as the model would have.

All nodes that depend on nothing but constants form a region (with shape arithmetic that is the
same in every run, see `shape_math.known`). It is run once, as one model, and the tensors that the
rest of the graph reads become constants.

Guards: standard ops that always give the same result, without bodies, on plain numbers; no
DequantizeLinear, whose folding undoes quantization. Sizes are known before anything runs, and no
intermediate is larger than `limit`. A tensor that a graph returns stays computed. Integer division
waits until its divisor is a constant without 0 and -1: both can take the process down.

A fold may not grow the file. Each node is credited with its own bytes, those of the constants that
only the region reads, and the credit of what it reads, shared among readers; a tensor becomes a
constant if the credit covers it. So ConstantOfShape, Expand, Tile or Range fold where the result is
small, or is reduced again within the region. Tensors of up to `FREE` bytes always do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import shape_inference

from onnxopt import match
from onnxopt.model import Model, ir, tensors
from onnxopt.model.interface import dims_of, numpy_dtype
from onnxopt.model.layout import in_order
from onnxopt.model.tensors import Packed, Sparse
from onnxopt.rewrite import edit_id, sweep
from onnxopt.runtime import CannotRun, Session, Settings
from onnxopt_passes.clean import links
from onnxopt_passes.clean.duplicates import RANDOM
from onnxopt_passes.clean.shape_math import known

if TYPE_CHECKING:
    from onnxopt.base import Context
    from onnxopt.shapes import Elements
