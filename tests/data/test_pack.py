import errno
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import timm.data
import torch
import torchvision
from PIL import Image
from shard_files import colour, encoded
from tiny_runs import ROOT, call, contents, refused
from torchvision.datasets.utils import verify_str_arg
from torchvision_files import SVHN_FILES, fashion_mnist, svhn

from grafs_timm.data import pack as module
from grafs_timm.data.images import load_split, open_dataset
from grafs_timm.data.pack import Packing, interleaved, pack
from grafs_timm.data.sources import Split, open_source, torchvision_name
from grafs_timm.errors import DataError, RunError, UnknownNameError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An image folder: 12 images of each of three classes to train, 4 to test, of several sizes and formats."""
    for split, count in (("train", 12), ("val", 4)):
        for label, name in enumerate(("ant", "bee", "cow")):
            for number in range(count):
                extension = ("png", "jpg", "webp")[number % 3]
                file = tmp_path / "photos" / split / name / f"{number}.{extension.upper()}"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(encoded(colour(100 * label + number, 8 + number), extension))
    return tmp_path / "photos"


def members(folder: Path, shard: str) -> dict[str, bytes]:
    with tarfile.open(folder / shard) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


# ------------------------------------------------------------------------------------------------------ image folders


def test_an_image_folder_comes_back_pixel_by_pixel(tmp_path, folder):
    assert pack(str(folder), tmp_path / "out", Packing(shard_size=10)) == []
    info = open_dataset(tmp_path / "out")
    assert info.classes == ("ant", "bee", "cow")
    assert info.splits["train"].shard_lengths == [9] * 4
    assert info.splits["validation"].shard_lengths == [6] * 2
    wanted = {(label, np.asarray(Image.open(file)).tobytes())
              for label, name in enumerate(info.classes) for file in (folder / "train" / name).iterdir()}  # fmt: skip
    found = set()
    for number in range(4):
        files = members(tmp_path / "out", f"out-train-{number:06d}.tar")
        for key in {name.split(".")[0] for name in files}:
            with (tmp_path / "one.webp").open("wb") as file:
                file.write(files[f"{key}.webp"])
            found.add((int(files[f"{key}.cls"]), np.asarray(Image.open(tmp_path / "one.webp")).tobytes()))
    assert found == wanted


NAMES = ["out:12", "a b", "{a,b}", "x\\..\\y", "set.tar", "http:x", "ünï", "-o", "..x", "a::b", "x?y#z", "'q'", "a\nb", "[1]"]


@pytest.mark.parametrize("name", NAMES)
def test_a_set_can_be_opened_whatever_its_folder_is_called(tmp_path, folder, name):
    if name.encode(sys.getfilesystemencoding(), "replace") != name.encode(sys.getfilesystemencoding(), "ignore"):
        pytest.skip("no file can be called that in this locale")
    assert pack(str(folder), tmp_path / name) == []
    info = open_dataset(tmp_path / name)
    assert [len(load_split(info, split, image_size=8)) for split in ("train", "validation")] == [36, 12]
    assert call("data", "check", tmp_path / name, "--quiet").exit_code == 0


def test_the_same_source_makes_the_same_bytes(tmp_path, folder):
    pack(str(folder), tmp_path / "one" / "set")
    os.utime(folder / "train" / "ant" / "0.PNG", (1, 1))
    pack(str(folder), tmp_path / "two" / "set")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_any_prefix_has_the_classes_in_proportion():
    labels = np.repeat([0, 1, 2], [600, 300, 100])
    split = Split(labels, str, lambda index: None)
    order = labels[interleaved(split, range(1000))]
    for part in (10, 50, 333, 700):
        assert np.abs(np.bincount(order[:part], minlength=3) - part * np.array([0.6, 0.3, 0.1])).max() <= 2
    assert len({tuple(order[start : start + 10]) for start in range(0, 1000, 10)}) > 10
    even = np.arange(90) % 3
    order = even[interleaved(Split(even, str, lambda index: None), range(90))]
    assert all(sorted(order[start : start + 3]) == [0, 1, 2] for start in range(0, 90, 3))
    assert len({tuple(order[start : start + 3]) for start in range(0, 90, 3)}) > 3


@pytest.mark.parametrize("form", ["webp", "png", "jpg"])
def test_formats(tmp_path, folder, form):
    pack(str(folder), tmp_path / "out", Packing(form))
    assert {Path(name).suffix for name in members(tmp_path / "out", "out-train-000000.tar")} == {f".{form}", ".cls"}
    assert len(load_split(open_dataset(tmp_path / "out"), "train", image_size=8)) == 36


def test_keep_copies_the_files(tmp_path, folder):
    (folder / "train" / "ant" / "0.PNG").write_bytes(encoded(colour(0), "jpg"))  # a name that is wrong about the format
    pack(str(folder), tmp_path / "out", Packing("keep"))
    files = members(tmp_path / "out", "out-train-000000.tar")
    kept = sorted(content for name, content in files.items() if not name.endswith(".cls"))
    assert kept == sorted(file.read_bytes() for file in (folder / "train").rglob("*.*"))
    assert sum(name.endswith(".jpg") for name in files) == 13
    (folder / "train" / "ant" / "0.PNG").unlink()
    Image.fromarray(colour(0)).save(folder / "train" / "ant" / "0.bmp")
    with pytest.raises(DataError, match=r"photos: train/ant/0\.bmp: is BMP; shards hold JPEG, PNG, WEBP"):
        pack(str(folder), tmp_path / "other", Packing("keep"))


def test_part_of_a_single_split_is_held_out(tmp_path, folder):
    one = folder / "train"
    with pytest.raises(DataError, match=r"train has one split only; hold_out 0\.1 \(--hold-out 0\.1\)"):
        pack(str(one), tmp_path / "out")
    pack(str(one), tmp_path / "out", Packing("png", hold_out=0.25))
    info = json.loads((tmp_path / "out" / "_info.json").read_text(encoding="utf-8"))["splits"]
    assert info["train"]["class_counts"] == [9, 9, 9]
    assert info["test"]["class_counts"] == [3, 3, 3]
    images = [set(members(tmp_path / "out", f"out-{split}-000000.tar").values()) - {b"0", b"1", b"2"} for split in info]
    assert [len(part) for part in images] == [27, 9]
    assert not images[0] & images[1]
    pack(str(one), tmp_path / "whole", Packing(hold_out=0))
    assert list(open_dataset(tmp_path / "whole").splits) == ["train"]
    with pytest.raises(DataError, match=r"has splits of its own \(train, validation\)"):
        pack(str(folder), tmp_path / "both", Packing(hold_out=0.1))


def test_timms_own_reader_takes_it(tmp_path, folder):
    pack(str(folder), tmp_path / "out", Packing(shard_size=10, splits={"train": "train", "test": "val"}))
    info = open_dataset(tmp_path / "out")
    for split, count in (("train", 36), ("test", 12)):
        found = timm.data.create_dataset("wds/out", str(tmp_path / "out"), split=split, batch_size=4)
        assert len(found) == count
        samples = list(found)
        ours = load_split(info, split, image_size=8)
        assert [label for _, label in samples] == ours.labels.tolist()
        assert {image.size for image, _ in samples} == {(size, size) for size in range(8, 8 + count // 3)}


# -------------------------------------------------------------------------------------------------------- torchvision


@pytest.fixture
def fashion(tmp_path):
    """A few random images in the files that torchvision's FashionMNIST reads."""
    return tmp_path / "root", fashion_mnist(tmp_path / "root")


