"""What comes from outside takes a bounded amount of memory and disk: from servers, archives, images and their lists."""

import bz2
import gzip
import http.server
import io
import json
import lzma
import os
import resource
import struct
import subprocess
import sys
import tarfile
import textwrap
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
import timm
from PIL import Image

from grafs_timm.data import check, sources, text_source
from grafs_timm.data.images import load_split, open_dataset
from grafs_timm.data.info import DatasetInfo, SplitInfo
from grafs_timm.data.shards import read_shard
from grafs_timm.data.streaming import Stream
from grafs_timm.data.tar_stream import read_samples
from grafs_timm.errors import DataError, WeightsError
from grafs_timm.models.weights import load_pretrained

MB = 1 << 20
PNG = io.BytesIO()
Image.new("RGB", (8, 8)).save(PNG, "PNG")


def tarred(files: list[tuple[str, bytes]]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return content.getvalue()


def dataset(folder: Path, content: bytes, count: int = 1, name: str = "train-000000.tar", **more: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    split = {"name": "train", "num_samples": count, "filenames": [name], "shard_lengths": [count]}
    (folder / "_info.json").write_text(
        json.dumps({"splits": {"train": split}, "classes": ["a", "b"], **more}), encoding="utf-8"
    )
    return folder


def growth(code: str, **environment: str) -> int:
    """MB by which the largest resident size of a process grows through ``code``; what it prints is shown where it fails."""
    whole = "import resource, sys\nimport torch, numpy, PIL.Image\n"
    whole += "from grafs_timm.data import datasets, images, shards, streaming\n"
    whole += (
        "from grafs_timm.errors import DataError\npeak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
    )
    whole += "before = peak()\ntry:\n" + textwrap.indent(code, "    ") + "\nexcept DataError as error:\n    print(error)\n"
    whole += "children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024\n"
    whole += "print(max(peak(), children) - before)\n"
    done = subprocess.run(
        [sys.executable, "-c", whole], capture_output=True, encoding="utf-8", timeout=300, env={**os.environ, **environment}
    )
    assert not done.returncode, done.stderr
    print(done.stdout)
    return int(done.stdout.split()[-1])


# ---------------------------------------------------------------------------------------------------------- servers


class Endless(http.server.BaseHTTPRequestHandler):
    """Sends ``begin`` and then spaces, up to 200 MB: without an end for any limit here."""

    protocol_version = "HTTP/1.0"
    sent = 0

    def do_GET(self) -> None:
        cls, path = type(self), self.path
        if path.startswith("/moved"):
            self.send_response(302)
            self.send_header("Location", path.removeprefix("/moved"))
            self.end_headers()
            return
        if path.startswith("/second") and path.endswith("/_info.json"):
            self.send_error(404)
            return
        self.send_response(200)
        if path.startswith("/promised"):
            self.send_header("Content-Length", str(200 * MB))
        if path.startswith("/chunked"):
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for _ in range(200):
                part = b" " * MB
                self.wfile.write(b"%x\r\n%s\r\n" % (MB, part) if path.startswith("/chunked") else part)
                cls.sent += MB
        except OSError:
            pass

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def endless():
    class Own(Endless):
        pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Own)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", Own
    server.shutdown()


@pytest.mark.parametrize("kind", ["plain", "promised", "chunked", "moved/plain", "second", "moved/chunked"])
def test_an_info_file_without_an_end_stops_at_the_limit_and_never_reaches_the_disk(endless, kind, monkeypatch):
    def no_disk(*_: object, **__: object) -> None:
        raise AssertionError("written to disk")

    monkeypatch.setattr("tempfile.TemporaryFile", no_disk)
    address, server = endless
    with pytest.raises(DataError, match=r"info\.json: more than the limit of 32 MB; .*GRAFS_TIMM_MAX_INFO_MB=\d+"):
        open_dataset(f"{address}/{kind}")
    assert server.sent < 64 * MB


@pytest.mark.parametrize("kind", ["text", "shard", "stream", "checked", "split of text"])
def test_a_file_without_an_end_stops_at_the_limit(endless, kind, monkeypatch):
    monkeypatch.setenv("GRAFS_TIMM_MAX_FILE_MB", "4")
    address, server = endless
    url = f"{address}/plain/train-000000.tar"
    split = SplitInfo(filenames=["train-000000.tar"], shard_lengths=[1], num_samples=1)
    info = DatasetInfo("x", f"{address}/plain", {"train": split}, ("a",))
    monkeypatch.setattr(check, "open_dataset", lambda name: info)

    def read() -> None:
        if kind == "text":
            text_source.read_file(f"{address}/plain/a.txt")
        elif kind == "shard":
            read_shard(url, 1)
        elif kind == "stream":
            raise next(error for error in [*_errors_of(url)])
        elif kind == "checked":
            raise DataError(check.check("x", quiet=True)[1][0].problems[0])
        else:
            text_source.read_split(info, "train")

    with pytest.raises(DataError, match=r"127.0.0.1.*more than the limit of 4 MB; .*GRAFS_TIMM_MAX_FILE_MB=8|no tar header"):
        read()
    assert server.sent < 40 * MB


def _errors_of(url: str) -> list[DataError]:
    try:
        return [each for each in read_samples(url, 1, 2) if isinstance(each, DataError)]
    except DataError as error:
        return [error]


@pytest.mark.parametrize("length", ["abc", "-5", "1e3", "5, 6", "0x10", "9" * 40, "", "1_0", "٣"])
def test_a_length_that_is_none_is_told(length, monkeypatch):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.wfile.write(f"HTTP/1.0 200 OK\r\nContent-Length: {length}\r\n\r\n{{}}".encode())

        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(DataError, match=r"_info\.json: .*Content-Length is .*not a number of bytes"):
            open_dataset(f"http://127.0.0.1:{server.server_port}/set")
    finally:
        server.shutdown()


@pytest.mark.parametrize(
    "url",
    [
        "http://[::1", "https://[::1/data", "http://host:abc/data", "http://host:99999/data", "http:///data", "http://[1:2/x",
        "http://" + "a" * 70 + ".org/data", "http://ho st/data", "https://host/da\nta", "http://[zz]/data", "http://a..b/data",
    ],
)  # fmt: skip
def test_an_address_that_is_none_is_told(url, monkeypatch):
    monkeypatch.setattr("grafs_timm.utils.remote._WAITS", ())
    for read in (open_dataset, text_source.find_file, lambda name: open_dataset(f"{name}/a-{{0..1}}.tar")):
        with pytest.raises(DataError, match="not an address: "):
            read(url)


def test_an_address_with_colons_is_one(monkeypatch):
    monkeypatch.setattr("grafs_timm.utils.remote._WAITS", ())
    with pytest.raises(DataError, match=r"http://\[::1\]:9/set/_info\.json: cannot be read: "):
        open_dataset("http://[::1]:9/set")


def test_a_redirect_to_no_address_is_told(monkeypatch):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.wfile.write(b"HTTP/1.0 302 Found\r\nLocation: http://[::1\r\n\r\n")

        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(DataError, match=r"_info\.json: cannot be read: "):
            open_dataset(f"http://127.0.0.1:{server.server_port}/set")
    finally:
        server.shutdown()


# --------------------------------------------------------------------------------------------------------- archives

PACKED = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


def many(count: int, size: int) -> bytes:
    files = [file for key in range(count) for file in ((f"{key:03}.png", bytes(size)), (f"{key:03}.cls", b"0"))]
    return tarred(files)


@pytest.mark.parametrize("kind", sorted(PACKED))
@pytest.mark.parametrize("how", ["resident", "stream", "check", "text", "counted"])
def test_a_shard_that_unpacks_to_too_much_stops_at_the_limit(tmp_path, monkeypatch, kind, how):
    monkeypatch.setenv("GRAFS_TIMM_MAX_FILE_MB", "2")
    name = f"train-000000.tar.{kind}"
    content = tarred([(f"{key:02}.txt", bytes(MB // 4)) for key in range(20)]) if how == "text" else many(20, MB // 4)
    folder = dataset(tmp_path / "set", PACKED[kind](content), 20, name)
    location = str(folder / name)

    def read() -> None:
        if how == "resident":
            monkeypatch.setattr("grafs_timm.data.shards.decode_image", lambda *_: Image.new("L", (2, 2)))
            read_shard(location, 20)
        elif how == "stream":
            list(read_samples(location, 20, 2))
        elif how == "check":
            raise DataError(next(each for each in check.check(folder, quiet=True)[1][0].problems if "2 MB" in each))
        elif how == "text":
            text_source.read_split(open_dataset(folder), "train")
        else:
            (folder / "_info.json").unlink()
            open_dataset(location)

    with pytest.raises(DataError, match=rf"{name}: unpacked: more than the limit of 2 MB; .*GRAFS_TIMM_MAX_FILE_MB=4"):
        read()


def test_an_unpacked_shard_on_this_disk_may_be_of_any_size(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAFS_TIMM_MAX_FILE_MB", "1")
    folder = dataset(tmp_path / "set", many(20, MB // 4), 20)
    assert len(list(read_samples(str(folder / "train-000000.tar"), 20, 2))) == 20


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            [("0.png", bytes(3 * MB)), ("0.cls", b"0")],
            r"sample '0', file '0\.png': more than the limit of 2 MB; .*MAX_SAMPLE_MB=4",
        ),
        (
            [("0.cls", b"0"), *((f"0.{n}", bytes(MB)) for n in range(3))],
            r"file '0\.1': more than the limit of 2 MB; .*MAX_SAMPLE_MB",
        ),
        ([("none", bytes(3 * MB))], r"file 'none': more than the limit of 2 MB; .*MAX_SAMPLE_MB"),
        ([("__meta__/x.y", bytes(3 * MB))], r"more than the limit of 2 MB; .*MAX_SAMPLE_MB"),
        ([(f"0.{n}", b"") for n in range(1100)], r"sample '0': more than the limit of 1000 files; .*MAX_SAMPLE_FILES=2000"),
        ([("n" * 100_000 + ".png", PNG.getvalue())], r"a header of 1\d{5} bytes"),
    ],
)
def test_a_sample_that_is_too_large_is_named(tmp_path, monkeypatch, files, message):
    monkeypatch.setenv("GRAFS_TIMM_MAX_SAMPLE_MB", "2")
    location = str(dataset(tmp_path / "set", tarred(files)) / "train-000000.tar")
    with pytest.raises(DataError, match=rf"train-000000\.tar.*{message}"):
        read_shard(location, 1)
    with pytest.raises(DataError, match=rf"train-000000\.tar.*{message}"):
        list(read_samples(location, 1, 2))


@pytest.mark.parametrize("kind", ["gz", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("bz2", "xz"))])
def test_memory_stays_where_a_packed_sample_is_far_too_large(tmp_path, kind):
    parts = [tarred([("0.png", bytes(700 * MB))])]
    (tmp_path / "a.tar").write_bytes(b"")
    packers = {
        "gz": lambda: zlib.compressobj(1, wbits=31), "bz2": lambda: bz2.BZ2Compressor(1),
        "xz": lambda: lzma.LZMACompressor(preset=0),
    }  # fmt: skip
    packer = packers[kind]()
    (tmp_path / "a.tar").write_bytes(packer.compress(parts.pop()) + packer.flush())
    assert (tmp_path / "a.tar").stat().st_size < 8 * MB
    assert growth(f"shards.read_shard({str(tmp_path / 'a.tar')!r}, 1)") < 100


def test_xz_that_asks_for_gigabytes_is_refused(tmp_path):
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 30}]
    content = bytearray(
        lzma.compress(tarred([("0.png", b"x" * 1000)]), filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 20}])
    )
    del filters
    # the dictionary's size stands in the header of the block, which a checksum follows
    header = 12
    length = (content[header] + 1) * 4
    at = header + 2 + 2
    content[at] = 38  # 2 GiB
    content[header + length - 4 : header + length] = zlib.crc32(content[header : header + length - 4]).to_bytes(4, "little")
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.tar: .*[Mm]emory"):
        read_shard(str(tmp_path / "a.tar"), 1)


