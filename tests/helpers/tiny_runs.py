"""Runs of seconds, for the tests of the commands: a recipe, calls of the command line, a kill in the middle."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from grafs_timm.cli.main import main
from grafs_timm.config.recipe import parse_recipe
from grafs_timm.config.schema import Recipe

ROOT = Path(__file__).parents[2]
WEIGHTS = {"opt": "momentum", "lr": 0.05, "sched": "cosine"}
SETTINGS = {
    "model": "test_resnet",
    "data": {"name": "digits", "train_images": 300, "test_images": 100, "augment": ["crop"], "crop_padding": 1},
    "search": {"epochs": 6, "batch_size": 32, "warm_start": 1, "shrink_start": 2, "weights": WEIGHTS},
    "evaluate": {"epochs": 3, "batch_size": 32, "weights": WEIGHTS | {"warmup_epochs": 1}},
}
GENOTYPE = {
    "format": "grafs-cell/1", "u1": {"op": "identity"}, "u2": {"op": "scale", "gamma": 1.5}, "b1": {"op": "gate"},
    "u3": {"op": "relu"}, "u4": {"op": "identity"}, "b2": {"op": "max"},
}  # fmt: skip

STREAMED = {
    "name": "digits", "loading": "stream", "image_size": 8, "channels": 1, "workers": 2, "shuffle_buffer": 64,
    "transform": {"scale": [0.6, 1.0], "hflip": 0.0}, "mean": [0.3], "std": [0.35],
}  # fmt: skip


def recipe(**changes: object) -> Recipe:
    return parse_recipe(SETTINGS | changes)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below ``folder``."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def call(*arguments: object) -> Result:
    """The command line in this process. What is not an exit, and would be a traceback, is raised."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def refused(*arguments: object) -> str:
    """A call that must fail, by one message; returns it."""
    result = call(*arguments)
    assert result.exit_code in (1, 2), result.output
    assert not result.stdout
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("error: " if result.exit_code == 1 else "Usage: ")
    assert result.stderr.count("error: ") <= 1
    return result.stderr


def start(*arguments: object, **environment: str) -> subprocess.Popen:
    """The command line in a process of its own, computing as this one does."""
    env = os.environ | {"GRAFS_TIMM_COMPILE": "0", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | environment
    command = [sys.executable, "-m", "grafs_timm", *map(str, arguments)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8")


def kill_after(process: subprocess.Popen, log: Path, epochs: int) -> None:
    """SIGKILL as soon as the log has that many epochs."""
    with process:
        for _ in range(30_000):
            if process.poll() is not None:
                raise AssertionError(f"it ended by itself: {process.stdout.read()}")
            if log.exists() and log.read_bytes().count(b'"kind": "epoch"') >= epochs:
                break
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL


@contextlib.contextmanager
def full_disk(room: int) -> Iterator[None]:
    """Within it ``room`` syncs more succeed in this process, and then the disk is full."""
    real, calls = os.fsync, []

    def fsync(handle: int) -> None:
        calls.append(handle)
        if len(calls) > room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        yield
