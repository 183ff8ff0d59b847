"""Terminal output of the commands: warnings as plain notes, and substitutes for characters that a terminal lacks."""

from __future__ import annotations

import codecs
import contextlib
import itertools
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import GrafsWarning

_MODULES = ("grafs_timm", "grafs_timm.cli.warm")  # that are commands: python -m grafs_timm
_WRITTEN = {
    "−": "-", "–": "-", "×": "x", "·": "*", "÷": "/", "±": "+-", "≤": "<=", "≥": ">=", "→": "->", "…": "...", "«": "'",
    "»": "'", "∞": "inf", "√": "sqrt", "²": "^2", "³": "^3", "′": "'", "α": "alpha", "γ": "gamma", "σ": "sigma", "ε": "eps",
    "∂": "d",
}  # fmt: skip
_ERRORS = "grafs_timm.written"


def _written(error: UnicodeError) -> tuple[str | bytes, int]:
    """Replace a character that the encoding lacks; keep an undecodable byte of a file name, as ``ls`` does."""
    if not isinstance(error, UnicodeEncodeError):  # whoever captures a stream reads it back by the stream's own handler
        return codecs.replace_errors(error)
    sign = error.object[error.start]
    if "\udc80" <= sign <= "\udcff":
        return bytes([ord(sign) - 0xDC00]), error.start + 1
    return _WRITTEN.get(sign, sign.encode("ascii", "backslashreplace").decode()), error.start + 1


codecs.register_error(_ERRORS, _written)


def never_die() -> None:
    """Print substitutes for characters that the terminal's encoding lacks, instead of raising an error.

    ASCII, the encoding of the C locale, is treated as UTF-8, as in Python (PEP 540) and click.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, TypeError, ValueError):  # not one of Python's own, or closed
            ascii_only = codecs.lookup(stream.encoding).name == "ascii"
            stream.reconfigure(encoding="utf-8" if ascii_only else None, errors=_ERRORS)  # type: ignore[union-attr]


def unnameable(error: UnicodeEncodeError) -> str | None:
    """Explain that a name, such as one in a recipe, cannot be a file name in this locale.

    Args:
        error: What the use of the name raised.

    Returns:
        A message with the name, the character and the variable to set; None if the error is another one.
    """
    if error.encoding != sys.getfilesystemencoding() or error.encoding == "utf-8":
        return None
    sign = error.object[error.start]
    return (
        f"{error.object}: cannot be a file name in this locale, whose encoding {error.encoding} has no {sign!r}; "
        "set PYTHONUTF8=1, or LC_ALL=C.UTF-8"
    )


@contextlib.contextmanager
def plain_notes() -> Iterator[None]:
    """Show this package's warnings as ``note: ...``, each once; other warnings are unchanged."""
    before = warnings.showwarning
    warnings.showwarning = _noting(before)
    try:
        yield
    finally:
        warnings.showwarning = before


def _noting(others: Any) -> Any:
    said: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if not issubclass(category, GrafsWarning):
            others(message, category, *where, **more)
            return
        note = " ".join(str(message).split())
        if note not in said:
            said.add(note)
            _write(f"note: {note}")

    return show


def _write(line: str) -> None:
    """Write to standard error, above a progress bar if there is one."""
    if sys.stderr is None:
        return
    if bars := sys.modules.get("tqdm"):
        bars.tqdm.write(line, file=sys.stderr)
    else:
        print(line, file=sys.stderr)


def begin_command() -> None:
    """If this process is the command line, show warnings as notes already while modules are imported."""
    if _is_command():
        never_die()
        warnings.showwarning = _noting(warnings.showwarning)


def _is_command() -> bool:
    arguments = getattr(sys, "orig_argv", [])
    module = next((name for flag, name in itertools.pairwise(arguments) if flag == "-m"), "")
    return module in _MODULES or Path(next(iter(getattr(sys, "argv", [])), "")).name == "grafs-timm"
