"""Read the versions of this package and of what it needs, which pyproject.toml states, from the installation."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version

NAME = "grafs-timm"
_NOT_FOR_USERS = "dev"


def own() -> str:
    """Return the installed version, or ``"unknown"`` for a copy of the source that was never installed.

    >>> own() == own()
    True
    """
    return installed(NAME) or "unknown"


def installed(name: str) -> str | None:
    """Return the version of an installed distribution, None without one; nothing is imported.

    >>> installed("no-such-distribution") is None
    True
    """
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@dataclass(frozen=True)
class Needed:
    """A distribution that this package needs.

    Args:
        name: Of the distribution.
        wanted: Its versions, such as ">=2.6".
        extra: The extra that installs it; None where the package does not work without it.
        there: The installed version; None without one.
        fits: Whether that is one of those wanted.
    """

    name: str
    wanted: str
    extra: str | None
    there: str | None
    fits: bool


def needed() -> list[Needed]:
    """Return what this package needs on this system, then what its extras install; none for a copy never installed.

    >>> {each.name for each in needed()} >= {"torch", "timm"} or own() == "unknown"
    True
    """
    from packaging.requirements import Requirement  # comes with timm

    try:
        stated = requires(NAME) or []
    except PackageNotFoundError:
        return []
    found = []
    for line in stated:
        one, extra = Requirement(line), next(iter(re.findall(r"""extra == ['"]([\w-]+)""", line)), None)
        if extra == _NOT_FOR_USERS or (one.marker and not one.marker.evaluate({"extra": extra or ""})):
            continue
        there = installed(one.name)
        fits = there is not None and one.specifier.contains(there, prereleases=True)
        found.append(Needed(one.name, str(one.specifier), extra, there, fits))
    return sorted(found, key=lambda each: (each.extra or "", each.name))