def test_fashion_mnist_from_its_own_files(tmp_path, fashion):
    root, images = fashion
    result = call("data", "pack", "FashionMNIST", tmp_path / "out", "--root", root, "--quiet")
    assert result.exit_code == 0
    assert "train        40 images in 1 shards\ntest         20 images in 1 shards" in result.output
    info = open_dataset(tmp_path / "out")
    assert info.classes[9] == "Ankle boot"
    train = load_split(info, "train")
    assert train.images.shape == (40, 1, 28, 28)
    assert {image.numpy().tobytes() for image in train.images} == {image.tobytes() for image in images[:40]}
    assert train.labels[:10].sort().values.tolist() == list(range(10))
    assert "no problems" in call("data", "check", tmp_path / "out", "--quiet").output


def test_svhn_from_its_own_files(tmp_path, monkeypatch):
    images = svhn(tmp_path)
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", SVHN_FILES)
    pack("svhn", tmp_path / "out", root=tmp_path)
    info = open_dataset(tmp_path / "out")
    assert info.classes == tuple("0123456789")
    train = load_split(info, "train")
    naught = torch.from_numpy(images["train"][..., 9]).permute(2, 0, 1)
    assert train.labels[(train.images == naught).flatten(1).all(1)].tolist() == [0]
    assert train.labels.bincount().tolist() == [3] * 10
    with pytest.raises(DataError, match=r"torchvision cannot read svhn in .*not found or corrupted"):
        pack("svhn", tmp_path / "extra", Packing(splits={"train": "extra"}), root=tmp_path)


