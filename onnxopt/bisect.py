"""Which edit of a pass is wrong."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from onnxopt.errors import PassError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SAME_RULE = 3
"""After so many wrong edits of one rule all its edits are denied."""

MOST_ASKED = 20_000_000
"""Questions after which a pass is taken to loop."""


@dataclass
class Gate:
    """Answers `Context.allow`, and remembers which edits were made.

    Attributes:
        denied: Ids that are never allowed; an entry that ends in `@` denies a whole rule.
        frozen: Paths of graphs in which nothing is allowed.
        only: If set, nothing else is allowed.
        limit: Questions after which the pass is taken to loop.
    """

    denied: frozenset[str] = frozenset()
    frozen: tuple[str, ...] = ()
    only: frozenset[str] | None = None
    limit: int = MOST_ASKED
    made: dict[str, int] = field(default_factory=dict)
    held_back: set[str] = field(default_factory=set)
    count: int = 0

    def __call__(self, edit_id: str) -> bool:
        """Say whether an edit may be made.

        Raises:
            PassError: The pass asks without end.
        """
        self.count += 1
        if self.count > self.limit:
            raise PassError(f"it asked for {self.limit} edits, last {edit_id!r}: it loops")
        if self.denied and (edit_id in self.denied or rule_of(edit_id) in self.denied):
            return False
        if self.frozen and inside(edit_id, self.frozen):
            self.held_back.add(edit_id)
            return False
        if self.only is not None and edit_id not in self.only:
            return False
        self.made[edit_id] = self.made.get(edit_id, 0) + 1
        return True

    def retract(self, edit_id: str) -> None:
        """Take note that an edit that was allowed was not made after all."""
        self.made[edit_id] -= 1
        if not self.made[edit_id]:
            del self.made[edit_id]


def rule_of(edit_id: str) -> str:
    """Return the rule of an id, with the `@` behind it."""
    return edit_id.partition("@")[0] + "@"


def inside(edit_id: str, paths: Sequence[str]) -> bool:
    """Whether an edit is in one of these graphs, or in a graph inside them."""
    return edit_id.partition("@")[2].startswith(tuple(paths))


def guilty(made: Sequence[str], fails: Callable[[frozenset[str]], bool]) -> str | None:
    """Return the edit without which the ones before it do no harm.

    Looks for the shortest prefix of `made` that fails, in log2(len) trials.

    Args:
        made: Ids in the order of the edits; allowing all of them fails.
        fails: Whether the pass does harm if only these ids are allowed.

    Returns:
        The last id of that prefix; None if the pass fails even where nothing is allowed.
    """
    if fails(frozenset()):
        return None
    low, high = 0, len(made)  # made[:low] holds, made[:high] fails
    while high - low > 1:
        middle = (low + high) // 2
        if fails(frozenset(made[:middle])):
            high = middle
        else:
            low = middle
    return made[high - 1]


def denials(culprits: Sequence[str]) -> frozenset[str]:
    """Return what to deny: the culprits, and whole rules that were wrong too often."""
    rules = Counter(map(rule_of, culprits))
    return frozenset(culprits) | {rule for rule, n in rules.items() if n >= SAME_RULE}
