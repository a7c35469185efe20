"""Each combination of options is supported or refused with the reason."""

import pytest

from onnxopt import spec
from onnxopt.errors import SpecError


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("quant:mode=static:weights=int4", "8 bits only"),
        ("quant:mode=static:activations=int16", "no 16-bit kernel"),
        ("quant:mode=static:granularity=block", "one scale a channel"),
        ("quant:mode=static:weights=uint8", "granularity=tensor"),
        ("quant:mode=static:symmetric=false", "zero point 0"),
        ("quant:mode=dynamic:activations=int8", "uint8 only"),
        ("quant:mode=weights:activations=uint8", "no option 'activations'"),
        ("quant:mode=weights:weights=int4:granularity=tensor", "granularity=block"),
        ("quant:mode=weights:weights=int16:granularity=block", "no blocks"),
        ("quant:mode=fp16:weights=int4", "no option 'weights'"),
    ],
)
def test_refused_with_the_reason(text, reason):
    with pytest.raises(SpecError, match=reason):
        spec.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "quant",
        "quant:mode=static:activations=int8",
        "quant:mode=static:weights=uint8:granularity=tensor",
        "quant:mode=weights:weights=int4:granularity=block:block=128:symmetric=false",
        "quant:mode=weights:weights=uint8:symmetric=false",
        "quant:mode=bf16",
    ],
)
def test_supported(text):
    (item,) = spec.parse(text)
    assert spec.render(item) == text
