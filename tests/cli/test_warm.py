"""Jobs forked from a warm process: the same as fresh ones bit for bit, and as easily killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tiny_runs import ROOT
from warm_jobs import LONG, job, run

from grafs_timm.utils import resources


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Two threads, as none of a parent's may be missing in a fork."""
    for name, value in {"GRAFS_TIMM_COMPILE": "0", "OMP_NUM_THREADS": "2", "PYTHONPATH": str(ROOT)}.items():
        monkeypatch.setenv(name, value)


def result(folder: Path) -> dict[str, object]:
    """Everything a run leaves but the seconds it took."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    log = [{key: value for key, value in line.items() if key not in ("time", "seconds")} for line in lines]
    files = {str(file.relative_to(folder)): file for file in sorted(folder.rglob("*")) if file.is_file()}
    same = {name: file.read_bytes() for name, file in files.items() if name not in ("log.jsonl", "checkpoint.pt")}
    return {"log": log, "names": list(files), **same}


def soon(condition, seconds=30):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := condition():
            return found
        time.sleep(0.02)
    return None


def process_of(folder):
    """The id of the job in ``folder``: its standard output is the file of what it prints, as may be that of its parent."""
    printed, found = folder.with_name(f"{folder.name}.txt"), []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if printed.exists() and (process / "fd" / "1").samefile(printed):
                found.append(int(process.name))
        except OSError:
            continue
    (pid,) = set(found) - set(map(parent, found))
    return pid


def parent(pid):
    return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_the_same_as_in_fresh_processes(tmp_path):
    """After an error, with another precision before it, and with images that another job decoded."""
    folders = {side: tmp_path / side for side in ("fresh", "warm")}
    for side, folder in folders.items():
        jobs = [
            job(folder / "wrong", "no_such_activation"),
            *([job(folder / "half", "grafs_resnet", amp="bf16")] if side == "warm" else []),
            job(folder / "plain"),
            job(folder / "plain2", "grafs_resnet"),
        ]
        outcomes = run(*jobs, warm=side == "warm")
        assert [outcome.state for outcome in outcomes] == ["failed", *["done"] * (len(jobs) - 1)], outcomes
        assert outcomes[0].message.startswith("error: ")
    fresh, warm = folders.values()
    for name in ("wrong", "plain", "plain2"):
        printed = [(folder / f"{name}.txt").read_text(encoding="utf-8") for folder in (fresh, warm)]
        assert printed[0].replace(str(fresh), str(warm)) == printed[1]
        if name != "wrong":
            assert "resized to 16×16" in printed[1]
            assert result(fresh / name) == result(warm / name)


@pytest.mark.slow
def test_images_are_decoded_once_until_their_files_change(tmp_path):
    """Shards that are spoilt behind the reader's back fail a process that reads them, and none that has them."""
    data = shutil.copytree(resources._PACKAGE / "data" / "digits", tmp_path / "data")
    more = {"data.name": str(data)}

    def spoil(outcome):
        if outcome.job.name == "first":
            for shard in data.glob("*.tar*"):
                was = shard.stat()
                with open(shard, "r+b") as file:
                    file.write(b"\0" * was.st_size)
                os.utime(shard, ns=(was.st_atime_ns, was.st_mtime_ns))
        elif outcome.job.name == "second":
            for shard in data.glob("*.tar*"):
                os.utime(shard)

    names = ("first", "second", "third")
    outcomes = run(*(job(tmp_path / name, **more) for name in names), on_outcome=spoil)
    assert [outcome.state for outcome in outcomes] == ["done", "done", "failed"], outcomes
    assert outcomes[2].message.startswith("error: ")
    assert result(tmp_path / "first") == result(tmp_path / "second")


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.slow
@pytest.mark.parametrize("victim", ["job", "warm process"])
def test_one_that_is_killed_goes_on(tmp_path, victim):
    killed = []

    def kill():
        assert soon((tmp_path / "a" / "checkpoint.pt").exists)
        pid = process_of(tmp_path / "a")
        killed.extend([pid, parent(pid)])
        os.kill(pid if victim == "job" else parent(pid), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    outcomes = run(job(tmp_path / "a", **{"evaluate.epochs": 60}), job(tmp_path / "b"))
    killer.join()
    assert len(killed) == 2
    assert [outcome.state for outcome in outcomes] == ["done", "done"], outcomes
    assert not any(map(alive, killed))
    assert [line["epoch"] for line in result(tmp_path / "a")["log"] if line["kind"] == "epoch"] == list(range(1, 61))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_one_that_is_killed_and_not_tried_again(tmp_path):
    def kill():
        assert soon((tmp_path / "a" / "checkpoint.pt").exists)
        os.kill(process_of(tmp_path / "a"), signal.SIGSEGV)

    killer = threading.Thread(target=kill)
    killer.start()
    first, second = run(job(tmp_path / "a", settings=LONG), job(tmp_path / "b"), retries=0)
    killer.join()
    assert (first.state, second.state) == ("failed", "done")
    assert first.message.endswith("ended by signal 11 (SIGSEGV)")


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_the_end_of_the_launcher_is_the_end_of_all(tmp_path, number):
    code = f"""from pathlib import Path
import sys; sys.path.insert(0, {str(ROOT / "tests" / "helpers")!r})
from warm_jobs import LONG, job, run
folder = Path({str(tmp_path)!r})
run(job(folder / "a", settings=LONG))"""
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL) as launcher:
        try:
            assert soon((tmp_path / "a" / "checkpoint.pt").exists, 120)
            pid = process_of(tmp_path / "a")
            pids = [pid, parent(pid)]
            assert launcher.pid not in pids
            assert all(map(alive, pids))
            launcher.send_signal(number)
        finally:
            if sys.exc_info()[0]:  # a failure is told at once, not after the job's thousands of epochs
                launcher.kill()
    assert soon(lambda: not any(map(alive, pids)), 5)
