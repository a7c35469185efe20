"""Names of passes to their classes, through entry points of any installed distribution."""

from __future__ import annotations

from difflib import get_close_matches
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from onnxopt.base import Pass
from onnxopt.errors import PassError, UnknownPassError

GROUP = "onnxopt.passes"


@cache
def declared() -> tuple[EntryPoint, ...]:
    """Return the entry points of all installed distributions; reading them takes a while."""
    return tuple(entry_points(group=GROUP))


def available() -> dict[str, EntryPoint]:
    """Return every declared pass by name, sorted, not yet imported.

    Raises:
        PassError: Two distributions declare different passes of one name.
    """
    found: dict[str, EntryPoint] = {}
    for entry in sorted(declared(), key=lambda e: e.name):
        twin = found.setdefault(entry.name, entry)
        if twin.value != entry.value:
            raise PassError(
                f"two passes are named {entry.name!r}: {twin.value} and {entry.value};"
                " uninstall one of their distributions"
            )
    return found


def load(name: str) -> type[Pass]:
    """Import the pass called `name`.

    Raises:
        UnknownPassError: No distribution declares it.
        PassError: What it declares cannot be imported, or is not a `Pass` of that name.
    """
    found = available()
    if name not in found:
        near = get_close_matches(name, found, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(found) or 'none'}"
        if "=" in name:
            hint = "options follow their pass behind colons: name:option=value:option=value"
        raise UnknownPassError(f"no pass is named {name!r}; {hint}")
    entry = found[name]
    try:
        cls = entry.load()
    except (ImportError, AttributeError) as e:
        owner = entry.dist.name if entry.dist else "an unknown distribution"
        raise PassError(f"pass {name!r} of {owner} cannot be imported: {e}") from e
    if not (isinstance(cls, type) and issubclass(cls, Pass) and cls.name == name):
        raise PassError(f"{entry.value} is not a Pass named {name!r}")
    return cls
