"""Apply TrivialAugment to whole batches: one operation at one strength per image, grouped by operation on the device.

Source: Müller & Hutter 2021, TrivialAugment (arXiv 2103.10158), wide space; its values are those of torchvision's
TrivialAugmentWide. Draws, groups and parameters are made on the CPU, so that nothing is read back from the device.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 31

# (weakest strength, strongest, whether the sign is drawn too). Shear is a slope, translation in pixels, rotation in
# degrees, the four enhancements a distance from the factor 1, posterize in bits kept, solarize a share of 255.
OPERATIONS = {
    "Identity": (0.0, 0.0, False),
    "ShearX": (0.0, 0.99, True),
    "ShearY": (0.0, 0.99, True),
    "TranslateX": (0.0, 32.0, True),
    "TranslateY": (0.0, 32.0, True),
    "Rotate": (0.0, 135.0, True),
    "Brightness": (0.0, 0.99, True),
    "Color": (0.0, 0.99, True),
    "Contrast": (0.0, 0.99, True),
    "Sharpness": (0.0, 0.99, True),
    "Posterize": (8.0, 2.0, False),
    "Solarize": (1.0, 0.0, False),
    "AutoContrast": (0.0, 0.0, False),
    "Equalize": (0.0, 0.0, False),
}
_MOVES = slice(1, 6)  # where the geometric operations lie in OPERATIONS; only Identity comes before


def trivial_augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Apply a random operation at a random strength to each image of uint8 [B,C,H,W], C = 1 or 3; draw from a CPU generator."""
    count = len(images)
    operation = torch.randint(len(OPERATIONS), (count,), generator=generator, device="cpu")
    level = torch.randint(LEVELS, (count,), generator=generator, device="cpu")
    sign = torch.randint(2, (count,), generator=generator, device="cpu") * 2 - 1
    signed = torch.tensor([signed for _, _, signed in OPERATIONS.values()], device="cpu")
    strength = strengths()[operation, level]
    return apply_operations(images, operation, torch.where(signed[operation], sign * strength, strength))


def strengths() -> Tensor:
    """Return the unsigned strength of each operation at each level, float64 [operations, LEVELS]."""
    # in float32 as torchvision: float64 would truncate some translations and thresholds to other integers
    spaced = [
        torch.linspace(weakest, strongest, LEVELS, dtype=torch.float32, device="cpu")
        for weakest, strongest, _ in OPERATIONS.values()
    ]
    return torch.stack(spaced).double()


def apply_operations(images: Tensor, operation: Tensor, strength: Tensor) -> Tensor:
    """Apply to each image its own operation.

    Args:
        images: uint8 [B,C,H,W].
        operation: int64 [B] on the CPU, indices into `OPERATIONS`.
        strength: float64 [B] on the CPU, signed.

    Returns:
        uint8 [B,C,H,W].
    """
    order = operation.argsort(stable=True)
    operation, strength = operation[order], strength[order]
    counts = operation.bincount(minlength=len(OPERATIONS)).tolist()
    sizes = [counts[0], sum(counts[_MOVES]), *counts[_MOVES.stop :]]
    parts = list(images[_sent(order, images)].split(sizes))
    if len(parts[1]):
        maps = inverse_maps(operation.split(sizes)[1], strength.split(sizes)[1], *images.shape[2:])
        parts[1] = _move(parts[1], maps)
    for index, (recolour, amount) in enumerate(zip(_RECOLOURINGS, strength.split(sizes)[2:], strict=True), 2):
        if len(parts[index]):
            parts[index] = recolour(parts[index], amount)
    return torch.cat(parts)[_sent(order.argsort(), images)]


def _sent(values: Tensor, images: Tensor) -> Tensor:
    return values.to(images.device, non_blocking=True)


# -------------------------------------------------------------------------------------------------------- geometric