def test_several_xz_streams_are_read_as_one(tmp_path):
    content = many(3, 1000)
    (tmp_path / "a.tar").write_bytes(lzma.compress(content[:2048]) + bytes(8) + lzma.compress(content[2048:]))
    assert len(list(read_samples(str(tmp_path / "a.tar"), 3, 2))) == 3
    (tmp_path / "b.tar").write_bytes(lzma.compress(content)[:-20])
    with pytest.raises(DataError, match="truncated"):
        list(read_samples(str(tmp_path / "b.tar"), 3, 2))


def test_text_that_unpacks_to_too_much(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAFS_TIMM_MAX_FILE_MB", "2")
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"a" * 3 * MB))
    with pytest.raises(DataError, match=r"a\.txt\.gz: unpacked: more than the limit of 2 MB"):
        text_source.read_file(tmp_path / "a.txt.gz")


# ----------------------------------------------------------------------------------------------------------- images


def image(width: int, height: int, mode: str = "RGB", form: str = "PNG", seed: int | None = None) -> bytes:
    content = io.BytesIO()
    made = Image.new(mode, (width, height))
    if seed is not None:
        rows, columns = np.mgrid[:height, :width] / min(width, height)  # waves of four sides' length, from the middle on
        waves = np.sin((rows - height / min(width, height) / 2 + columns - width / min(width, height) / 2 + seed) * np.pi / 2)
        made = Image.fromarray((127 + 127 * waves).astype(np.uint8))
    made.save(content, form)
    return content.getvalue()


