"""What a detector finds: boxes and their classes, decoded from the tensor that joins both.

    (batch, 4 + classes, anchors)       centre x, centre y, width, height, a score a class
    (batch, anchors, 5 + classes)       the same with a score for any object behind the box

in pixels and in 0..1, as YOLOv8 and its successors, and as YOLOv5 and v7 are exported. Scores are a
thousandth of what boxes are, so that a cosine of the whole tensor is blind to them.

A detection is a box whose score reaches 0.25 and that no better one of its class covers (IoU 0.5).
Two detections are the same if they have one class and an IoU of at least 0.5. One in doubt weighs
little:

    weight = score - 0.25
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

LEAST_SCORE = 0.25
"""Score from which on a box is a detection: the default of most programs that decode."""

OVERLAP = 0.5
"""Intersection over union from which on two boxes are one."""

PIXELS = 2.0
"""Some box is wider than this: else coordinates are shares of the image, or not decoded."""

MOST_CHANNELS = 1024

MOST_BOXES = 300
"""Detections of an image, the best ones."""


@dataclass(frozen=True)
class Found:
    """Detections of one image, the best first.

    Attributes:
        boxes: Left, top, right, bottom, float64 of shape (detections, 4).
        scores: (detections,).
        classes: int64 of shape (detections,).
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray

    @property
    def weights(self) -> np.ndarray:
        """How much each counts."""
        return self.scores - LEAST_SCORE


def layout(output: np.ndarray) -> int | None:
    """Return the axis of anchors, 1 or 2, None if an output is no table of boxes and scores."""
    if output.ndim != 3 or output.dtype.kind != "f" or not output.size:
        return None
    anchors = 1 if output.shape[1] > output.shape[2] else 2
    channels = output.shape[3 - anchors]
    if not 6 - anchors < channels <= min(MOST_CHANNELS, output.shape[anchors] - 1):
        return None
    boxes, scores = np.split(np.moveaxis(output, anchors, 1), [4], axis=2)
    sizes = boxes[..., 2:]
    plausible = (sizes >= 0).all() and sizes.max() > PIXELS
    return anchors if plausible and ((scores >= 0) & (scores <= 1)).all() else None


def split(output: np.ndarray, anchors: int) -> tuple[np.ndarray, np.ndarray]:
    """Return boxes (batch, anchors, 4) and scores (batch, anchors, classes) of a table.

    Scores are those of an object times those of its class.

    Args:
        output: The table.
        anchors: The axis of its anchors.
    """
    boxes, scores = np.split(np.moveaxis(output, anchors, 1), [4], axis=2)
    return boxes, scores if anchors == 2 else scores[..., :1] * scores[..., 1:]


def apart(output: np.ndarray, anchors: int) -> dict[str, np.ndarray]:
    """Return a table's boxes, as far as something is in them, and scores, each on its own scale."""
    boxes, scores = split(output, anchors)
    return {"boxes": boxes * scores.max(-1, keepdims=True), "scores": scores}


def detect(boxes: np.ndarray, scores: np.ndarray) -> Found:
    """Return the detections of one image: boxes (anchors, 4), scores (anchors, classes)."""
    best = scores.max(-1)
    seen = np.flatnonzero(best >= LEAST_SCORE)
    seen = seen[np.argsort(-best[seen], kind="stable")][: 4 * MOST_BOXES]
    centre, half = boxes[seen, :2].astype(np.float64), boxes[seen, 2:].astype(np.float64) / 2
    corners = np.concatenate([centre - half, centre + half], axis=1)
    classes = scores[seen].argmax(-1)
    kept: list[int] = []
    for i in range(len(seen)):
        rivals = [k for k in kept if classes[k] == classes[i]]
        if not rivals or overlaps(corners[i], corners[rivals]).max() < OVERLAP:
            kept.append(i)
    kept = kept[:MOST_BOXES]
    return Found(corners[kept], best[seen][kept].astype(np.float64), classes[kept])


def overlaps(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the intersection over union of one box, (4,), with others, (boxes, 4)."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    common = np.prod(np.maximum(high - low, 0), axis=1)
    areas = [np.prod(b[..., 2:] - b[..., :2], axis=-1) for b in (box, others)]
    union = np.asarray(areas[0] + areas[1] - common)
    found: np.ndarray = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return found


def weight(table: np.ndarray) -> float:
    """Return the weights of all that is detected in a table that `layout` knows, together."""
    anchors = layout(table)
    if anchors is None:
        return 0.0
    found = (detect(*image) for image in zip(*split(table, anchors), strict=True))
    return float(sum(image.weights.sum() for image in found))


def agreement(want: np.ndarray, got: np.ndarray) -> float:
    """Return the share of all detections, by weight, that two tables have in common.

    The mean over the batch. An image counts as one certain detection at least, so that it costs
    little to lose a doubtful one.

    Args:
        want: A table that `layout` knows.
        got: What another model makes of it; of another shape it has nothing in common.
    """
    anchors = layout(want)
    if anchors is None or want.shape != got.shape:
        return 0.0
    ours, theirs = (zip(*split(x, anchors), strict=True) for x in (want, got))
    pairs = zip(ours, theirs, strict=True)
    return float(np.mean([_shared(detect(*mine), detect(*other)) for mine, other in pairs]))


def _shared(want: Found, got: Found) -> float:
    lost = float(want.weights.sum() + got.weights.sum())
    whole = max(lost, 1 - LEAST_SCORE)
    for i, j in _matches(want, got):
        lost -= float(want.weights[i] + got.weights[j])
    return 1 - lost / whole


def _matches(want: Found, got: Found) -> Iterator[tuple[int, int]]:
    """Yield detections that are the same, each once, the best first."""
    free = np.ones(len(got.scores), bool)
    for i, box in enumerate(want.boxes):
        able = np.flatnonzero(free & (got.classes == want.classes[i]))
        if not len(able):
            continue
        found = overlaps(box, got.boxes[able])
        if found.max() >= OVERLAP:
            j = int(able[found.argmax()])
            free[j] = False
            yield i, j
