"""Find the image and the label of a sample."""

from __future__ import annotations

from ..errors import DataError, shortened
from ..utils import limits

# Extension -> the decoder to try first. No other decoders are used.
FORMATS = {"webp": "WEBP", "png": "PNG", "jpg": "JPEG", "jpeg": "JPEG"}


def extension_of(sample: dict[str, bytes], where: str) -> str:
    """Return the extension of a sample's image. DataError if it has no image."""
    extension = next((name for name in FORMATS if name in sample), None)
    if extension is None:
        raise DataError(f"{where}: no image ({', '.join(FORMATS)}), only {', '.join(sample)}")
    return extension


def label_of(sample: dict[str, bytes], where: str, classes: int | None = None) -> int:
    """Return a sample's label. DataError if it has none, or one that is not below ``classes``."""
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