def pictures(folder: Path, content: bytes, extension: str = "png", count: int = 1) -> Path:
    files = [file for key in range(count) for file in ((f"{key}.{extension}", content), (f"{key}.cls", b"0"))]
    return dataset(folder, tarred(files), count)


RESIDENT = "images.load_split(datasets.open_dataset(FOLDER), 'train', image_size=224)"


def streamed(train: bool, **transform: object) -> str:
    stream = f"datasets.open_dataset(FOLDER), 'train', 1, train={train}, image_size=224, workers=1, transform={transform}"
    return f"list(streaming.Stream({stream}).epoch(0))"


SHORT_SIDES = [
    (60000, 1, "RGB", RESIDENT), (3, 60000, "L", streamed(False, crop_pct=0.5)), (1, 60000, "RGB", RESIDENT),
    (65000, 2, "L", RESIDENT), (1, 30000, "RGBA", RESIDENT), (60000, 1, "RGB", streamed(False)),
    (60000, 1, "RGB", streamed(True, train_crop_mode="rkrc")), (1, 50000, "RGB", streamed(True, no_aug=True)),
    (60000, 1, "RGB", streamed(True, train_crop_mode="rkrr")), (60000, 1, "L", streamed(True)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("width", "height", "mode", "how"),
    [*SHORT_SIDES[:2], *(pytest.param(*case, marks=pytest.mark.slow) for case in SHORT_SIDES[2:])],
)
def test_memory_stays_where_a_side_is_very_short(tmp_path, capsys, width, height, mode, how):
    folder = pictures(tmp_path / "set", image(width, height, mode))
    assert growth(how.replace("FOLDER", repr(str(folder)))) < 900
    assert len(capsys.readouterr().out.split()) == 1  # no refusal: the image is read


@pytest.mark.parametrize(("width", "height"), [(900, 20), (20, 900), (901, 20), (907, 3), (1, 400), (640, 2)])
def test_what_is_cut_off_is_outside_the_square(tmp_path, monkeypatch, width, height):
    folder = pictures(tmp_path / "set", image(width, height, seed=1))
    whole = load_split(open_dataset(folder), "train", image_size=32).images
    monkeypatch.setattr("grafs_timm.data.shards.limits.IMAGE", _lower(8 * 32**2))
    cut = load_split(open_dataset(folder), "train", image_size=32).images
    assert cut.shape == whole.shape
    assert (cut.int() - whole.int()).abs().max() <= 5  # half a pixel, to which the middle is rounded
    assert whole.float().std() > 20


def _lower(pixels: int) -> object:
    class Lower:
        value, raised = pixels, False

        def check(self, *_: object) -> None:
            pass

    return Lower()


@pytest.mark.parametrize(
    ("width", "height", "mode", "form"),
    [
        (20000, 20000, "1", "PNG"), (10001, 9999, "L", "PNG"), (16000, 16000, "L", "JPEG"), (200_000, 1000, "1", "PNG"),
        (16383, 8000, "RGB", "WEBP"),
    ],
)  # fmt: skip
def test_an_image_of_too_many_pixels_is_named(tmp_path, width, height, mode, form, recwarn):
    content = image(width, height, mode, form)
    assert len(content) < 3 * MB
    folder = pictures(tmp_path / "set", content, {"PNG": "png", "JPEG": "jpg", "WEBP": "webp"}[form])
    info = open_dataset(folder)
    message = r"sample '0': \w+ image.*more than the limit of 90 megapixels; .*GRAFS_TIMM_MAX_IMAGE_MEGAPIXELS=\d+"
    with pytest.raises(DataError, match=message):
        load_split(info, "train")
    with pytest.raises(DataError, match=message):
        list(Stream(info, "train", 1, train=False, image_size=8, channels=3, workers=1).epoch(0))
    problems = check.check(folder, quiet=True)[1][0].problems
    assert "90 megapixels" in problems[0]
    (tmp_path / "images" / "a").mkdir(parents=True)
    (tmp_path / "images" / "a" / "0.png").write_bytes(content)


def test_a_limit_that_is_raised_lets_an_image_through(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    folder = pictures(tmp_path / "set", image(100, 100))
    with pytest.raises(DataError, match="GRAFS_TIMM_MAX_IMAGE_MEGAPIXELS"):
        load_split(open_dataset(folder), "train", image_size=8)
    monkeypatch.setenv("GRAFS_TIMM_MAX_IMAGE_MEGAPIXELS", "1")
    assert load_split(open_dataset(folder), "train", image_size=8).images.shape == (1, 1, 8, 8)


@pytest.mark.parametrize("told", ["0", "-1", "many", "1.5", "1e3", "9" * 30])
def test_a_limit_that_is_no_number_is_told(tmp_path, monkeypatch, told):
    monkeypatch.setenv("GRAFS_TIMM_MAX_INFO_MB", told)
    with pytest.raises(DataError, match=r"GRAFS_TIMM_MAX_INFO_MB=.*: expected a whole number of MB above 0"):
        open_dataset(pictures(tmp_path / "set", PNG.getvalue()))


# -------------------------------------------------------------------------------------------------- sums and counts


def test_images_that_do_not_fit_in_memory_are_refused_as_they_are_read(tmp_path, monkeypatch):
    folder = pictures(tmp_path / "set", image(600, 600), count=4)
    assert len(load_split(open_dataset(folder), "train")) == 4
    monkeypatch.setenv("GRAFS_TIMM_MAX_RESIDENT_MB", "2")
    with pytest.raises(DataError, match=r"sample '1': the images of set, train.*set data\.loading=stream.*MAX_RESIDENT_MB=4"):
        load_split(open_dataset(folder), "train")
    assert load_split(open_dataset(folder), "train", image_size=64).images.shape[-1] == 64


def test_text_that_does_not_fit_in_memory_is_refused_as_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAFS_TIMM_MAX_RESIDENT_MB", "1")
    folder = dataset(tmp_path / "set", tarred([(f"{n}.txt", b"a" * (MB // 2)) for n in range(4)]), 4)
    with pytest.raises(DataError, match=r"sample '2': .*MAX_RESIDENT_MB"):
        text_source.read_split(open_dataset(folder), "train")


def test_a_shuffle_buffer_that_does_not_fit_in_memory_is_refused_as_it_fills(tmp_path, monkeypatch):
    big = PNG.getvalue() + bytes(MB // 2)
    folder = pictures(tmp_path / "set", big, count=8)
    monkeypatch.setenv("GRAFS_TIMM_MAX_RESIDENT_MB", "2")

    def stream(buffer: int) -> Stream:
        return Stream(open_dataset(folder), "train", 1, train=True, image_size=8, channels=3, workers=1, shuffle_buffer=buffer)

    with pytest.raises(DataError, match=r"data\.shuffle_buffer \(100\).*MAX_RESIDENT_MB"):
        list(stream(100).epoch(0))
    assert len(list(stream(2).epoch(0))) == 8
    assert len(list(stream(2).epoch(0, start=7))) == 1  # what is passed over does not add up


@pytest.mark.parametrize("label", [10**6, 2**31 - 1, 5_000_000])
@pytest.mark.parametrize("listed", [False, True])
def test_a_label_makes_no_more_classes_than_there_can_be(tmp_path, label, listed):
    content = tarred([("0.png", PNG.getvalue()), ("0.cls", str(label).encode())])
    folder = dataset(tmp_path / "set", content, classes=None)
    if not listed:
        (folder / "_info.json").unlink()
    with pytest.raises(DataError, match=rf"sample '0': label {label}, .*more than the limit of 1000000 classes; .*MAX_CLASSES"):
        load_split(open_dataset(folder if listed else folder / "train-000000.tar"), "train")


@pytest.mark.parametrize("count", [2**31, 10**12, 10**30, 10**100, 2**63])
def test_a_split_has_no_more_samples_than_can_be_counted(tmp_path, count):
    folder = dataset(tmp_path / "set", b"", count)
    with pytest.raises(DataError, match=r"num_samples is .*MAX_SAMPLES|integer"):
        open_dataset(folder)


def test_an_image_file_of_a_folder_is_read_up_to_the_limit(tmp_path, monkeypatch):
    (tmp_path / "train" / "a").mkdir(parents=True)
    (tmp_path / "train" / "b").mkdir(parents=True)
    for cls in "ab":
        with (tmp_path / "train" / cls / "0.png").open("wb") as file:
            file.truncate(1 << 40)  # which a disk need not have
    split = sources.open_source(str(tmp_path), splits={"train": "train"}).splits["train"]
    with pytest.raises(DataError, match=r"0\.png: more than the limit of 256 MB; .*MAX_SAMPLE_MB"):
        split.read(0)


def test_more_problems_than_anybody_reads_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(check, "_MOST_PROBLEMS", 3)
    folder = dataset(tmp_path / "set", tarred([(f"{n}.cls", b"0") for n in range(9)]), 9)
    problems = check.check(folder, quiet=True)[1][0].problems
    assert len(problems) == 4
    assert problems[-1] == "train: 7 more problems"  # six samples, and their number


def test_weights_of_another_size_are_refused_unread(tmp_path):
    names = {name: list(tensor.shape) for name, tensor in timm.create_model("test_resnet").state_dict().items()}
    first = next(iter(names))
    size = 8 << 30
    header = json.dumps({first: {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
    header += b" " * (-len(header) % 8)
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + size)  # which a disk need not have
    model = timm.create_model("test_resnet")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(WeightsError, match=rf"does not fit .*of another shape: {first}"):
        load_pretrained(model, path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB
