"""Run what a campaign's ledger lacks, and turn finished run folders into lines of it."""

from __future__ import annotations

import contextlib
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from ..activations import genotype as genotypes
from ..config import strict_yaml
from ..config.recipe import parse_recipe
from ..errors import GrafsError, RunError
from ..jobs.job import Job as LaunchJob
from ..jobs.job import Outcome
from ..jobs.launch import run_jobs
from ..jobs.options import HERE, Launch
from ..runs import folder as runs
from ..utils import hardware
from ..utils.files import locked, write_changed
from . import estimate, ledger
from .campaign import SEARCHES, Campaign, search_label
from .campaign_files import data_label
from .ledger import Job, Line
from .results import read_epochs, run_seconds

# What a line keeps of a log's epoch: the rest (times of day, survivors) is the run's own business.
_OF_A_SEARCH = ("epoch", "inner_loss", "outer_loss", "alive", "formula", "outside", "seconds")
_OF_A_TRAINING = (
    "epoch", "train_loss", "test_accuracy", "test_loss", "validation_accuracy", "validation_loss", "skipped", "seconds",
)  # fmt: skip


class TimeOver(BaseException):
    """The time is over; raised wherever the program is."""


def default_runs(campaign: Campaign) -> Path:
    """Return the folder of a campaign's runs unless another one is given."""
    return Path("runs") / "campaign" / f"{campaign.family}_{campaign.folder.name}"


def run(
    campaign: Campaign, root: Path, *, minutes: float | None = None, options: Sequence[str] = (),
    say: Callable[[str], None] = print, launch: Launch = HERE,
) -> list[Outcome]:  # fmt: skip
    """Run what the ledger lacks, in order; each result is a line of the ledger as soon as it is there.

    Args:
        campaign: whose ledger gets the lines. Finished run folders below ``root`` are collected first.
        root: of the run folders. Half-done ones are resumed.
        minutes: after how many to stop, running jobs at their last checkpoint; None runs until nothing is left.
        options: further arguments of each job's command, such as ``--device cpu``.
        say: is called with a line for each finished run.
        launch: where jobs run.

    Returns:
        The jobs that failed.

    Raises:
        RunError: where another process runs in ``root``, or the ledger or a run folder can't be read or written.
    """
    failed: dict[str, Outcome] = {}
    with locked(root), _for(minutes, say):
        campaign.write()
        for line in collect(campaign, root):
            say(f"collected {_said(campaign, line)}")
        while True:
            campaign = Campaign.read(campaign.folder)
            waiting = next((left for stage in campaign.stages() if (left := _left(campaign, stage, failed))), [])
            if not waiting:
                break
            _run_stage(campaign, root, waiting, options, say, failed, launch)
    return list(failed.values())


def _left(campaign: Campaign, stage: list[Job], failed: dict[str, Outcome]) -> list[Job]:
    return [job for job in campaign.left(stage) if job.key not in failed]


def _run_stage(
    campaign: Campaign, root: Path, waiting: list[Job], options: Sequence[str], say: Callable[[str], None],
    failed: dict[str, Outcome], launch: Launch,
) -> None:  # fmt: skip
    keys = {run_folder(root, job): job for job in waiting}
    begun, done = time.monotonic(), 0

    def ended(outcome: Outcome) -> None:
        nonlocal done
        job = keys[outcome.job.folder]
        if outcome.state == "failed":
            failed[job.key] = outcome
            say(f"failed    {job}: {outcome.message}")
            return
        line = line_of(outcome.job.folder)
        if line.key != job.key:
            raise RunError(f"{outcome.job.folder} holds another run than {job}; move it away")
        ledger.add(campaign.folder, [line])
        done += 1
        rest = (time.monotonic() - begun) / done * (len(waiting) - done)
        say(f"done      {_said(campaign, line)}; {len(waiting) - done} of this block left, about {rest / 3600:.1f} h")

    run_jobs(launch_jobs(root, waiting, options), launch, on_outcome=ended)


def launch_jobs(root: Path, jobs: Sequence[Job], options: Sequence[str] = ()) -> list[LaunchJob]:
    """Write the files that ``jobs`` need and return the processes that do them.

    Args:
        root: of the run folders.
        jobs: of one campaign.
        options: further arguments of each command.
    """
    made = []
    for job in jobs:
        recipe = root / "recipes" / f"{job.recipe.sha256[:12]}.yaml"
        write_changed(recipe, job.recipe.to_yaml())
        what: tuple[str, ...] = ("search", str(recipe))
        if job.kind == "training":
            what = ("train", str(recipe), "--activation", _argument(root, job))
        folder = run_folder(root, job)
        arguments = (*what, "--seed", str(job.seed), "--out", str(folder), "--resume", "--quiet", *options)
        made.append(LaunchJob(str(job), arguments, folder))
    return made


def run_folder(root: Path, job: Job) -> Path:
    """Return the folder of a job's run, named after model, data set, seed, function and key, so that no two runs share one.

    Args:
        root: of the run folders.
        job: of a campaign.
    """
    short = job.function[:8] if len(job.function) == 64 else job.function
    return root.absolute() / "runs" / f"{job.model}.{job.data}.s{job.seed}.{short}.{job.key[:8]}"


def _argument(root: Path, job: Job) -> str:
    if job.genotype is None:
        return job.function
    path = root / "activations" / f"{job.function[:12]}.json"
    if not path.exists():
        genotypes.save(job.genotype, path)
    return str(path)


# ----------------------------------------------------------------------------------------------------- run folder -> line


