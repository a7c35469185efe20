"""Model files without their weights: cut large `raw_data` out on reading, stream it in on writing.

A protobuf message is a row of fields, each a varint `number << 3 | wire type` and a payload; a
nested message is a payload with its length in front
(https://protobuf.dev/programming-guides/encoding). So the bytes of a weight can be left in the
mapped file, and written from there, without ever being held in a message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import onnx

    from onnxopt.model.tensors import Stored

MODEL_GRAPH = 7
GRAPH_INITIALIZER = 5
TENSOR_RAW_DATA = 9

LENGTH_DELIMITED = 2
FIXED = {1: 8, 5: 4}

Span = tuple[int, int]


class Malformed(ValueError):
    """The bytes are not a row of protobuf fields."""


class Sink(Protocol):
    """Where bytes go."""

    def write(self, data: bytes | memoryview, /) -> int:
        """Append bytes."""


def varint(buffer: memoryview, at: int) -> tuple[int, int]:
    """Read a varint; return it and where the next byte is."""
    value = shift = 0
    while True:
        if at >= len(buffer) or shift > 63:
            raise Malformed(f"no number at byte {at}")
        byte = buffer[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def encode(value: int) -> bytes:
    """Write a varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def key(number: int) -> bytes:
    """Return the key of a length-delimited field."""
    return encode(number << 3 | LENGTH_DELIMITED)


def fields(buffer: memoryview, span: Span) -> Iterator[tuple[int, Span, Span]]:
    """Yield (field number, span of the whole field, span of its payload)."""
    at, end = span
    while at < end:
        start = at
        tag, at = varint(buffer, at)
        number, kind = tag >> 3, tag & 7
        payload = at
        if kind == LENGTH_DELIMITED:
            size, payload = varint(buffer, at)
            at = payload + size
        elif kind in FIXED:
            at += FIXED[kind]
        elif kind == 0:
            _, at = varint(buffer, at)
        else:
            raise Malformed(f"field of unknown kind {kind} at byte {start}")
        if at > end:
            raise Malformed(f"field at byte {start} ends after its message")
        yield number, (start, at), (payload, at)


def split(buffer: memoryview, threshold: int) -> tuple[bytes, dict[int, Span]]:
    """Cut out `raw_data` of at least `threshold` bytes of the main graph's initializers.

    Returns:
        The file without these bytes, and for each cut initializer, by its index in
        `graph.initializer`, where its bytes are in the buffer.

    Raises:
        Malformed: The buffer is not a protobuf message.
    """
    whole = (0, len(buffer))
    graphs = [(f, p) for number, f, p in fields(buffer, whole) if number == MODEL_GRAPH]
    if len(graphs) != 1:  # no graph, or one in pieces that the parser has to merge
        return bytes(buffer), {}
    (field, payload), cut, kept = graphs[0], {}, _Kept(buffer)
    index = 0
    for number, outer, inner in fields(buffer, payload):
        if number == GRAPH_INITIALIZER:
            raw = _large_raw_data(buffer, inner, threshold)
            if raw is not None:
                cut[index] = raw[1]
                kept.message(GRAPH_INITIALIZER, inner, without=raw[0])
                index += 1
                continue
            index += 1
        kept.span(outer)
    graph = kept.bytes()
    head, tail = buffer[: field[0]], buffer[field[1] :]
    return b"".join((head, key(MODEL_GRAPH), encode(len(graph)), graph, tail)), cut


def _large_raw_data(buffer: memoryview, tensor: Span, threshold: int) -> tuple[Span, Span] | None:
    """Return the spans of the field `raw_data` and of its payload, None where it is small."""
    if tensor[1] - tensor[0] < threshold:
        return None
    found = [(f, p) for number, f, p in fields(buffer, tensor) if number == TENSOR_RAW_DATA]
    if len(found) == 1 and found[0][1][1] - found[0][1][0] >= threshold:
        return found[0]
    return None


class _Kept:
    """What remains of a message, neighbouring spans joined."""

    def __init__(self, buffer: memoryview) -> None:
        self.buffer = buffer
        self.parts: list[bytes | memoryview] = []
        self.open: Span | None = None

    def span(self, span: Span) -> None:
        if self.open is not None and self.open[1] == span[0]:
            self.open = (self.open[0], span[1])
            return
        self._close()
        self.open = span

    def message(self, number: int, payload: Span, without: Span) -> None:
        self._close()
        head = self.buffer[payload[0] : without[0]]
        tail = self.buffer[without[1] : payload[1]]
        self.parts += [key(number), encode(len(head) + len(tail)), head, tail]

    def _close(self) -> None:
        if self.open is not None:
            self.parts.append(self.buffer[self.open[0] : self.open[1]])
            self.open = None

    def bytes(self) -> bytes:
        self._close()
        return b"".join(self.parts)


def join(proto: onnx.ModelProto, weights: Mapping[str, Stored], sink: Sink) -> None:
    """Write a model whose initializers named in `weights` get their bytes from there.

    Args:
        proto: The model; initializers named in `weights` hold no data. It is not changed.
        weights: The bytes, by the name of the initializer.
        sink: Where to write; gets the fields of the graph in one piece each.
    """
    graph, rest = type(proto.graph)(), type(proto)()
    rest.CopyFrom(proto)
    graph.CopyFrom(proto.graph)
    rest.ClearField("graph")
    initializers = list(graph.initializer)
    graph.ClearField("initializer")
    chunks: list[bytes | memoryview] = [graph.SerializeToString(deterministic=True)]
    for tensor in initializers:
        stored = weights.get(tensor.name)
        raw = memoryview(b"") if stored is None else stored.raw.data
        if stored is not None:
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
        head = tensor.SerializeToString(deterministic=True)
        front = b"" if stored is None else key(TENSOR_RAW_DATA) + encode(len(raw))
        size = len(head) + len(front) + len(raw)
        chunks += [key(GRAPH_INITIALIZER) + encode(size) + head + front, raw]
    sink.write(rest.SerializeToString(deterministic=True))
    sink.write(key(MODEL_GRAPH) + encode(sum(map(len, chunks))))
    for chunk in chunks:
        sink.write(chunk)
