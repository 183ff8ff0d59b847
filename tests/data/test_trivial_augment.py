import math
from functools import partial

import pytest
import torch
from torchvision.transforms.v2 import TrivialAugmentWide
from torchvision.transforms.v2 import functional as tv

from grafs_timm.data.trivial_augment import LEVELS, OPERATIONS, apply_operations, strengths, trivial_augment

NAMES = list(OPERATIONS)


def shear(image, slope, axis):
    angles = [0.0, 0.0]
    angles[axis] = math.degrees(math.atan(slope))
    return tv.affine(image, 0.0, [0, 0], 1.0, angles, center=[0, 0])


# What torchvision's TrivialAugmentWide calls, each on one image.
SINGLY = {
    "Identity": lambda image, _: image,
    "ShearX": partial(shear, axis=0),
    "ShearY": partial(shear, axis=1),
    "TranslateX": lambda image, pixels: tv.affine(image, 0.0, [int(pixels), 0], 1.0, [0.0, 0.0]),
    "TranslateY": lambda image, pixels: tv.affine(image, 0.0, [0, int(pixels)], 1.0, [0.0, 0.0]),
    "Rotate": lambda image, degrees: tv.rotate(image, degrees),
    "Brightness": lambda image, amount: tv.adjust_brightness(image, 1.0 + amount),
    "Color": lambda image, amount: tv.adjust_saturation(image, 1.0 + amount),
    "Contrast": lambda image, amount: tv.adjust_contrast(image, 1.0 + amount),
    "Sharpness": lambda image, amount: tv.adjust_sharpness(image, 1.0 + amount),
    "Posterize": lambda image, bits: tv.posterize(image, round(bits)),
    "Solarize": lambda image, share: tv.solarize(image, 255.0 * share),
    "AutoContrast": lambda image, _: tv.autocontrast(image),
    "Equalize": lambda image, _: tv.equalize(image),
}


def pictures(count: int, channels: int = 3, height: int = 32, width: int = 32) -> torch.Tensor:
    """Noise over a slope of its own range per image, every third one with equal channels, the last one of one level."""
    generator = torch.Generator().manual_seed(count + channels)
    low, high = torch.rand(2, count, channels, 1, 1, generator=generator).sort(0).values * 255
    across = torch.rand(count, channels, height, width, generator=generator) * torch.linspace(0.2, 1, width)
    images = (low + (high - low) * across).to(torch.uint8)
    images[::3] = images[::3, :1]
    images[-1] = 77
    return images


def every_strength(name: str) -> torch.Tensor:
    """Every level, where the sign is drawn of either sign."""
    levels = strengths()[NAMES.index(name)]
    return torch.cat([levels, -levels]) if OPERATIONS[name][2] else levels


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 32, 32), (3, 17, 24)])
@pytest.mark.parametrize("name", NAMES)
def test_each_operation_is_torchvisions(name, shape):
    amounts = every_strength(name)
    images = pictures(len(amounts), *shape)
    operation = torch.full((len(images),), NAMES.index(name))
    batched = apply_operations(images, operation, amounts)
    singly = torch.stack([SINGLY[name](image, amount) for image, amount in zip(images, amounts.tolist(), strict=True)])
    differing = (batched != singly).flatten(1).double().mean(1)
    # Turned by 45 or 135 degrees, the diagonals of a square image fall on the borders between pixels, and the last bit
    # of a product decides which is nearest. Every other source lies well inside a pixel.
    borders = ((amounts.abs() - 90).abs() - 45).abs().lt(1e-3) if name == "Rotate" else torch.zeros_like(amounts).bool()
    assert not differing[~borders].any()
    assert differing.mean() <= 0.01


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [1, 40])
def test_images_of_one_batch_keep_to_their_own_operations(count, channels):
    images = pictures(count, channels)
    operation = (torch.arange(count) * 5 + 8) % len(NAMES)  # all of them in 40, never two neighbours alike
    amounts = strengths()[operation, torch.arange(count) * 7 % LEVELS]
    batched = apply_operations(images, operation, amounts)
    assert (batched.dtype, batched.shape) == (torch.uint8, images.shape)
    singly = [
        SINGLY[NAMES[index]](image, amount)
        for image, index, amount in zip(images, operation.tolist(), amounts.tolist(), strict=True)
    ]
    differing = batched != torch.stack(singly)
    assert differing.double().mean() <= 0.01  # turned pixels on a border, as above
    assert not differing[operation != NAMES.index("Rotate")].any()
    by_channel = images.to(memory_format=torch.channels_last)
    assert torch.equal(apply_operations(by_channel, operation, amounts), batched)


def test_small_images():
    images = pictures(40, 3, 2, 1)
    operation = torch.arange(40) % len(NAMES)
    amounts = strengths()[operation, -1]
    for image, index, amount, result in zip(
        images, operation.tolist(), amounts.tolist(), apply_operations(images, operation, amounts), strict=True
    ):
        assert torch.equal(result, SINGLY[NAMES[index]](image, amount)), NAMES[index]


def test_the_space_is_torchvisions():
    theirs = TrivialAugmentWide._AUGMENTATION_SPACE
    assert list(theirs) == NAMES
    for (name, (levels, signed)), ours in zip(theirs.items(), strengths(), strict=True):
        assert OPERATIONS[name][2] == signed
        values = levels(LEVELS, 32, 32)
        expected = torch.zeros(LEVELS, dtype=torch.float64) if values is None else values.double()
        assert torch.equal(ours.round() if name == "Posterize" else ours, expected), name


def test_draws_are_uniform_and_from_the_generator_alone(monkeypatch):
    drawn = []
    monkeypatch.setattr("grafs_timm.data.trivial_augment.apply_operations", lambda *given: drawn.append(given))
    torch.manual_seed(7)
    state = torch.get_rng_state()
    for seed in (0, 0, 1):
        trivial_augment(torch.empty(28_000, 1, 1, 1, dtype=torch.uint8), torch.Generator().manual_seed(seed))
    assert torch.equal(torch.get_rng_state(), state)
    (_, operation, amounts), again, other = drawn
    assert torch.equal(operation, again[1])
    assert torch.equal(amounts, again[2])
    assert not torch.equal(operation, other[1])
    counts = operation.bincount(minlength=len(NAMES))
    assert counts.min() > 1800  # of 2000 expected, standard deviation 43
    assert counts.max() < 2200
    for index, name in enumerate(NAMES):
        own = amounts[operation == index]
        assert set(own.tolist()) == set(every_strength(name).tolist()), name
        if OPERATIONS[name][2]:
            assert 0.44 < own.lt(0).double().mean() < 0.53, name  # a level of 31 is zero


@pytest.mark.parametrize("channels", [1, 3])
def test_one_seed_is_one_batch(channels):
    images = pictures(40, channels)
    before = images.clone()
    first, again, other = (trivial_augment(images, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(images, before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
