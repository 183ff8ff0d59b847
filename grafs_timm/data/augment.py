"""Batched augmentation on the device: each image has its own draw, and every draw comes from the generator handed in.

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
    """``names`` in the order of application, without repeats. UnknownNameError with the nearest for an unknown one."""
    asked = {names} if isinstance(names, str) else set(names)
    for name in sorted(asked - set(AUGMENTATIONS)):
        raise UnknownNameError(f"no augmentation {name!r}{nearest(name, AUGMENTATIONS)}")
    return tuple(name for name in AUGMENTATIONS if name in asked)


def augment(images: Tensor, names: Iterable[str], generator: torch.Generator, crop_padding: int = 4) -> Tensor:
    """uint8 [B,C,H,W] -> uint8 [B,C,H,W]; ``generator`` is a CPU generator, ``crop_padding`` in pixels."""
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
    """Cut a window of its own size out of each image of [B,C,H,W] with ``padding`` black pixels around it.

    ``shifts`` is int64 [B,2], the window's row and column in 0..2·padding; ``padding`` for both changes nothing.
    """
    height, width = images.shape[2:]
    windows = F.pad(images, [padding] * 4).unfold(2, height, 1).unfold(3, width, 1)  # a view: [B,C,rows,columns,H,W]
    return windows[torch.arange(len(images), device=images.device), :, shifts[:, 0], shifts[:, 1]]


def flip(images: Tensor, mirrored: Tensor) -> Tensor:
    """Mirror the images of [B,C,H,W] left to right where ``mirrored`` (bool [B]) says so."""
    return torch.where(mirrored[:, None, None, None], images.flip(-1), images)
