from pathlib import Path

import pytest
from shard_files import two_shards, write_info

from grafs_timm.data import load_split, open_dataset
from grafs_timm.errors import DataError, UnknownNameError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return two_shards(tmp_path)


def test_names_are_looked_up(tmp_path, folder, monkeypatch):
    home = tmp_path / "home"
    (home / "data").mkdir(parents=True)
    monkeypatch.chdir(home)
    monkeypatch.setenv("GRAFS_TIMM_DATA", str(folder.parent))
    assert open_dataset(folder.name).folder == folder
    assert open_dataset(str(folder)).classes == ("x", "y", "z")
    (home / "data" / "near").symlink_to(folder)
    assert open_dataset("near").name == "near"
    with pytest.raises(UnknownNameError, match=r"no data set 'digit'; nearest: digits\. --data takes"):
        open_dataset("digit")
    with pytest.raises(UnknownNameError, match=r"--data takes `digits` \(embedded\), a folder"):
        open_dataset("no/such/folder")


def test_unknown_split(folder):
    with pytest.raises(UnknownNameError, match="has no split 'val'; known: train"):
        load_split(open_dataset(folder), "val")


def test_folder_without_info_shows_the_smallest_one(tmp_path):
    with pytest.raises(DataError, match=r"no _info\.json; the smallest valid one: ") as caught:
        open_dataset(tmp_path)
    (tmp_path / "_info.json").write_text(str(caught.value).split("valid one: ")[1])
    assert open_dataset(tmp_path).splits["train"].num_samples == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"filenames": ["../a.tar"]}, r"filenames: '\.\./a\.tar' must be a relative path that stays inside"),
        ({"filenames": ["/a.tar"]}, "must be a relative path"),
        ({"filenames": ["C:\\a.tar"]}, "must be a relative path"),
        ({"filenames": ["x\\..\\..\\a.tar"]}, "must be a relative path"),
        ({"filenames": [""]}, "must be a relative path"),
        ({"filenames": []}, "at least 1"),
        ({"filenames": ["a.tar", "a.tar"]}, "listed twice"),
        ({"filenames": "a.tar"}, "splits.train.filenames"),
        ({"filenames": ["a.tar", "b.tar"]}, "2 filenames but 1 shard_lengths"),
        ({"shard_lengths": [0]}, "shard_lengths.0"),
        ({"num_samples": 7}, "num_samples is 7, but shard_lengths add up to 6"),
        ({"num_samples": "6"}, "splits.train.num_samples"),
        ({"sha256": {"c.tar": "00"}}, "sha256 of 'c.tar'"),
        ({"alt_label": "fine"}, "labels come from KEY.cls"),
    ],
)
def test_info_that_is_wrong(tmp_path, change, message):
    write_info(tmp_path, {"a.tar": 6}, **change)
    with pytest.raises(DataError, match=message) as caught:
        open_dataset(tmp_path)
    assert str(tmp_path / "_info.json") in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"splits": {}}', "\xff"])
def test_info_that_is_not_one(tmp_path, text):
    (tmp_path / "_info.json").write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=r"_info\.json: "):
        open_dataset(tmp_path)
