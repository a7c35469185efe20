"""What the standard expects of 2,000 models still holds after `clean,fuse`.

Of onnx's 2,024 backend cases plain onnxruntime passes some 1,445; all of these must pass on our
result, at both optimization levels, with the interface unchanged; the others are written back
valid. Worker processes, so that a crash in native code fails one test and not the suite.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import backend

WORKERS = 2
PASSES = "clean,fuse"
CASES: list[backend.BackendCase] = []


def prepare() -> None:
    CASES.extend(backend.cases())


def judge_share(share: int) -> list[tuple[str, bool, str]]:
    return [(c.name, *backend.judge(c, PASSES)) for c in CASES[share::WORKERS]]


def test_all_backend_cases_that_onnxruntime_passes() -> None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(WORKERS, context, prepare) as pool:
        rows = [row for rows in pool.map(judge_share, range(WORKERS)) for row in rows]
    counting = [row for row in rows if row[1]]
    wrong = [(name, why) for name, _, why in rows if why]
    print(f"{len(rows)} cases, {len(counting)} pass in onnxruntime, {len(wrong)} wrong after")
    assert len(counting) > 1000
    assert wrong == []
