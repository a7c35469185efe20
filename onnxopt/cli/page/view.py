"""What the page shows, worked out from the JSON of a run."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from onnxopt.cli import doubt, tables
from onnxopt.cli.page.charts import Bar
from onnxopt.cli.page.layers import pairs, said

Facts = dict[str, Any]

SAME = 0.05
"""Ratios of latency that are nearer to 1 are no difference."""

TOP = 12
"""Kernels that are listed."""


def headline(report: Facts) -> Facts:
    """Return the verdict in words: `words`, and `mood`, which is `good`, `unproven`."""
    proof, source, result = report["proof"], report["source"], report["result"]
    words = [_size(source["bytes"], result["bytes"])]
    if report["latency"] is not None:
        words.append(_speed(report["latency"]["ratio"]))
    if not proof["proven"]:
        return {"mood": "unproven", "words": f"{', '.join(words)}, and NOT PROVEN."}
    if proof["metric"] is None:
        words.append("the same outputs")
    else:
        words.append(f"{proof['metric']} {_fell(proof['drop'])}")
    return {"mood": "good", "words": f"{', '.join(words)}."}


def _size(before: int, after: int) -> str:
    change = tables.change(before, after)
    if change == "same":
        return "Of the same size"
    return f"{change.lstrip('+-')} {'smaller' if after < before else 'larger'}"


def _speed(ratio: float) -> str:
    if abs(ratio - 1) < SAME:
        return "as fast as before"
    return f"{1 / ratio:.2f} times as fast" if ratio < 1 else f"{ratio:.2f} times as slow"


def _fell(drop: float) -> str:
    if drop > 0:
        return f"lower by {drop:.4f}"
    return "unchanged" if drop == 0 else f"higher by {-drop:.4f}"


def trust(report: Facts) -> list[Facts]:
    """Return what was checked: `ok` (True, False, or None for with care), `what` and `why`."""
    proof = report["proof"]
    runtime = report["versions"]["onnxruntime"]
    objection = proof.get("objection")
    valid = "onnx.checker with full shape inference passes."
    found = [_check(None if objection else True, "Valid", objection or valid)]
    if not proof["proven"]:
        return [*found, _check(False, "Outputs not compared", proof["reason"] or "unknown reason")]
    found.append(_check(True, "Runs", f"It loads and runs in onnxruntime {runtime}."))
    same = "Names, order, types and shapes of inputs and outputs are those of the source."
    found.append(_check(True, "Same interface", same))
    found.append(_compared(proof))
    if proof["metric"] is not None:
        found.append(_scored(proof))
    found += map(_certified, (proof.get("certificate") or {}).values())
    found.append(_timed(report["latency"]))
    if proof["unreached_branches"]:
        count = tables.plural(len(proof["unreached_branches"]), "branch", "branches")
        found.append(_check(None, "Branches", f"{count} of If nodes were reached by no input."))
    if proof["not_compared"]:
        names = ", ".join(proof["not_compared"])
        found.append(_check(None, "Random outputs", f"{names} differ from run to run."))
    return found


def _scored(proof: Facts) -> Facts:
    error = "" if proof["drop_error"] is None else f" ± {proof['drop_error']:.4f}"
    said = (
        f"{proof['metric']} {_fell(proof['drop'])}{error} on"
        f" {tables.plural(proof['samples'], 'sample')}; {proof['max_drop']:g} is allowed."
    )
    if not doubt.vague(proof):
        return _check(True, "Within the budget", said)
    return _check(None, "Within the budget, on few samples", f"{said} {doubt.words(proof)}")


def _check(ok: bool | None, what: str, why: str) -> Facts:
    return {"ok": ok, "what": what, "why": why}


def _compared(proof: Facts) -> Facts:
    given = proof["compared"] - proof["drawn"]
    ok = None if proof["synthetic"] else True
    where = f"{tables.plural(given, 'sample')} that no pass has seen, of {proof['source']}"
    if proof["synthetic"]:
        where = f"{tables.plural(given, 'input')} drawn at random"
    if proof["drawn"]:
        where += f" and {proof['drawn']} drawn to reach branches"
    drift = "no pass changed anything"
    if proof["drift"] is not None:
        floor = tables.drift(proof["noise_floor"])
        drift = f"largest difference {tables.drift(proof['drift'])}, noise floor {floor}"
        if proof["metric"] is not None:
            drift += " (lossy passes change outputs: the score decides)"
    how = "as written and as onnxruntime optimizes it"
    more = " Real samples prove more." if ok is None else ""
    return _check(ok, "Outputs compared", f"On {where}, {how}: {drift}.{more}")


def _certified(certificate: Facts) -> Facts:
    """Return what the certificate of a pass that cuts says: narrower equals masked."""
    drift, inputs = certificate.get("max_drift"), certificate.get("inputs")
    if drift is None or not inputs:
        return _check(None, "Certificate", said(certificate))
    on = tables.plural(inputs, "input")
    words = f"equals the uncut one with what went set to zero, on {on}, to {tables.drift(drift)}"
    return _check(
        True, "Cut where it was meant", f"Before layers are fitted anew, the model {words}."
    )


def _timed(latency: Facts | None) -> Facts:
    if latency is None:
        return _check(None, "Not timed", "Whether it is slower than the source is not known.")
    threads = tables.plural(latency["threads"], "thread")
    words = f"In turn with the source, {latency['runs']:,} runs each on {threads}."
    return _check(True, "Not slower", words)


def stages(report: Facts) -> dict[str, list[Bar]]:
    """Return the charts along the pipeline: `size`, `latency` and `drift`, a bar a step."""
    steps = report["steps"]
    labels = ["source", *(s["pass"] for s in steps)]
    sizes = [report["source"]["bytes"], *(s["bytes"] for s in steps)]
    found = {"Size": [_stage(n, v, tables.nbytes(v)) for n, v in zip(labels, sizes, strict=True)]}
    times = (report.get("detail") or {}).get("step_ms")
    if times:
        found["Latency"] = [
            _stage(n, v, tables.seconds(v / 1e3)) for n, v in zip(labels, times, strict=True)
        ]
    drifts = [(s["pass"], s["drift"]) for s in steps if s["drift"] is not None]
    if drifts:
        found["Drift of the outputs (logarithmic)"] = [
            _stage(name, value, tables.drift(value)) for name, value in drifts
        ]
    return found


def _stage(label: str, value: float, text: str) -> Bar:
    return Bar(label, value, text, kind="before" if label == "source" else "after")


def widths(report: Facts) -> list[Bar]:
    """Return the channels of each layer, kept of what there was; empty if none changed."""
    rows = [
        (old["name"], old["width"], new["width"])
        for old, new in pairs(report)
        if new is not None and old.get("width") and new.get("width")
    ]
    if all(before == after for _, before, after in rows):
        return []
    return [
        Bar(name, after, f"{after} of {before}", before, "after") for name, before, after in rows
    ]


def kernels(report: Facts) -> Facts | None:
    """Return where the time goes: `before` and `after`, each with `ops` (bars) and `top`."""
    profile = (report.get("detail") or {}).get("profile")
    if profile is None:
        return None
    most = max(sum(k["seconds"] for k in profile[when]) for when in ("before", "after"))
    return {when: _kernels(profile[when], when, most) for when in ("before", "after")}


def _kernels(found: list[Facts], when: str, most: float) -> Facts:
    ops: dict[str, float] = defaultdict(float)
    for kernel in found:
        ops[kernel["op"]] += kernel["seconds"]
    ranked = sorted(ops.items(), key=lambda item: -item[1])
    rows = [Bar(op, s, tables.seconds(s), None, when) for op, s in ranked[:TOP]]
    rest = sum(s for _, s in ranked[TOP:])
    if rest:
        rows.append(Bar("all others", rest, tables.seconds(rest), None, when))
    scale = [Bar("all kernels", sum(ops.values()), tables.seconds(sum(ops.values())), most, when)]
    return {"ops": scale + rows, "top": found[:TOP], "count": len(found)}


def operators(report: Facts) -> list[tuple[str, int, int]]:
    """Return how often each op occurs before and after, the commonest first."""
    before, after = (report[w]["op_histogram"] for w in ("source", "result"))
    names = sorted({*before, *after}, key=lambda n: (-before.get(n, 0), n))
    return [(n, before.get(n, 0), after.get(n, 0)) for n in names]


def graphs(report: Facts) -> Facts | None:
    """Return the nodes before and after, each marked `kept`, `gone`, `new` or `changed`."""
    nodes = (report.get("detail") or {}).get("nodes")
    if nodes is None:
        return None
    keys = {when: {_key(n): n for n in nodes[when]} for when in ("before", "after")}
    marks = {"before": ("after", "gone"), "after": ("before", "new")}
    return {
        when: [{**n, "mark": _mark(n, keys[other].get(_key(n)), alone)} for n in nodes[when]]
        for when, (other, alone) in marks.items()
    }


def _key(node: Facts) -> tuple[str, str]:
    return node["graph"], node["outputs"][0] if node["outputs"] else node["name"]


def _mark(node: Facts, other: Facts | None, alone: str) -> str:
    if other is None:
        return alone
    same = all(node.get(k) == other.get(k) for k in ("op", "inputs", "weight"))
    return "kept" if same else "changed"


def untouched(report: Facts) -> list[Facts]:
    """Return what was left alone, grouped by reason: `pass`, `reason`, `names`."""
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for item in report["untouched"]:
        groups[item["pass"], item["reason"]].append(item["name"])
    ranked = sorted(groups.items(), key=lambda item: -len(item[1]))
    return [{"pass": p, "reason": reason, "names": names} for (p, reason), names in ranked]


def undone(report: Facts) -> list[Facts]:
    """Return the edits that were wrong and undone: `pass`, `edit`, `reason`."""
    return [
        {"pass": step["pass"], "edit": edit, "reason": reason}
        for step in report["steps"]
        for edit, reason in zip(step["undone"], step["reasons"], strict=True)
    ]
