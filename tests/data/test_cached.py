import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
from own_data import as_counter, cifar10, in_folder, in_shards, photos
from tiny_runs import ROOT, call, contents, refused
from torchvision_files import fashion_mnist

from grafs_timm.data import cached, load_split, open_dataset, pack, shard_writer
from grafs_timm.errors import DataError, GrafsWarning, RunError

pytestmark = pytest.mark.filterwarnings("ignore::grafs_timm.GrafsWarning")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The folder of packed data sets; what a name finds is in an empty working folder."""
    monkeypatch.delenv("GRAFS_TIMM_CACHE", raising=False)
    monkeypatch.delenv("GRAFS_TIMM_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "cache" / "grafs-timm" / "packed"


def said(name: object) -> tuple[object, list[str]]:
    """The data set, and the notes of opening it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        info = open_dataset(str(name))
    return info, [str(one.message) for one in caught if issubclass(one.category, GrafsWarning)]


# ------------------------------------------------------------------------------------------------------ image folders


@pytest.mark.parametrize("measured", ["val", "test", "Valid", "validation"])
def test_folders_of_splits_are_what_image_folder_reads(tmp_path, cache, measured):
    folder = tmp_path / "photos"
    photos(folder / "train")
    photos(folder / measured, count=4)
    before = contents(folder)
    info, notes = said(folder)
    assert (info.name, info.classes, sorted(info.splits)) == ("photos", ("ant", "bee"), ["test", "train"])
    assert in_shards(info, "train") == in_folder(folder / "train")
    assert in_shards(info, "test") == in_folder(folder / measured)
    assert contents(folder) == before
    assert Path(info.folder).parent == cache
    assert re.fullmatch(rf"photos: packed 32 images of {folder} \(a folder of images\) into {info.folder}, once; .*", notes[0])
    rule = [] if measured == "test" else ["photos: the split test is the source's validation images"]
    assert notes[1:] == rule
    assert said(folder) == (info, rule)


def test_a_tenth_of_each_class_is_held_out_of_one_split(tmp_path):
    info, notes = said(photos(tmp_path / "photos", count=30))
    rule = "the split test is 0.1 of each class, at least one image: those whose path has the lowest sha256"
    assert notes[1:] == [f"photos: {rule}"]
    stored = json.loads((Path(info.folder) / "_info.json").read_text(encoding="utf-8"))
    assert stored["split_rule"] == info.split_rule == rule
    assert stored["source"]["path"] == str(tmp_path / "photos")
    assert stored["splits"]["test"]["class_counts"] == [3, 3]
    assert in_shards(info, "train", "test") == in_folder(tmp_path / "photos")
    assert not in_shards(info, "train") & in_shards(info, "test")
    shutil.move(tmp_path / "photos", tmp_path / "elsewhere")
    again = open_dataset(tmp_path / "elsewhere")
    assert again.folder != info.folder
    assert in_shards(again, "test") == in_shards(info, "test")
    only = photos(tmp_path / "only" / "train", count=10).parent
    assert open_dataset(only).split("test").num_samples == 2


def test_a_bare_name_may_be_a_folder_of_images(tmp_path, monkeypatch):
    photos(tmp_path / "here" / "data" / "photos")
    photos(tmp_path / "place" / "others")
    monkeypatch.setenv("GRAFS_TIMM_DATA", str(tmp_path / "place"))
    assert [open_dataset(name).name for name in ("photos", "others", "data/photos", "data/photos/")] == [
        "photos", "others", "photos", "photos"
    ]  # fmt: skip
    assert "no problems" in call("data", "check", "photos", "--quiet").output


def test_files_are_copied_where_shards_can_hold_them(tmp_path):
    folder = photos(tmp_path / "photos", count=10)
    kept = {file.read_bytes() for file in folder.rglob("*.*")}
    info = open_dataset(folder)
    inside = b"".join((Path(info.folder) / name).read_bytes() for split in info.splits.values() for name in split.filenames)
    assert all(content in inside for content in kept)


# -------------------------------------------------------------------------------------------------------------- cache


@pytest.mark.parametrize("change", ["add", "remove", "rename", "rewrite", "touch"])
def test_a_changed_source_is_packed_anew(tmp_path, change):
    folder = photos(tmp_path / "photos")
    first, file = open_dataset(folder), folder / "bee" / "0.png"
    if change == "add":
        shutil.copy(file, file.with_name("more.png"))
    elif change == "remove":
        file.unlink()
    elif change == "rename":
        file.rename(file.with_name("other.png"))
    elif change == "rewrite":
        file.write_bytes((folder / "ant" / "0.png").read_bytes())
    else:
        os.utime(file, (1, 1))
    second = open_dataset(folder)
    assert second.folder != first.folder
    assert in_shards(second, "train", "test") == in_folder(folder)
    assert open_dataset(folder).folder == second.folder
    assert Path(first.folder).is_dir()  # a training may still read it


