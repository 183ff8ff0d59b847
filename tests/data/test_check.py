import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest
from shard_files import colour, encoded, samples, two_shards, write_info, write_tar
from tiny_runs import ROOT, call, refused

from grafs_timm.data.check import check

SHARED = ROOT.parent / "shared" / "data"


def test_digits():
    result = call("data", "check", "digits", "--quiet")
    assert result.exit_code == 0
    assert "10 classes" in result.output
    assert [line.split() for line in result.output.splitlines() if line.startswith("t")] == [
        ["train", "1", "1437", "138", "to", "147", "8×8", "1", "png", "1", "of", "1"],
        ["test", "1", "360", "36", "8×8", "1", "png", "1", "of", "1"],
    ]
    assert result.output.endswith("no problems\n")


@pytest.mark.parametrize(
    ("name", "row"), [("fashion-mnist", "10000   1000     28×28  1"), ("cifar10", "10000   1000     32×32  3")]
)
def test_real_shards(name, row):
    if not (SHARED / name).is_dir():
        pytest.skip(f"no shards of {name} in {SHARED}")
    result = call("data", "check", SHARED / name, "--split", "test", "--quiet")
    assert result.exit_code == 0
    assert row in result.output
    assert "no problems" in result.output


def test_every_problem_is_named(tmp_path):
    files = samples(6)
    files[2] = (files[2][0], files[2][1][:-40])  # image of 0001
    files[5] = (files[5][0], b"7")  # label of 0002
    files.pop(7)  # label of 0003
    write_tar(tmp_path / "a.tar", files)
    content = (two_shards(tmp_path / "other") / "b.tar.gz").read_bytes()
    (tmp_path / "b.tar.gz").write_bytes(content[: len(content) // 2])
    write_info(tmp_path, {"a.tar": 6, "b.tar.gz": 6, "gone.tar": 1}, ["x", "y", "z"], sha256={"a.tar": "0" * 64})
    result = call("data", "check", tmp_path, "--quiet")
    assert result.exit_code == 1
    problems = [line for line in result.output.splitlines() if line.startswith("problem: ")]
    wanted = [
        "a.tar: sha256 is ",
        "a.tar: sample '0001': png image is truncated",
        "a.tar: sample '0002': label 7 is outside 0..2",
        "a.tar: sample '0003': no label (cls)",
        "a.tar: 3 good samples, _info.json's shard_lengths say 6",
        "b.tar.gz: truncated, corrupt or not a tar",
        "b.tar.gz: ",
        "gone.tar: no such file",
        "gone.tar: 0 good samples",
    ]
    assert len(problems) == len(wanted)
    for problem, part in zip(problems, wanted, strict=True):
        assert part in problem
    assert "9 problems" in result.output


def test_sizes_channels_and_checksums_are_counted(tmp_path):
    grey = np.repeat(colour(0)[..., :1], 3, axis=2)
    files = [
        *samples(2),
        ("g.webp", encoded(grey, "webp")),
        ("g.cls", b"1"),
        ("l.jpg", encoded(colour(1, 20), "jpg")),
        ("l.cls", b"0"),
    ]
    write_tar(tmp_path / "a.tar", files)
    digest = hashlib.sha256((tmp_path / "a.tar").read_bytes()).hexdigest()
    write_info(tmp_path, {"a.tar": 4}, sha256={"a.tar": digest})
    _, (report,) = check(tmp_path, quiet=True)
    assert not report.problems
    assert (report.images, report.grey, report.sha256) == (4, 1, 1)
    assert dict(report.sizes) == {(8, 8): 3, (20, 20): 1}
    assert dict(report.labels) == {0: 2, 1: 2}
    assert "8×8 to 20×20  3 (1 grey)  jpg, png, webp  1 of 1" in call("data", "check", tmp_path).output


def test_a_gzip_checksum_is_looked_at(tmp_path):
    content = bytearray((two_shards(tmp_path) / "b.tar.gz").read_bytes())
    content[-6] ^= 1
    (tmp_path / "b.tar.gz").write_bytes(content)
    with pytest.raises(gzip.BadGzipFile):
        gzip.decompress(content)
    _, (report,) = check(tmp_path, quiet=True)
    assert "b.tar.gz: truncated, corrupt" in report.problems[0]


JPEG = encoded(colour(0), "jpg")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"jpg": b"garbage", "cls": b"99", "txt": b"a caption"}, "jpg image is truncated"),
        ({"jpg": JPEG, "cls": b"99", "txt": b"a caption"}, "label 99 is outside 0..1"),
        ({"webp": b"garbage", "cls": b"0", "txt": b"a caption"}, "webp image is truncated"),
        ({"jpg": JPEG, "txt": b"a caption"}, "no label (cls)"),
        ({"png": b"", "cls": b"0", "txt": b"a caption", "json": b"{}"}, "png image is truncated"),
        ({"gif": b"GIF89a", "cls": b"0", "txt": b"a caption"}, "no image (webp, png, jpg, jpeg), only"),
        ({"bmp": b"BM", "txt": b"a caption"}, "no image (webp, png, jpg, jpeg), only"),
        ({"cls": b"0", "txt": b"a caption"}, "no image (webp, png, jpg, jpeg), only"),
        ({"txt": b"a caption whose image is lost"}, "no image, only text, as in 1 samples"),
    ],
)
def test_a_caption_does_not_make_an_image_text(tmp_path, files, said):
    good = [("0.jpg", JPEG), ("0.cls", b"1"), ("0.txt", b"\xff in any encoding")]
    write_tar(tmp_path / "a.tar", [*good, *((f"1.{end}", content) for end, content in files.items())])
    write_info(tmp_path, {"a.tar": 2}, ["x", "y"])
    _, (report,) = check(tmp_path, quiet=True)
    assert "a.tar: sample '1': " + said in report.problems[0]
    assert report.formats["jpg"] == 1


def test_text_with_class_numbers_is_text_where_no_classes_are_listed(tmp_path):
    write_tar(tmp_path / "a.tar", [("0.txt", b"once"), ("0.cls", b"1"), ("1.txt", b"upon a time")])
    write_info(tmp_path, {"a.tar": 2})
    _, (report,) = check(tmp_path, quiet=True)
    assert (report.problems, report.text_bytes) == ([], 15)


def test_what_there_is_nothing_to_check_in(tmp_path: Path):
    assert "no _info.json" in refused("data", "check", tmp_path)
    assert "has no split 'tset'; nearest: test" in refused("data", "check", "digits", "--split", "tset")
