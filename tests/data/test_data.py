import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from shard_files import colour, encoded, only, samples, two_shards, write_info, write_tar
from tiny_runs import recipe

from grafs_timm.data import shards
from grafs_timm.data.images import Batches, DatasetInfo, ImageSet, load_split, open_dataset
from grafs_timm.errors import DataError
from grafs_timm.runs.training import load_data, open_feeds

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return two_shards(tmp_path)


def load(folder: Path, **options: object) -> ImageSet:
    return load_split(open_dataset(folder), "train", **options)


def test_shards_of_this_machine_are_read_without_webdataset():
    code = "import sys; from grafs_timm.data import load_split, open_dataset; load_split(open_dataset('digits'), 'test')\n"
    code += "sys.exit('webdataset' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_shards_come_back_in_order(folder):
    found = load(folder)
    assert found.images.shape == (12, 3, 8, 8)
    assert found.images.dtype == torch.uint8
    assert found.labels.tolist() == [key % 3 for key in range(12)]
    assert found.classes == ("x", "y", "z")
    for key in range(12):
        assert torch.equal(found.images[key], torch.from_numpy(colour(key)).permute(2, 0, 1))


def test_limit_is_balanced_and_reads_no_more_shards_than_it_needs(folder):
    whole = load(folder)
    (folder / "b.tar.gz").write_bytes(b"never read")
    part = load(folder, limit=4)
    assert part.labels.bincount().tolist() == [2, 1, 1]
    assert torch.equal(part.images, whole.images[:4])
    assert part.num_classes == 3


def test_limit_reads_on_where_shards_hold_few_classes(tmp_path):
    for label, name in enumerate(("a.tar", "b.tar")):
        write_tar(
            tmp_path / name,
            [(f"{i}.{e}", c) for i in range(4) for e, c in (("png", encoded(colour(i))), ("cls", str(label).encode()))],
        )
    write_info(tmp_path, {"a.tar": 4, "b.tar": 4}, ["x", "y"])
    assert load(tmp_path, limit=4).labels.tolist() == [0, 0, 1, 1]
    assert len(load(tmp_path, limit=100)) == 8


def test_large_images_are_read_in_threads_and_stay_in_order(tmp_path):
    for shard in range(3):
        files = [(f"{key}.png", encoded(colour(10 * shard + key, size=96))) for key in range(2)]
        write_tar(tmp_path / f"{shard}.tar", [*files[:1], ("0.cls", b"0"), *files[1:], ("1.cls", b"1")])
    write_info(tmp_path, {f"{shard}.tar": 2 for shard in range(3)}, ["x", "y"])
    found = load(tmp_path)
    assert found.labels.tolist() == [0, 1] * 3
    assert torch.equal(found.images[5], torch.from_numpy(colour(21, size=96)).permute(2, 0, 1))
    (tmp_path / "1.tar").write_bytes(b"no tar")
    with pytest.raises(DataError, match=r"1\.tar: truncated, corrupt or not a tar"):
        load(tmp_path)


def test_limit_below_one(folder):
    with pytest.raises(DataError, match="limit must be at least 1"):
        load(folder, limit=0)


def test_missing_shard(folder):
    (folder / "b.tar.gz").unlink()
    with pytest.raises(DataError, match=r"b\.tar\.gz: no such shard"):
        load(folder, limit=1)


def test_images_of_two_sizes(tmp_path):
    odd = [("odd.png", encoded(colour(0, size=9))), ("odd.cls", b"0")]
    with pytest.raises(DataError, match=r"bad\.tar: sample 'odd': image of 9×9, those before it 8×8"):
        load(only(tmp_path, samples(2) + odd, 3))
    write_tar(tmp_path / "second.tar", odd)
    write_tar(tmp_path / "bad.tar", samples(2))
    write_info(tmp_path, {"bad.tar": 2, "second.tar": 1})
    with pytest.raises(DataError, match=r"second\.tar: images of 9×9, those of bad\.tar 8×8"):
        load(tmp_path)