def inverse_maps(operation: Tensor, strength: Tensor, height: int, width: int) -> Tensor:
    """float64 [B,2,3]: the affine map from a pixel of the result to its source, (x, y) in pixels from the image's centre.

    Shears leave the top (x) or left (y) edge in place, rotations the centre; a positive angle turns counter-clockwise.
    """
    own = strength[:, None] * (operation[:, None] == torch.arange(len(OPERATIONS), device="cpu")[_MOVES])
    shear_x, shear_y, right, down, degrees = own.unbind(1)  # each is zero but for the images of its own operation
    cos, sin = degrees.deg2rad().cos(), degrees.deg2rad().sin()
    rows = [
        [cos, shear_x - sin, shear_x * height / 2 - right.trunc()],
        [shear_y + sin, cos, shear_y * width / 2 - down.trunc()],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], 1)


def _move(images: Tensor, maps: Tensor) -> Tensor:
    height, width = images.shape[2:]
    down, right = (torch.arange(size, device="cpu") - (size - 1) / 2 for size in (height, width))
    y, x = torch.meshgrid(down, right, indexing="ij")
    pixels = _sent(torch.stack([x, y, torch.ones_like(x)], -1).view(1, -1, 3), images).expand(len(images), -1, -1)
    scaled = maps.float().mT / torch.tensor([width / 2, height / 2], device="cpu")  # grid_sample's image reaches from -1 to 1
    grid = torch.bmm(pixels, _sent(scaled, images)).view(-1, height, width, 2)
    return F.grid_sample(images.float(), grid, mode="nearest", padding_mode="zeros", align_corners=False).to(torch.uint8)


# ----------------------------------------------------------------------------------------------------------- colour


def _column(values: Tensor, images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """[B] on the CPU -> ``dtype`` [B,1,1,1] beside the images."""
    return _sent(values.to(dtype), images)[:, None, None, None]


def _grey(images: Tensor) -> Tensor:
    """uint8 [B,C,H,W] -> the luminance in whole levels, float32 [B,1,H,W]."""
    if images.shape[1] == 1:
        return images.float()
    red, green, blue = images.float().split(1, 1)
    return (red * 0.2989).add(green, alpha=0.587).add(blue, alpha=0.114).floor()


def _blend(images: Tensor, other: Tensor, strength: Tensor) -> Tensor:
    """(1 + strength) · images - strength · other, cut off at black and white."""
    factor = 1 + strength
    return _levels(torch.addcmul(images * _column(factor, images), other, _column(1 - factor, images)))


def _levels(values: Tensor) -> Tensor:
    return values.clamp(0, 255).to(torch.uint8)


def _brightness(images: Tensor, strength: Tensor) -> Tensor:
    return _levels(images * _column(1 + strength, images))


def _color(images: Tensor, strength: Tensor) -> Tensor:
    return images if images.shape[1] == 1 else _blend(images, _grey(images), strength)


def _contrast(images: Tensor, strength: Tensor) -> Tensor:
    return _blend(images, _grey(images).mean((1, 2, 3), keepdim=True), strength)


def _sharpness(images: Tensor, strength: Tensor) -> Tensor:
    """Away from, or towards, a blur that weighs the pixel 5/13 and its neighbours 1/13 each; the border stays."""
    if min(images.shape[2:]) < 3:
        return images
    values = images.float()
    inner = values[..., 1:-1, 1:-1]
    blurred = ((F.avg_pool2d(values, 3, 1, divisor_override=1) + 4 * inner) / 13).round()
    change = F.pad(blurred - inner, [1] * 4)
    return _levels(torch.addcmul(values, change, _column(1 - (1 + strength), images)))


def _posterize(images: Tensor, bits: Tensor) -> Tensor:
    return images & _column(256 - 2 ** (8 - bits.round()), images, torch.uint8)


def _solarize(images: Tensor, share: Tensor) -> Tensor:
    return torch.where(images >= _column(255 * share, images), 255 - images, images)


def _autocontrast(images: Tensor, _: Tensor) -> Tensor:
    values = images.float()
    low, high = values.amin((2, 3), keepdim=True), values.amax((2, 3), keepdim=True)
    stretched = (values - low) / ((high - low) * (1 / 255))
    return _levels(torch.where(high > low, stretched, values))


def _equalize(images: Tensor, _: Tensor) -> Tensor:
    from torchvision.transforms.v2.functional import equalize

    return equalize(images)


# In the order of OPERATIONS, after the geometric ones.
_RECOLOURINGS = (
    _brightness, _color, _contrast, _sharpness, _posterize, _solarize, _autocontrast, _equalize,
)  # fmt: skip
