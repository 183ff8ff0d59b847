"""Killed at random moments, on a full disk, with a clock that jumps: a run ends in the bits of one that nothing disturbed."""

import csv
import json
import os
import shutil
import time

import kill_test
import numpy as np
import pytest
import torch
import yaml
from same_runs import damaged, differences, unfinished
from tiny_runs import ROOT, SETTINGS, call, full_disk, recipe

from grafs_timm.errors import RunError
from grafs_timm.runs import checkpoint
from grafs_timm.runs.run_training import run_training
from grafs_timm.runs.tracking import read_log

EVERYTHING = {"accumulate": 2, "smoothing": 0.1, "mixup": 0.2, "cutmix": 1.0, "ema_decay": 0.9, "checkpoint_steps": 4}
RECIPE = recipe(evaluate=SETTINGS["evaluate"] | EVERYTHING)


@pytest.fixture(autouse=True)
def alike(monkeypatch):
    """All processes compute in the same way."""
    for name, value in (kill_test.PLAIN | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tools'}"}).items():
        monkeypatch.setenv(name, value)


def killed(out, names, kills, factor=1.0, seed=0):
    """The rows of the kill test, checked."""
    every = kill_test.cases(out / "recipes", factor)
    rows = kill_test.kill_test([every[name] for name in names], out, kills, seed, print)
    assert len(rows) == kills
    assert {row["case"] for row in rows} == set(names)
    assert [row for row in rows if (row["files"], row["result"]) != ("whole", "equal")] == []
    with (out / "kills.csv").open(encoding="utf-8") as file:
        assert list(csv.DictReader(file)) == [{key: str(value) for key, value in row.items()} for row in rows]
    return rows


@pytest.mark.slow  # the tests of searches and trainings have a kill of each
def test_a_few_kills(tmp_path):
    killed(tmp_path, ["training", "search"], 3, factor=0.2)


@pytest.mark.slow
def test_a_few_kills_of_a_gpt(tmp_path):
    pytest.importorskip("transformers")
    killed(tmp_path, ["training of text", "search of text"], 3, factor=0.2)


@pytest.mark.slow
def test_many_kills(tmp_path):
    killed(tmp_path, ["search", "training", "streamed training", "matrix"], 24, seed=1)


@pytest.mark.slow
def test_many_kills_of_a_gpt(tmp_path):
    pytest.importorskip("transformers")
    killed(tmp_path, ["search of text", "training of text"], 12, seed=1)


# ----------------------------------------------------------------------------------------- that it would be noticed


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A training that nothing disturbed."""
    from grafs_timm.utils import compiled

    folder, kept, threads = tmp_path_factory.mktemp("training") / "run", compiled.plain_only, torch.get_num_threads()
    compiled.plain_only = True
    torch.set_num_threads(1)
    run_training(RECIPE, "relu", folder, quiet=True)
    compiled.plain_only = kept
    torch.set_num_threads(threads)
    return folder


def _line(change):
    def changed(path):
        lines = (path / "log.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        (path / "log.jsonl").write_text("".join(change(lines)), encoding="utf-8")

    return changed


def _bit(path):
    state = checkpoint.load(path / "checkpoint.pt")
    state["step"]["optimizer"]["state"][0]["momentum_buffer"].view(torch.int32).view(-1)[0] ^= 1
    checkpoint.save(path / "checkpoint.pt", state)


def _weights(path):
    content = bytearray((path / "weights" / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (path / "weights" / "model.safetensors").write_bytes(content)


def _result(path):
    summary = json.loads((path / "summary.json").read_text(encoding="utf-8"))
    summary["test_loss"] = float(np.nextafter(summary["test_loss"], 0))
    (path / "summary.json").write_text(json.dumps(summary), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_line(lambda lines: lines[:3] + lines[2:]), "log.jsonl: 10 items and 9"),
        (_line(lambda lines: lines[:3] + lines[4:]), "log.jsonl: 8 items and 9"),
        (_line(lambda lines: [lines[1], lines[0], *lines[2:]]), "log.jsonl[0]['step']"),
        (_bit, "checkpoint.pt['step']['optimizer']['state'][0]['momentum_buffer']: other bits"),
        (_weights, "weights/model.safetensors"),
        (_result, "summary.json['test_loss']"),
        (lambda path: (path / ".checkpoint.pt.abcdefgh").touch(), ".checkpoint.pt.abcdefgh is in one of them only"),
    ],
)  # fmt: skip
def test_what_is_not_equal_is_seen(whole, tmp_path, change, said):
    folder = shutil.copytree(whole, tmp_path / "run")
    assert differences(folder, whole) == []
    change(folder)
    found = differences(folder, whole)
    assert found
    assert said in found[0], found


def test_what_is_not_whole_is_seen(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "run")
    for name in (".lock", ".checkpoint.pt.abcdefgh", "weights/.model.safetensors.abcdefgh"):
        (folder / name).write_text("half", encoding="utf-8")
    assert damaged(folder) == []
    assert unfinished(folder) == ["checkpoint.pt", "model.safetensors"]
    names = ["checkpoint.pt", "run.json", "summary.json", "weights/config.json", "weights/model.safetensors"]
    for name in names:
        os.truncate(folder / name, (folder / name).stat().st_size // 2)
    (folder / ".other").touch()
    assert [each.partition(":")[0] for each in damaged(folder)] == [".other", *names]


# ------------------------------------------------------------------------------------------ full disks, clocks that jump


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("room", [5, 6])  # syncs that succeed: two at the start, two a checkpoint, of which there are nine
def test_a_training_on_a_full_disk(whole, tmp_path, room):
    out = tmp_path / "run"
    with pytest.raises(RunError, match=r"cannot write .*/run/(checkpoint\.pt|log\.jsonl): .*No space left"), full_disk(room):
        run_training(RECIPE, "relu", out, quiet=True)
    kept = checkpoint.load(out / "checkpoint.pt")
    assert (kept["epoch"], kept["done"]) == ((0, 4), (0, 8))[(room - 2) // 2 - 1]
    assert len(read_log(out)) == (room - 2) // 2 + 1
    assert not [file for file in out.iterdir() if file.name.startswith(".")]
    run_training(RECIPE, "relu", out, quiet=True, resume=True)
    assert differences(out, whole) == []


# found by Python before its own code begins: from the second checkpoint on the disk is full, while a file says so
FULL = """
import os
real = os.fsync
def fsync(handle):
    name = os.readlink(f"/proc/self/fd/{handle}")
    if "/.checkpoint.pt." in name and os.path.exists(os.path.dirname(name) + "/checkpoint.pt") and os.path.exists(FULL):
        raise OSError(28, os.strerror(28))
    real(handle)
os.fsync = fsync
"""


@pytest.mark.slow
@pytest.mark.usefixtures("plain")
def test_a_matrix_on_a_full_disk(whole, tmp_path, monkeypatch):
    full = tmp_path / "full"
    full.touch()
    (tmp_path / "sitecustomize.py").write_text(f"FULL = {str(full)!r}\n{FULL}", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    settings = {"evaluate": SETTINGS["evaluate"] | EVERYTHING, "transfer": {"baselines": ["relu"], "seeds": 1}}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(SETTINGS | settings), encoding="utf-8")
    command = ("transfer", tmp_path / "tiny.yaml", "--out", tmp_path / "m", "--device", "cpu", "--quiet")
    job = tmp_path / "m" / "jobs" / "relu" / "test_resnet" / "digits" / "s0"
    refused = call(*command)
    assert refused.exit_code == 1
    assert refused.stdout.startswith("0 done, 0 skipped, 1 failed")
    said = f"error: cannot write {job}/checkpoint.pt: [Errno 28] No space left on device; the file that was there is kept"
    assert said in refused.stderr
    assert job.with_name("s0.txt").read_text(encoding="utf-8").count("error: ") == 1  # it isn't tried again
    kept = checkpoint.load(job / "checkpoint.pt")
    assert (kept["epoch"], kept["done"]) == (0, 4)
    assert damaged(tmp_path / "m") == unfinished(tmp_path / "m") == []
    full.unlink()
    assert call(*command).stdout.startswith("1 done, 0 skipped, 0 failed")
    results = [name for name in differences(job, whole) if not name.startswith("run.json")]  # of another recipe's hash
    assert [name for name in results if not name.startswith("recipe.yaml")] == []


@pytest.mark.usefixtures("plain")
def test_a_clock_that_jumps(whole, tmp_path, monkeypatch):
    """Back by years between two steps and before going on; files from the future, in the wrong order."""
    out, save, saved, now = tmp_path / "run", checkpoint.save, [], [2e9]

    def stop(path, state):
        save(path, state)
        saved.append(path)
        now[0] -= 1e8
        if len(saved) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "time", lambda: now[0])
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            run_training(RECIPE, "relu", out, quiet=True)
    for number, file in enumerate(sorted(out.iterdir(), reverse=True)):
        os.utime(file, (4e9 - number * 1e9, 4e9 - number * 1e9))
    run_training(RECIPE, "relu", out, quiet=True, resume=True)
    assert differences(out, whole) == []
    times = [line["time"] for line in read_log(out)]
    assert times != sorted(times)