# ---------------------------------------------------------------------------- sizes, channels and shards left out


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("to", [16, 40])
def test_images_are_brought_to_one_size_as_timm_evaluates(tmp_path, to):
    from timm.data import create_transform

    pictures = [picture(32, 45), picture(51, 23), picture(24, 24), picture(to, to)]
    files = [(f"{i}.{end}", c) for i, p in enumerate(pictures) for end, c in (("png", encoded(p)), ("cls", b"0"))]
    found = load(only(tmp_path, files, 4), image_size=to)
    transform = create_transform((3, to, to), crop_pct=1.0, interpolation="bicubic", mean=(0,) * 3, std=(1,) * 3)
    for image, original in zip(found.images, pictures, strict=True):
        assert torch.equal(image, (transform(Image.fromarray(original)) * 255).round().byte())
    assert found.notices == (f"{tmp_path.name}, train: 3 of 4 images resized to {to}×{to}, centre kept",)
    assert found.subset([0]).notices == found.notices


def test_grey_is_repeated_where_colour_is_wanted(tmp_path):
    grey = colour(0)[..., 0]
    folder = only(tmp_path, [("0.png", encoded(grey)), ("0.cls", b"0")], 1)
    found = load(folder, channels=3)
    assert torch.equal(found.images, torch.from_numpy(grey).expand(1, 3, 8, 8))
    assert found.notices == (f"{tmp_path.name}, train: 1 of 1 grey images repeated to 3 channels",)
    assert load(folder, channels=1).notices == load(folder).notices == ()


def test_colour_becomes_luma_where_grey_is_wanted(tmp_path):
    grey = np.repeat(colour(1)[..., :1], 3, axis=2)
    files = [("0.png", encoded(colour(0))), ("0.cls", b"0"), ("1.webp", encoded(grey, "webp")), ("1.cls", b"0")]
    found = load(only(tmp_path, files, 2), channels=1)
    luma = colour(0) @ np.array([0.299, 0.587, 0.114])
    assert found.images.shape == (2, 1, 8, 8)
    assert np.abs(found.images[0, 0].numpy() - luma).max() <= 0.51
    assert torch.equal(found.images[1, 0], torch.from_numpy(grey[..., 0]))
    assert found.notices == (f"{tmp_path.name}, train: 1 of 2 colour images made grey (BT.601 luma)",)


@pytest.mark.parametrize("bad", ["cut off", "missing", "label"])
def test_a_bad_shard_is_left_out_where_asked(folder, bad):
    whole = load(folder)
    if bad == "cut off":
        (folder / "a.tar").write_bytes((folder / "a.tar").read_bytes()[:3000])
    elif bad == "missing":
        (folder / "a.tar").unlink()
    else:
        write_tar(folder / "a.tar", [*samples(5), ("x.png", encoded(colour(9))), ("x.cls", b"3")])
    with pytest.raises(DataError, match=r"a\.tar"):
        load(folder)
    found = load(folder, on_bad_shard="skip")
    assert torch.equal(found.images, whole.images[6:])
    assert len(found.notices) == 1
    assert re.search(r"train: 1 of 2 shards left out: .*a\.tar: ", found.notices[0])
    assert len(load(folder, on_bad_shard="skip", limit=4)) == 4  # from the second, as the first is bad


def test_no_shard_left(folder):
    (folder / "a.tar").unlink()
    (folder / "b.tar.gz").write_bytes(b"noise")
    with pytest.raises(DataError, match=r"every shard of split train is bad; the first: .*a\.tar: no such file"):
        load(folder, on_bad_shard="skip")


def test_recipe_settings_reach_the_loader(folder):
    (folder / "a.tar").unlink()
    data = {"name": str(folder), "image_size": 12, "channels": 1, "on_bad_shard": "skip"}
    with pytest.warns(UserWarning, match="train: ") as caught:
        found = load_data(recipe(data=data).data, "train", "cpu")
    assert found.images.shape == (6, 1, 12, 12)
    assert [str(warning.message) for warning in caught] == list(found.notices)
    assert len(found.notices) == 3


@pytest.mark.parametrize(("both", "expected"), [(False, 1437), (True, 1437 + 360)])
def test_no_image_is_decoded_twice_where_some_are_held_out(monkeypatch, both, expected):
    decoded, decode = [], shards.decode_image
    monkeypatch.setattr(shards, "decode_image", lambda sample, where: decoded.append(where) or decode(sample, where))
    chosen = recipe(data={"name": "digits", "validation_images": 200}, evaluate={"epochs": 1, "measure_both": both})
    feeds = open_feeds(chosen, 0, "cpu")
    assert len(decoded) == len(set(decoded)) == expected
    alone = {split: load_data(chosen.data, split, "cpu") for split in ("train", "validation", "test")}
    assert torch.equal(feeds.train.imageset.images, alone["train"].images)
    assert torch.equal(feeds.measured.imageset.images, alone["test" if both else "validation"].images)
    if both:
        assert torch.equal(feeds.also.imageset.images, alone["validation"].images)


