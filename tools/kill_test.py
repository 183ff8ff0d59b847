"""Kill runs at random moments, go on with them, and compare what they end in with what an undisturbed run ends in, bit by bit.

    python tools/kill_test.py OUT [--kills 24] [--seed 0]

Four cases on the embedded digits: a search; a training with mixing, smoothing, a moving average, micro-batches and checkpoints
within epochs; the same one streamed, where now and then the main process alone is killed and not those that load its images; a
matrix of trainings, where the launcher and its jobs are killed in turn. Two of a small GPT on text, where transformers is
installed: a search in steps with a checkpoint every other one, and a training in epochs of seven steps. SIGKILL falls anywhere
in a process's life, in the writing of a checkpoint, or after the last epoch, where the result is written. A kill that came
after the end doesn't count.

Every kill is a line of OUT/kills.csv: seconds into the life of what was killed, what had been written last, which writes were
cut short, whether every other file was whole, and whether the run that it belongs to ended in the same bits.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import yaml
from same_runs import damaged, differences, progress, unfinished

from grafs_timm.utils.files import write_csv, write_whole

# all processes compute in one way; forked ones that are killed leave a lock of tqdm's behind, which Python says at the end
PLAIN = {
    "GRAFS_TIMM_COMPILE": "0", "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg", "PYTHONWARNINGS": "ignore:resource_tracker",
}  # fmt: skip
COLUMNS = ("case", "run", "kill", "killed", "aim", "seconds", "written_last", "cut_short", "files", "result")
AIMS = {"any moment": 0.5, "a checkpoint's writing": 0.3, "the result's writing": 0.2}
WRITING = 0.03  # seconds that the writing of a checkpoint may take

WEIGHTS = {"opt": "momentum", "lr": 0.05, "sched": "cosine", "warmup_epochs": 1}
RESIDENT = {"name": "digits", "train_images": 300, "test_images": 100, "augment": ["crop"], "crop_padding": 1}
STREAMED = {
    "name": "digits", "loading": "stream", "image_size": 8, "channels": 1, "workers": 2, "shuffle_buffer": 64,
    "transform": {"scale": [0.6, 1.0], "hflip": 0.0}, "mean": [0.3], "std": [0.35],
}  # fmt: skip
TALE = "one day a little girl found the red ball and was very happy to play with it."
TEXT = {"model": "gpt_mini", "model_kwargs": {"depth": 1, "num_heads": 2, "embed_dim": 32, "dropout": 0.1}}
ADAMW = {"opt": "adamw", "lr": 3e-3, "betas": [0.9, 0.99], "weight_decay": 0.1, "clip_grad": 1.0}
STEPS = {"batch_size": 8, "warm_start": 1, "shrink_start": 2, "usual": "gelu", "steps_per_epoch": 1, "log_epochs": 2}
SEARCH = {"batch_size": 32, "warm_start": 1, "shrink_start": 2, "weights": WEIGHTS | {"warmup_epochs": 0}}
TRAINING = {"batch_size": 32, "weights": WEIGHTS}
EVERYTHING = {"accumulate": 2, "smoothing": 0.1, "mixup": 0.2, "cutmix": 1.0, "ema_decay": 0.9}
GENOTYPE = {
    "format": "grafs-cell/1", "u1": {"op": "silu"}, "u2": {"op": "scale", "gamma": 0.5221}, "b1": {"op": "gate"},
    "u3": {"op": "identity"}, "u4": {"op": "tanh"}, "b2": {"op": "add"},
}  # fmt: skip


# ------------------------------------------------------------------------------------------------------- what is run


@dataclass(frozen=True)
class Case:
    """A command that is to survive. ``epochs``: of all its log lines together, when only the result is left to write."""

    name: str
    arguments: tuple[str, ...]
    epochs: int
    victims: tuple[str, ...] = ("group",)


def cases(folder: Path, factor: float = 1.0) -> dict[str, Case]:
    """The cases, their recipes written into ``folder``; ``factor`` changes how long they are."""

    def recipe(name: str, data: dict[str, Any], **sections: Any) -> str:
        return str(write_whole(folder / f"{name}.yaml", yaml.safe_dump({"model": "test_resnet", "data": data} | sections)))

    def epochs(count: int) -> int:
        return max(round(count * factor), 4)

    search, training, streamed, each = epochs(12), epochs(20), epochs(5), epochs(16)
    found = str(write_whole(folder / "found.json", json.dumps(GENOTYPE)))
    resident = TRAINING | EVERYTHING | {"epochs": training, "checkpoint_steps": 2}
    streaming = TRAINING | EVERYTHING | {"epochs": streamed, "checkpoint_steps": 10}
    transfer = {"activations": [found], "baselines": ["relu"], "random": 1, "seeds": 1}
    matrix = {"evaluate": TRAINING | EVERYTHING | {"epochs": each, "checkpoint_steps": 4}, "transfer": transfer}
    activation = ("--activation", found, "--seed", "3")
    many = ("--workers", "2", "--retries", "99", "--device", "cpu")
    made = (
        Case("search", ("search", recipe("search", RESIDENT, search=SEARCH | {"epochs": search}), "--seed", "3"), search),
        Case("training", ("evaluate", recipe("training", RESIDENT, evaluate=resident), *activation), training),
        Case(
            "streamed training", ("evaluate", recipe("streamed", STREAMED, evaluate=streaming), *activation), streamed,
            ("group", "process alone"),
        ),
        *(_of_text(folder, recipe, search, training, activation) if importlib.util.find_spec("transformers") else ()),
        Case("matrix", ("transfer", recipe("matrix", RESIDENT, **matrix), *many), 3 * each, ("launcher", "job")),
    )  # fmt: skip
    return {case.name: case for case in made}


def _of_text(
    folder: Path, recipe: Callable[..., str], search: int, training: int, activation: tuple[str, ...]
) -> tuple[Case, ...]:  # fmt: skip
    draw = np.random.default_rng(0)
    words = draw.choice(TALE.split(), 12_000)
    text = {"name": str(write_whole(folder / "tales.txt", " ".join(words))), "text": {"context": 16}}
    searching = STEPS | {"weights": ADAMW | {"sched": "cosine", "min_lr": 1e-4}, "epochs": 2 * search}
    trained = {
        "batch_size": 8,
        "steps_per_epoch": 7,
        "checkpoint_steps": 2,
        "accumulate": 2,
        "weights": ADAMW,
        "epochs": training,
    }
    return (
        Case("search of text", ("search", recipe("search_text", text, search=searching, **TEXT), "--seed", "3"), search),
        Case("training of text", ("evaluate", recipe("training_text", text, evaluate=trained, **TEXT), *activation), training),
    )


def _command(arguments: list[str], output: str) -> None:
    """In a process forked from one that has imported everything: the command line, in a process group of its own."""
    from grafs_timm.cli.main import main

    os.setsid()
    with open(output, "ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    main(arguments)


_CONTEXT = multiprocessing.get_context("forkserver")


def _ready() -> None:
    """Have the process that others are forked from, which takes seconds to import everything."""
    _CONTEXT.set_forkserver_preload(["grafs_timm.cli.main", "grafs_timm.runs.run_search", "grafs_timm.runs.run_training"])
    first = _CONTEXT.Process(target=time.sleep, args=(0,))
    first.start()
    first.join()


class Process:
    """A case under way in the run folder ``out``: forked, and the launcher of a matrix started as a user does."""

    def __init__(self, case: Case, out: Path, resume: bool) -> None:
        arguments = [*case.arguments, "--out", str(out), "--quiet", "--wandb", "disabled"]
        self.output = out.with_name("output.txt")
        self.begun = time.monotonic()
        if case.name == "matrix":
            with self.output.open("ab") as file:
                self._popen = subprocess.Popen(
                    [sys.executable, "-m", "grafs_timm", *arguments], stdout=file, stderr=file, start_new_session=True
                )
            self.pid, self.wait = self._popen.pid, self._wait_popen
        else:
            arguments += ["--resume"] if resume else []
            self._process = _CONTEXT.Process(target=_command, args=(arguments, str(self.output)))
            self._process.start()
            self.pid, self.wait = self._process.pid, self._wait_forked

    def _wait_popen(self, seconds: float | None) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._popen.wait(seconds)
        return None

    def _wait_forked(self, seconds: float | None) -> int | None:
        self._process.join(seconds)
        return self._process.exitcode

    @property
    def age(self) -> float:
        return time.monotonic() - self.begun

    def kill(self, group: bool = True) -> bool:
        """Whether it was the kill that ended it."""
        try:
            (os.killpg if group else os.kill)(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            with contextlib.suppress(ProcessLookupError):  # it may have no group of its own yet
                os.kill(self.pid, signal.SIGKILL)
        return self.wait(None) == -signal.SIGKILL


@contextlib.contextmanager
def _stopped_with_this(process: Process) -> Iterator[Process]:
    try:
        yield process
    except BaseException:
        process.kill()
        raise


def _processes() -> Iterator[tuple[int, list[str]]]:
    """(id, the fields of its stat from the state on) of every process that hasn't ended."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            if fields[0] not in "ZX":
                yield int(path.parent.name), fields


