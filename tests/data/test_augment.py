import pytest
import torch

from grafs_timm.data import augment
from grafs_timm.data.images import Batches, ImageSet
from grafs_timm.errors import UnknownNameError


def image_set(count: int = 60, classes: int = 3, channels: int = 3, size: int = 8) -> ImageSet:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(1, 256, (count, channels, size, size), dtype=torch.uint8, generator=generator)
    return ImageSet(images, torch.arange(count) % classes, tuple("abcdefghij"[:classes]))


def test_unknown_augmentation():
    with pytest.raises(UnknownNameError, match="no augmentation 'flipp'; nearest: flip"):
        Batches(image_set(), 8, augment=("crop", "flipp"))


def test_crop_is_a_window_of_the_padded_image():
    images = image_set(16).images
    shifts = torch.tensor([[row, column] for row in (0, 2, 4, 7) for column in (0, 3, 4, 8)])
    cropped = augment.crop(images, shifts, padding=4)
    padded = torch.nn.functional.pad(images, [4] * 4)
    for image, (row, column), result in zip(padded, shifts.tolist(), cropped, strict=True):
        assert torch.equal(result, image[:, row : row + 8, column : column + 8])
    assert torch.equal(augment.crop(images, torch.full((16, 2), 4), padding=4), images)


def test_each_image_has_its_own_draw():
    one = torch.arange(1, 65, dtype=torch.uint8).view(1, 1, 8, 8).expand(400, 1, 8, 8)
    generator = torch.Generator().manual_seed(0)
    cropped = augment.augment(one, ("crop",), generator)
    assert len({image.numpy().tobytes() for image in cropped}) > 70  # of 81
    flipped = augment.augment(one, ("flip",), generator)
    share = (flipped != one).flatten(1).any(1).double().mean().item()
    assert 0.4 < share < 0.6
    assert {image.numpy().tobytes() for image in flipped} == {
        one[0].numpy().tobytes(),
        one[0].flip(-1).numpy().tobytes(),
    }


@pytest.mark.parametrize("channels", [1, 3])
def test_trivial_augment_draws_for_each_image_from_the_generator(channels):
    one = image_set(1, channels=channels, size=16).images.expand(64, -1, -1, -1)
    torch.manual_seed(7)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    first, again, other = (augment.trivial_augment(one, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert (first.dtype, first.shape) == (torch.uint8, one.shape)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len({image.numpy().tobytes() for image in first}) > 20
