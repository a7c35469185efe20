"""What a rule of `fuse` is for, as small models of the sizes that it is met in.

For rules that no real model here has a place for. Weights are drawn as in `onnxopt.testing`.
"""

from __future__ import annotations

HEAD = '<ir_version: 8, opset_import: ["" : {}]>\n'


def model(interface: str, weights: str, *nodes: str, opset: int = 17) -> str:
    """Return a model as ONNX text."""
    listed = f"<{weights}>\n" if weights else ""
    return f"{HEAD.format(opset)}g {interface}\n{listed}{{\n" + "\n".join(nodes) + "\n}"


IMAGE = "(float[1,64,56,56] x) => (float[1,64,56,56] y)"
TOKENS = "(float[1,128,384] x) => (float[1,128,384] y)"
HEADS = "(float[1,8,128,64] q, float[1,8,128,64] k, float[1,8,128,64] v) => (float[1,8,128,64] y)"
WIDE = "(float[1,128,512] q, float[1,128,512] k, float[1,128,512] v) => (float[1,128,512] y)"
MEAN_OF_SQUARES = (
    *("p = Pow(x, two)", "v = ReduceMean(p, last)", "e = Add(v, eps)", "r = Sqrt(e)"),
)

PATTERNS: dict[str, str] = {
    "group_norm": model(
        IMAGE,
        "float[64] k, float[64] b",
        "y = GroupNormalization<num_groups = 8>(x, k, b)",
        opset=21,
    ),
    "group_channels": model(
        IMAGE,
        "float[64] k, float[64] b",
        "y = GroupNormalization<num_groups = 64>(x, k, b)",
        opset=21,
    ),
    "group_affine": model(
        IMAGE,
        "int64[3] g = {0, 8, -1}, int64[4] f = {0, 64, 56, 56}, float[8] o, float[8] z, "
        "float[64,1,1] k, float[64,1,1] b",
        *("r = Reshape(x, g)", "n = InstanceNormalization(r, o, z)", "t = Reshape(n, f)"),
        *("m = Mul(t, k)", "y = Add(m, b)"),
    ),
    "instance_norm": model(
        IMAGE,
        "float[64,1,1] k, float[64,1,1] b, float eps = {0.00001}",
        *("u = ReduceMean<axes = [2, 3]>(x)", "d = Sub(x, u)", "p = Mul(d, d)"),
        *("v = ReduceMean<axes = [2, 3]>(p)", "e = Add(v, eps)", "r = Sqrt(e)", "n = Div(d, r)"),
        *("m = Mul(n, k)", "y = Add(m, b)"),
    ),
    "layer_norm": model(
        TOKENS,
        "float[384] k, float[384] b, float eps = {0.00001}",
        *("u = ReduceMean<axes = [-1]>(x)", "d = Sub(x, u)", "p = Mul(d, d)"),
        *("v = ReduceMean<axes = [-1]>(p)", "e = Add(v, eps)", "r = Sqrt(e)"),
        *("i = Reciprocal(r)", "n = Mul(d, i)", "m = Mul(n, k)", "y = Add(m, b)"),
    ),
    "norm_mean": model(
        TOKENS,
        "float[384] k, float[384] b, float eps = {0.00001}",
        *("u = ReduceMean<axes = [-1]>(x)", "d = Sub(x, u)", "p = Mul(d, d)"),
        *("v = ReduceMean<axes = [-1]>(p)", "e = Add(v, eps)", "r = Sqrt(e)"),
        *("i = Reciprocal(r)", "g = Mul(i, k)", "a = Mul(x, g)", "c = Mul(u, g)"),
        *("o = Sub(b, c)", "y = Add(a, o)"),
    ),
    "norm_weight": model(
        TOKENS,
        "float[384] k, float two = {2}, float eps = {0.00001}, int64[1] last = {-1}",
        *MEAN_OF_SQUARES,
        *("i = Reciprocal(r)", "g = Mul(i, k)", "y = Mul(x, g)"),
        opset=18,
    ),
    "rms_norm": model(
        TOKENS,
        "float[384] k, float two = {2}, float eps = {0.00001}, int64[1] last = {-1}",
        *MEAN_OF_SQUARES,
        *("i = Reciprocal(r)", "n = Mul(x, i)", "y = Mul(n, k)"),
        opset=18,
    ),
    "rms_normalization": model(
        TOKENS,
        "float[384] k, float two = {2}, float eps = {0.00001}, int64[1] last = {-1}",
        *MEAN_OF_SQUARES,
        *("n = Div(x, r)", "y = Mul(n, k)"),
        opset=23,
    ),
    "rotary": model(
        "(float[1,8,128,64] x, float[1,128,32] f) => (float[1,8,128,64] y)",
        "int64[1] one = {1}, int64[2] z = {32, 32}",
        *("ff = Concat<axis = -1>(f, f)", "c = Cos(ff)", "s = Sin(ff)"),
        *("c4 = Unsqueeze(c, one)", "s4 = Unsqueeze(s, one)", "a = Mul(x, c4)"),
        *("x1, x2 = Split<axis = 3>(x, z)", "n = Neg(x2)", "r = Concat<axis = -1>(n, x1)"),
        *("b = Mul(r, s4)", "y = Add(a, b)"),
        opset=23,
    ),
    "attention": model(
        HEADS,
        "float s = {8}",
        *("t = Transpose<perm = [0, 1, 3, 2]>(k)", "m = MatMul(q, t)", "d = Div(m, s)"),
        *("p = Softmax<axis = -1>(d)", "y = MatMul(p, v)"),
        opset=23,
    ),
    "multi_head": model(
        WIDE,
        "float s = {8}, int64[4] h = {0, 0, 8, 64}, int64[3] j = {0, 0, 512}",
        *("qr = Reshape(q, h)", "kr = Reshape(k, h)", "vr = Reshape(v, h)"),
        *(f"{c}t = Transpose<perm = [0, 2, 1, 3]>({c}r)" for c in "qv"),
        *("kt = Transpose<perm = [0, 2, 3, 1]>(kr)", "m = MatMul(qt, kt)", "d = Div(m, s)"),
        *("p = Softmax<axis = -1>(d)", "a = MatMul(p, vt)"),
        *("t = Transpose<perm = [0, 2, 1, 3]>(a)", "y = Reshape(t, j)"),
    ),
    "attention_heads": model(
        WIDE,
        "int64[4] h = {0, 0, 8, 64}, int64[3] j = {0, 0, 512}",
        *("qr = Reshape(q, h)", "kr = Reshape(k, h)", "vr = Reshape(v, h)"),
        *(f"{c}t = Transpose<perm = [0, 2, 1, 3]>({c}r)" for c in "qkv"),
        *("a = Attention(qt, kt, vt)", "t = Transpose<perm = [0, 2, 1, 3]>(a)"),
        "y = Reshape(t, j)",
        opset=23,
    ),
    "transpose_batch": model(
        "(float[1,8,128,64] x, float[1,8,128,64] z) => (float[1,8,128,128] y)",
        "int64[3] a = {-1, 128, 64}, int64[4] b = {1, 8, 64, 128}",
        *("f = Reshape(x, a)", "t = Transpose<perm = [0, 2, 1]>(f)", "k = Reshape(t, b)"),
        "y = MatMul(z, k)",
    ),
    "residual_gate": model(
        "(float[1,96,80,80] x, float[1,96,1,1] g) => (float[1,96,80,80] y)",
        "",
        *("p = Mul(x, g)", "y = Add(x, p)"),
    ),
    "softmax_axis": model(
        "(float[1,16,4,2100] x) => (float[1,16,4,2100] y)", "", "y = Softmax<axis = 1>(x)"
    ),
    "conv_1d": model(
        "(float[1,64,500] x) => (float[1,64,500] y)",
        "float[64,1,15] v, float[64,64,1] w, float[64] b",
        *("c = Conv<group = 64, pads = [7, 7]>(x, v)", "r = Relu(c)", "y = Conv(r, w, b)"),
    ),
    "split_conv": model(
        "(float[1,64,40,40] x) => (float[1,64,40,40] y)",
        "float[64,64,1,1] w, float[32,32,3,3] v, float[64,96,1,1] u",
        *("c = Conv(x, w)", "p, q = Split<axis = 1>(c)", "d = Conv<pads = [1, 1, 1, 1]>(q, v)"),
        *("s = Concat<axis = 1>(p, q, d)", "y = Conv(s, u)"),
    ),
    "slices_split": model(
        "(float[1,128,1152] x) => (float[1,128,384] a, float[1,128,384] b, float[1,128,384] c)",
        "int64[1] o = {0}, int64[1] p = {384}, int64[1] q = {768}, int64[1] r = {1152}, "
        "int64[1] k = {2}",
        *("a = Slice(x, o, p, k)", "b = Slice(x, p, q, k)", "c = Slice(x, q, r, k)"),
    ),
    "einsum_matmul": model(
        "(float[1,128,8,32] q, float[1,128,8,32] k) => (float[1,8,128,128] y)",
        "",
        'y = Einsum<equation = "bihd,bjhd->bhij">(q, k)',
    ),
    "expand_broadcast": model(
        "(float[1,64,1] x, float[8,64,256] z) => (float[8,64,256] y)",
        "int64[3] s = {8, 64, 256}",
        *("e = Expand(x, s)", "y = Add(e, z)"),
    ),
    "transpose_matmul": model(
        "(float[128,256] x, float[256,256] w) => (float[128,256] y)",
        "",
        *("t = Transpose<perm = [1, 0]>(w)", "y = MatMul(x, t)"),
    ),
    "transpose_gemm": model(
        "(float[128,256] x, float[256,256] w, float[256] b) => (float[128,256] y)",
        "",
        *("t = Transpose<perm = [1, 0]>(w)", "y = Gemm(x, t, b)"),
    ),
    "double_qdq": model(
        "(float[1,64,56,56] x) => (float[1,64,56,56] y)",
        "float s = {0.05}, uint8 z = {128}",
        *("a = QuantizeLinear(x, s, z)", "b = DequantizeLinear(a, s, z)"),
        *("c = QuantizeLinear(b, s, z)", "y = DequantizeLinear(c, s, z)"),
    ),
    "unroll": model(
        "(float[1,64] x) => (float[1,64] y)",
        "int64 n = {2}, bool go = {1}, float[64,64] w",
        "y = Loop (n, go, x) <body = b (int64 i, bool ci, float[1,64] a) => (bool co, "
        "float[1,64] o) { co = Identity(ci) t = MatMul(a, w) o = Tanh(t) }>",
    ),
    "mish": model(IMAGE, "", "p = Softplus(x)", "t = Tanh(p)", "y = Mul(x, t)"),
    "softplus": model(IMAGE, "", "y = Softplus(x)"),
    "elu": model(IMAGE, "", "y = Elu(x)"),
    "prelu": model(IMAGE, "float[64,1,1] a", "y = PRelu(x, a)"),
    "cube": model(TOKENS, "float k = {3}", "y = Pow(x, k)"),
    "pow": model(TOKENS, "float k = {2}", "y = Pow(x, k)"),
    "div": model(TOKENS, "float k = {3}", "y = Div(x, k)"),
    "norm": model(
        "(float[128,384] x) => (float[128,1] y)", "", "y = ReduceL2<axes = [-1], keepdims = 1>(x)"
    ),
    "residual_sum": model(
        "(float[1,128,384] x, float[1,128,384] z) => (float[1,128,384] y)",
        "float[384] w, float[384] b",
        *("s = Add(x, z)", "y = LayerNormalization(s, w, b)"),
    ),
    "gelu_order": model(
        TOKENS,
        "float r = {1.4142135}, float one = {1}, float half = {0.5}",
        *("d = Div(x, r)", "e = Erf(d)", "p = Add(e, one)", "h = Mul(p, half)", "y = Mul(h, x)"),
    ),
    "gelu": model(
        TOKENS,
        "float r = {1.4142135}, float one = {1}, float half = {0.5}",
        *("d = Div(x, r)", "e = Erf(d)", "p = Add(e, one)", "h = Mul(p, half)", "y = Mul(h, x)"),
        opset=20,
    ),
    "hard_swish": model(
        IMAGE,
        "float a = {3}, float o = {0}, float b = {6}",
        *("p = Add(x, a)", "c = Clip(p, o, b)", "m = Mul(x, c)", "y = Div(m, b)"),
    ),
    "hard_sigmoid": model(
        IMAGE,
        "float a = {3}, float o = {0}, float b = {6}",
        *("p = Add(x, a)", "c = Clip(p, o, b)", "y = Div(c, b)"),
    ),
    "relu": model(IMAGE, "float o = {0}", "y = Max(x, o)"),
    "leaky_where": model(
        IMAGE,
        "float a = {0.1}, float o = {0}",
        *("g = Greater(x, o)", "m = Mul(x, a)", "y = Where(g, x, m)"),
    ),
    "leaky_relus": model(
        IMAGE,
        "float a = {-0.1}",
        *("r = Relu(x)", "n = Neg(x)", "q = Relu(n)", "m = Mul(q, a)", "y = Add(r, m)"),
    ),
    "sigmoid": model(
        IMAGE,
        "float one = {1}",
        *("n = Neg(x)", "e = Exp(n)", "p = Add(e, one)", "y = Div(x, p)"),
    ),
    "elu_where": model(
        IMAGE,
        "float o = {0}, float one = {1}",
        *("g = Greater(x, o)", "s = Where(g, o, x)", "e = Exp(s)", "m = Sub(e, one)"),
        "y = Where(g, x, m)",
    ),
    "rotary_split": model(
        "(float[1,8,128,64] x, float[1,1,128,32] c, float[1,1,128,32] s) => (float[1,8,128,64] y)",
        "int64[2] z = {32, 32}",
        *("x1, x2 = Split<axis = 3>(x, z)", "a = Mul(x1, c)", "b = Mul(x2, s)", "d = Sub(a, b)"),
        *("e = Mul(x2, c)", "f = Mul(x1, s)", "h = Add(e, f)", "y = Concat<axis = 3>(d, h)"),
        opset=23,
    ),
    "rotary_part": model(
        "(float[1,8,128,64] x, float[1,128,16] c, float[1,128,16] s) => (float[1,8,128,64] y)",
        "int64[2] z = {32, 32}",
        *("x1, x2 = Split<axis = 3>(x, z)", "r = RotaryEmbedding(x1, c, s)"),
        "y = Concat<axis = 3>(r, x2)",
        opset=23,
    ),
    "zero_state": model(
        "(float[20,1,64] x) => (float[20,1,1,128] y)",
        "float[1,512,64] w, float[1,512,128] r, int64[3] d = {1, 1, 128}",
        "z = ConstantOfShape(d)",
        "y = LSTM<hidden_size = 128>(x, w, r, , , z, z)",
    ),
    "leaky_prelu": model(IMAGE, "float[1] a = {0.1}", "y = PRelu(x, a)"),
    "leaky_max": model(IMAGE, "float a = {0.1}", "m = Mul(x, a)", "y = Max(x, m)"),
    "clip": model(IMAGE, "float a = {0}, float b = {6}", "m = Max(x, a)", "y = Min(m, b)"),
    "conv_bn": model(
        IMAGE,
        "float[64,64,3,3] w, float[64] s, float[64] b, float[64] mean, float[64] var",
        "c = Conv<pads = [1, 1, 1, 1]>(x, w)",
        "y = BatchNormalization(c, s, b, mean, var)",
    ),
    "conv_affine": model(
        IMAGE,
        "float[64,64,3,3] w, float a = {0.7}, float b = {0.2}",
        *("c = Conv<pads = [1, 1, 1, 1]>(x, w)", "m = Mul(c, a)", "y = Add(m, b)"),
    ),
    "pad_conv": model(
        IMAGE,
        "float[64,64,3,3] w, int64[8] p = {0, 0, 1, 1, 0, 0, 1, 1}",
        *("a = Pad(x, p)", "y = Conv(a, w)"),
    ),
    "matmul_affine": model(
        TOKENS, "float[384,384] w, float[384] k", "m = MatMul(x, w)", "y = Mul(m, k)"
    ),
    "matmul_bn": model(
        "(float[128,384] x) => (float[128,384] y)",
        "float[384,384] w, float[384] s, float[384] b, float[384] mean, float[384] var",
        *("c = MatMul(x, w)", "y = BatchNormalization(c, s, b, mean, var)"),
    ),
    "linear_chain": model(
        TOKENS, "float[384,384] v, float[384,384] w", "m = MatMul(x, v)", "y = MatMul(m, w)"
    ),
    "affine_chain": model(
        TOKENS, "float a = {0.7}, float b = {0.2}", "m = Mul(x, a)", "y = Mul(m, b)"
    ),
    "affine_forward": model(
        IMAGE,
        "float[64,64,3,3] w, float[1,64,1,1] k",
        *("m = Mul(x, k)", "y = Conv<pads = [1, 1, 1, 1]>(m, w)"),
    ),
    "affine_back": model(
        IMAGE,
        "float[64,64,3,3] w, float k = {0.7}",
        *("c = Conv<pads = [1, 1, 1, 1]>(x, w)", "r = Relu(c)", "y = Mul(r, k)"),
    ),
    "affine_pool": model(
        "(float[1,64,56,56] x) => (float[1,64,1,1] y)",
        "float[1,64,1,1] k",
        *("m = Mul(x, k)", "y = GlobalAveragePool(m)"),
    ),
}
"""By the name of the rule."""