def _jobs(out: Path) -> dict[int, tuple[float, Path]]:
    """{id: (seconds since it began, its run folder)} of the jobs of a matrix."""
    found, now = {}, time.clock_gettime(time.CLOCK_BOOTTIME)
    for pid, fields in _processes():
        with contextlib.suppress(OSError, ValueError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
            folder = Path(words[words.index("--out") + 1])
            if folder.is_relative_to(out / "jobs") and int(fields[2]) == pid:
                found[pid] = now - int(fields[19]) / os.sysconf("SC_CLK_TCK"), folder
    return found


def _group(leader: int) -> list[int]:
    return [pid for pid, fields in _processes() if int(fields[2]) == leader]


# ------------------------------------------------------------------------------------------------------- the kills


@dataclass(frozen=True)
class Whole:
    """An undisturbed run: how long it took, and how much of it came after its last epoch, in seconds."""

    folder: Path
    seconds: float
    tail: float


def undisturbed(case: Case, folder: Path) -> Whole:
    """Run a case to its end. RuntimeError with what it said where it fails."""
    out = folder / case.name.replace(" ", "_") / "undisturbed" / "run"
    out.parent.mkdir(parents=True)
    last = 0.0
    with _stopped_with_this(Process(case, out, resume=False)) as process:
        while (code := process.wait(0.02)) is None:
            last = last if _ended(case, out) else process.age
    if code:
        raise RuntimeError(f"{case.name} failed by itself:\n{process.output.read_text(encoding='utf-8', errors='replace')}")
    return Whole(out, process.age, process.age - last)


class Killer:
    """Kills one case until ``wanted`` kills have hit, in as many runs as that takes; ``rows`` as the table has them."""

    def __init__(self, case: Case, whole: Whole, rng: np.random.Generator, tell: Callable[[dict[str, Any]], None]) -> None:
        self.case, self.whole, self.rng, self.tell = case, whole, rng, tell
        self.rows: list[dict[str, Any]] = []
        self._runs = 0

    def kill(self, wanted: int) -> None:
        while len(self.rows) < wanted:
            self._runs += 1
            begun, out = len(self.rows), self.whole.folder.parent.with_name(f"killed{self._runs}") / "run"
            out.parent.mkdir()
            left = self._until_done(out, wanted)
            unequal = [*differences(out, self.whole.folder), *(f"process {pid} outlived its run" for pid in left)]
            for row in self.rows[begun:]:
                row["result"] = "; ".join(unequal[:3]) or "equal"
            if not unequal:
                shutil.rmtree(out.parent)

    def _until_done(self, out: Path, wanted: int) -> list[int]:
        """A run from its start to its end, whatever kills lie between; what of its killed processes is still there."""
        leaders = []
        while True:
            with _stopped_with_this(Process(self.case, out, resume=True)) as process:
                code = self._killed_or_ended(process, out, wanted)
            leaders.append(process.pid)
            if code == -signal.SIGKILL:
                continue
            if code:
                raise RuntimeError(
                    f"{self.case.name} does not go on:\n{process.output.read_text(encoding='utf-8', errors='replace')}"
                )
            _soon(lambda: not any(map(_group, leaders)) and not _jobs(out), 30)
            return [pid for leader in leaders for pid in _group(leader)] + list(_jobs(out))

    def _killed_or_ended(self, process: Process, out: Path, wanted: int) -> int | None:
        """How the process ended, in which one kill at most falls, or several on the jobs of a launcher."""
        while len(self.rows) < wanted:
            victim = self.case.victims[len(self.rows) % len(self.case.victims)]
            row = self._job(process, out) if victim == "job" else self._process(process, out, victim)
            if row is None:
                break
            self._note(out, victim, row)
            if victim != "job":
                break
        return process.wait(None)

    def _note(self, out: Path, victim: str, row: dict[str, Any]) -> None:
        broken = damaged(out)
        row = {
            "case": self.case.name, "run": self._runs, "kill": len(self.rows) + 1, "killed": victim, **row,
            "written_last": progress(out), "cut_short": " ".join(unfinished(out)), "files": "; ".join(broken) or "whole",
            "result": "",
        }  # fmt: skip
        self.rows.append(row)
        self.tell(row)

    def _process(self, process: Process, out: Path, victim: str) -> dict[str, Any] | None:
        """None where it had ended before."""
        aim = self._wait_for_moment(process, out)
        age = process.age
        return {"aim": aim, "seconds": round(age, 3)} if process.kill(victim != "process alone") else None

    def _job(self, launcher: Process, out: Path) -> dict[str, Any] | None:
        """None where the launcher ended before."""
        aim = str(self.rng.choice(["any moment", "a checkpoint's writing"]))
        launcher.wait(self.rng.uniform(0, 0.5) * self.whole.seconds)
        while launcher.wait(0) is None:
            jobs = _jobs(out)
            if aim == "a checkpoint's writing":
                writing = [pid for pid, (_, folder) in jobs.items() if any(folder.glob(".checkpoint.pt.*"))]
                jobs = {pid: jobs[pid] for pid in writing}
                time.sleep(self.rng.uniform(0, WRITING / 2) if writing else 0)
            if jobs:
                pid = int(self.rng.choice(list(jobs)))
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
                    return {"aim": aim, "seconds": round(jobs[pid][0], 3)}
            time.sleep(0.001)
        return None

    def _wait_for_moment(self, process: Process, out: Path) -> str:
        """Draw one, wait until it is there or the process has ended; returns what it was aimed at."""
        aim = str(self.rng.choice(list(AIMS), p=list(AIMS.values())))
        if aim == "the result's writing":
            _soon(lambda: process.wait(0) is not None or _ended(self.case, out))
            process.wait(self.rng.uniform(0, self.whole.tail))
            return aim
        process.wait(self.rng.uniform(0, 1.0 if aim == "any moment" else 0.7) * self.whole.seconds)
        if aim == "a checkpoint's writing":
            _soon(lambda: process.wait(0) is not None or any(out.rglob(".checkpoint.pt.*")), pause=0.0005)
            time.sleep(self.rng.uniform(0, WRITING))
        return aim


def _ended(case: Case, out: Path) -> bool:
    """Whether every epoch is in the log."""
    with contextlib.suppress(OSError):
        return sum(log.read_bytes().count(b'"kind": "epoch"') for log in out.rglob("log.jsonl")) >= case.epochs
    return False


def _soon(condition: Callable[[], Any], seconds: float = 600, pause: float = 0.005) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(pause)
    return False


# ------------------------------------------------------------------------------------------------------- the table


def write(rows: list[dict[str, Any]], path: Path) -> None:
    write_csv(path, COLUMNS, ([row[name] for name in COLUMNS] for row in rows))


def kill_test(chosen: list[Case], out: Path, kills: int, seed: int, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Kill each of the cases its part of ``kills`` times; returns the rows of the table, which stand in ``out`` too.

    Sets what of the environment makes processes compute alike. RuntimeError where a run fails instead of going on.
    """
    os.environ.update(PLAIN)
    _ready()
    rows: list[dict[str, Any]] = []

    def note(row: dict[str, Any]) -> None:
        rows.append(row)
        write(rows, out / "kills.csv")
        tell("  " + "  ".join(str(row[key]) for key in COLUMNS[1:-1]))

    for number, case in enumerate(chosen):
        whole = undisturbed(case, out)
        tell(f"{case.name}: {whole.seconds:.1f} s undisturbed, {whole.tail:.1f} s of them after the last epoch")
        share = kills // len(chosen) + (number < kills % len(chosen))
        Killer(case, whole, np.random.default_rng([seed, number]), note).kill(share)
        write(rows, out / "kills.csv")
    return rows


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--kills", default=24, show_default=True, help="Of all cases together.")
@click.option("--seed", default=0, show_default=True, help="Of the moments.")
@click.option("--case", "names", multiple=True, help="These cases alone.")
def main(out: Path, kills: int, seed: int, names: tuple[str, ...]) -> None:
    """Kill runs at random moments and compare what they end in with undisturbed ones."""
    if out.exists() and any(out.iterdir()):
        raise click.UsageError(f"{out} is not empty")
    every = cases(out.absolute() / "recipes")
    for name in names:
        if name not in every:
            raise click.UsageError(f"no case {name!r}; there are {', '.join(every)}")
    rows = kill_test([every[name] for name in names or every], out.absolute(), kills, seed, click.echo)
    wrong = [row for row in rows if row["result"] != "equal" or row["files"] != "whole"]
    click.echo(f"{len(rows)} kills, {len(rows) - len(wrong)} of them in runs that ended in the same bits: {out / 'kills.csv'}")
    for row in wrong:
        click.echo(f"{row['case']}, run {row['run']}, kill {row['kill']}: {row['result']}; files: {row['files']}", err=True)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
