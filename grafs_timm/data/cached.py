"""Pack data as people have them into shards, once, in a cache.

A packed data set is named after its source's path and the names, sizes and times of its files, so a source that has changed is
packed anew. It is only read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import hashlib
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..errors import DataError, GrafsWarning, RunError, UnreadableError
from ..utils import resources
from ..utils.files import released
from . import pack
from .info import DatasetInfo, info_file, read_info
from .samples import FORMATS
from .sources import Own

HELD_OUT = 0.1  # of each class, where there is one split
_FORMAT = "1"  # of the cache; another one packs everything anew


def packed(own: Own) -> DatasetInfo:
    """Return a data set's shards; packed now, with a progress bar, unless they are in the cache.

    Its one split loses a tenth of each class to a split ``test``. Validation images are the split ``test`` where there is none.
    Of several processes one packs and the others wait.

    Args:
        own: From `sources.recognised` or `sources.files_of`.

    Raises:
        DataError: It holds no images by class, or one that cannot be read.
        RunError: The cache cannot be written; nothing is left in it.
    """
    state, _ = _state(own)
    plain, place = re.sub(r"[^\w.-]", "_", own.name)[:40], hashlib.sha256(os.fsencode(own.root)).hexdigest()
    stem = f"{plain}-{place[:8]}"
    out = resources.cache().absolute() / "packed" / f"{stem}-{state[:16]}"
    if info_file(out) is None:
        with _advised(own), pack.alone(out):
            if info_file(out) is None:
                _sweep(out.parent, stem)
                _pack(own, out)
    info = dataclasses.replace(read_info(out), name=own.name)
    if info.split_rule:
        warnings.warn(f"{own.name}: {info.split_rule}", GrafsWarning)
    return info


def _state(own: Own) -> tuple[str, int]:
    """Return what tells one state of the files from another, and the bytes of those that are copied as they are."""
    digest, kept = hashlib.sha256("\n".join([_FORMAT, own.kind, str(HELD_OUT), ""]).encode()), 0
    above = len(os.fsencode(own.root)) + 1
    for file in sorted(map(os.fspath, own.files)):  # as text: there may be a million
        try:
            state = os.stat(file)
        except OSError as error:
            raise DataError(f"{file}: cannot be read: {error.strerror}") from error
        digest.update(os.fsencode(file)[above:] + f"\0{state.st_size} {state.st_mtime_ns}\n".encode())
        kept += state.st_size * (file.rpartition(".")[2].lower() in FORMATS)
    return digest.hexdigest(), kept


def _sweep(cache: Path, stem: str) -> None:
    """Remove what killed packings of this source in other states left."""
    for left in cache.glob(f".{glob.escape(stem)}-*.packing"):
        lock = FileLock(left.with_suffix(".lock"), timeout=0)
        with contextlib.suppress(Timeout, OSError):
            lock.acquire()
            shutil.rmtree(left, ignore_errors=True)
        released(lock)


def _pack(own: Own, out: Path) -> None:
    pack.check_free(str(own.root), out)
    state, kept = _state(own)
    free = shutil.disk_usage(out.parent).free
    if kept > free:  # said before hours of packing
        raise RunError(f"cannot write {out}: {kept >> 20} MB are needed, {free >> 20} MB are free; nothing was left")
    source = own.read()
    splits = dict(source.splits)
    facts: dict[str, Any] = {}
    if "test" not in splits and "validation" in splits:
        splits["test"] = splits.pop("validation")
        facts["split_rule"] = "the split test is the source's validation images"
    facts["source"] = {"path": os.fsencode(own.root).decode("utf-8", "backslashreplace"), "kind": own.kind, "state": state}
    how = pack.Packing("auto", hold_out=HELD_OUT if len(splits) == 1 else None)
    pack.write(dataclasses.replace(source, splits=splits), out, how, called=own.name, facts=facts)
    if _state(own)[0] != state:
        shutil.rmtree(out)
        raise DataError(f"{own.root}: its files changed while they were packed; nothing was kept. Try again")
    count = sum(spec.num_samples for spec in read_info(out).splits.values())
    which = f"{count} images of {own.root} ({own.kind})"
    warnings.warn(f"{own.name}: packed {which} into {out}, once; a change of the files packs them anew", GrafsWarning)


@contextlib.contextmanager
def _advised(own: Own) -> Iterator[None]:
    try:
        yield
    except UnreadableError as error:
        advice = f"Replace it, or leave out such images: grafs-timm data pack {own.root} OUT --skip-bad, then --data OUT"
        raise UnreadableError(f"{error}. {advice}") from error
    except RunError as error:
        raise RunError(f"{error}. GRAFS_TIMM_CACHE names another folder for packed data") from error