# ------------------------------------------------------------------------------------------- sets and batches


def image_set(count: int = 60, classes: int = 3, channels: int = 3, size: int = 8) -> ImageSet:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(1, 256, (count, channels, size, size), dtype=torch.uint8, generator=generator)
    return ImageSet(images, torch.arange(count) % classes, tuple("abcdefghij"[:classes]))


def test_mean_and_std_are_those_of_the_pixels():
    found = image_set()
    pixels = found.images.double() / 255
    assert found.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist())
    assert found.std == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist())


def test_split_is_stratified_disjoint_and_repeatable():
    whole = image_set(60)
    weights, architecture = whole.split(0.75, seed=3)
    assert weights.labels.bincount().tolist() == [15] * 3
    assert architecture.labels.bincount().tolist() == [5] * 3
    rows = [{image.numpy().tobytes() for image in part.images} for part in (weights, architecture)]
    assert len(rows[0] | rows[1]) == 60
    assert not rows[0] & rows[1]
    assert torch.equal(whole.split(0.75, seed=3)[1].images, architecture.images)
    assert not torch.equal(whole.split(0.75, seed=4)[1].images, architecture.images)


def test_split_keeps_a_rare_class_in_both_parts():
    labels = torch.tensor([0] * 20 + [1] * 2 + [2])
    whole = ImageSet(torch.zeros(23, 1, 8, 8, dtype=torch.uint8), labels, ("a", "b", "c"))
    weights, architecture = whole.split(0.9)
    assert weights.labels.bincount(minlength=3).tolist() == [18, 1, 1]
    assert architecture.labels.bincount(minlength=3).tolist() == [2, 1, 0]


@pytest.mark.parametrize("fraction", [0.0, 1.0, 1.5, float("nan")])
def test_split_that_leaves_a_part_empty(fraction):
    with pytest.raises(DataError, match="fraction between 0 and 1"):
        image_set().split(fraction)


def test_subset_keeps_classes():
    part = image_set().subset([5, 2])
    assert part.labels.tolist() == [2, 2]
    assert (len(part), part.num_classes) == (2, 3)


def test_batches_are_normalised():
    batches = Batches(image_set(), 60)
    (images, labels), *rest = batches.epoch(0)
    assert not rest
    assert images.mean((0, 2, 3)).abs().max() < 1e-5
    assert images.std((0, 2, 3), correction=0).sub(1).abs().max() < 1e-5
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    (images, _), *_ = Batches(image_set(), 60, mean=(0, 0, 0), std=(1, 1, 1), shuffle=False, dtype=torch.bfloat16).epoch(0)
    assert torch.equal(images, (image_set().images / 255).bfloat16())


def test_a_constant_channel_stays_finite():
    flat = ImageSet(torch.full((4, 1, 8, 8), 7, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64), ("a",))
    assert next(Batches(flat, 4).epoch(0))[0].abs().max() < 1e-4


def test_order_depends_on_seed_and_epoch_alone():
    one, same, other = (
        Batches(image_set(), 8, seed=5),
        Batches(image_set(), 16, seed=5, augment="crop"),
        Batches(image_set(), 8),
    )
    torch.manual_seed(123)
    list(one.epoch(0))
    assert torch.equal(one.order(3), same.order(3))
    assert not torch.equal(one.order(3), one.order(4))
    assert not torch.equal(one.order(3), other.order(3))
    assert one.order(3).sort().values.tolist() == list(range(60))


@pytest.mark.parametrize("names", [(), ("crop",), ("flip",), ("crop", "flip", "trivial_augment")])
def test_a_resumed_run_sees_the_same_batches(names):
    first = list(Batches(image_set(), 16, seed=2, augment=names).epoch(1))
    torch.manual_seed(99)
    state = torch.get_rng_state()
    resumed = list(Batches(image_set(), 16, seed=2, augment=names).epoch(1, start=2))
    assert torch.equal(torch.get_rng_state(), state)
    assert len(first) == 3
    assert len(resumed) == 1
    assert torch.equal(resumed[0][0], first[2][0])
    assert torch.equal(resumed[0][1], first[2][1])


