"""Suggest the nearest known names in errors about unknown ones."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: object, names: Iterable[str]) -> str:
    """Return the end of an error message that suggests names.

    Args:
        name: What was given.
        names: All valid names.

    Returns:
        ``"; nearest: a, b"`` with up to three names; if none is near, ``"; known: ..."`` with all of at most twelve names; else
        an empty string.

    >>> nearest("gellu", ["relu", "gelu"])
    '; nearest: gelu, relu'
    >>> nearest("swish", ["relu", "gelu"])
    '; known: relu, gelu'
    """
    known = list(names)
    close = difflib.get_close_matches(str(name), known, n=3, cutoff=0.5)
    if close:
        return f"; nearest: {', '.join(close)}"
    return f"; known: {', '.join(known)}" if 0 < len(known) <= 12 else ""
