"""The version of this package: pyproject.toml states it, the installation tells it."""

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