def test_length_and_last_batch():
    assert len(Batches(image_set(60), 16)) == 3
    whole = Batches(image_set(60), 16, drop_last=False, shuffle=False)
    assert [len(labels) for _, labels in whole.epoch(0)] == [16, 16, 16, 12]
    assert torch.cat([labels for _, labels in whole.epoch(7)]).tolist() == image_set(60).labels.tolist()
    assert len(Batches(image_set(5), 16, drop_last=False)) == 1


def test_the_ranks_share_each_batch():
    whole = list(Batches(image_set(), 16, seed=2).epoch(1))
    shares = [list(Batches(image_set(), 16, seed=2, share=(rank, 4)).epoch(1)) for rank in range(4)]
    for step, (images, labels) in enumerate(whole):
        assert torch.equal(torch.cat([share[step][0] for share in shares]), images)
        assert torch.equal(torch.cat([share[step][1] for share in shares]), labels)
    assert len(Batches(image_set(), 16, share=(1, 4))) == len(whole)


def test_the_ranks_augment_by_draws_of_their_own():
    same = image_set(2).subset([0] * 16)  # sixteen times one image
    first, second = (next(Batches(same, 16, augment="crop", share=(rank, 2)).epoch(0))[0] for rank in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("changes", [{"share": (0, 3)}, {"share": (0, 2), "drop_last": False}])
def test_batches_that_do_not_divide(changes):
    with pytest.raises(DataError, match=r"batches of 16.* do not divide into \d equal parts"):
        Batches(image_set(), 16, **changes)


def test_fewer_images_than_a_batch():
    with pytest.raises(DataError, match="5 images do not fill one batch of 16"):
        Batches(image_set(5), 16)


def test_mean_of_other_channels():
    with pytest.raises(DataError, match="mean of 1 channels for images of 3"):
        Batches(image_set(), 8, mean=(0.5,))


def test_digits_are_embedded():
    info = open_dataset("digits")
    train, test = load_split(info, "train"), load_split(info, "test")
    assert train.images.shape == (1437, 1, 8, 8)
    assert test.labels.bincount().tolist() == [36] * 10
    assert (train.images.min(), train.images.max(), train.num_classes) == (0, 255, 10)
    for part in (10, 200, 1000):
        counts = train.labels[:part].bincount(minlength=10)
        assert counts.max() - counts.min() <= 1


def test_digits_are_what_the_tool_makes(tmp_path):
    pytest.importorskip("sklearn", reason="scikit-learn makes the digits")
    spec = importlib.util.spec_from_file_location("make_digits", ROOT / "tools" / "make_digits.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    tool.make(tmp_path)
    committed = ROOT / "grafs_timm" / "data" / "digits"
    names = sorted(path.name for path in committed.iterdir())
    assert names == sorted(path.name for path in tmp_path.iterdir())
    for name in names:
        assert (tmp_path / name).read_bytes() == (committed / name).read_bytes(), name


def shared(name: str) -> DatasetInfo:
    if not (SHARED / name).is_dir():
        pytest.skip(f"no shards of {name} in {SHARED}")
    return open_dataset(SHARED / name)


def test_cifar10_prefix():
    part = load_split(shared("cifar10"), "train", limit=1000)
    assert part.images.shape == (1000, 3, 32, 32)
    assert part.labels.bincount().tolist() == [100] * 10
    assert part.mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=0.02)


def test_fashion_mnist_is_grey():
    part = load_split(shared("fashion-mnist"), "test", limit=500)
    assert part.images.shape == (500, 1, 28, 28)
    assert part.classes[9] == "ankle_boot"


@pytest.mark.slow
def test_cifar10_whole():
    whole = load_split(shared("cifar10"), "train")
    assert whole.labels.bincount().tolist() == [5000] * 10
    assert whole.mean == pytest.approx((0.49140, 0.48216, 0.44653), abs=5e-6)
    assert whole.std == pytest.approx((0.24703, 0.24349, 0.26159), abs=5e-6)
