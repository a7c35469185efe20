"""All rules, and which of them run."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from onnxopt.check import (
    budgets,
    forms,
    numerics,
    portability,
    rehearsal,
    safety,
    speed,
    validity,
    waste,
)
from onnxopt.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from onnxopt.check.finding import Rule

RULES: tuple[Rule, ...] = tuple(
    sorted(
        (
            *validity.RULES,
            *portability.RULES,
            *waste.RULES,
            *speed.RULES,
            *forms.RULES,
            *rehearsal.RULES,
            *numerics.RULES,
            *safety.RULES,
            *budgets.RULES,
        ),
        key=lambda rule: rule.code,
    )
)

GROUPS = {
    "OPT0": "validity",
    "OPT1": "portability",
    "OPT2": "size and speed",
    "OPT3": "numerics",
    "OPT4": "safety",
    "OPT5": "budgets",
}


def rule(code: str) -> Rule:
    """Return the rule of a code, or of its name.

    Raises:
        SpecError: There is none.
    """
    known = {r.code: r for r in RULES} | {r.name: r for r in RULES}
    found = known.get(code.upper()) or known.get(code)
    if found is None:
        near = get_close_matches(code, known, n=1)
        hint = f"did you mean {near[0]}?" if near else "onnxopt check --explain all lists them"
        raise SpecError(f"no rule has the code {code!r}; {hint}")
    return found


def verify(codes: Iterable[str], where: str) -> None:
    """Refuse beginnings of codes that no rule has.

    Raises:
        SpecError: One fits no rule.
    """
    for code in codes:
        if code != "ALL" and not any(r.code.startswith(code) for r in RULES):
            raise SpecError(f"{where}: no rule's code begins with {code!r}")


def chosen(select: Sequence[str], ignore: Sequence[str], runtime: bool) -> list[Rule]:
    """Return the rules that run; a longer beginning of a code outweighs a shorter one.

    Args:
        select: Beginnings of codes; empty or `ALL` means all rules.
        ignore: Beginnings of codes.
        runtime: Whether rules that need onnxruntime run although nobody names them.
    """
    return [r for r in RULES if _runs(r, select, ignore, runtime)]


def _runs(rule: Rule, select: Sequence[str], ignore: Sequence[str], runtime: bool) -> bool:
    wanted = max((len(c) for c in select if rule.code.startswith(c)), default=-1)
    if not select or "ALL" in select:
        wanted = max(wanted, 0)
    against = max((len(c) for c in ignore if rule.code.startswith(c)), default=-1)
    if rule.runtime and not runtime and wanted < len(rule.code):
        return False
    return wanted > against
