"""The nearest known names, for errors about unknown ones."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: object, names: Iterable[str]) -> str:
    """Return the end of an error message that names what was probably meant.

    Args:
        name: What was given.
        names: All that would have been right.

    Returns:
        ``"; nearest: a, b"`` with up to three names; where none is near, ``"; known: ..."`` with all of them if they are at
        most twelve, else nothing.

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
