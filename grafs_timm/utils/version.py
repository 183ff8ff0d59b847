"""Read the version of this package, which pyproject.toml states, from the installation."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def own() -> str:
    """Return the installed version, or ``"unknown"`` for a copy of the source that was never installed.

    >>> own() == own()
    True
    """
    try:
        return version("grafs-timm")
    except PackageNotFoundError:
        return "unknown"
