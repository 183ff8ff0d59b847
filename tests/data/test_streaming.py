"""The stream gives what its shards hold: once each, in a known order, also where shards, connections or images are damaged."""

from __future__ import annotations

import gzip
import io
import json
import multiprocessing
import os
import random
import tarfile
import threading
import warnings
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from grafs_timm.data import tar_stream
from grafs_timm.data.check import check
from grafs_timm.data.images import Batches, DatasetInfo, load_split, open_dataset
from grafs_timm.data.stream_worker import Mixer
from grafs_timm.data.streaming import Stream
from grafs_timm.data.tar_stream import Sample, read_samples
from grafs_timm.errors import DataError, RunError, UnknownNameError

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("GRAFS_TIMM_DATA", ROOT.parent / "shared" / "data"))
PLAIN = {"no_aug": True}
UNCHANGED = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def without_forking(warned):
    """The warnings but those of forking with threads, which Python has since 3.12."""
    return [each for each in warned if "fork()" not in str(each.message)]


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def picture(number: int, size: int = 8) -> np.ndarray:
    """Noise whose first pixel tells its number."""
    pixels = np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8)
    pixels[0, 0] = number // 256, number % 256, 7
    return pixels


def files(numbers: range, **replaced: bytes) -> list[tuple[str, bytes]]:
    out = []
    for number in numbers:
        out += [(f"{number:04d}.png", encoded(picture(number))), (f"{number:04d}.cls", str(number % 5).encode())]
    return [(name, replaced.get("_" + name.replace(".", "_"), content)) for name, content in out]


