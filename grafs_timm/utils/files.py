"""Write files as a whole or not at all (written beside, synced, renamed), and lock folders."""

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
from typing import TYPE_CHECKING, Any, BinaryIO

from ..errors import RunError

if TYPE_CHECKING:
    from filelock import FileLock


def write_whole(path: str | Path, content: str | bytes | Callable[[BinaryIO], None]) -> Path:
    """Write a file so that it is never partly there; the old one stays until the new one is complete on disk.

    What killed writes of ``path`` left beside it is removed.

    Args:
        path: The file; missing folders are made.
        content: Text, bytes, or a function that writes to the open file.

    Returns:
        ``path``.

    Raises:
        RunError: The disk is full or the folder cannot be written; an old file is kept.
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
        # torch.save turns a full disk into a RuntimeError about positions in the file
        if isinstance(error, (OSError, RuntimeError)) and not isinstance(error, RunError):
            why = error.__context__ if isinstance(error.__context__, OSError) else error
            kept = "; the file that was there is kept" if path.exists() else ""
            raise RunError(f"cannot write {path}: {why}{kept}") from error
        raise
    return path


def _beside(path: Path) -> tuple[int, str]:
    """Make a hidden file beside ``path``, open and locked, which tells it from one that a killed write left behind."""
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with contextlib.suppress(OSError):  # a file system without locks is not swept either
            fcntl.flock(handle, fcntl.LOCK_EX)
        if _is_at(handle, name):
            return handle, name
        os.close(handle)  # removed by another process between the two calls


def _sweep(path: Path) -> None:
    """Remove the hidden files of killed writes of ``path``; those that are being written are locked."""
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
    """Write ``value`` as indented JSON; NaN is an error. As `write_whole`."""
    return write_whole(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(path: str | Path, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> Path:
    """Write a table as CSV, floats with every digit and None as an empty field. As `write_whole`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return write_whole(path, text.getvalue())


@contextlib.contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Hold a folder against every other process that asks for it, on other machines too.

    The lock is the operating system's, on the hidden file ``.lock``, so it ends with its process. Afterwards the file and
    folders that were made for it and are still empty are removed.

    Args:
        folder: Made where it is missing.

    Raises:
        RunError: Another process holds it (names process, machine and since when), or it cannot be written.
    """
    folder = Path(folder)
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        lock = _held(folder / ".lock", folder)
    except FileExistsError:
        raise RunError(f"{folder} is a file; a run needs a folder") from None
    except OSError as error:
        raise RunError(f"{folder} cannot be locked: {error.strerror or error}") from error
    try:
        yield
    finally:
        if released(lock):
            with contextlib.suppress(OSError):
                for place in missing:
                    place.rmdir()


def released(lock: FileLock) -> bool:
    """Remove a lock's file and release it; return False in a forked process, which does not hold it."""
    if not lock.is_locked:
        return False
    with contextlib.suppress(OSError):
        os.unlink(lock.lock_file)  # while it is held: who waits for this very file tries again
    lock.release()
    return True


def _held(file: Path, folder: Path) -> FileLock:
    from filelock import FileLock, Timeout  # takes a tenth of a second

    patience = time.monotonic() + 5  # seconds: a folder that cannot be made looks like one that is being removed
    while True:
        lock = FileLock(file, timeout=0)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except (FileNotFoundError, FileExistsError):
            # its last holder has just removed the empty folders, between two of mkdir's own steps or after them
            if folder.is_file() or folder.is_symlink() or time.monotonic() > patience:
                raise
            continue
        except Timeout:
            raise RunError(f"{folder} is in use{_who(file)}; wait until it ends, or name another --out") from None
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S %z")}
        file.write_text(json.dumps(holder), encoding="utf-8")
        return lock


def _is_at(handle: int, file: str | Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(file))
    except FileNotFoundError:
        return False


def _who(file: Path) -> str:
    try:
        holder = json.loads(file.read_bytes()[:1000])
        return f" by process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return " by another process"  # which is about to write who it is