@pytest.mark.parametrize("first", ["train", "trainval"])
def test_the_splits_of_a_set_are_those_it_knows(tmp_path, monkeypatch, first):
    class Pets:
        _samples = [(None, number % 2) for number in range(6)]  # noqa: RUF012
        classes = [("dog", "hound"), ("cat",)]  # noqa: RUF012

        def __init__(self, root, split="test", transform=None):
            verify_str_arg(split, "split", {first, "trainval", "test"})
            self.split = split

        def __len__(self):
            return len(self._samples)

        def __getitem__(self, index):
            return Image.fromarray(colour(index)), index % 2

    monkeypatch.setattr(torchvision.datasets, "Pets", Pets, raising=False)
    monkeypatch.setattr(torchvision.datasets, "__all__", ("Pets",))
    source = open_source("pets", tmp_path)
    assert {name: split.read.args[0].split for name, split in source.splits.items()} == {"train": first, "test": "test"}
    assert source.classes == ("dog", "cat")
    assert source.splits["train"].labels.tolist() == [0, 1] * 3
    assert list(open_source("pets", tmp_path, {"a": "trainval"}).splits) == ["a"]
    with pytest.raises(DataError, match=r"pets, split up: Unknown value 'up'"):
        open_source("pets", tmp_path, {"a": "up"})


def test_names_of_torchvision():
    for text in ("FashionMNIST", "fashion-mnist", "fashion_mnist", "torchvision:FASHIONMNIST"):
        assert torchvision_name(text) == "fashion-mnist"
    assert [torchvision_name(text) for text in ("CIFAR100", "flowers102", "imagenette", "emnist")] == [
        "cifar100", "flowers102", "imagenette", "emnist"
    ]  # fmt: skip
    assert [torchvision_name(text) for text in ("fake-data", "image-folder", "no/such", "")] == [None] * 4


# ---------------------------------------------------------------------------------------------------------- bad input


def test_source_that_is_not_there(tmp_path):
    with pytest.raises(UnknownNameError, match="'cifar1O' is neither a folder nor a torchvision data set; nearest: cifar10"):
        pack("cifar1O", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def photos(folder: Path, *files: str) -> Path:
    for number, name in enumerate(files):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encoded(colour(number), "jpg"))
    return folder


@pytest.mark.parametrize(
    ("files", "splits", "classes"),
    [
        (["train/1.jpg", "car/1.jpg"], ["train"], ("car", "train")),
        (["train/1.jpg", "test/1.jpg", "car/1.jpg"], ["train"], ("car", "test", "train")),
        (["Train/1.jpg", "bus/1.jpg", "val/1.jpg"], ["train"], ("Train", "bus", "val")),
        (["training/1.jpg", "running/1.jpg"], ["train"], ("running", "training")),
        (["train/train/1.jpg", "train/car/1.jpg"], ["train"], ("car", "train")),
        (["train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg", "notes/readme"], ["train", "validation"], ("a", "b")),
        (["validation/1.jpg", "car/1.jpg"], ["train"], ("car", "validation")),
    ],
)
def test_a_class_may_be_called_as_a_split_is(tmp_path, files, splits, classes):
    found = open_source(str(photos(tmp_path / "photos", *files)))
    assert (list(found.splits), found.classes) == (splits, classes)


def test_what_may_be_a_split_or_a_class_is_asked_for(tmp_path):
    folder = str(photos(tmp_path / "photos", "train/steam/1.jpg", "train/diesel/1.jpg", "car/1.jpg"))
    with pytest.raises(
        DataError, match=r"is 'train' a split or, as 'car' beside it, a class\? --splits train=train .*train=\."
    ):
        open_source(folder)
    assert open_source(folder, splits={"train": "."}).classes == ("car", "train")
    assert open_source(folder, splits={"train": "train"}).classes == ("diesel", "steam")


