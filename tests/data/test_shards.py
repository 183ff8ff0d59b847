import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from shard_files import colour, encoded, only, samples, two_shards, write_info

from grafs_timm.data.images import ImageSet, load_split, open_dataset
from grafs_timm.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return two_shards(tmp_path)


def load(folder: Path, **options: object) -> ImageSet:
    return load_split(open_dataset(folder), "train", **options)


def test_shard_writer_output_is_read(tmp_path):
    from webdataset import ShardWriter

    with ShardWriter(str(tmp_path / "s-%06d.tar"), maxcount=4, verbose=0) as writer:
        for key in range(8):
            writer.write({"__key__": f"{key}", "png": encoded(colour(key)), "cls": key % 2})
    write_info(tmp_path, {"s-000000.tar": 4, "s-000001.tar": 4})
    assert load(tmp_path).labels.tolist() == [0, 1] * 4


@pytest.mark.parametrize("extension", ["png", "webp", "jpg"])
def test_image_formats(tmp_path, extension):
    found = load(only(tmp_path, samples(3, extension), 3))
    assert found.images.shape == (3, 3, 8, 8)
    difference = found.images[1].int() - torch.from_numpy(colour(1)).permute(2, 0, 1).int()
    assert extension == "jpg" or not difference.any()


def test_grey_sets_have_one_channel_and_mixed_sets_three(tmp_path):
    grey = colour(0)[..., 0]
    as_webp = ("0.webp", encoded(np.repeat(grey[..., None], 3, 2), "webp"))
    found = load(only(tmp_path, [as_webp, ("0.cls", b"0"), ("1.png", encoded(grey)), ("1.cls", b"1")], 2))
    assert found.images.shape == (2, 1, 8, 8)
    assert torch.equal(found.images[0, 0], torch.from_numpy(grey))
    found = load(only(tmp_path, [("0.png", encoded(grey)), ("0.cls", b"0"), *samples(1, start=3)], 2))
    assert found.images.shape == (2, 3, 8, 8)
    assert torch.equal(found.images[0], torch.from_numpy(grey).expand(3, 8, 8))


def test_sha256(folder):
    content = (folder / "a.tar").read_bytes()
    write_info(folder, {"a.tar": 6}, ["x", "y", "z"], sha256={"a.tar": hashlib.sha256(content).hexdigest()})
    assert len(load(folder)) == 6
    (folder / "a.tar").write_bytes(content + b"\0")
    with pytest.raises(DataError, match=r"a\.tar: sha256 is .*, _info\.json says"):
        load(folder)


def test_label_beyond_the_classes(folder):
    write_info(folder, {"a.tar": 6}, ["x", "y"])
    with pytest.raises(DataError, match=r"a\.tar: sample '0002': label 2 is outside 0\.\.1"):
        load(folder)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([("k.png", b""), ("k.cls", b"0")], "sample 'k': png image is truncated"),
        ([("k.png", encoded(colour(0))[:-40]), ("k.cls", b"0")], "sample 'k': png image is truncated"),
        ([("k.webp", encoded(colour(0), "webp")[:-40]), ("k.cls", b"0")], "sample 'k': webp image is truncated"),
        ([("k.jpg", b"GIF89a not a photograph"), ("k.cls", b"0")], "sample 'k': jpg image"),
        ([("k.cls", b"0")], r"sample 'k': no image .*only cls"),
        ([("k.png", encoded(colour(0)))], r"sample 'k': no label"),
        ([("k.png", encoded(colour(0))), ("k.cls", b"cat")], "sample 'k': label b'cat' is not an integer"),
        ([("k.png", encoded(colour(0))), ("k.cls", b"1.5")], "is not an integer"),
        ([("k.png", encoded(colour(0))), ("k.cls", b"-1")], "label -1 is outside"),
        ([("k.png", encoded(colour(0))), ("k.png", b""), ("k.cls", b"0")], "k.png: duplicate file name"),
        ([("k.png", encoded(np.full((8, 8), 700, np.uint16))), ("k.cls", b"0")], "sample 'k': image of mode I"),
        ([], "0 samples, _info.json's shard_lengths say 1"),
    ],
)
def test_sample_that_is_wrong(tmp_path, files, message):
    with pytest.raises(DataError, match=message) as caught:
        load(only(tmp_path, files, 1, ["x", "y"]))
    assert str(tmp_path / "bad.tar") in str(caught.value)


@pytest.mark.parametrize(("promised", "message"), [(5, "sample '0005': more samples than the 5"), (7, "6 samples, .* 7")])
def test_count_other_than_promised(tmp_path, promised, message):
    with pytest.raises(DataError, match=rf"bad\.tar: {message}"):
        load(only(tmp_path, samples(6), promised))


@pytest.mark.parametrize("name", ["a.tar", "b.tar.gz"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.5, 0.8, 0.95])
def test_shard_cut_off(folder, name, share):
    content = (folder / name).read_bytes()
    end = len(content) if name.endswith("gz") else 6 * 4 * 512 * 9 // 10  # an uncompressed tar ends in padding
    (folder / name).write_bytes(content[: int(share * end)])
    with pytest.raises(DataError, match=name):
        load(folder)


def test_shard_of_noise(folder):
    (folder / "a.tar").write_bytes(np.random.default_rng(0).bytes(5000))
    with pytest.raises(DataError, match=r"a\.tar: truncated, corrupt or not a tar"):
        load(folder)


@pytest.mark.parametrize("position", [*range(12), *range(40, 2000, 97), -8, -4, -1])
def test_gzip_with_a_flipped_byte(folder, position):
    whole = load(folder)
    content = bytearray((folder / "b.tar.gz").read_bytes())
    content[position % len(content)] ^= 0x55
    (folder / "b.tar.gz").write_bytes(content)
    try:
        found = load(folder)
    except DataError as error:
        assert "b.tar.gz" in str(error)  # noqa: PT017
    else:  # a byte of the header that means nothing, such as the time
        assert torch.equal(found.images, whole.images)
        assert torch.equal(found.labels, whole.labels)
