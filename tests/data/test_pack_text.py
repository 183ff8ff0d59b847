"""Text in shards: joined they are the text, and what is read of them is what is read of the file."""

import gzip
import json
from pathlib import Path

import pytest
from tiny_runs import ROOT, call, contents, refused

from grafs_timm.data.datasets import open_dataset
from grafs_timm.data.pack_text import TextPacking, pack_text, parted
from grafs_timm.data.text_source import read_parts, read_split
from grafs_timm.errors import DataError

SHARED = ROOT.parent / "shared" / "data" / "text"
STORIES = "".join(f"Story {n} of naïve cats.\n\nIt ends.\n<|endoftext|>\n" for n in range(50)).encode()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "stories.txt.gz").write_bytes(gzip.compress(STORIES))
    return tmp_path / "stories.txt.gz"


def test_stories_and_paragraphs_joined_are_the_text():
    assert len(parted(STORIES)) == 50
    assert all(sample.startswith(b"Story") for sample in parted(STORIES))
    play = b"".join(b"KING:\n" + b"word " * length + b"\n \n" for length in range(300)) + b"no end"
    samples = parted(play)
    assert b"".join(samples) == play
    assert all(len(sample) >= 1024 and sample.endswith(b"\n \n") for sample in samples[:-1])
    assert parted(b"one line") == [b"one line"]
    assert b"".join(parted(STORIES + b"a last one, cut off")) == STORIES + b"a last one, cut off"


def test_shards_are_read_as_the_file_is(tmp_path, file):
    assert pack_text(str(file), tmp_path / "out", TextPacking(shard_size=20), quiet=True) == 50
    info = open_dataset(tmp_path / "out")
    assert info.splits["train"].shard_lengths == [17, 17, 16]
    assert info.classes is None
    assert read_split(info, "train") == STORIES
    own, other = read_parts(tmp_path / "out", 0.2), read_parts(file, 0.2)
    assert (own.train, own.validation, own.test) == (other.train, other.validation, other.test)


def test_the_same_text_makes_the_same_bytes(tmp_path, file):
    for name in ("one", "two"):
        pack_text(str(file), tmp_path / name / "set", TextPacking(20, 0.1), quiet=True)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_the_tail_is_held_out(tmp_path, file):
    pack_text(str(file), tmp_path / "out", TextPacking(hold_out=0.1), quiet=True)
    info = open_dataset(tmp_path / "out")
    assert {name: split.num_samples for name, split in info.splits.items()} == {"train": 45, "test": 5}
    parts = read_parts(tmp_path / "out", 0.1)
    assert parts.test == b"".join(parted(STORIES)[45:])
    assert parts.train + parts.validation + parts.test == STORIES


def test_commands(tmp_path, file):
    result = call("data", "pack", file, tmp_path / "out", "--hold-out", "0.1", "--quiet")
    assert result.exit_code == 0, result.output
    assert "train        45 samples of text in 1 shards" in result.output
    result = call("data", "check", tmp_path / "out", "--quiet")
    assert result.exit_code == 0
    train = sum(map(len, parted(STORIES)[:45]))
    rows = [line.split() for line in result.output.splitlines()]
    assert ["train", "1", "45", str(train), "1", "of", "1"] in rows
    assert result.output.endswith("no problems\n")
    assert "--format, --skip-bad: only valid for images" in refused(
        "data", "pack", file, tmp_path / "b", "--format", "png", "--skip-bad"
    )


def test_check_names_what_is_wrong(tmp_path, file):
    pack_text(str(file), tmp_path / "out", quiet=True)
    shard = tmp_path / "out" / "out-train-000000.tar"
    shard.write_bytes(shard.read_bytes().replace("Story 7 of na\u00efve".encode(), b"Story 7 of na\xff\xffve"))
    result = call("data", "check", tmp_path / "out", "--quiet")
    assert result.exit_code == 1
    assert "sample '00000007': not UTF-8: byte 0xff at offset 13 (line 1)" in result.output
    assert "49 good samples, _info.json's shard_lengths say 50" in result.output
    assert "sha256 is" in result.output


def test_refusals(tmp_path, file):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(DataError, match="is not empty; nothing was written"):
        pack_text(str(file), tmp_path / "full")
    with pytest.raises(DataError, match=r"50 samples of which 0\.999 are held out leave one part empty"):
        pack_text(str(file), tmp_path / "out", TextPacking(hold_out=0.999))
    with pytest.raises(DataError, match="below 1, got 1"):
        pack_text(str(file), tmp_path / "out", TextPacking(hold_out=1))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["tinyshakespeare", "tinystories-train-head-cased-2MiB"])
def test_real_text(tmp_path, name):
    source = SHARED / f"{name}.txt.gz"
    if not source.is_file():
        pytest.skip(f"no {source}")
    pack_text(str(source), tmp_path / "out", quiet=True)
    assert read_split(open_dataset(tmp_path / "out"), "train") == gzip.decompress(source.read_bytes())
    assert "classes" not in json.loads((tmp_path / "out" / "_info.json").read_text(encoding="utf-8"))