@pytest.mark.parametrize("ending", [".jfif", ".jpe", ".JFIF", ".Jpe", ".JPEG"])
def test_every_ending_of_a_jpeg_is_taken(tmp_path, ending):
    folder = photos(tmp_path / "photos", f"a/1{ending}", "b/1.jpg")
    assert pack(str(folder), tmp_path / "out", Packing("keep", hold_out=0)) == []
    assert open_dataset(tmp_path / "out").splits["train"].num_samples == 2


@pytest.mark.parametrize("ending", [".heic", ".avif", ".svg", ".jpg_large", ".txt", ""])
def test_files_that_are_left_out_are_counted(tmp_path, ending):
    folder = photos(tmp_path / "photos", "a/1.jpg", f"a/2{ending}", f"b/3{ending}", "b/1.jpg", "b/.hidden")
    with pytest.warns(UserWarning, match=f"left out 2 files with {ending or 'no ending'}, which is not one of .jpg"):
        open_source(str(folder))


def _link(kind: str, cls: Path, elsewhere: Path) -> None:
    """Put more images into the class's folder by a link."""
    (elsewhere / "deep").mkdir(parents=True)
    for name in ("a.png", "deep/b.png"):
        (elsewhere / name).write_bytes(encoded(colour(7)))
    if kind == "folder":
        (cls / "more").symlink_to(elsewhere)
    elif kind == "relative":
        (cls / "more").symlink_to(os.path.relpath(elsewhere, cls))
    elif kind == "link to a link":
        (elsewhere.parent / "between").symlink_to(elsewhere)
        (cls / "more").symlink_to(elsewhere.parent / "between")
    elif kind == "below a folder":
        (cls / "own").mkdir()
        (cls / "own" / "more").symlink_to(elsewhere)
    elif kind == "twice":
        (cls / "more").symlink_to(elsewhere)
        (cls / "again").symlink_to(elsewhere)
    elif kind == "files":
        (cls / "one.png").symlink_to(elsewhere / "a.png")
    elif kind == "folder and a loop":
        (elsewhere / "deep" / "up").symlink_to(elsewhere)
        (cls / "self").symlink_to(cls)
        (cls / "more").symlink_to(elsewhere)
    else:
        elsewhere.rename(elsewhere.parent / "dee")
        (elsewhere.parent / "dee").rename(elsewhere)
        cls.rename(elsewhere / "class")
        cls.symlink_to(elsewhere)


LINKS = ["folder", "relative", "link to a link", "below a folder", "twice", "files", "folder and a loop", "the class itself"]


@pytest.mark.parametrize("kind", LINKS)
def test_images_behind_links_are_those_that_torchvision_finds(tmp_path, folder, kind):
    _link(kind, folder / "train" / "bee", tmp_path / "elsewhere")
    found = open_source(str(folder)).splits["train"]
    if "loop" in kind:
        assert sum("more/" in found.name(index) for index in range(len(found.labels))) == 2
        return
    wanted = torchvision.datasets.ImageFolder(folder / "train").samples
    assert sorted(found.name(index) for index in range(len(found.labels))) == sorted(
        str(Path(file).relative_to(folder)) for file, _ in wanted
    )
    assert sorted(found.labels.tolist()) == sorted(label for _, label in wanted)


def test_a_link_that_leads_nowhere_is_an_image_that_cannot_be_read(tmp_path, folder):
    (folder / "train" / "bee" / "x.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(DataError, match=r"train/bee/x\.png: no such file"):
        pack(str(folder), tmp_path / "out")


def test_folders_that_hold_nothing_to_pack(tmp_path, folder):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match=r"empty: no folders of classes; expected train/CLASS/IMAGE\.jpg"):
        pack(str(empty), tmp_path / "out")
    (empty / "ant").mkdir()
    (empty / "ant" / "._0.png").write_bytes(b"what a Mac leaves")
    with pytest.raises(DataError, match=r"empty/ant: no images \(\.jpg"):
        pack(str(empty), tmp_path / "out")
    (empty / "ant" / "0.png").write_bytes(encoded(colour(0)))
    with pytest.raises(DataError, match="only one class, 'ant', and at least two are needed"):
        pack(str(empty), tmp_path / "out")
    (folder / "val" / "cow").rename(folder / "val" / "cows")
    with pytest.raises(DataError, match=r"val: class 'cows' is not in train; nearest: cow"):
        pack(str(folder), tmp_path / "out")
    with pytest.raises(UnknownNameError, match="has no folder 'vol' for split test; nearest: val"):
        pack(str(folder), tmp_path / "out", Packing(splits={"train": "train", "test": "vol"}))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "photos"]


