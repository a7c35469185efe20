"""What the standard expects of 2,000 models still holds after `clean,fuse`.

Of onnx's 2,024 backend cases plain onnxruntime 1.32 passes 1,625; all of these must pass on our
result, at both optimization levels, with the interface unchanged; the others are written back
valid. Worker processes, so that a crash in native code fails one test and not the suite.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import backend

WORKERS = 2
RUNS = (("clean,fuse", "portable"), ("clean,fuse:timed=false", "ort-cpu"))
"""Passes and target; the rules of ort-cpu all kept, whether they are faster here or not."""

CASES: list[backend.BackendCase] = []


def prepare() -> None:
    CASES.extend(backend.cases())


def judge_share(share: int) -> list[tuple[str, str, bool, str]]:
    return [
        (target, case.name, *backend.judge(case, passes, target))
        for case in CASES[share::WORKERS]
        for passes, target in RUNS
    ]


def test_all_backend_cases_that_onnxruntime_passes() -> None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(WORKERS, context, prepare) as pool:
        rows = [row for rows in pool.map(judge_share, range(WORKERS)) for row in rows]
    counting = {name for _, name, counts, _ in rows if counts}
    wrong = [(target, name, why) for target, name, _, why in rows if why]
    print(f"{len(counting)} pass in onnxruntime, {len(wrong)} wrong after")
    assert len(counting) > 1000
    assert wrong == []
