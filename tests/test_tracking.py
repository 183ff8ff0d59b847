"""The run's log survives kills, full disks and a W&B that fails; its mirror is read back from W&B's own file."""

import errno
import json
import os
import struct
import sys
import time
import types
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from grafs_timm.errors import RunError
from grafs_timm.tracking import RunLog, read_log


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
    text = (tmp_path / "log.jsonl").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert values(tmp_path) == [{"kind": "step", "a": "nan", "b": ["inf", "-inf"], "c": "nan"}]


def test_what_is_not_taken(tmp_path):
    with RunLog(tmp_path) as log:
        with pytest.raises(ValueError, match="the log's own"):
            log.log("x", time=3)
        with pytest.raises(TypeError):
            log.log("x", a=object())
    assert read_log(tmp_path) == []
    with pytest.raises(ValueError, match="one of disabled, offline, online, got 'on'"):
        RunLog(tmp_path, "on")


def test_a_resumed_run_takes_back_what_came_after_its_checkpoint(tmp_path):
    with RunLog(tmp_path) as log:
        log.log("epoch", epoch=1)
        position = log.sync()
        assert position == log.position == (tmp_path / "log.jsonl").stat().st_size
        log.log("epoch", epoch=2)
    with (tmp_path / "log.jsonl").open("ab") as file:
        file.write(b'{"kind": "epo')  # a kill
    assert [line["epoch"] for line in read_log(tmp_path)] == [1, 2]
    with RunLog(tmp_path) as log:
        assert [line["epoch"] for line in read_log(tmp_path)] == [1, 2]
        log.truncate_to(position)
        log.log("epoch", epoch=3)
        assert log.position == (tmp_path / "log.jsonl").stat().st_size
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
    (tmp_path / "log.jsonl").write_text(f"{{}}\n{line}\n{{}}\n")
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


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot write"):
        RunLog(tmp_path / "file")


def records(path):
    """The records in W&B's own file: LevelDB's log format, blocks of 32 KiB, after a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, partial = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        if at + 7 + length > len(data):
            return  # still being written
        partial += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(partial)
            partial = b""


def test_offline_mirror(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    run = tmp_path / "run"
    Image.new("RGB", (2, 2)).save(tmp_path / "plot.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        with RunLog(run, "offline", config={"search": {"epochs": 3}}, name="first", group="digits") as log:
            log.log("epoch", epoch=1, loss=float("nan"), note="text", flag=True)
            log.log("epoch", epoch=2, loss=torch.tensor(0.5))
            log.image("plot", tmp_path / "plot.png")
            log.summary(accuracy=0.75)
    known = (run / "wandb_id").read_text().strip()
    (file,) = run.glob("wandb/offline-run-*/run-*.wandb")
    deadline = time.monotonic() + 60  # W&B's own process may still be writing when finish() returns
    found = list(records(file))
    while not any(record.HasField("exit") for record in found):
        assert time.monotonic() < deadline, "W&B never wrote the end of the run"
        time.sleep(0.05)
        found = list(records(file))
    (began,) = (record.run for record in found if record.HasField("run"))
    assert (began.run_id, began.display_name, began.run_group, began.project) == (
        known,
        "first",
        "digits",
        "grafs-timm",
    )
    config = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in began.config.update}
    assert config["search"] == {"epochs": 3}
    history = []
    for record in found:
        if record.HasField("history"):
            items = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            history.append({key: value for key, value in items.items() if not key.startswith("_")})
    assert history[0].keys() == {"epoch/epoch", "epoch/loss"}
    assert history[1] == {"epoch/epoch": 2, "epoch/loss": 0.5}
    assert history[2]["plot._type"] == "image-file"
    assert list(run.glob("wandb/offline-run-*/files/media/images/plot_*.png"))
    summary = [item for record in found if record.HasField("summary") for item in record.summary.update]
    assert "0.75" in [item.value_json for item in summary if (item.key or item.nested_key[0]) == "accuracy"]


class FakeWandb(types.SimpleNamespace):
    """A W&B that remembers what it was told, and fails at one thing."""

    def __init__(self, failing=()):
        super().__init__(Settings=dict, Image=lambda path: ("image", path))
        self.failing, self.said = failing, []
        self.summary = types.SimpleNamespace(update=lambda values: self.told("summary", values))

    def told(self, what, value):
        if what in self.failing:
            raise ConnectionError(f"{what} refused\nand more")
        self.said.append((what, value))

    def init(self, **settings):
        self.told("init", settings)
        return self

    def log(self, values):
        self.told("log", values)

    def finish(self, exit_code):
        self.told("finish", exit_code)


@pytest.fixture
def fake(monkeypatch):
    def put(*failing):
        wandb = FakeWandb(failing)
        monkeypatch.setitem(sys.modules, "wandb", wandb)
        return wandb

    return put


def test_a_resumed_run_keeps_its_id(tmp_path, fake):
    wandb = fake()
    for _ in range(2):
        RunLog(tmp_path, "online").close()
    first, second = (value for what, value in wandb.said if what == "init")
    assert first["id"] == second["id"] == (tmp_path / "wandb_id").read_text().strip()
    assert (first["resume"], first["mode"], first["dir"]) == ("allow", "online", str(tmp_path))
    (tmp_path / "wandb_id").write_text("no such / id")
    RunLog(tmp_path, "online").close()
    assert wandb.said[-2][1]["id"] == (tmp_path / "wandb_id").read_text().strip() != "no such / id"


def test_only_numbers_are_mirrored(tmp_path, fake):
    wandb = fake()
    with RunLog(tmp_path, "online") as log:
        log.log("epoch", loss=0.5, name="x", done=True, alive=[1, 2])
        log.log("found", formula="x")
    assert wandb.said[1:] == [("log", {"epoch/loss": 0.5}), ("finish", 0)]


def test_a_run_that_fails_is_told_so(tmp_path, fake):
    wandb = fake()
    with pytest.raises(KeyError), RunLog(tmp_path, "online"):
        raise KeyError
    assert wandb.said[-1] == ("finish", 1)


@pytest.mark.parametrize("failing", ["init", "log", "summary", "finish"])
def test_a_wandb_that_fails_is_warned_about_once_and_the_run_goes_on(tmp_path, fake, failing):
    wandb = fake(failing)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with RunLog(tmp_path, "online") as log:
            for epoch in range(3):
                log.log("epoch", epoch=epoch)
                log.summary(best=epoch)
                log.image("plot", "plot.png")
    (warning,) = warned
    assert str(warning.message) == (
        f"W&B is off for the rest of this run, log.jsonl goes on (ConnectionError: {failing} refused)"
    )
    assert [line["epoch"] for line in read_log(tmp_path)] == [0, 1, 2]
    assert ("finish", 0) not in wandb.said


def test_wandb_is_neither_imported_nor_needed_until_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    RunLog(tmp_path / "a").close()
    with pytest.raises(RunError, match=r"pip install grafs-timm\[wandb\]"):
        RunLog(tmp_path / "b", "offline")
    assert not (tmp_path / "b").exists()
