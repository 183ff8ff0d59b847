"""Files appear whole or not at all: written beside, synced, renamed."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from .errors import RunError


def write_whole(path: str | Path, content: str | bytes | Callable[[BinaryIO], None]) -> Path:
    """Write ``content`` (text, bytes, or a function that writes to the open file) so that ``path`` is never half there.

    The old file stays until the new one is complete on disk. RunError where the disk is full or the folder can't be
    written; what stood at ``path`` is untouched then.
    """
    path = Path(path)
    handle, beside = -1, ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(beside, 0o644)
        os.replace(beside, path)
    except BaseException as error:
        if beside:
            with contextlib.suppress(OSError):
                os.unlink(beside)
        # torch.save wraps a full disk in a RuntimeError of its own
        if isinstance(error, (OSError, RuntimeError)) and not isinstance(error, RunError):
            kept = "; the file that was there is kept" if path.exists() else ""
            raise RunError(f"cannot write {path}: {error}{kept}") from error
        raise
    return path


def write_json(path: str | Path, value: Any) -> Path:
    """``value`` as indented JSON, NaN refused, written whole."""
    return write_whole(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
