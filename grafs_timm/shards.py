"""One shard: a tar of ``KEY.webp|png|jpg`` and ``KEY.cls`` -> arrays, or a DataError that names what is wrong."""

from __future__ import annotations

import gzip
import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import DataError

# Extension -> the decoder to try first. Only these three decoders ever see a file.
_FORMATS = {"webp": "WEBP", "png": "PNG", "jpg": "JPEG", "jpeg": "JPEG"}
_DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")


@dataclass(frozen=True)
class Shard:
    """What a shard holds: images [N,C,H,W], C=1 if all of them are grey, else 3, and labels [N]."""

    path: Path
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


def read_shard(path: Path, length: int, sha256: str | None = None, classes: int | None = None) -> Shard:
    """Read a shard that should hold ``length`` samples with labels below ``classes``, and have this ``sha256``.

    DataError, naming shard and sample, where it does not, cannot be read or decoded, or has images of several sizes.
    """
    images: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    try:
        file = path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    with file:
        if sha256 and (found := hashlib.file_digest(file, "sha256").hexdigest()) != sha256.lower():
            raise DataError(f"{path}: sha256 is {found}, _info.json says {sha256}: truncated, or another file")
        file.seek(0)
        for sample in _samples(file, path):
            where = f"{path}: sample {sample['__key__']!r}"
            if len(images) == length:
                raise DataError(f"{where}: more samples than the {length} of _info.json's shard_lengths")
            image = _decode_image(sample, where)
            if images and image.shape[:2] != images[0].shape[:2]:
                raise DataError(f"{where}: image of {size(image)}, those before it {size(images[0])}; one size is wanted")
            images.append(image)
            labels.append(_decode_label(sample, where, classes))
    if len(images) < length:
        raise DataError(f"{path}: {len(images)} samples, _info.json's shard_lengths say {length}: truncated?")
    return Shard(path, _stacked(images), np.array(labels, np.int64))


def _samples(file: io.BufferedReader, path: Path) -> Iterator[dict[str, Any]]:
    """webdataset's samples of one open tar, its errors turned into a DataError.

    The stages of WebDataset are used without WebDataset itself: it reads environment variables that turn on caching,
    reads URLs and braces into file names, and refuses to give every rank of a distributed run the whole set.
    """
    from webdataset.tariterators import group_by_keys, tar_file_expander

    last = None
    try:
        # tarfile unpacks gzip streams too, but without looking at their checksum
        packed = file.peek(2)[:2] == b"\x1f\x8b"
        stream = gzip.GzipFile(fileobj=file) if packed else file
        for sample in group_by_keys(tar_file_expander([{"url": str(path), "stream": stream}])):
            yield sample
            last = sample["__key__"]
        while stream.read(1 << 20):  # the checksum stands at the very end
            pass
    except Exception as error:  # tarfile, zlib and webdataset raise a dozen kinds
        reason = str(error.args[0] if error.args else error).split(" @ <")[0]
        after = f" after sample {last!r}" if last else ""
        reason = reason or type(error).__name__
        raise DataError(f"{path}: truncated, corrupt or not a tar{after}: {reason}") from error


def _decode_image(sample: dict[str, Any], where: str) -> NDArray[np.uint8]:
    """[H,W] for grey, [H,W,3] for colour."""
    from PIL import Image

    extension = next((name for name in _FORMATS if name in sample), None)
    if extension is None:
        found = ", ".join(name for name in sample if not name.startswith("__")) or "nothing"
        raise DataError(f"{where}: no image ({', '.join(_FORMATS)}), only {found}")
    formats = sorted({*_FORMATS.values()}, key=lambda name: name != _FORMATS[extension])
    try:
        with Image.open(io.BytesIO(sample[extension]), formats=formats) as image:
            image.load()
            if image.mode in _DEEP_MODES:
                raise DataError(f"{where}: image of mode {image.mode}; 8 bits a channel are read")
            grey = image.mode in ("L", "1", "LA")
            return np.asarray(image if image.mode in ("L", "RGB") else image.convert("L" if grey else "RGB"))
    except DataError:
        raise
    except Exception as error:  # PIL raises OSError, SyntaxError, ValueError, struct.error and more
        reason = type(error).__name__
        raise DataError(f"{where}: {extension} image is truncated, corrupt or not an image ({reason})") from error


def _decode_label(sample: dict[str, Any], where: str, classes: int | None) -> int:
    if "cls" not in sample:
        raise DataError(f"{where}: no label (cls)")
    try:
        label = int(sample["cls"].decode("ascii"))
    except ValueError:
        raise DataError(f"{where}: label {sample['cls'][:20]!r} is not an integer") from None
    if not 0 <= label < (classes or 2**31):
        raise DataError(f"{where}: label {label} is outside 0..{(classes or 2**31) - 1}")
    return label


def size(image: NDArray[np.uint8]) -> str:
    """Height×width of [H,W] or [H,W,3], for a message."""
    return f"{image.shape[0]}×{image.shape[1]}"


def _stacked(images: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """[H,W] and [H,W,3] arrays of one size -> [N,C,H,W], C=1 if all are grey."""
    if any(image.ndim == 3 for image in images):
        images = [image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2) for image in images]
        stack = np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))
        return stack[:, :1] if (stack == stack[:, :1]).all() else stack
    return np.stack(images)[:, None]