def test_a_source_that_changes_while_it_is_packed_is_not_kept(tmp_path, cache, monkeypatch):
    folder, add = photos(tmp_path / "photos"), shard_writer.Shards.add

    def changing(self, *arguments):
        os.utime(folder / "ant" / "0.png", ns=(1, 1))  # written to, it might be read half-written by one of the threads
        add(self, *arguments)

    monkeypatch.setattr(shard_writer.Shards, "add", changing)
    with pytest.raises(DataError, match="photos: its files changed while they were packed; nothing was kept"):
        open_dataset(folder)
    assert not list(cache.glob("*"))


@pytest.mark.parametrize("variable", ["GRAFS_TIMM_CACHE", "XDG_CACHE_HOME"])
def test_the_cache_is_where_the_variables_say(tmp_path, monkeypatch, variable):
    monkeypatch.setenv(variable, str(tmp_path / "big"))
    below = "packed" if variable == "GRAFS_TIMM_CACHE" else "grafs-timm/packed"
    assert Path(open_dataset(photos(tmp_path / "photos")).folder).parent == tmp_path / "big" / below


def test_a_packed_set_is_opened_without_writing(tmp_path, cache, monkeypatch):
    folder = photos(tmp_path / "photos")
    info = open_dataset(folder)
    left = sorted(path.name for path in cache.iterdir())
    assert left == [Path(info.folder).name]  # no lock, nothing half written
    monkeypatch.setattr(pack, "alone", None)  # would take a lock
    assert open_dataset(folder) == info


def test_a_cache_that_cannot_be_written_is_an_error_that_names_the_variable(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    monkeypatch.setenv("GRAFS_TIMM_CACHE", str(tmp_path / "file"))
    message = refused("data", "check", photos(tmp_path / "photos"))
    assert "cannot write" in message
    assert message.endswith("GRAFS_TIMM_CACHE names another folder for packed data\n")


def test_a_full_disk_leaves_nothing(tmp_path, cache, monkeypatch):
    folder, add, written = photos(tmp_path / "photos"), shard_writer.Shards.add, []

    def full(self, *arguments):
        written.append(arguments)
        if len(written) > 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        add(self, *arguments)

    monkeypatch.setattr(shard_writer.Shards, "add", full)
    with pytest.raises(
        RunError, match=r"cannot write .*photos-.*: No space left on device; nothing was left\. GRAFS_TIMM_CACHE"
    ):
        open_dataset(folder)
    assert not list(cache.parent.rglob("*.*"))
    monkeypatch.undo()


def test_a_file_that_the_system_refuses_leaves_nothing(tmp_path, cache):
    """The system's own error, as of a full disk, by a limit on the size of files."""
    code = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
    code += f"from grafs_timm.data import open_dataset; open_dataset({str(photos(tmp_path / 'photos', count=200))!r})"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, encoding="utf-8")
    assert "File too large; nothing was left. GRAFS_TIMM_CACHE names" in result.stderr.splitlines()[-1]
    assert not list(cache.parent.rglob("*.*"))


def test_too_little_space_is_said_before_packing(tmp_path, cache, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(cached.shutil, "disk_usage", lambda place: usage._replace(free=100))
    monkeypatch.setattr(pack, "write", None)  # would be called
    with pytest.raises(RunError, match=r"0 MB are needed, 0 MB are free; nothing was left\. GRAFS_TIMM_CACHE names"):
        open_dataset(photos(tmp_path / "photos"))
    assert not list(cache.parent.rglob("*.*"))


def started(folder: Path, slow: float) -> subprocess.Popen:
    """A process that opens ``folder``, ``slow`` seconds an image, and prints where its shards are."""
    code = "import time, grafs_timm.data.shard_writer as w; add = w.Shards.add\n"
    code += f"w.Shards.add = lambda self, *a: (time.sleep({slow}), add(self, *a))\n"
    code += f"from grafs_timm.data import open_dataset; print(open_dataset({str(folder)!r}).folder)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code], env=environment, stdout=subprocess.PIPE, encoding="utf-8"
    )


