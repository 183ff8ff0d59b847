"""Augment whole batches on the device, with a draw per image from the generator given.

Draws are made on the CPU, so that one seed means the same batch on every device.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UnknownNameError
from ..utils.suggest import nearest
from .trivial_augment import trivial_augment

# In the order they are applied, whatever the order they are asked for in.
AUGMENTATIONS = ("trivial_augment", "crop", "flip")


def checked(names: str | Iterable[str]) -> tuple[str, ...]:
    """Return ``names`` in order of application, without repeats. UnknownNameError, with the nearest, for an unknown one."""
    asked = {names} if isinstance(names, str) else set(names)
    for name in sorted(asked - set(AUGMENTATIONS)):
        raise UnknownNameError(f"no augmentation {name!r}{nearest(name, AUGMENTATIONS)}")
    return tuple(name for name in AUGMENTATIONS if name in asked)


def augment(images: Tensor, names: Iterable[str], generator: torch.Generator, crop_padding: int = 4) -> Tensor:
    """Augment a batch.

    Args:
        images: uint8 [B,C,H,W].
        names: Any of `AUGMENTATIONS`.
        generator: A generator on the CPU.
        crop_padding: Pixels of padding for ``crop``.

    Returns:
        uint8 [B,C,H,W].
    """
    for name in checked(names):
        if name == "trivial_augment":
            images = trivial_augment(images, generator)
        elif name == "crop":
            shifts = torch.randint(0, 2 * crop_padding + 1, (len(images), 2), generator=generator, device="cpu")
            images = crop(images, shifts.to(images.device), crop_padding)
        else:
            images = flip(images, torch.rand(len(images), generator=generator, device="cpu").lt(0.5).to(images.device))
    return images


def crop(images: Tensor, shifts: Tensor, padding: int) -> Tensor:
    """Pad each image with black pixels and crop it back to its size.

    Args:
        images: [B,C,H,W].
        shifts: int64 [B,2], row and column of the crop in 0..2·padding; ``padding`` for both changes nothing.
        padding: In pixels.
    """
    height, width = images.shape[2:]
    windows = F.pad(images, [padding] * 4).unfold(2, height, 1).unfold(3, width, 1)  # a view: [B,C,rows,columns,H,W]
    return windows[torch.arange(len(images), device=images.device), :, shifts[:, 0], shifts[:, 1]]


def flip(images: Tensor, mirrored: Tensor) -> Tensor:
    """Mirror the images of [B,C,H,W] left to right where ``mirrored`` (bool [B]) is true."""
    return torch.where(mirrored[:, None, None, None], images.flip(-1), images)
