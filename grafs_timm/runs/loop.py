"""Run a search or training in a folder: open it, restore the checkpoint, run the epochs, write the result."""

from __future__ import annotations

import contextlib
import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from ..activations.genotype import Genotype
from ..config.schema import Recipe
from ..errors import GrafsWarning
from ..utils import parallel
from . import checkpoint, fitting
from .folder import RunFolder
from .report import REPORT, write_report
from .tracking import RunLog, Wandb, without_nan
from .training import split_rule
from .wandb_result import show_result
from .weight_step import WeightStep


class Work(ABC):
    """What a run trains, epoch by epoch, with all state that a checkpoint holds.

    A subclass builds ``model`` and ``step``, and ends its constructor with `separate_draws`.

    Attributes:
        noun: "search" or "training", for messages.
        has_page: Whether the run ends with a ``report.html``.
        epoch: Whole epochs done.
        done: Steps done of the epoch under way.
        seconds: Time spent on training so far, as the subclass counts it.
        log_end: Bytes of the log at the checkpoint.
        processes: How many processes made the checkpoint.
        fitted: What was chosen for this machine, with the reason, by key of the recipe.
    """

    noun: str
    has_page = False
    model: nn.Module
    step: WeightStep

    def __init__(self, recipe: Recipe, seed: int, device: str, epochs: int) -> None:
        self.recipe, self.seed, self.device, self.epochs = recipe, seed, device, epochs
        self.epoch = self.done = self.log_end = 0
        self.seconds = 0.0
        self.processes = parallel.world()
        self.fitted: dict[str, str] = {}

    def separate_draws(self) -> None:
        """Give every process draws of its own, now that all hold the same model."""
        if not parallel.is_main():
            checkpoint.seed_all(parallel.own_seed(self.seed))

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned, with ``log``, the length of the log then."""
        self.model.load_state_dict(state["model"])
        self.load_parts(state)
        self.step.load_state_dict(state["step"])
        self.processes = len(state["rng"])
        if parallel.rank() < self.processes:
            checkpoint.set_rng_state(state["rng"][parallel.rank()])
        self.epoch, self.seconds, self.log_end = state["epoch"], state["seconds"], state["log"]

    @property
    @abstractmethod
    def title(self) -> str:
        """What the progress bar shows."""

    @property
    @abstractmethod
    def steps(self) -> int:
        """Weight steps in an epoch."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """What a checkpoint holds, ``rng`` of every rank; all ranks call it together."""

    @abstractmethod
    def load_parts(self, state: dict[str, Any]) -> None:
        """Take over what of ``state`` is the subclass's own."""

    @abstractmethod
    def close(self) -> None:
        """End what the work started, such as processes that load images."""

    @abstractmethod
    def begin(self, run: Run) -> None:
        """Log what a new run begins with."""

    @abstractmethod
    def run_epoch(self, run: Run) -> None:
        """Run what is left of the epoch under way, count it, log it and save."""

    @abstractmethod
    def result(self, folder: RunFolder) -> tuple[dict[str, Any], Genotype | nn.Module]:
        """Write the result's files; return the rest of the summary, and the function to show in W&B."""