def write_tar(path: Path, content: list[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w", format=form) as tar:
        for name, data in content:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def write_info(folder: Path, shards: dict[str, int], classes: int = 5) -> DatasetInfo:
    split = {"name": "train", "num_samples": sum(shards.values())}
    split |= {"filenames": list(shards), "shard_lengths": list(shards.values())}
    (folder / "_info.json").write_text(
        json.dumps({"splits": {"train": split}, "classes": [str(i) for i in range(classes)]}), encoding="utf-8"
    )
    return open_dataset(folder)


def dataset(folder: Path, lengths: tuple[int, ...] = (12, 12, 12, 12), suffix: str = "tar") -> DatasetInfo:
    shards, begin = {}, 0
    for index, length in enumerate(lengths):
        write_tar(folder / f"{index}.{suffix}", files(range(begin, begin + length)))
        shards[f"{index}.{suffix}"], begin = length, begin + length
    return write_info(folder, shards)


_streams: list[Stream] = []


@pytest.fixture(autouse=True)
def _no_process_is_left():
    yield
    while _streams:
        _streams.pop().close()
    assert not multiprocessing.active_children()


def stream(info: DatasetInfo, batch_size: int = 4, *, train: bool = True, **options: Any) -> Stream:
    options = {"seed": 3, "workers": 2, "shuffle_buffer": 8, "transform": PLAIN, **UNCHANGED, **options}
    _streams.append(Stream(info, "train", batch_size, train=train, **options))
    return _streams[-1]


def numbers(batches: Iterator[tuple[torch.Tensor, torch.Tensor]]) -> list[int]:
    """Which pictures come, their labels checked."""
    out: list[int] = []
    for images, labels in batches:
        first = (images[:, :, 0, 0] * 255).round().long()
        found = (first[:, 0] * 256 + first[:, 1]).tolist()
        assert labels.tolist() == [number % 5 for number in found]
        out += found
    return out


def same(some: list[Any], others: list[Any]) -> bool:
    return len(some) == len(others) and all(
        torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(some, others, strict=True)
    )


# ------------------------------------------------------------------------------------------------------- an epoch


@pytest.mark.parametrize(
    ("lengths", "ranks", "workers", "batch"),
    [((12, 12, 12, 12), 1, 2, 4), ((7, 30, 1, 9), 2, 2, 6), ((41,), 2, 3, 4), ((5, 6), 3, 4, 3), ((20, 20), 1, 1, 40)],
)
def test_an_epoch_has_each_sample_once_and_the_same_length_on_every_rank(tmp_path, lengths, ranks, workers, batch):
    info = dataset(tmp_path, lengths)
    seen, steps = [], set()
    for rank in range(ranks):
        part = stream(info, batch, workers=workers, share=(rank, ranks))
        batches = list(part.epoch(0))
        assert len(batches) == len(part) == sum(lengths) // batch
        assert {images.shape for images, _ in batches} == {(batch // ranks, 3, 8, 8)}
        seen += numbers(iter(batches))
        steps.add(len(part))
    assert len(steps) == 1
    assert len(set(seen)) == len(seen) == sum(lengths) // batch * batch


def test_pixels_are_those_of_the_files(tmp_path):
    images, _ = next(iter(stream(dataset(tmp_path), 48, workers=1).epoch(0)))
    for image in images:
        number = int((image[0, 0, 0] * 255).round() * 256 + (image[1, 0, 0] * 255).round())
        expected = torch.from_numpy(picture(number)).permute(2, 0, 1).float() / 255
        torch.testing.assert_close(image, expected)


def test_order_is_that_of_seed_and_epoch(tmp_path):
    info = dataset(tmp_path)
    first = numbers(stream(info).epoch(0))
    random.seed(9)
    torch.manual_seed(9)
    assert numbers(stream(info).epoch(0)) == first
    assert numbers(stream(info).epoch(1)) != first
    assert numbers(stream(info, seed=4).epoch(0)) != first
    assert first != sorted(first)


def test_the_callers_random_numbers_stay(tmp_path):
    info = dataset(tmp_path)
    torch.manual_seed(5)
    state, plain = torch.get_rng_state(), random.getstate()
    list(stream(info, transform={}).epoch(0))
    assert torch.equal(torch.get_rng_state(), state)
    assert random.getstate() == plain


def test_ranks_and_workers_read_shards_of_their_own_where_there_are_enough(tmp_path):
    info = dataset(tmp_path, (8,) * 4)
    for rank in range(2):
        batches = list(stream(info, 8, share=(rank, 2), workers=2, shuffle_buffer=8).epoch(0))
        for worker in range(2):
            assert len({number // 8 for number in numbers(iter(batches[worker::2]))}) == 1


@pytest.mark.parametrize("on_bad_shard", ["raise", "skip"])
def test_resumed_epochs_go_on_bit_for_bit(tmp_path, on_bad_shard):
    info = dataset(tmp_path, (12, 5, 20))
    whole = stream(info, 4, transform={"scale": [0.3, 1.0]}, workers=3, on_bad_shard=on_bad_shard)
    batches = list(whole.epoch(2))
    assert not torch.equal(*(torch.cat([images for images, _ in some]) for some in (batches, list(whole.epoch(3)))))
    for start in range(len(whole) + 1):
        assert same(list(whole.epoch(2, start)), batches[start:])


def test_shards_that_were_used_up_are_not_opened_again(tmp_path):
    info = dataset(tmp_path)
    whole = stream(info, 4, workers=1, shuffle_buffer=1)
    batches = list(whole.epoch(0))
    (tmp_path / f"{numbers(iter(batches))[0] // 12}.tar").write_bytes(b"gone")
    assert same(list(whole.epoch(0, 3)), batches[3:])
    with pytest.raises(DataError, match="truncated, corrupt or not a tar"):
        list(whole.epoch(0, 2))


def test_workers_stay_until_the_stream_is_closed(tmp_path):
    loader = stream(dataset(tmp_path))
    left = loader.epoch(0)
    next(left)
    workers = {process.pid for process in multiprocessing.active_children()}
    assert len(workers) == 2
    batches = list(loader.epoch(0))  # one left in the middle is no hindrance
    assert same(batches, list(loader.epoch(0)))
    assert {process.pid for process in multiprocessing.active_children()} == workers
    with pytest.raises(RuntimeError, match="this epoch was ended by another"):
        next(left)
    loader.close()
    assert not multiprocessing.active_children()
    assert same(list(loader.epoch(0)), batches)


def test_a_worker_that_dies_is_reported(tmp_path):
    loader = stream(dataset(tmp_path))
    loader._task = replace(loader._task, transform=lambda image: os._exit(3))
    with pytest.raises(RunError, match="a worker process of the data stream was lost"):
        list(loader.epoch(0))


def test_mixing_depends_on_the_number_of_items_alone():
    mixed = [list(Mixer(items, 6, random.Random(1))) for items in (range(20), "abcdefghijklmnopqrst")]
    assert sorted(mixed[0]) == list(range(20))
    assert ["abcdefghijklmnopqrst"[index] for index in mixed[0]] == mixed[1]
    assert list(Mixer(range(5), 1, random.Random(1))) == [0, 1, 2, 3, 4]


# ----------------------------------------------------------------------------------------------------- evaluation


@pytest.mark.parametrize("workers", [1, 3])
def test_evaluation_has_every_sample_in_order(tmp_path, workers):
    loader = stream(dataset(tmp_path, (12, 5, 20)), 8, train=False, workers=workers)
    batches = list(loader.epoch(0))
    assert numbers(iter(batches)) == list(range(37))
    assert [len(labels) for _, labels in batches] == [8, 8, 8, 8, 5]
    assert len(loader) == 5
    assert same(list(loader.epoch(0, 3)), batches[3:])


@pytest.mark.parametrize(("count", "ranks", "batch"), [(37, 2, 8), (21, 2, 20), (10, 3, 6), (48, 4, 8)])
def test_evaluation_over_ranks_loses_and_doubles_none(tmp_path, count, ranks, batch):
    info = dataset(tmp_path, (5, count - 5))
    parts = [stream(info, batch, train=False, share=(rank, ranks)) for rank in range(ranks)]
    assert len({len(part) for part in parts}) == 1
    found = [list(part.epoch(0)) for part in parts]
    assert all(0 < len(labels) <= batch // ranks for batches in found for _, labels in batches)
    assert [len(batches) for batches in found] == [len(part) for part in parts]
    assert [number for batches in found for number in numbers(iter(batches))] == list(range(count))


def test_images_of_the_right_size_are_evaluated_as_they_are(tmp_path):
    info = dataset(tmp_path, (6,))
    for options in ({"image_size": 8}, {}):
        images, _ = next(stream(info, 6, train=False, transform={}, channels=3, **options).epoch(0))
        assert torch.equal((images[2] * 255).round().byte(), torch.from_numpy(picture(2)).permute(2, 0, 1))
    cropped, _ = next(stream(info, 6, train=False, transform={"crop_pct": 0.5}, image_size=8).epoch(0))
    assert not torch.equal(cropped, images)
    larger, _ = next(stream(info, 6, train=False, transform={"interpolation": "random"}, image_size=16).epoch(0))
    assert larger.shape == (6, 3, 16, 16)


def test_real_images_are_those_of_the_resident_set():
    if not (SHARED / "cifar10").is_dir():
        pytest.skip(f"no real shards in {SHARED}")
    info = open_dataset(SHARED / "cifar10")
    whole = info.splits["test"]
    first = {"filenames": whole.filenames[:1], "shard_lengths": whole.shard_lengths[:1], "num_samples": whole.shard_lengths[0]}
    info = replace(info, splits={"train": whole.model_copy(update=first)})
    loader, resident = stream(info, 256, train=False, mean=None, std=None), load_split(info, "train")
    assert loader.image_shape == tuple(resident.images.shape[1:])
    plain = Batches(resident, 256, shuffle=False, drop_last=False, mean=loader.mean, std=loader.std)
    assert same(list(loader.epoch(0)), list(plain.epoch(0)))


# ------------------------------------------------------------------------------------------------ damaged shards


def damage(folder: Path, kind: str) -> None:
    """Do ``kind`` to shard 2 of four, pictures 24 to 35."""
    path, whole = folder / "2.tar", range(24, 36)
    if kind == "missing":
        path.unlink()
    elif kind == "noise":
        path.write_bytes(np.random.default_rng(0).bytes(5000))
    elif kind == "cut off":
        path.write_bytes(path.read_bytes()[:9000])
    elif kind == "too few":
        write_tar(path, files(range(24, 33)))
    elif kind == "too many":
        write_tar(path, files(range(24, 40)))
    elif kind == "label too high":
        write_tar(path, files(whole, _0030_cls=b"5"))
    elif kind == "no label":
        write_tar(path, [(name, data) for name, data in files(whole) if name != "0030.cls"])
    elif kind == "no image":
        write_tar(path, files(whole, _0030_png=encoded(picture(30))[:60]))
    else:
        write_tar(path, [(name, b"\x89PNG nothing" if name.endswith("png") else data) for name, data in files(whole)])


DAMAGE = {
    "missing": r"no such shard",
    "noise": "truncated, corrupt or not a tar",
    "cut off": "truncated, corrupt or not a tar after sample '0027'",
    "too few": "9 samples, _info.json's shard_lengths say 12",
    "too many": "sample '0036': more samples than the 12",
    "label too high": r"sample '0030': label 5 is outside 0\.\.4",
    "no label": r"sample '0030': no label",
    "no image": "sample '0030': png image is truncated",
    "no images": "png image is truncated, corrupt or not an image",
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_ends_a_training_or_is_skipped(tmp_path, kind):
    info = dataset(tmp_path)
    damage(tmp_path, kind)
    with pytest.raises(DataError, match=DAMAGE[kind]) as caught:
        list(stream(info).epoch(0))
    assert str(tmp_path / "2.tar") in str(caught.value)

    loader = stream(info, on_bad_shard="skip")
    with pytest.warns(UserWarning, match=r"2\.tar: skipped, or a part of it: .*") as warned:
        batches = list(loader.epoch(0))
    assert len(without_forking(warned)) == 1
    assert list(loader.skipped) == [str(tmp_path / "2.tar")]
    assert [len(labels) for _, labels in batches] == [4] * 12
    found = numbers(iter(batches))
    good = {number for number in range(48) if not 24 <= number < 36}
    assert set(found) >= good - {number for number in good if kind == "too many"}
    assert 30 not in found or kind in ("too few", "too many")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once is enough
        for start in (1, 6, 11):
            assert same(list(loader.epoch(0, start)), batches[start:])


@pytest.mark.parametrize("kind", ["missing", "cut off", "no label", "no image"])
def test_damage_leaves_gaps_in_an_evaluation(tmp_path, kind):
    info = dataset(tmp_path)
    damage(tmp_path, kind)
    with pytest.raises(DataError, match=DAMAGE[kind]):
        list(stream(info, 8, train=False).epoch(0))
    loader = stream(info, 8, train=False, on_bad_shard="skip")
    with pytest.warns(UserWarning, match="skipped"):
        found = numbers(loader.epoch(0))
    lost = {"missing": range(24, 36), "cut off": range(28, 36)}.get(kind, range(30, 31))
    assert found == [number for number in range(48) if number not in lost]


def test_where_nothing_is_left_there_is_an_end(tmp_path):
    info = dataset(tmp_path, (6, 6))
    for name in ("0.tar", "1.tar"):
        write_tar(tmp_path / name, [(name, b"GIF89a" if name.endswith("png") else data) for name, data in files(range(6))])
    loader = stream(info, image_size=8, channels=3, on_bad_shard="skip")
    with pytest.warns(UserWarning, match="skipped"), pytest.raises(DataError, match="not one image can be decoded"):
        list(loader.epoch(0))
    (tmp_path / "0.tar").unlink()
    (tmp_path / "1.tar").unlink()
    with (
        pytest.warns(UserWarning, match="skipped"),
        pytest.raises(DataError, match=r"not one sample can be read; the first reason: .*no such shard"),
    ):
        list(stream(info, image_size=8, channels=3, on_bad_shard="skip").epoch(0))
    with (
        pytest.warns(UserWarning, match="skipped"),
        pytest.raises(DataError, match=r"not one sample can be read; the first reason: .*no such shard"),
    ):
        stream(info, on_bad_shard="skip")


# ------------------------------------------------------------------------------------------------- reading a tar


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
def test_every_form_of_tar_is_read(tmp_path, form, suffix):
    path = tmp_path / f"a.{suffix}"
    names = ["0", "./1", "folder/2", "x" * 60 + "/" + "y" * 80, "__meta__/3"]
    names += [] if form == tarfile.USTAR_FORMAT else ["é" * 200]
    content = [(f"{name}.{kind}", data) for name in names for kind, data in (("PNG", b"image" * 200), ("cls", b"1"))]
    write_tar(path, content, form)
    found = list(read_samples(str(path), len(names) - 1, 2))
    assert [sample.key for sample in found if isinstance(sample, Sample)] == [name for name in names if "meta" not in name]
    assert {sample.image for sample in found if isinstance(sample, Sample)} == {b"image" * 200}


def _tar(pad: int = 0, drop: int = 0, mode: str = "w", form: int = tarfile.PAX_FORMAT) -> bytes:
    """Three samples; ``drop`` bytes of the end left out, ``pad`` noise put there."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode, format=form) as tar:
        for name, data in files(range(3)):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        end = tar.offset
    content = file.getvalue()
    content = content[:end] + bytes(1024 - drop) if mode == "w" else content
    return content + np.random.default_rng(0).bytes(pad)


TARS = {
    "no end blocks": (_tar(drop=1024), True),
    "one end block": (_tar(drop=512), True),
    "part of an end block": (_tar(drop=700), True),
    "noise behind the end": (_tar(pad=600), True),
    "noise for an end": (_tar(drop=1024, pad=600), False),
    "part of a header": (_tar(drop=1024, pad=100), False),
    "bzip2": (_tar(mode="w:bz2"), True),
    "xz": (_tar(mode="w:xz"), True),
    "gzip": (_tar(mode="w:gz"), True),
    "gzip without end blocks": (gzip.compress(_tar(drop=1024)), True),
    "gzip in two members": (gzip.compress(_tar()[:2000]) + gzip.compress(_tar()[2000:]), True),
    "bzip2 cut off": (_tar(mode="w:bz2")[:-30], False),
    "xz cut off": (_tar(mode="w:xz")[:-30], False),
    "cut within padding": (_tar(drop=1024)[:-100], False),
    "ustar": (_tar(form=tarfile.USTAR_FORMAT), True),
    "a sample too few": (_tar()[:2048], False),
    "empty": (b"", False),
    "no tar": (b"BZh9 is no archive" * 50, False),
}


@pytest.mark.parametrize("kind", TARS)
@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_check_stream_and_resident_loading_agree_on_a_shard(tmp_path, kind, suffix):
    content, good = TARS[kind]
    (tmp_path / f"a.{suffix}").write_bytes(content)
    write_info(tmp_path, {f"a.{suffix}": 3})
    info = open_dataset(tmp_path)
    assert bool(check(tmp_path, quiet=True)[1][0].problems) != good
    for read in (lambda: load_split(info, "train"), lambda: list(read_samples(info.location(f"a.{suffix}"), 3, 5))):
        if good:
            assert len(read()) == 3
        else:
            with pytest.raises(DataError, match=rf"a\.{suffix}"):
                read()
    if good:
        assert open_dataset(tmp_path / f"a.{suffix}").splits["train"].num_samples == 3


@pytest.mark.parametrize("position", [0, 100, 130, 150, 156, 700])
def test_a_flipped_byte_of_a_header_is_seen(tmp_path, position):
    path = tmp_path / "a.tar"
    write_tar(path, files(range(3)))
    content = bytearray(path.read_bytes())
    content[position] ^= 0x15
    path.write_bytes(content)
    if position == 700:  # within the image: seen when it is decoded
        assert len(list(read_samples(str(path), 3, 5))) == 3
    else:
        with pytest.raises(DataError, match=r"a\.tar: truncated, corrupt or not a tar: no tar header"):
            list(read_samples(str(path), 3, 5))


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95, 0.999])
def test_a_gzip_cut_off_is_seen_before_its_last_sample_is_used(tmp_path, share):
    path = tmp_path / "a.tar.gz"
    write_tar(path, files(range(6)))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    found = []
    with pytest.raises(DataError, match=r"a\.tar\.gz"):
        found.extend(read_samples(str(path), 6, 5))
    assert len(found) < 6


# ---------------------------------------------------------------------------------------------- over the network


class _Remote(DatasetInfo):
    address: str

    def location(self, filename: str) -> str:
        return self.address + filename


def remote(info: DatasetInfo, address: str) -> DatasetInfo:
    found = _Remote(info.name, info.folder, info.splits, info.classes)
    object.__setattr__(found, "address", address)
    return found


@pytest.fixture
def server(tmp_path):
    """An HTTP server of tmp_path. ``drops[name]``: so many answers break off in the middle."""
    drops: dict[str, int] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.removeprefix("/")
            path = tmp_path / name
            if not path.is_file():
                return self.send_error(404)
            content = path.read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if drops.get(name, 0) > 0:
                drops[name] -= 1
                content = content[: len(content) // 2]
            self.wfile.write(content)

        def log_message(self, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}/", drops
        http.shutdown()


def test_shards_come_over_the_network(tmp_path, server):
    address, drops = server
    info = dataset(tmp_path, suffix="tar.gz")
    local = list(stream(info).epoch(0))
    assert same(list(stream(remote(info, address)).epoch(0)), local)
    drops["2.tar.gz"] = 1  # the connection breaks off once
    loader = stream(remote(info, address))
    assert same(list(loader.epoch(0)), local)
    assert drops["2.tar.gz"] == 0
    assert not loader.skipped


def test_a_connection_that_always_drops(tmp_path, server, monkeypatch):
    monkeypatch.setattr(tar_stream, "_PAUSE", 0.05)
    address, drops = server
    info = dataset(tmp_path)
    drops["2.tar"] = 10**6
    with pytest.raises(DataError, match=rf"{address}2\.tar: cannot be read.*: the connection broke off"):
        list(stream(remote(info, address)).epoch(0))
    loader = stream(remote(info, address), on_bad_shard="skip")
    with pytest.warns(UserWarning, match=r"2\.tar: skipped, or a part"):
        assert len(numbers(loader.epoch(0))) == 48
    (tmp_path / "1.tar").unlink()
    with pytest.raises(DataError, match=rf"{address}1\.tar: cannot be read: the server has no such file"):
        list(read_samples(f"{address}1.tar", 12, 5))
    with pytest.raises(DataError, match=r"http://127\.0\.0\.1:9/a\.tar: cannot be read: nothing answers there"):
        list(read_samples("http://127.0.0.1:9/a.tar", 12, 5))


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("pipe:touch ran; cat ", "commands named by a data set are not run"),
        ("PIPE://touch ran; cat ", "webdataset does not open pipe:// addresses"),
        ("file:///", "webdataset does not open file:// addresses, only .*https"),
        ("s3://bucket/", "webdataset does not open s3:// addresses"),
    ],
)
def test_addresses_that_are_not_opened(tmp_path, monkeypatch, address, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message):
        stream(remote(dataset(tmp_path), address))
    assert not (tmp_path / "ran").exists()


# ---------------------------------------------------------------------------------------------- images of all kinds


def test_an_imagenet_like_set(tmp_path):
    shards = {}
    for index in range(3):
        name = f"train/{index:05d}.tar"
        content = []
        for number in range(index * 6, index * 6 + 6):
            pixels = np.random.default_rng(number).integers(0, 256, (40 + 9 * (number % 4), 60 - 7 * (number % 3), 3), np.uint8)
            pixels = pixels[..., 0] if number % 6 == 5 else pixels
            content += [(f"n{number:08d}.jpg", encoded(pixels, "JPEG")), (f"n{number:08d}.cls", str(number * 50).encode())]
        write_tar(tmp_path / name, content)
        shards[name] = 6
    info = write_info(tmp_path, shards, 1000)
    settings = {"auto_augment": "rand-m9-mstd0.5", "re_prob": 0.25, "interpolation": "bicubic", "crop_pct": 0.9}
    shape = {"image_size": 32, "channels": 3, "mean": None, "std": None}
    loader = stream(info, 6, transform=settings, **shape)
    assert (loader.num_classes, loader.image_shape) == (1000, (3, 32, 32))
    with pytest.warns(UserWarning, match="grey images, such as .*n000000.*, are converted to colour") as warned:
        batches = list(loader.epoch(0))
    assert len(without_forking(warned)) == len(loader.notices) == 1
    assert sorted(label for _, labels in batches for label in labels.tolist()) == [number * 50 for number in range(18)]
    assert all(images.shape == (6, 3, 32, 32) and images.isfinite().all() for images, _ in batches)
    assert same(list(loader.epoch(0, 1)), batches[1:])
    tests = stream(info, 4, train=False, transform=settings, **shape)
    with pytest.warns(UserWarning, match="grey"):
        assert sum(len(labels) for _, labels in tests.epoch(0)) == 18
    with pytest.raises(DataError, match=r"image of \d+×\d+, the first one 40×60; set image_size to resize all"):
        list(stream(info, 6, channels=3, workers=1, transform={}).epoch(0))


def test_colour_where_grey_is_expected(tmp_path):
    info = dataset(tmp_path, (6,))
    loader = stream(info, 6, train=False, channels=1, transform={}, mean=None, std=None)
    with pytest.warns(UserWarning, match="colour images, such as .*, are converted to grey"):
        images, _ = next(loader.epoch(0))
    assert images.shape == (6, 1, 8, 8)
    expected = torch.from_numpy(np.array(Image.fromarray(picture(3)).convert("L"))).float() / 255
    torch.testing.assert_close(images[3, 0] * loader.std[0] + loader.mean[0], expected)


def test_grey_sets_have_one_channel_also_as_webp(tmp_path):
    grey = np.repeat(np.random.default_rng(1).integers(0, 256, (8, 8, 1), np.uint8), 3, 2)
    file = io.BytesIO()
    Image.fromarray(grey).save(file, "WEBP", lossless=True)
    write_tar(
        tmp_path / "a.tar", [("0.webp", file.getvalue()), ("0.cls", b"0"), ("1.png", encoded(grey[..., 0])), ("1.cls", b"1")]
    )
    loader = stream(write_info(tmp_path, {"a.tar": 2}), 2, train=False, transform={}, mean=(0,), std=(1,))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images, _ = next(loader.epoch(0))
    assert torch.equal((images * 255).round().byte(), torch.from_numpy(grey[..., 0]).expand(2, 1, 8, 8))


def test_images_are_normalised_with_mean_and_std(tmp_path):
    info = dataset(tmp_path, (6,))
    plain, _ = next(stream(info, 6, train=False).epoch(0))
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    images, _ = next(stream(info, 6, train=False, mean=mean, std=std, dtype=torch.float64).epoch(0))
    assert images.dtype == torch.float64
    expected = (plain - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(images, expected.double(), rtol=1e-5, atol=1e-6)


# -------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"transform": {"colour_jitter": 0.1}}, UnknownNameError, "no argument 'colour_jitter'; nearest: color_jitter"),
        ({"transform": {"mean": [0, 0, 0]}}, DataError, r"transform\.mean is set by the stream; set mean instead"),
        ({"transform": {"use_prefetcher": True}}, DataError, r"transform\.use_prefetcher is set by the stream; arguments"),
        ({"transform": {"auto_augment": "rnad-m9"}}, DataError, r"timm cannot make a transform of \{auto_augment: rnad-m9\}"),
        ({"transform": {"train_crop_mode": "rcr"}}, DataError, "timm cannot make a transform of"),
        ({"mean": (0.5,), "std": (0.5,)}, DataError, "mean of 1 channels for images of 3"),
        ({"std": (0, 1, 1)}, DataError, "std must be above 0"),
        ({"workers": 0}, DataError, "workers must be at least 1, got 0"),
        ({"shuffle_buffer": 0}, DataError, "shuffle_buffer must be at least 1"),
        ({"share": (0, 3)}, DataError, "batches of 4 do not divide into 3 equal parts"),
    ],
)
def test_settings_that_do_not_fit(tmp_path, options, kind, message):
    with pytest.raises(kind, match=message):
        stream(dataset(tmp_path, (6,)), **options)


def test_sets_that_do_not_fit(tmp_path):
    info = dataset(tmp_path, (6,))
    with pytest.raises(UnknownNameError, match="has no split 'tset'; known: train"):
        Stream(info, "tset", 4, train=True)
    with pytest.raises(DataError, match="6 images do not fill one batch of 8"):
        stream(info, 8)
    with pytest.raises(DataError, match="6 images leave one of 4 ranks without any in batches of 4"):
        stream(info, 4, train=False, share=(0, 4))
    with pytest.raises(DataError, match=r"streaming needs the classes in _info\.json"):
        stream(replace(info, classes=None))
    assert stream(replace(info, classes=None), num_classes=5).num_classes == 5
