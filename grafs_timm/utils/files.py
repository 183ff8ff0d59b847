"""Files appear whole or not at all: written beside, synced, renamed. A folder is one process's while it holds its lock."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import glob
import io
import json
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import RunError


def write_whole(path: str | Path, content: str | bytes | Callable[[BinaryIO], None]) -> Path:
    """Write ``content`` (text, bytes, or a function that writes to the open file) so that ``path`` is never half there.

    The old file stays until the new one is complete on disk. What earlier writes of ``path`` left beside it that were killed
    is removed. RunError where the disk is full or the folder can't be written; what stood at ``path`` is untouched then.
    """
    path = Path(path)
    handle, beside = -1, ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        handle, beside = _beside(path)
        with os.fdopen(handle, "wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(beside, 0o644)
            os.replace(beside, path)  # while its lock is held
    except BaseException as error:
        if beside:
            with contextlib.suppress(OSError):
                os.unlink(beside)
        # torch.save makes a RuntimeError of a full disk, which speaks of positions in the file
        if isinstance(error, (OSError, RuntimeError)) and not isinstance(error, RunError):
            why = error.__context__ if isinstance(error.__context__, OSError) else error
            kept = "; the file that was there is kept" if path.exists() else ""
            raise RunError(f"cannot write {path}: {why}{kept}") from error
        raise
    return path


def _beside(path: Path) -> tuple[int, str]:
    """A new hidden file beside ``path``, open and locked: so another writer knows it from one that a kill left behind."""
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with contextlib.suppress(OSError):  # where there are no locks, nothing is swept either
            fcntl.flock(handle, fcntl.LOCK_EX)
        if _is_at(handle, name):
            return handle, name
        os.close(handle)  # swept between the two calls


def _sweep(path: Path) -> None:
    """Remove the hidden files of writes of ``path`` that were killed; those that are being written are locked."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.{'[a-z0-9_]' * 8}"):
        with contextlib.suppress(OSError):
            handle = os.open(left, os.O_RDWR)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_at(handle, left):
                    left.unlink()
            finally:
                os.close(handle)


def write_changed(path: str | Path, text: str) -> None:
    """Write ``text`` whole, as `write_whole`, unless the file holds it already."""
    path = Path(path)
    if not path.exists() or path.read_bytes() != text.encode():
        write_whole(path, text)


def write_json(path: str | Path, value: Any) -> Path:
    """``value`` as indented JSON, NaN refused, written whole."""
    return write_whole(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(path: str | Path, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> Path:
    """A header and ``rows``, floats with every digit, None as an empty field; written whole."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return write_whole(path, text.getvalue())


_locks: set[int] = set()  # open files of the folders this process holds


def _leave_locks() -> None:
    """In a forked process, such as one that loads images: it must not hold what its parent held, should that be killed."""
    while _locks:
        os.close(_locks.pop())


os.register_at_fork(after_in_child=_leave_locks)


@contextlib.contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Hold ``folder``, made where it is missing, against every other process that asks for it, on other machines too.

    The lock is the operating system's (flock on the hidden file ``.lock``): a process that dies, however, holds nothing any
    more. Afterwards the file is gone, and so are folders that were made for it and are still empty. RunError where another
    process holds it, naming that process, its machine and since when; or where the folder can't be written.
    """
    folder = Path(folder)
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        handle = _held(folder / ".lock", folder)
    except FileExistsError:
        raise RunError(f"{folder} is a file; a run needs a folder") from None
    except OSError as error:
        raise RunError(f"{folder} cannot be locked: {error.strerror or error}") from error
    _locks.add(handle)
    try:
        yield
    finally:
        if handle in _locks:  # a forked process that comes by here holds nothing
            with contextlib.suppress(OSError):
                (folder / ".lock").unlink()  # while it is held: whoever waits for this very file looks again
            _locks.discard(handle)
            os.close(handle)
            with contextlib.suppress(OSError):
                for place in missing:
                    place.rmdir()


def _held(file: Path, folder: Path) -> int:
    patience = time.monotonic() + 5  # seconds: a folder that can't be made may look like one that is being removed
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        except (FileNotFoundError, FileExistsError):
            # its last holder has just removed the empty folders, between two of mkdir's own steps or after them
            if folder.is_file() or folder.is_symlink() or time.monotonic() > patience:
                raise
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _is_at(handle, file):  # its holder took it away between the two calls
                os.close(handle)
                continue
            holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S %z")}
            os.truncate(handle, 0)
            os.write(handle, json.dumps(holder).encode())
            return handle
        except BlockingIOError:
            said = os.pread(handle, 1000, 0)
            os.close(handle)
            raise RunError(f"{folder} is in use{_who(said)}; wait until it ends, or name another --out") from None
        except BaseException:
            os.close(handle)
            raise


def _is_at(handle: int, file: str | Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(file))
    except FileNotFoundError:
        return False


def _who(said: bytes) -> str:
    try:
        holder = json.loads(said)
        return f" by process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        return " by another process"  # which has it for less than a moment