def test_an_image_that_cannot_be_read(tmp_path, folder):
    bad = folder / "train" / "bee" / "3.PNG"
    bad.write_bytes(bad.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"photos: train/bee/3\.PNG: this image is truncated"):
        pack(str(folder), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]
    result = call("data", "pack", folder, tmp_path / "out", "--skip-bad")
    assert result.exit_code == 0
    assert "train        35 images" in result.stdout
    assert "skipped: 1 images" in result.stdout
    assert "skipped: photos: train/bee/3.PNG: this image is truncated" in result.stderr
    assert call("data", "check", tmp_path / "out").exit_code == 0
    for file in (folder / "train").rglob("*.*"):
        file.write_bytes(b"")
    with pytest.raises(DataError, match="none-train: no image could be read"):
        pack(str(folder), tmp_path / "none", Packing(skip_bad=True))


def test_out_that_is_in_the_way(tmp_path, folder):
    before = contents(folder)
    with pytest.raises(DataError, match="lies inside the source"):
        pack(str(folder), folder / "out")
    with pytest.raises(DataError, match="lies inside the source"):
        pack(str(folder), folder)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("precious", encoding="utf-8")
    assert "is not empty; nothing was written" in refused("data", "pack", folder, tmp_path / "out")
    assert "is a file; nothing was written" in refused("data", "pack", folder, tmp_path / "out" / "mine")
    assert contents(tmp_path / "out") == {"mine": b"precious"}
    (tmp_path / "out" / "mine").unlink()
    pack(str(folder), tmp_path / "out")
    with pytest.raises(DataError, match="holds a data set already"):
        pack(str(folder), tmp_path / "out")
    assert contents(folder) == before


@pytest.mark.parametrize("splits", ["train=", "=x", "train,train=val", "../up=train"])
def test_splits_that_are_none(tmp_path, folder, splits):
    message = refused("data", "pack", folder, tmp_path / "out", "--splits", splits)
    assert "such as train,test or train=train,test=val" in message or "a split's name is letters" in message


def test_a_full_disk_leaves_nothing(tmp_path, folder, monkeypatch):
    add, written = module.Shards.add, []

    def full(self, *arguments):
        written.append(arguments)
        if len(written) > 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        add(self, *arguments)

    monkeypatch.setattr(module.Shards, "add", full)
    with pytest.raises(RunError, match=r"cannot write .*out: No space left on device; nothing was left"):
        pack(str(folder), tmp_path / "out", Packing(shard_size=5))
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_a_killed_packing_is_no_data_set_and_is_begun_anew(tmp_path, folder):
    slow = "import time, grafs_timm.data.pack as p; add = p.Shards.add\n"
    slow += "p.Shards.add = lambda self, *a: (time.sleep(0.02), add(self, *a))\n"
    slow += f"p.pack({str(folder)!r}, p.Path({str(tmp_path / 'out')!r}), p.Packing(shard_size=5))"
    beside = tmp_path / ".out.packing"
    with subprocess.Popen([sys.executable, "-c", slow], env=os.environ | {"PYTHONPATH": str(ROOT)}) as process:
        while len(list(beside.glob("*.tar"))) < 3 and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert beside.is_dir()
    assert not (tmp_path / "out").exists()
    pack(str(folder), tmp_path / "out", Packing(shard_size=5))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "photos"]
    pack(str(folder), tmp_path / "whole" / "out", Packing(shard_size=5))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole" / "out")


def test_of_two_packings_one_waits(tmp_path, folder):
    def attempt(_: int) -> str:
        try:
            pack(str(folder), tmp_path / "out", Packing(shard_size=5), quiet=True)
        except DataError as error:
            return str(error)
        return "packed"

    with ThreadPoolExecutor(4) as pool:
        said = sorted(pool.map(attempt, range(4)))
    assert said.count("packed") == 1
    assert sum("holds a data set already" in line for line in said) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "photos"]


@pytest.mark.parametrize("names", [("train", "test"), ("train", "val"), ("train", "validation", "test")])
def test_classes_that_are_all_called_as_splits_are(tmp_path, names):
    for name in names:
        (tmp_path / "a" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "a" / name / "0.png")
    with pytest.raises(
        DataError, match=r"no folders of classes, but images; .* is a class, put all classes into a folder .*train"
    ):
        pack(str(tmp_path / "a"), tmp_path / "out", quiet=True)
