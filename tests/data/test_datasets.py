import http.server
import json
import socket
import threading
from pathlib import Path

import pytest
import torch
import torchvision
from shard_files import samples, two_shards, write_info, write_tar

from grafs_timm.data.images import load_split, open_dataset
from grafs_timm.errors import DataError, UnknownNameError
from grafs_timm.utils import remote


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


@pytest.mark.parametrize("name", ["set #2", "2024", "no", "a: b", "{train,test}", "x::y", "x.tar", "~no such", "a{b", "[x]"])
def test_a_folder_is_found_whatever_it_is_called(tmp_path, monkeypatch, name):
    two_shards(tmp_path / name)
    two_shards(tmp_path / "set")
    monkeypatch.chdir(tmp_path)
    assert open_dataset(name).name == name
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("GRAFS_TIMM_DATA", str(tmp_path))
    assert open_dataset(name).name == name
    (tmp_path / name / "a.tar").rename(tmp_path / name / "a{1}.tar")
    (tmp_path / name / "_info.json").unlink()
    if "::" not in name:
        assert open_dataset(tmp_path / name / "a{1}.tar").splits["train"].num_samples == 6


def test_unknown_split(folder):
    with pytest.raises(UnknownNameError, match="has no split 'val'; known: train"):
        load_split(open_dataset(folder), "val")


def test_folder_without_info_shows_the_smallest_one(tmp_path):
    with pytest.raises(DataError, match=r"no _info\.json; the smallest valid one: ") as caught:
        open_dataset(tmp_path)
    (tmp_path / "_info.json").write_text(str(caught.value).split("valid one: ")[1], encoding="utf-8")
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


@pytest.mark.parametrize("name", ["_info.json", "info.json"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "utf-16-be"])
def test_info_under_either_name_and_with_a_byte_order_mark(tmp_path, name, encoding):
    two_shards(tmp_path / "set")
    text = (tmp_path / "set" / "_info.json").read_text(encoding="utf-8")
    (tmp_path / "set" / "_info.json").unlink()
    (tmp_path / "set" / name).write_text(text, encoding=encoding)
    assert open_dataset(tmp_path / "set").classes == ("x", "y", "z")
    assert open_dataset(tmp_path / "set" / "a.tar").splits["train"].num_samples == 6


@pytest.mark.parametrize(
    ("lengths", "kept"),
    [
        ({"a.tar": 6, "e.tar": 0}, ["a.tar"]),
        ({"e.tar": 0, "a.tar": 6}, ["a.tar"]),
        ({"e.tar": 0, "a.tar": 6, "f.tar": 0}, ["a.tar"]),
    ],
)
def test_empty_shards_are_passed_over(folder, lengths, kept):
    for name in lengths.keys() - {"a.tar"}:
        write_tar(folder / name, [])
    write_info(folder, lengths, ["x", "y", "z"])
    assert open_dataset(folder).splits["train"].filenames == kept
    assert len(load_split(open_dataset(folder), "train")) == 6
    (folder / "_info.json").unlink()
    assert open_dataset("::".join(str(folder / name) for name in lengths)).splits["train"].filenames == kept


@pytest.mark.parametrize("empty", [{"filenames": [], "shard_lengths": []}, {"filenames": ["t.tar"], "shard_lengths": [0]}])
def test_an_empty_split_does_not_refuse_the_others(folder, empty):
    info = json.loads((folder / "_info.json").read_text(encoding="utf-8"))
    info["splits"]["test"] = {"name": "test", "num_samples": 0, **empty}
    (folder / "_info.json").write_text(json.dumps(info), encoding="utf-8")
    assert len(load_split(open_dataset(folder), "train")) == 12
    with pytest.raises(DataError, match="split 'test' has no samples; pack it again, or name another; known: train"):
        open_dataset(folder).split("test")
    info["splits"] = {"test": info["splits"]["test"]}
    (folder / "_info.json").write_text(json.dumps(info), encoding="utf-8")
    with pytest.raises(DataError, match="no split has a sample; pack"):
        open_dataset(folder)


@pytest.mark.parametrize("where", ["split", "filename", "sha256", "class", "value"])
def test_one_odd_text_does_not_fill_the_screen(folder, where):
    info = json.loads((folder / "_info.json").read_text(encoding="utf-8"))
    odd, train = "x" * 66_000, info["splits"]["train"]
    if where == "split":
        info["splits"] = {odd: {}}
    elif where == "filename":
        train["filenames"][0] = f"../{odd}"
    elif where == "sha256":
        train["sha256"] = {odd: "0"}
    elif where == "class":
        info["classes"] = {odd: 0}
    else:
        train["num_samples"] = odd
    (folder / "_info.json").write_text(json.dumps(info), encoding="utf-8")
    with pytest.raises(DataError) as error:
        open_dataset(folder)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("name", ["pipe:cat a.tar", "http://host/a.tar", "a/../../b.tar"])