CONTRIB_HEAD = '<ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1]>\n'
HIDDEN = "g (float[1,128,1536] x, float[1,128,1536] z) => (float[1,128,1536] y)\n"
SCALES = "<float[1536] w, float[1536] b, float k = {1.702}, float o = {1e-5}>\n"


def _pair(standard: str, contrib: str) -> tuple[str, str]:
    """Return two models of one function, something before and behind it."""
    before, after = (
        f"{CONTRIB_HEAD}{HIDDEN}{SCALES}{{ r = Relu(x) q = Relu(z) {body} y = Relu(t) }}"
        for body in (standard, contrib)
    )
    return before, after


CONTRIB: dict[str, tuple[str, str]] = {
    "SiLU": _pair("s = Sigmoid(r) t = Mul(r, s)", "t = com.microsoft.QuickGelu<alpha = 1.0>(r)"),
    "QuickGelu": _pair(
        "m = Mul(r, k) s = Sigmoid(m) t = Mul(r, s)",
        "t = com.microsoft.QuickGelu<alpha = 1.702>(r)",
    ),
    "BiasGelu": _pair("m = Add(r, b) t = Gelu(m)", "t = com.microsoft.BiasGelu(r, b)"),
    "FastGelu": _pair(
        'm = Add(r, b) t = Gelu<approximate = "tanh">(m)', "t = com.microsoft.FastGelu(r, b)"
    ),
    "SkipLayerNormalization": _pair(
        "m = Sum(r, q) t = LayerNormalization(m, w, b)",
        "t = com.microsoft.SkipLayerNormalization(r, q, w, b)",
    ),
}
"""Standard ops, and what onnxruntime has of its own for them: no rule writes these."""
