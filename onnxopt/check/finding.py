"""What a rule is, and what it finds."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from onnxopt.check.subject import Subject

    Find = Callable[[Subject], Iterator[tuple[str, str]]]


GROUPED = 3
"""Findings of one kind in a file that are listed one by one; more are counted."""


def grouped(found: list[tuple[str, str]], summary: str) -> Iterator[tuple[str, str]]:
    """Yield a few findings as they are, many as one.

    Args:
        found: Where and what, one each.
        summary: What to say behind the number of many.
    """
    if len(found) <= GROUPED:
        yield from found
    else:
        names = ", ".join(where for where, _ in found[:GROUPED])
        yield found[0][0], f"{len(found)} {summary}: {names}, ..."


class Level(Enum):
    """How bad a finding is, in the words of SARIF.

    A note tells what could be gained or what limits the model; it alone does not fail a check.
    """

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True)
class Rule:
    """Something to look for.

    Attributes:
        code: `OPT` and three digits, never given to another rule; the first digit is the group.
        level: How bad it is.
        find: Yields (where, message) for a model; its docstring explains the rule.
        fixable: Whether an exact pass mends it.
        runtime: Whether it needs onnxruntime; it then runs only where that is asked for.
    """

    code: str
    level: Level
    find: Find
    fixable: bool = False
    runtime: bool = False

    @property
    def name(self) -> str:
        """The name of the rule in words: `dead-node`."""
        return self.find.__name__.replace("_", "-")

    @property
    def title(self) -> str:
        """One line: what is wrong."""
        return self.explanation.splitlines()[0]

    @property
    def explanation(self) -> str:
        """What is wrong, why it matters, and what to do about it."""
        return inspect.cleandoc(self.find.__doc__ or "")


@dataclass(frozen=True)
class Finding:
    """What a rule found in a model.

    Attributes:
        rule: The rule.
        path: The file.
        where: The node, tensor or setting; empty where it is the file itself.
        message: What is wrong and what to do, on one line.
    """

    rule: Rule
    path: str
    where: str
    message: str

    @property
    def fails(self) -> bool:
        """Whether it makes a check fail."""
        return self.rule.level is not Level.NOTE
