"""What a sample of a shard holds: the name of its image and its label."""

from __future__ import annotations

from ..errors import DataError, shortened
from ..utils import limits

# Extension -> the decoder to try first. Only these three decoders ever see a file.
FORMATS = {"webp": "WEBP", "png": "PNG", "jpg": "JPEG", "jpeg": "JPEG"}


def extension_of(sample: dict[str, bytes], where: str) -> str:
    """Under which extension the sample has its image. DataError where it has none."""
    extension = next((name for name in FORMATS if name in sample), None)
    if extension is None:
        raise DataError(f"{where}: no image ({', '.join(FORMATS)}), only {', '.join(sample)}")
    return extension


def label_of(sample: dict[str, bytes], where: str, classes: int | None = None) -> int:
    """The sample's label. DataError where there is none, or none of ``classes``."""
    if "cls" not in sample:
        raise DataError(f"{where}: no label (cls)")
    text = sample["cls"]
    try:
        label = int(text.decode("ascii")) if len(text) < 100 else None
    except ValueError:
        label = None
    if label is None:
        raise DataError(f"{where}: label {text[:20]!r} is not an integer")
    if not 0 <= label < (classes or 2**31):
        listed = f"; _info.json lists {classes} classes" if classes else ""
        raise DataError(f"{where}: label {shortened(str(label))} is outside 0..{(classes or 2**31) - 1}{listed}")
    if not classes:
        limits.CLASSES.check(label + 1, f"{where}: label {label}, and _info.json lists no classes")
    return label