def test_shard_names_are_paths_inside_the_folder_whatever_they_say(tmp_path, name):
    write_info(tmp_path, {name: 6})
    with pytest.raises(DataError, match="must be a relative path that stays inside the folder"):
        open_dataset(tmp_path)


# ---------------------------------------------------------------------------------------- shards that are spelt out


def test_shards_spelt_out_take_counts_and_classes_from_the_info_beside_them(folder):
    info = open_dataset(f"{folder}/{{a..a}}.tar")
    assert info.splits["train"].filenames == ["a.tar"]
    assert info.classes == ("x", "y", "z")
    assert load_split(info, "train").labels.tolist() == [0, 1, 2] * 2
    both = open_dataset(f"{folder}/b.tar.gz::{folder}/a.tar").splits["train"]
    assert (both.filenames, both.num_samples) == (["b.tar.gz", "a.tar"], 12)
    with pytest.raises(DataError, match=r"_info\.json does not list 'c\.tar'; nearest: a\.tar"):
        open_dataset(folder / "c.tar")


def test_a_split_none_of_whose_shards_is_spelt_out_stays_whole(folder):
    info = json.loads((folder / "_info.json").read_text(encoding="utf-8"))
    info["splits"]["test"] = info["splits"]["train"] | {"filenames": ["t.tar", "u.tar"]}
    (folder / "_info.json").write_text(json.dumps(info), encoding="utf-8")
    splits = open_dataset(folder / "a.tar").splits
    assert splits["train"].filenames == ["a.tar"]
    assert splits["test"].filenames == ["t.tar", "u.tar"]


