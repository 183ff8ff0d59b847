"""The run's log survives kills, full disks and clocks that jump. Its mirror: test_wandb_mirror."""

import errno
import json
import os
import time

import numpy as np
import pytest
import torch

from grafs_timm.errors import RunError
from grafs_timm.runs.tracking import RunLog, read_log


def values(folder):
    return [{key: line[key] for key in line if key != "time"} for line in read_log(folder)]


def test_lines_are_there_at_once(tmp_path):
    log = RunLog(tmp_path / "run")
    log.log(
        "epoch",
        epoch=1,
        loss=torch.tensor(0.5),
        top1=np.float32(0.25),
        name="ünï",
        alive={"u1": ("relu",)},
        path=tmp_path,
    )
    (line,) = read_log(tmp_path / "run")
    assert line.pop("time") > 1.7e9
    alive = {"u1": ["relu"]}
    expected = {
        "kind": "epoch",
        "epoch": 1,
        "loss": 0.5,
        "top1": 0.25,
        "name": "ünï",
        "alive": alive,
        "path": str(tmp_path),
    }
    assert line == expected
    log.close()
    log.close()


def test_no_log_has_no_lines(tmp_path):
    assert read_log(tmp_path) == []


def test_numbers_json_lacks(tmp_path):
    with RunLog(tmp_path) as log:
        log.log("step", a=float("nan"), b=[float("inf"), -np.inf], c=torch.tensor(float("nan")))
    text = (tmp_path / "log.jsonl").read_text(encoding="utf-8")
    json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert values(tmp_path) == [{"kind": "step", "a": "nan", "b": ["inf", "-inf"], "c": "nan"}]


def test_what_is_not_taken(tmp_path):
    with RunLog(tmp_path) as log:
        with pytest.raises(ValueError, match="the log's own"):
            log.log("x", time=3)
        with pytest.raises(TypeError):
            log.log("x", a=object())
    assert read_log(tmp_path) == []
    with pytest.raises(ValueError, match="one of auto, disabled, offline, online, got 'on'"):
        RunLog(tmp_path, "on")


def test_a_resumed_run_takes_back_what_came_after_its_checkpoint(tmp_path):
    with RunLog(tmp_path) as log:
        log.log("epoch", epoch=1)
        position = log.sync()
        assert position == (tmp_path / "log.jsonl").stat().st_size
        log.log("epoch", epoch=2)
    with (tmp_path / "log.jsonl").open("ab") as file:
        file.write(b'{"kind": "epo')  # a kill
    assert [line["epoch"] for line in read_log(tmp_path)] == [1, 2]
    with RunLog(tmp_path) as log:
        assert [line["epoch"] for line in read_log(tmp_path)] == [1, 2]
        log.truncate_to(position)
        log.log("epoch", epoch=3)
        assert log.sync() == (tmp_path / "log.jsonl").stat().st_size
        with pytest.raises(RunError, match="no line that ends at byte 7"):
            log.truncate_to(7)
        with pytest.raises(RunError, match="lines are lost"):
            log.truncate_to(10_000)
        assert [line["epoch"] for line in read_log(tmp_path)] == [1, 3]
        log.truncate_to(0)
    assert read_log(tmp_path) == []


def test_a_long_half_written_line_is_dropped(tmp_path):
    (tmp_path / "log.jsonl").write_bytes(b"{}\n" + b"x" * 200_000)
    RunLog(tmp_path).close()
    assert (tmp_path / "log.jsonl").read_bytes() == b"{}\n"
    (tmp_path / "log.jsonl").write_bytes(b"x" * 10)
    RunLog(tmp_path).close()
    assert (tmp_path / "log.jsonl").read_bytes() == b""


@pytest.mark.parametrize("line", ["{", "[1]"])
def test_a_damaged_line_is_named(tmp_path, line):
    (tmp_path / "log.jsonl").write_text(f"{{}}\n{line}\n{{}}\n", encoding="utf-8")
    with pytest.raises(RunError, match="line 2 is damaged"):
        read_log(tmp_path)


class FullFile:
    """Takes ten bytes, then the disk is full."""

    def __init__(self, file):
        self.file, self.left = file, 10

    def write(self, data):
        if not self.left:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self.file.write(bytes(data[: self.left]))
        self.left -= written
        return written

    def __getattr__(self, name):
        return getattr(self.file, name)


def test_a_full_disk_leaves_whole_lines(tmp_path):
    with RunLog(tmp_path) as log:
        log.log("a")
        whole, log._file = log._file, FullFile(log._file)
        with pytest.raises(RunError, match=r"log.jsonl: No space left.*the lines before are kept"):
            log.log("b", text="x" * 100)
        log._file = whole
        log.log("c")
    assert [line["kind"] for line in values(tmp_path)] == ["a", "c"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_disk_that_is_really_full(tmp_path):
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    with pytest.raises(RunError, match="cannot write"):
        RunLog(tmp_path).log("a")


def test_a_clock_that_jumps(tmp_path, monkeypatch):
    times = iter([2e9, 1e9, 0.0, -5.0, 4e12])
    monkeypatch.setattr(time, "time", lambda: next(times))
    with RunLog(tmp_path) as log:
        for epoch in range(5):
            log.log("epoch", epoch=epoch)
    assert [line["epoch"] for line in read_log(tmp_path)] == [0, 1, 2, 3, 4]
    assert [line["time"] for line in read_log(tmp_path)] == [2e9, 1e9, 0.0, -5.0, 4e12]


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot write"):
        RunLog(tmp_path / "file")
