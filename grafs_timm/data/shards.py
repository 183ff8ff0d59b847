"""Read a shard, a tar of ``KEY.webp|png|jpg`` and ``KEY.cls``, as arrays, and decode its images."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..utils import limits, remote
from .samples import FORMATS, extension_of, label_of
from .tar_stream import RawSample, counted, samples

if TYPE_CHECKING:
    from PIL import Image

_DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")


@dataclass(frozen=True)
class Wanted:
    """What images are converted to: ``image_size`` pixels square, 1 or 3 ``channels``; None leaves them as they are."""

    image_size: int | None = None
    channels: int | None = None


@dataclass(frozen=True)
class Shard:
    """Images and labels of a shard.

    Args:
        location: Its path or URL.
        images: uint8 [N,C,H,W], C = 1 if all are grey, else 3.
        labels: int64 [N].
        resized: How many images were resized.
        greyed: How many were converted from colour to grey.
        repeated: How many were converted from grey to colour.
    """

    location: str
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    resized: int = 0
    greyed: int = 0
    repeated: int = 0


def read_shard(
    location: str, length: int, sha256: str | None = None, classes: int | None = None, wanted: Wanted | None = None,
    budget: limits.Budget | None = None,
) -> Shard:  # fmt: skip
    """Read and decode a whole shard.

    Args:
        location: A path or a URL.
        length: How many samples it must hold.
        sha256: The checksum it must have.
        classes: Its labels must be below this.
        wanted: What its images are converted to.
        budget: The memory that its decoded images may take.

    Raises:
        DataError: The shard differs from what is promised, cannot be read or decoded, or has images of several sizes. The
            message names shard and sample.
    """
    wanted = wanted or Wanted()
    images: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    resized = greyed = 0
    for sample in verified_samples(location, length, sha256):
        original = decode_image(sample.files, sample.where)
        image = _fitted(original, wanted.image_size)
        resized += image is not original
        if wanted.channels == 1 and original.mode == "RGB":
            image, colour = _greyed(image)
            greyed += colour
        pixels = np.asarray(image)
        if images and pixels.shape[:2] != images[0].shape[:2]:
            sizes = f"image of {size(pixels)}, those before it {size(images[0])}"
            raise DataError(f"{sample.where}: {sizes}; set data.image_size to resize all to one size")
        if budget:
            budget.take(pixels.nbytes, sample.where)
        images.append(pixels)
        labels.append(label_of(sample.files, sample.where, classes))
    stack = _stacked(images)
    repeated = sum(image.ndim == 2 for image in images) if stack.shape[1] == 3 else 0
    return Shard(location, stack, np.array(labels, np.int64), resized, greyed, repeated)


def checksum(file: BinaryIO) -> str:
    """Return the sha256 of an open file, and rewind it."""
    file.seek(0)
    found = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    file.seek(0)
    return found


def verified_samples(location: str, length: int, sha256: str | None = None) -> Iterator[RawSample]:
    """Read the samples of a shard (path or URL), undecoded.

    Raises:
        DataError: Its sha256 is another one, it cannot be read, or it does not hold ``length`` samples.
    """
    with remote.open_file(location) as file:
        if sha256 and (found := checksum(file)) != sha256.lower():
            raise DataError(f"{location}: sha256 is {found}, _info.json says {sha256}: truncated, or another file")
        yield from counted(samples(file, location), location, length)


def decode_image(sample: dict[str, bytes], where: str) -> Image.Image:
    """Decode a sample's image as mode L (grey) or RGB; errors as `open_image`."""
    extension = extension_of(sample, where)
    return decode(sample[extension], extension, where)


def decode(content: bytes, extension: str, where: str) -> Image.Image:
    """Decode an image file of a shard as mode L (grey) or RGB, whatever its extension says; errors as `open_image`."""
    formats = sorted({*FORMATS.values()}, key=lambda name: name != FORMATS[extension])
    return open_image(content, where, formats, extension)


def open_image(content: bytes, where: str, formats: list[str], kind: str) -> Image.Image:
    """Decode an image file as mode L (grey) or RGB.

    Args:
        content: The file.
        where: The beginning of messages.
        formats: The decoders of Pillow to try.
        kind: What messages call the format.

    Raises:
        DataError: The image cannot be decoded completely, has more than 8 bits per channel or is too large.
    """
    from PIL import Image

    try:
        if limits.IMAGE.raised and Image.MAX_IMAGE_PIXELS:  # raised by the user: Pillow's own limit must not be lower
            Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, limits.IMAGE.value)
        with Image.open(io.BytesIO(content), formats=formats) as image:
            limits.IMAGE.check(image.width * image.height, f"{where}: {kind} image of {image.height}×{image.width}")
            image.load()
            if image.mode in _DEEP_MODES:
                raise DataError(f"{where}: image of mode {image.mode}; only 8 bits per channel are supported")
            return plain_mode(image)
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise limits.IMAGE.error(f"{where}: {kind} image: {error}") from error
    except Exception as error:  # PIL raises OSError, SyntaxError, ValueError, struct.error and more
        reason = type(error).__name__
        raise DataError(f"{where}: {kind} image is truncated, corrupt or not an image ({reason})") from error


def plain_mode(image: Image.Image) -> Image.Image:
    """Convert an image to mode L if it is grey, else to RGB; transparency is dropped."""
    if image.mode in ("L", "RGB"):
        return image
    return image.convert("L" if image.mode in ("1", "LA") else "RGB")


def _fitted(image: Image.Image, to: int | None) -> Image.Image:
    """Resize the short side to ``to`` pixels and crop the centre square: timm's evaluation transform at crop_pct 1."""
    from PIL import Image

    if to is None or image.size == (to, to):
        return image
    width, height = (image := within_reach(image, to)).size
    short = min(width, height)
    width, height = int(to * width / short), int(to * height / short)
    image = image.resize((width, height), Image.Resampling.BICUBIC)  # Pillow's filter is antialiased
    left, top = round((width - to) / 2), round((height - to) / 2)
    return image.crop((left, top, left + to, top + to))


def within_reach(image: Image.Image, to: int) -> Image.Image:
    """Crop the middle of an image that would exceed the size limit once its short side is resized to ``to`` pixels.

    The square at the centre is not affected.
    """
    width, height = image.size
    short, long = min(width, height), max(width, height)
    most = max(limits.IMAGE.value // to**2, 8) * short
    if long <= most:
        return image
    most -= (most - long) % 2  # the same centre
    left, top = (width - most) // 2 * (width > height), (height - most) // 2 * (height > width)
    return image.crop((left, top, left + (most if width > height else width), top + (most if height > width else height)))


def _greyed(image: Image.Image) -> tuple[Image.Image, bool]:
    """Return the ITU-R BT.601 luma of a colour image, and whether the image had any colour."""
    red, green, blue = image.split()
    return image.convert("L"), not red.tobytes() == green.tobytes() == blue.tobytes()


def size(image: NDArray[np.uint8]) -> str:
    """Return height×width of [H,W] or [H,W,3] for a message."""
    return f"{image.shape[0]}×{image.shape[1]}"


def _stacked(images: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Stack [H,W] and [H,W,3] arrays of one size as [N,C,H,W], C = 1 if all are grey."""
    if any(image.ndim == 3 for image in images):
        images = [image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2) for image in images]
        stack = np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))
        return stack[:, :1] if (stack == stack[:, :1]).all() else stack
    return np.stack(images)[:, None]
