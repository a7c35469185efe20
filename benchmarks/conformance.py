"""onnx's 2,024 backend cases through each tool.

The cases that plain onnxruntime passes (ORT_DISABLE_ALL) count. Of each it is asked whether the
tool's result still gives what the standard expects, at ORT_DISABLE_ALL and at ORT_ENABLE_ALL, with
the inputs that have no default and the outputs as they were. onnxopt runs whole,
`optimize(model, passes="clean,fuse")` with its proof on drawn inputs; that it refuses with an
`OnnxoptError` is no crash, but no match either. Exceptions are counted over all cases. Each tool
works in processes of its own.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tools
from tables import progress, table
from worker import Worker

if TYPE_CHECKING:
    import onnx

TESTS = str(Path(__file__).parent.parent / "tests")
KINDS = ("match", "refused", "raises", "interface changed", "wrong", "crashed", "too slow")


@cache
def _cases() -> list[Any]:
    """All cases, as the project's tests read them."""
    sys.path.insert(0, TESTS)
    from backend import cases

    found: list[Any] = cases()
    return found


def count() -> int:
    """Return the number of cases."""
    return len(_cases())


def _onnxopt(model: onnx.ModelProto) -> Any:
    import onnxopt

    return onnxopt.optimize(model, passes=tools.PASSES, timing=False).model


def _onnxslim(model: onnx.ModelProto) -> Any:
    import onnxslim

    made = onnxslim.slim(copy.deepcopy(model))
    if made is None:
        raise RuntimeError("it returns nothing")
    return made


def _onnxsim(model: onnx.ModelProto) -> Any:
    import onnxsim

    return onnxsim.simplify(copy.deepcopy(model))[0]


def _onnxscript(model: onnx.ModelProto) -> Any:
    from onnxscript import optimizer

    return optimizer.optimize(copy.deepcopy(model))


CALLS = {
    "onnxopt": _onnxopt,
    "onnxslim": _onnxslim,
    "onnxsim": _onnxsim,
    "onnxscript": _onnxscript,
}


def known(index: int) -> tuple[str, bool]:
    """Return a case's name, and whether plain onnxruntime passes it."""
    case = _cases()[index]
    from backend import holds

    return case.name, not holds(case, case.model, optimize=False)


def _interface(graph: onnx.GraphProto) -> list[str]:
    """Return the names of what a caller has to give, and of what it gets."""
    held = {t.name for t in graph.initializer}
    return [v.name for v in (*graph.input, *graph.output) if v.name not in held]


def judge(tool: str, index: int) -> tuple[str, bool, str, str]:
    """Return a case's name, whether it counts, one of `KINDS`, and what is wrong."""
    name, counts = known(index)
    case = _cases()[index]
    from backend import holds

    from onnxopt.errors import OnnxoptError

    try:
        model = CALLS[tool](case.model)
    except OnnxoptError as e:
        return name, counts, "refused", f"{type(e).__name__}: {e}"
    except Exception as e:  # noqa: BLE001  # that is what is counted
        return name, counts, "raises", f"{type(e).__name__}: {e}"
    before, after = _interface(case.model.graph), _interface(model.graph)
    if before != after:
        return name, counts, "interface changed", f"{before} -> {after}"
    for optimize in (False, True) if counts else ():
        if wrong := holds(case, model, optimize=optimize):
            return name, counts, "wrong", wrong
    return name, counts, "match", ""


def share(tool: str, shares: int, part: int) -> list[tuple[str, bool, str, str]]:
    """Judge every so-manieth case in a process that is started anew where it dies."""
    rows = []
    with Worker() as worker:
        worker.ask(tools.import_all, tool)
        for index in range(part, worker.ask(count).value, shares):
            answer = worker.ask(judge, tool, index, patience=120.0)
            if answer.error:
                kind = answer.error if answer.error in KINDS else "raises"
                name, counts = worker.ask(known, index).value
                rows.append((name, counts, kind, answer.error))
            else:
                rows.append(answer.value)
    return rows


def main() -> None:
    """Judge all cases by all tools, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tools", nargs="+", choices=tools.FILES, default=list(tools.FILES))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--verbose", action="store_true", help="name what goes wrong, on stderr")
    options = parser.parse_args()
    table_rows = []
    for tool in options.tools:
        progress("conformance", tool)
        with ThreadPoolExecutor(options.workers) as pool:
            parts = pool.map(partial(share, tool, options.workers), range(options.workers))
            rows = list(chain.from_iterable(parts))
        counted = Counter(kind for _, counts, kind, _ in rows if counts)
        raised = sum(kind in ("raises", "crashed", "too slow") for _, _, kind, _ in rows)
        table_rows.append([tool, sum(counted.values()), *(counted[k] for k in KINDS), raised])
        for name, counts, kind, why in rows if options.verbose else ():
            if kind != "match":
                progress(tool, name, "counts" if counts else "-", kind, " ".join(why.split()))
    print(__doc__)
    print(table(["tool", "cases that count", *KINDS, "raises or crashes, of all"], table_rows))


if __name__ == "__main__":
    main()