def test_a_killed_packing_is_no_data_set(tmp_path, cache):
    folder = photos(tmp_path / "photos")
    with started(folder, slow=0.05) as process:
        while not list(cache.glob(".*.packing/*.tar")) and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert [path.name for path in cache.iterdir() if not path.name.startswith(".")] == []
    (folder / "ant" / "0.png").rename(folder / "ant" / "new.png")  # another state, and so another name in the cache
    info = open_dataset(folder)
    assert in_shards(info, "train", "test") == in_folder(folder)
    assert not [path for path in cache.iterdir() if path.suffix == ".packing"]


def test_of_two_processes_one_packs(tmp_path, cache):
    folder = photos(tmp_path / "photos")
    with started(folder, slow=0.02) as one, started(folder, slow=0.02) as other:
        found = {process.communicate()[0].strip() for process in (one, other)}
    assert one.returncode == other.returncode == 0
    assert found == {str(path) for path in cache.iterdir()}
    assert len(found) == 1


# --------------------------------------------------------------------------------------------------------- torchvision


@pytest.mark.parametrize(
    "place",
    ["here", "here/data", "here/data/cifar10", "cache", "cache/torchvision", "cache/grafs-timm/torchvision/cifar10", "set"],
)
def test_torchvisions_files_are_found_by_name(tmp_path, monkeypatch, place):
    monkeypatch.setenv("GRAFS_TIMM_DATA", str(tmp_path / "set"))
    splits = cifar10(tmp_path / place)
    info = open_dataset("CIFAR10")
    assert (info.name, info.classes) == ("cifar10", tuple(f"c{number}" for number in range(10)))
    for split, (images, labels) in splits.items():
        assert in_shards(info, split) == as_counter(images, labels)
    assert load_split(info, "train").images.shape == (20, 3, 32, 32)


def test_torchvisions_files_are_found_by_their_folder(tmp_path):
    cifar10(tmp_path / "mine")
    fashion_mnist(tmp_path / "mine")
    with pytest.raises(
        DataError, match=r"holds files of cifar10 and fashion-mnist; name the folder of one, such as .*-batches-py"
    ):
        open_dataset(tmp_path / "mine")
    assert open_dataset(tmp_path / "mine" / "cifar-10-batches-py").name == "cifar10"
    (tmp_path / "mine" / "cifar-10-batches-py").rename(tmp_path / "c10")
    assert open_dataset(tmp_path / "c10").name == "cifar10"
    info = open_dataset(tmp_path / "mine")
    assert (info.name, info.classes[9]) == ("fashion-mnist", "Ankle boot")
    assert load_split(info, "train").images.shape == (40, 1, 28, 28)
    assert open_dataset(tmp_path / "mine" / "FashionMNIST" / "raw").folder == info.folder


def test_shards_come_first_then_the_files_and_then_a_download(tmp_path, monkeypatch):
    import torchvision

    def refuse(*arguments, **more):
        raise OSError("no network")

    for module in (torchvision.datasets.cifar, torchvision.datasets.mnist):
        monkeypatch.setattr(module, "download_and_extract_archive", refuse)
    for name in ("cifar10", "cifar100", "mnist", "FashionMNIST"):
        with pytest.raises(DataError, match=r"torchvision cannot download .*: no network"):
            open_dataset(name)
    cifar10(tmp_path / "here" / "data")
    assert open_dataset("cifar10").classes[0] == "c0"
    pack.pack(str(photos(tmp_path / "photos")), tmp_path / "here" / "data" / "cifar10", pack.Packing(hold_out=0.1))
    assert open_dataset("cifar10").classes == ("ant", "bee")


# ------------------------------------------------------------------------------------------------------- command line


@pytest.mark.usefixtures("plain")
def test_a_search_on_a_folder_of_images(tmp_path):
    folder = photos(tmp_path / "photos", classes=("ant", "bee", "cow"), count=15)
    settings = {"search.epochs": 4, "search.warm_start": 1, "search.shrink_start": 2, "search.batch_size": 8}
    tiny = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    where = ("--model", "test_resnet", "--data", folder, "--out", tmp_path / "run")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        result = call("search", "resnet_digits", *where, *tiny, "--quiet", "--set", "data.train_images=null")
    assert result.exit_code == 0, result.output
    rule = "photos: the split test is 0.1 of each class, at least one image: those whose path has the lowest sha256"
    assert f"note: {rule}" in result.stderr
    assert "note: photos: packed 45 images" in result.stderr
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["text"] for line in log if line["kind"] == "notice"] == [rule]
    assert (tmp_path / "run" / "genotype.json").is_file()
