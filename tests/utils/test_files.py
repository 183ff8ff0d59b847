"""Files that appear whole, and what is left of writes that were killed."""

import errno
import io
import os
import signal
import threading
import time

import pytest
import torch

from grafs_timm.errors import RunError
from grafs_timm.utils.files import write_csv, write_whole


def writing(path):
    """A process that has written half of ``path``, forked from this one: its id."""
    said, saying = os.pipe()
    child = os.fork()
    if child == 0:

        def half(file):
            file.write(b"half")
            file.flush()
            os.write(saying, b"x")
            time.sleep(60)

        write_whole(path, half)
        os._exit(1)
    os.close(saying)
    assert os.read(said, 1) == b"x"
    os.close(said)
    return child


def kill(process):
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


def test_what_a_killed_write_leaves_goes_with_the_next_one(tmp_path):
    path = tmp_path / "a[b].json"
    others = [tmp_path / name for name in (".a[b].json.mine", ".a[b].json.Settings", ".ab.json.abcdefgh", "a[b].json.abcdefgh")]
    for other in others:
        other.write_text("not of a write of this file", encoding="utf-8")
    alive = writing(path)
    (its_own,) = set(tmp_path.iterdir()) - set(others)
    for _ in range(2):
        kill(writing(path))
        assert not path.exists()
    write_whole(path, "new")
    assert path.read_text(encoding="utf-8") == "new"
    assert set(tmp_path.iterdir()) == {*others, path, its_own}
    kill(alive)
    write_whole(path, "newer")
    assert set(tmp_path.iterdir()) == {*others, path}


def test_many_writers_of_one_file(tmp_path):
    path, failed = tmp_path / "file", []

    def write(number):
        try:
            for _ in range(100):
                write_whole(path, bytes([number]) * 5000)
        except RunError as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert len(set(path.read_bytes())) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_without_locks_nothing_is_swept(tmp_path, monkeypatch):
    def no_locks(*arguments):
        raise OSError("no locks available")

    left = tmp_path / ".file.abcdefgh"
    left.touch()
    monkeypatch.setattr("grafs_timm.utils.files.fcntl.flock", no_locks)
    write_whole(tmp_path / "file", "text")
    assert sorted(tmp_path.iterdir()) == [left, tmp_path / "file"]


class Full(io.FileIO):
    """Takes some bytes, then the disk is full."""

    def write(self, data):
        if self.tell() + len(data) > 1000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data)


@pytest.mark.parametrize("content", ["text" * 300, lambda file: torch.save({"a": torch.ones(70_000)}, file)])
def test_a_disk_that_is_full_in_the_middle_is_said_to_be(tmp_path, monkeypatch, content):
    path = write_whole(tmp_path / "file", "old")
    monkeypatch.setattr(os, "fdopen", Full)
    with pytest.raises(RunError, match=r"cannot write .*/file: \[Errno 28\] No space left on device; the file .* is kept"):
        write_whole(path, content)
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", ["text", b"text", lambda file: file.write(b"text")])
def test_every_kind_of_content(tmp_path, content):
    assert write_whole(tmp_path / "below" / "file", content).read_bytes() == b"text"
    assert (tmp_path / "below" / "file").stat().st_mode & 0o777 == 0o644


def test_a_table(tmp_path):
    path = write_csv(tmp_path / "new" / "t.csv", ["a", "b"], [[0.1 + 0.2, None], ["x, y", 'say "no"']])
    assert path.read_bytes() == b'a,b\n0.30000000000000004,\n"x, y","say ""no"""\n'