class Run:
    """A search or training with its folder held open, from `open_run`.

    Attributes:
        folder: Its folder; rank 0 alone writes there.
        device: This process's device.
        summary: The result, where the run was finished before; else None.
    """

    def __init__(self, folder: RunFolder, device: str, found: dict[str, Any], wandb: Wandb, quiet: bool) -> None:
        self.folder, self.device, self.summary = folder, device, found["summary"]
        self._half_done, self._notes, self._wandb, self._quiet = found["half_done"], found["notes"], wandb, quiet
        self._log: RunLog | None = None
        self._why: dict[str, str] = {}
        self.bar: tqdm

    def fit(self, recipe: Recipe) -> Recipe:
        """Settle the settings that ``recipe`` leaves to the machine, as the run began where it is half done.

        Args:
            recipe: Of the work.

        Returns:
            The recipe without ``auto`` in ``amp`` and ``channels_last``.
        """

        def chosen() -> dict[str, Any]:
            settled, why = fitting.fit(recipe, self.device, self.folder.chosen())
            return {"why": why, "values": {key: getattr(settled, key) for key in why}}

        found = parallel.from_main(chosen)  # plain values alone go from process to process
        self._why = found["why"]
        self.folder.choices.update(found["values"])
        settled = recipe.model_copy(update=found["values"])
        fitting.warn_if_emulated(settled, self.device)
        return settled

    def complete(self, work: Work) -> dict[str, Any]:
        """Run the epochs that are left and write the result; returns the summary."""
        with contextlib.closing(work):
            if self._half_done:
                read = lambda path: parallel.from_main(lambda: checkpoint.load(path))  # noqa: E731
                checkpoint.restore(self.folder.checkpoint_file, work.load_state, read=read)
            parallel.from_main(self.folder.begin)
            with self._opened_log() as self._log, self._bar(work) as self.bar:
                if self._log:
                    self._begin(work, self._log)
                while work.epoch < work.epochs:
                    work.run_epoch(self)
                return parallel.from_main(lambda: self._finish(work))

    def log(self, kind: str, **values: Any) -> None:
        """Append a line to the log; nothing on other ranks than 0."""
        if self._log:
            self._log.log(kind, **values)

    def save(self, state: dict[str, Any]) -> None:
        """Write the checkpoint with the log's position; nothing on other ranks than 0."""
        if self._log:
            checkpoint.save(self.folder.checkpoint_file, {**state, "log": self._log.sync()})

    def _opened_log(self) -> contextlib.AbstractContextManager[RunLog | None]:
        return self.folder.open_log(self._wandb) if parallel.is_main() else contextlib.nullcontext()

    def _bar(self, work: Work) -> tqdm:
        hidden = self._quiet or not parallel.is_main() or None
        begun = work.epoch * work.steps + work.done
        return tqdm(total=work.epochs * work.steps, initial=begun, disable=hidden, desc=work.title, unit="step")

    def _begin(self, work: Work, log: RunLog) -> None:
        log.truncate_to(work.log_end)  # what came after the checkpoint comes again
        self._say_settings(work)
        if work.epoch == work.done == 0:
            work.begin(self)
            if rule := split_rule(work.recipe.data):
                log.log("notice", text=rule)
        notices = list(self._notes)
        if work.processes != parallel.world():
            notices.append(
                f"this {work.noun} had {work.processes} processes until epoch {work.epoch} and resumes with "
                f"{parallel.world()}: its draws differ from here on, and with them perhaps its result"
            )
        for notice in notices:
            warnings.warn(notice, GrafsWarning)
            log.log("notice", text=notice)

    def _say_settings(self, work: Work) -> None:
        """Print what was chosen for this machine, unless quiet; the work logs it with its first line."""
        work.fitted = {**self._why, **work.fitted}
        if work.fitted and self.device == "cpu":
            work.fitted["threads"] = str(torch.get_num_threads())
        if work.fitted and not self._quiet:
            tqdm.write("settings  " + ", ".join(f"{key}: {value}" for key, value in work.fitted.items()), file=sys.stderr)

    def _finish(self, work: Work) -> dict[str, Any]:
        assert self._log is not None
        values, function = work.result(self.folder)
        summary = {**self.folder.facts, **values}
        if work.has_page:
            self._write_page(summary)
        self.folder.finish(summary)
        show_result(self._log, self.folder, function)
        return summary

    def _write_page(self, summary: dict[str, Any]) -> None:
        try:
            write_report(self.folder.path, without_nan(summary))
        except Exception as error:  # the result is worth more than its page
            again = f"grafs-timm open {self.folder.path} makes it"
            warnings.warn(f"the run is complete without a {REPORT} ({error}); {again}", GrafsWarning)


@contextlib.contextmanager
def open_run(
    recipe: Recipe, out: str | Path, facts: dict[str, Any], *, device: str, resume: bool, wandb: Wandb, quiet: bool
) -> Iterator[Run]:
    """Open the folder of a run and hold it until the block ends.

    Processes that torchrun started join, and rank 0 alone touches the folder. One that torchrun restarted resumes as if with
    ``resume``.

    Args:
        facts: What distinguishes the run: kind, seed and activation.
        device: "cpu", "cuda" or "cuda:N".
        resume: Whether a half-done run may be resumed.

    Raises:
        RunError: The folder belongs to another run, is half done and ``resume`` is false, is in use or can't be written.
    """
    with parallel.joined(device) as own_device, contextlib.ExitStack() as held:

        def opened() -> dict[str, Any]:
            there = RunFolder.claim(held, out, recipe, facts, resume=resume or parallel.restarted())
            return {"summary": there.summary() if there.finished else None, "half_done": there.half_done, "notes": there.notes}

        found = parallel.from_main(opened)
        yield Run(RunFolder(Path(out), recipe, facts), own_device, found, wandb, quiet)