def test_shards_without_info_are_counted_and_split_by_their_names(tmp_path):
    for number in range(3):
        write_tar(tmp_path / f"set-{number:02d}.tar", samples(number + 1))
    write_tar(tmp_path / "set-val-00.tar.gz", samples(4))
    write_tar(tmp_path / "set-test-00.tar", samples(2))
    info = open_dataset(f"{tmp_path}/set-{{00..02}}.tar::{tmp_path}/set-{{test-00.tar,val-00.tar.gz}}")
    assert info.splits["train"].shard_lengths == [1, 2, 3]
    assert info.splits["validation"].filenames == ["set-val-00.tar.gz"]
    assert info.splits["test"].num_samples == 2
    assert info.classes == ("0", "1", "2")
    assert len(load_split(info, "train")) == 6
    write_tar(tmp_path / "set-00.tar", samples(5))
    assert open_dataset(tmp_path / "set-00.tar").splits["train"].num_samples == 5


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{000..001}.tar", r"000\.tar: cannot be read: No such file"),
        ("{0..200000}.tar", "more than 100000 shards"),
        ("{a.tar,a.tar}", "names a shard twice"),
        ("empty.tar", "no samples"),
        ("noise.tar", "truncated, corrupt or not a tar"),
    ],
)
def test_shards_spelt_out_wrong(tmp_path, pattern, message):
    write_tar(tmp_path / "empty.tar", [])
    (tmp_path / "noise.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(DataError, match=message):
        open_dataset(f"{tmp_path}/{pattern}")


# ------------------------------------------------------------------------------------------------------------- URLs


@pytest.fixture
def served(tmp_path):
    """A folder, and the address under which it is served; the paths asked for are listed."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(tmp_path))

        def log_message(self, *arguments):
            asked.append(self.path)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield tmp_path, f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_url_is_read_as_the_folder_is(served):
    place, address, asked = served
    folder = two_shards(place / "set one")
    info = open_dataset(f"{address}/set%20one/")
    assert info.name == "set one"
    assert info.location("b.tar.gz") == f"{address}/set%20one/b.tar.gz"
    there, here = load_split(info, "train"), load_split(open_dataset(folder), "train")
    assert torch.equal(there.images, here.images)
    assert torch.equal(there.labels, here.labels)
    part = open_dataset(f"{address}/set%20one/{{a..a}}.tar")
    assert part.splits["train"].filenames == ["a.tar"]
    assert len(load_split(part, "train")) == 6
    assert asked.count("/set%20one/b.tar.gz") == 1


def test_a_url_may_have_the_other_name_of_the_info(served):
    place, address, _ = served
    folder = two_shards(place / "set")
    (folder / "_info.json").rename(folder / "info.json")
    assert open_dataset(f"{address}/set").splits == open_dataset(folder).splits


def test_a_url_keeps_its_query(served):
    place, address, asked = served
    two_shards(place / "c10")
    info = open_dataset(f"{address}/c10/?key=a%2Fb")
    assert len(load_split(info, "train", limit=6)) == 6
    assert asked == ["/c10/_info.json?key=a%2Fb", "/c10/a.tar?key=a%2Fb"]


def test_a_shard_behind_a_url_is_checked(served):
    place, address, _ = served
    folder = two_shards(place / "c10")
    write_info(folder, {"a.tar": 6, "gone.tar": 6}, ["x", "y", "z"], sha256={"a.tar": "0" * 64})
    info = open_dataset(f"{address}/c10")
    with pytest.raises(DataError, match=r"http://.*/c10/a\.tar: sha256 is "):
        load_split(info, "train", limit=6)
    with pytest.raises(DataError, match=r"every shard of split train is bad.*sha256"):
        load_split(info, "train", on_bad_shard="skip")
    write_info(folder, {"gone.tar": 6}, ["x", "y", "z"])
    with pytest.raises(DataError, match=r"/c10/gone\.tar: cannot be read: .*404"):
        load_split(open_dataset(f"{address}/c10"), "train")


def test_an_answer_that_is_cut_off_is_asked_for_again(monkeypatch):
    monkeypatch.setattr(remote, "_WAITS", (0.0, 0.0))
    fine = b"HTTP/1.1 200 OK\r\n"
    answers = [b"HTTP/1.1 503 Busy\r\n\r\n", fine + b"Content-Length: 9\r\n\r\nhalf", fine + b"\r\nwhole"]
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            for content in answers:
                connection, _ = server.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(content)

        thread = threading.Thread(target=answer)
        thread.start()
        with remote.open_file(f"http://127.0.0.1:{server.getsockname()[1]}/a.tar") as file:
            assert file.read() == b"whole"
        thread.join()


def test_buckets_are_read_by_the_programs_that_webdataset_calls(tmp_path, monkeypatch):
    folder = two_shards(tmp_path / "set")
    program = tmp_path / "bin" / "gsutil"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\n[ "$1" = cat ] && exec cat "{tmp_path}/${{2#gs://bucket/}}"\n', encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setattr(remote, "_WAITS", ())
    info = open_dataset("gs://bucket/set")
    assert torch.equal(load_split(info, "train").labels, load_split(open_dataset(folder), "train").labels)
    (folder / "a.tar").unlink()
    with pytest.raises(DataError, match=r"gs://bucket/set/a\.tar: cannot be read"):
        load_split(info, "train")


@pytest.mark.parametrize("name", ["pipe:touch made", "pipe:touch made; .tar", "file:///etc", "ftp://host/x", "s3://bucket/x"])
def test_other_urls_are_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="URLs that are opened begin with http://"):
        open_dataset(name)
    assert not list(tmp_path.iterdir())


def test_a_url_that_nothing_answers(monkeypatch):
    monkeypatch.setattr(remote, "_WAITS", (0.0,))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(DataError, match=rf"http://127\.0\.0\.1:{port}/x/_info\.json: cannot be read: .*refused"):
        open_dataset(f"http://127.0.0.1:{port}/x")


def test_urls_of_two_folders():
    with pytest.raises(DataError, match="must be in one folder"):
        open_dataset("https://a/x.tar::https://b/x.tar")


# ----------------------------------------------------------------------------------------------------- torchvision


@pytest.fixture
def tiny_set(monkeypatch):
    """A torchvision data set `tiny-digits` of two splits; how often it was downloaded is counted."""
    downloads = []

    class TinyDigits(torchvision.datasets.FakeData):
        classes = ("naught", "one", "two")

        def __init__(self, root, train=True, transform=None, download=False):
            super().__init__(30 if train else 9, (3, 8, 8), 3, random_offset=1000 * train)
            if download:
                downloads.append(root)

    monkeypatch.setattr(torchvision.datasets, "TinyDigits", TinyDigits, raising=False)
    monkeypatch.setattr(torchvision.datasets, "__all__", (*torchvision.datasets.__all__, "TinyDigits"))
    return downloads


@pytest.mark.parametrize("name", ["tiny-digits", "TinyDigits", "torchvision:tiny_digits"])
def test_a_torchvision_set_is_downloaded_and_packed_once(tmp_path, monkeypatch, tiny_set, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRAFS_TIMM_DATA", str(tmp_path / "packed"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for _ in range(2):
        info = open_dataset(name)
        assert info.folder == tmp_path / "packed" / "tiny-digits"
    assert info.classes == ("naught", "one", "two")
    assert len(load_split(info, "train")) == 30
    assert len(load_split(info, "test")) == 9
    assert tiny_set == [str(tmp_path / "cache" / "grafs-timm" / "torchvision" / "tiny-digits")] * 2  # train and test
    assert sorted(path.name for path in tmp_path.iterdir()) == ["packed"]


def test_a_torchvision_set_that_cannot_be_downloaded(tmp_path, monkeypatch):
    def refuse(*arguments, **more):
        raise OSError("Name or service not known")

    monkeypatch.setattr(torchvision.datasets.svhn, "download_url", refuse)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GRAFS_TIMM_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    message = r"torchvision cannot download svhn to .* not known\..* grafs-timm data pack svhn OUT --root FOLDER"
    with pytest.raises(DataError, match=message):
        open_dataset("svhn")
    assert not (tmp_path / "data").exists()


def test_a_folder_for_downloads_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "cache"))
    with pytest.raises(DataError, match=r"cannot download svhn to .*Not a directory.*grafs-timm doctor shows which folders"):
        open_dataset("svhn")
