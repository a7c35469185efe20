"""Whether the samples could tell the drop that a run allows, in words."""

from __future__ import annotations

from typing import Any

from onnxopt.cli import tables


def vague(proof: dict[str, Any]) -> bool:
    """Whether the interval of the drop is wider than what may be lost."""
    if proof["metric"] is None:
        return False
    return proof["drop_error"] is None or proof["drop_error"] > proof["max_drop"]


def words(proof: dict[str, Any]) -> str:
    """Return what the samples cannot tell, and how many could; empty where they can.

    Args:
        proof: `proof` of a report's JSON, of this version or an older one.
    """
    if not vague(proof):
        return ""
    if proof["drop_error"] is None:
        return "One sample cannot tell a drop from chance: give many."
    count, limit = tables.plural(proof["samples"], "sample"), f"{proof['max_drop']:g}"
    said = f"{count} cannot tell a drop below {proof['drop_error']:.4f} from none"
    foreseen = proof.get("foreseen")
    if foreseen:
        said += f" (by the margins of classes, {foreseen:.4f} is to be expected)"
    return f"{said}: {_enough(proof, limit)}"


def _enough(proof: dict[str, Any], limit: str) -> str:
    needed = proof.get("samples_needed")
    if needed is None:
        return f"the mean holds {limit}, and no more is proven."
    if needed > proof["most_scored"]:
        most = tables.number(proof["most_scored"])
        return f"{limit} takes {tables.number(needed)}, more than the {most} that are scored."
    whole = tables.number(round(needed / proof["held_out"]))
    return f"{limit} takes {tables.number(needed)} held out, so about {whole} given."