def collect(campaign: Campaign, root: Path) -> list[Line]:
    """Write a line for each finished run below ``root`` that the ledger lacks.

    Args:
        campaign: whose ledger it is.
        root: of the run folders.

    Returns:
        The new lines.

    Raises:
        RunError: for a run of another recipe, or one that can't be read; nothing was written then.
    """
    known, found = {line.sha256 for line in campaign.ledger.lines}, []
    for summary in sorted(root.glob("**/summary.json")):
        if (summary.parent / runs.RUN).exists():
            line = line_of(summary.parent)
            campaign.check(line, str(summary.parent))
            if line.sha256 not in known:
                known.add(line.sha256)
                found.append(line)
    campaign.write()
    ledger.add(campaign.folder, found)
    return found


def line_of(folder: Path) -> Line:
    """Make the line of the finished run in ``folder``; it is equal whenever it is made.

    Raises:
        RunError: where the run is not finished, or its files can't be read.
    """
    summary, about = runs.read_json(folder / runs.SUMMARY), runs.read_json(folder / runs.RUN)
    log = read_epochs(folder)
    if not log:
        raise RunError(f"{folder}: its log has no epoch")
    search = about.get("kind") == "search"
    keys = _OF_A_SEARCH if search else _OF_A_TRAINING
    try:
        recipe = parse_recipe(strict_yaml.read(folder / runs.RECIPE), runs.RECIPE)
        recipe = recipe.for_searching() if search else recipe.for_training()
        return ledger.made(
            kind="search" if search else "training", recipe=recipe.sha256,
            function="search" if search else (summary["activation_sha256"] or summary["activation"]),
            genotype=summary.get("genotype"), model=recipe.model, data=data_label(recipe.data), seed=summary["seed"],
            split="architecture" if search else "both" if recipe.evaluate.measure_both else summary["measured_on"],
            log=[{key: line[key] for key in keys if key in line} for line in log],
            held_out={name: summary[f"held_out_{name}"] for name in ("accuracy", "loss")} if search else {},
            hardware=summary["hardware"], versions=about["versions"], commit=about["commit"],
            date=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(float(log[-1]["time"]))),
        )  # fmt: skip
    except KeyError as error:
        raise RunError(f"{folder}: {error} is missing: a run of an older version, which a ledger can't hold") from error
    except GrafsError as error:
        raise RunError(f"{folder}: {error}") from error


def _said(campaign: Campaign, line: Line) -> str:
    """Write "relu, cifar_resnet20 on cifar10, seed 0: test 87.61 %, 21.4 min"."""
    seconds = line_seconds(line)
    if line.kind == "search":
        formula_text = str(line.log[-1].get("formula", ""))
        batch = next((name for name, lines in campaign.searched.items() if lines.get(line.seed) is line), SEARCHES)
        what = f"search {search_label(batch, line.seed)} on {line.model}, {line.data}"
        return f"{what}: f(x) = {formula_text}, {seconds / 60:.1f} min"
    last = line.log[-1]
    split = "test" if "test_loss" in last else "validation"
    figure = f"{float(last[f'{split}_accuracy']):.2f} %, loss {float(last[f'{split}_loss']):.4f}"
    labels = {each.sha256: label for label, each in campaign.activations.items()}
    what = f"{labels.get(line.function, line.function)}, {line.model} on {line.data}, seed {line.seed}"
    return f"{what}: {split} {figure}, {seconds / 60:.1f} min"


# ------------------------------------------------------------------------------------------------------------- time


def line_seconds(line: Line) -> float:
    """Return how long its run took."""
    return run_seconds(line.log, line.kind == "search")


def hours(campaign: Campaign) -> dict[str, float]:
    """Return the hours of all lines by processor or GPU, of one core each."""
    found: dict[str, float] = {}
    for line in campaign.ledger.lines:
        where = line.hardware.get("gpu") or line.hardware.get("processor", "unknown")
        found[where] = found.get(where, 0.0) + line_seconds(line) / 3600
    return found


def seconds_of(campaign: Campaign, job: Job, device: str = "cpu", timed: dict[str, float | None] | None = None) -> float | None:
    """Estimate how long ``job`` takes here: as such runs took on this processor, else elsewhere, else by timing a few steps.

    Args:
        campaign: whose ledger knows such runs.
        job: of it.
        device: to time on.
        timed: keeps what was timed, by recipe; None never times.

    Returns:
        Seconds; None where nothing is known.
    """
    like = [line for line in campaign.ledger.lines if (line.kind, line.recipe) == (job.kind, job.recipe.sha256)]
    here = [line for line in like if line.hardware.get("processor") == hardware.processor()]
    if like:
        return statistics.median(line_seconds(line) for line in here or like)
    if timed is None or job.kind == "search":
        return None
    if job.recipe.sha256 not in timed:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as a job has where as many run as there are cores
        epoch = estimate.timed_epoch(job.recipe, device)
        torch.set_num_threads(threads)
        timed[job.recipe.sha256] = epoch and epoch * job.recipe.evaluate.epochs
    return timed[job.recipe.sha256]


@contextlib.contextmanager
def _for(minutes: float | None, say: Callable[[str], None]) -> Iterator[None]:
    """The block ends when the minutes are spent; Ctrl-C and SIGTERM end it as well, all running jobs with it."""

    def over(*_: Any) -> None:
        raise TimeOver

    before = {number: signal.signal(number, over) for number in (signal.SIGALRM, signal.SIGINT, signal.SIGTERM)}
    if minutes:
        signal.setitimer(signal.ITIMER_REAL, 60 * minutes)
    try:
        yield
    except TimeOver:
        say("stopped; what was running resumes from its last checkpoint with the same command")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
