"""Pack images into webdataset shards with an `_info.json`, as read by timm and by `open_dataset`.

The same source gives the same bytes: the order is fixed, and tars hold no time or user. Each class is spread evenly over a
split, so that the first shards have the classes in the proportions of the whole. A data set is written to a temporary folder
and renamed when complete.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from ..errors import DataError, RunError, UnreadableError
from ..utils.files import released, write_json
from .info import read_info
from .samples import FORMATS
from .shard_writer import Shards, even
from .shards import open_image, plain_mode
from .sources import Source, Split, open_source

Format = Literal["webp", "png", "jpg", "keep", "auto"]
SHARD_SIZE = 1000
_DECODERS = ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"]  # none of them starts another program
# This effort of webp compresses CIFAR-10 as well as the default, in an eighth of the time.
_OPTIONS: dict[str, dict[str, Any]] = {
    "webp": {"lossless": True, "quality": 25, "method": 2},
    "png": {},
    "jpg": {"quality": 95},
}
_WEBP_PIXELS = 16_383  # a side; the format's limit
_AHEAD = 256  # images read and encoded before they are written


@dataclass(frozen=True)
class Packing:
    """How to pack.

    Args:
        format: ``webp`` and ``png`` are lossless, ``jpg`` (quality 95) is not, ``keep`` copies a folder's own files, ``auto``
            those that shards can hold, and makes others ``webp``, or ``png`` if too large for it.
        shard_size: Images per shard at most.
        hold_out: The share of each class that becomes ``test`` if the source has one split; 0 for none.
        splits: As for `sources.open_source`.
        skip_bad: Leave out images that cannot be read instead of raising.
    """

    format: Format = "webp"
    shard_size: int = SHARD_SIZE
    hold_out: float | None = None
    splits: Mapping[str, str] | None = None
    skip_bad: bool = False


def pack(source: str, out: Path, how: Packing | None = None, root: Path | None = None, quiet: bool = False) -> list[str]:
    """Pack a torchvision data set or an image folder.

    Args:
        source: The name of the one or the path of the other.
        out: The folder to create.
        how: Format and size of the shards.
        root: Where the files of a torchvision data set are; downloaded by default.
        quiet: Show no progress bar.

    Returns:
        A line for each image that was left out.

    Raises:
        UnknownNameError: There is no such source.
        DataError: It holds nothing to pack, an image cannot be read, or ``out`` is not empty or inside the source.
        RunError: ``out`` cannot be written; it is left as it was.
    """
    how, out = how or Packing(), out.resolve()
    _check(source, out, how)
    with alone(out):
        _check(source, out, how)
        return _pack(source, out, how, root, quiet)


def pack_once(source: str, out: Path) -> Path:
    """``out``, packed from a torchvision data set unless it is there; of several processes one packs and the others wait."""
    out = out.resolve()
    with alone(out):
        if not (out / "_info.json").exists():
            _check(source, out, Packing())
            _pack(source, out, Packing(), None, False)
    return out


def _check(source: str, out: Path, how: Packing) -> None:
    check_sizes(how.shard_size, how.hold_out or 0.0, "image")
    for name in how.splits or ():
        if not re.fullmatch(r"\w[\w-]*", name):
            raise DataError(f"a split's name is letters, digits, _ and -, got {name!r}")
    check_free(source, out)


def check_sizes(shard_size: int, hold_out: float, unit: str) -> None:
    """Raise DataError for shards of fewer than one ``unit``, or a part held out that is not in [0, 1)."""
    if shard_size < 1:
        raise DataError(f"a shard holds 1 {unit} or more, got {shard_size}")
    if not 0 <= hold_out < 1:
        raise DataError(f"the part held out must be at least 0 and below 1, got {hold_out}")


def check_free(source: str, out: Path) -> None:
    """Raise DataError if ``out`` is inside the source or not empty."""
    folder = Path(source).resolve()
    if folder.is_dir() and (out == folder or folder in out.parents):
        raise DataError(f"{out} lies inside the source {source}; give another folder")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        there = "holds a data set already" if (out / "_info.json").exists() else "is not empty" if out.is_dir() else "is a file"
        raise DataError(f"{out} {there}; nothing was written. Give another folder, or remove it")


@contextlib.contextmanager
def alone(out: Path) -> Iterator[None]:
    """Let one process at a time pack into ``out``, and remove what a killed one left beside it."""
    lock, new = FileLock(out.parent / f".{out.name}.lock"), not out.parent.exists()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        shutil.rmtree(_beside(out), ignore_errors=True)
    except OSError as error:
        raise RunError(f"cannot write {out}: {error.strerror}") from error
    try:
        yield
    finally:
        if released(lock) and new:
            with contextlib.suppress(OSError):
                out.parent.rmdir()  # if it is still empty


def _beside(out: Path) -> Path:
    return out.parent / f".{out.name}.packing"


def _pack(source: str, out: Path, how: Packing, root: Path | None, quiet: bool) -> list[str]:
    return write(open_source(source, root, how.splits), out, how, quiet)


def write(
    source: Source, out: Path, how: Packing, quiet: bool = False, called: str = "", facts: Mapping[str, Any] | None = None
) -> list[str]:
    """Write the shards of ``source`` and their `_info.json` to the folder ``out``, which must not exist and be held `alone`.

    Args:
        source: The images.
        out: The folder.
        how: Format and size of the shards.
        quiet: Show no progress bar.
        called: The data set's name, by default the folder's.
        facts: More keys for `_info.json`, which readers ignore.

    Returns:
        A line for each image that was left out.

    Raises:
        DataError: It holds nothing to pack, or an image cannot be read.
        RunError: ``out`` cannot be written; nothing is left.
    """
    if wrong := [name for name in source.classes if name.encode("utf-8", "ignore").decode() != name]:
        raise DataError(f"{source.name}: the name of class {wrong[0]!r} is not valid text (UTF-8); rename it")
    found = _held_out(source, how.hold_out)
    skipped: list[str] = []
    called = called or out.name
    with written_beside(out) as folder:
        splits = {}
        for name, (split, indices) in found.parts.items():
            with Shards(folder, shard_stem(called, name), even(len(indices), how.shard_size)) as writer:
                order = interleaved(split, indices)
                with tqdm(total=len(order), disable=quiet or None, unit="image", desc=f"{called} {name}") as bar:
                    for label, made in _encoded(found.source, split, order, how):
                        bar.update()
                        if isinstance(made, DataError):
                            skipped.append(str(made))
                        else:
                            writer.add(label, *made)
                for label in np.unique(split.labels[indices]).tolist() if writer.total else ():
                    if label not in writer.labels:
                        raise DataError(f"{source.name}: no image of class {source.classes[label]!r} in {name} can be read")
                splits[name] = writer.close(name, len(source.classes))
        info = {"name": called, "splits": splits, "classes": list(source.classes)}
        rule = {"split_rule": found.rule} if found.rule else {}
        write_json(folder / "_info.json", {**info, **rule, **(facts or {})})
        read_info(folder)  # checks that it can be opened
    return skipped


def shard_stem(name: str, split: str) -> str:
    """Return the beginning of a split's shard names: the data set's name without characters that have a meaning in them."""
    plain = re.sub(r"[^\w.-]", "_", name)
    return f"{plain}-{split}"


@contextlib.contextmanager
def written_beside(out: Path) -> Iterator[Path]:
    """Make a folder beside ``out`` and rename it to ``out`` at the end. RunError, with nothing left, if it cannot be."""
    folder = _beside(out)
    try:
        folder.mkdir()
        yield folder
        os.replace(folder, out)
    except OSError as error:
        raise RunError(f"cannot write {out}: {error.strerror or error}; nothing was left") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class _Parts:
    source: Source
    parts: dict[str, tuple[Split, NDArray[np.int64]]]
    rule: str = ""


def _held_out(source: Source, fraction: float | None) -> _Parts:
    """Return the images of each split; ``fraction`` of each class of a single split becomes a test split."""
    whole = {name: (split, np.arange(len(split.labels))) for name, split in source.splits.items()}
    if len(whole) > 1:
        if fraction:
            raise DataError(f"{source.name} has splits of its own ({', '.join(whole)}); nothing is held out of them")
        return _Parts(source, whole)
    if fraction is None:
        raise DataError(
            f"{source.name} has one split only; hold_out 0.1 (--hold-out 0.1) makes a tenth of each class a test split, 0 none"
        )
    ((name, (split, indices)),) = whole.items()
    if not fraction:
        return _Parts(source, whole)
    order = np.array(interleaved(split, indices))
    aside = np.zeros(len(order), bool)
    for label in np.unique(split.labels):
        members = order[split.labels[order] == label]
        if len(members) < 2:
            raise DataError(f"{source.name}: class {source.classes[label]!r} has one image, too few to hold some out")
        aside[members[: min(max(round(fraction * len(members)), 1), len(members) - 1)]] = True
    parts = {name: (split, np.flatnonzero(~aside)), "test": (split, np.flatnonzero(aside))}
    lowest = f"at least one image: those whose {source.named_by} has the lowest sha256"
    return _Parts(source, parts, f"the split test is {fraction:g} of each class, {lowest}")


def interleaved(split: Split, indices: Sequence[int] | NDArray[np.int64]) -> list[int]:
    """Return ``indices`` in an order that depends on the images' names alone and spreads every class evenly.

    If all classes have one size, each comes once in every turn.
    """
    by_class: dict[int, list[tuple[bytes, int]]] = {}
    for index in map(int, indices):
        digest = hashlib.sha256(split.name(index).encode("utf-8", "surrogateescape")).digest()
        by_class.setdefault(int(split.labels[index]), []).append((digest, index))
    placed = []
    for members in by_class.values():
        for rank, (digest, index) in enumerate(sorted(members)):
            within = int.from_bytes(digest[-4:]) / 2**32
            placed.append(((rank + within) / len(members), index))
    return [index for _, index in sorted(placed)]


def _encoded(
    source: Source, split: Split, order: Sequence[int], how: Packing
) -> Iterator[tuple[int, tuple[str, bytes] | DataError]]:
    """Yield (label, (extension, content)) of each image in order; with ``skip_bad`` the error of one that cannot be read."""

    def one(index: int) -> tuple[str, bytes] | DataError:
        try:
            return encode(split.read(index), f"{source.name}: {split.name(index)}", how.format)
        except (OSError, DataError) as error:
            where = "" if isinstance(error, DataError) else f"{source.name}: {split.name(index)}: "
            known = UnreadableError(f"{where}{error}")
            if how.skip_bad:
                return known
            raise known from error

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # decoding and encoding release the GIL
        for start in range(0, len(order), _AHEAD):
            part = order[start : start + _AHEAD]
            yield from zip(split.labels[list(part)].tolist(), pool.map(one, part), strict=True)


def encode(image: Any, where: str, form: Format) -> tuple[str, bytes]:
    """Encode an image file or a PIL image.

    Args:
        image: The file's content or the image.
        where: The beginning of messages.
        form: The format to encode to.

    Returns:
        Extension and content of the file.

    Raises:
        DataError: The image cannot be read or encoded.
    """
    if isinstance(image, bytes):
        opened = open_image(image, where, _DECODERS, "this")
        if form in ("keep", "auto") and (kept := _as_it_is(image, where, form)):
            return kept
    elif form == "keep":
        raise DataError(f"{where}: keep copies the files of an image folder, but torchvision gives pixels; use webp or png")
    elif not isinstance(image, Image.Image):
        raise DataError(f"{where}: {type(image).__name__} is not an image")
    else:
        opened = plain_mode(image)
    if form == "auto":
        form = "webp" if max(opened.size) <= _WEBP_PIXELS else "png"
    content = io.BytesIO()
    try:
        opened.save(content, FORMATS[form], **_OPTIONS[form])
    except (OSError, ValueError) as error:
        raise DataError(f"{where}: an image of {opened.size} cannot be written as {form}: {error}; use png") from error
    return form, content.getvalue()


def _as_it_is(content: bytes, where: str, form: Format) -> tuple[str, bytes] | None:
    """Return (extension, content) of a file that shards can hold; of another one None for ``auto``, DataError for ``keep``."""
    with Image.open(io.BytesIO(content), formats=_DECODERS) as image:
        kind = "JPEG" if image.format == "MPO" else image.format
    extension = next((extension for extension, name in FORMATS.items() if name == kind), None)
    if extension is None and form == "auto":
        return None
    if extension is None:
        raise DataError(f"{where}: is {kind}; shards hold {', '.join(sorted({*FORMATS.values()}))}: use webp or png, not keep")
    return extension, content
