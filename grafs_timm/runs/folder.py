"""The folder of a run: its files, which run it belongs to, and how far that run got.

    recipe.yaml  every setting, resolved        checkpoint.pt   what resuming needs
    run.json     what the run is: see below     genotype.json   what a search found
    log.jsonl    every number                   summary.json    the result; the run is finished once it exists
    plots/                                      weights/        the trained model, saved with its activation

``run.json`` holds the run's facts (kind, model, data, seed, activation ...) and the versions it began with. Only the same run
may resume a folder, and nothing in one is deleted.
"""

from __future__ import annotations

import contextlib
import json
import platform
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from ..config import strict_yaml
from ..config.recipe import parse_recipe
from ..config.schema import Recipe
from ..errors import RecipeError, RunError
from ..utils import hardware
from ..utils.files import locked, write_json, write_whole
from .tracking import DISABLED, RunLog, Wandb, without_nan

FORMAT = "grafs-run/1"
RUN, RECIPE, SUMMARY, GENOTYPE, CHECKPOINT = "run.json", "recipe.yaml", "summary.json", "genotype.json", "checkpoint.pt"
_SHOWN = 5  # differences in one message


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for name in ("grafs-timm", "torch", "torchvision", "timm", "numpy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


@dataclass(frozen=True)
class RunFolder:
    """A folder opened for one run.

    Attributes:
        facts: What distinguishes the run: kind, seed, activation.
        notes: Versions that changed since the run began, as sentences.
        choices: Values of the recipe's settings that were left to the machine.
    """

    path: Path
    recipe: Recipe
    facts: dict[str, Any]
    notes: tuple[str, ...] = ()
    choices: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(
        cls, folder: str | Path, recipe: Recipe, facts: dict[str, Any], resume: bool = False, begin: bool = True
    ) -> RunFolder:
        """Make the folder, or open the one that this run began.

        A run that stopped before its first checkpoint has nothing to resume and begins anew without ``resume``.

        Args:
            resume: Accept a half-done run.
            begin: Write ``run.json`` into a new folder at once; else `begin` does, after the run's input was checked.

        Raises:
            RunError: The folder belongs to another run (the differing keys are named), is half done and ``resume`` is false,
            holds
                something else, or can't be written. It is left as it was.
        """
        path = Path(folder)
        facts = json.loads(json.dumps(facts, allow_nan=False))
        try:
            inside = sorted(item.name for item in path.iterdir()) if path.exists() else []
        except NotADirectoryError:
            raise RunError(f"{path} is a file; a run needs a folder") from None
        except OSError as error:
            raise RunError(f"{path} cannot be read: {error.strerror}") from error
        # hidden: what a write leaves that was killed halfway
        if any(not name.startswith(".") for name in inside) and RUN not in inside:
            raise RunError(f"{path} is not empty and holds no run; name an empty or a new folder with --out")
        if RUN not in inside:
            new = cls(path, recipe, facts)
            if begin:
                new.begin()
            return new

        about = read_json(path / RUN)
        differing = _differences(path, about, recipe, facts)
        if differing:
            more = f"\n  and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
            raise RunError(f"{path} belongs to another run; name another --out\n  " + "\n  ".join(differing[:_SHOWN]) + more)
        opened = cls(path, recipe, facts, _changes(about.get("versions")))
        if begin:
            opened.begin()
        opened._require_resume(resume)
        return opened

    def begin(self) -> None:
        """Write ``run.json`` and ``recipe.yaml`` where they are missing. RunError where they can't be written."""
        if not (self.path / RUN).exists():
            about = {"format": FORMAT, **self.facts, "recipe_sha256": self.recipe.sha256, "versions": versions()}
            about["commit"] = hardware.commit()
            about |= {"chosen": self.choices} if self.choices else {}
            write_json(self.path / RUN, about)
        if not (self.path / RECIPE).exists():
            write_whole(self.path / RECIPE, self.recipe.to_yaml())

    @classmethod
    def claim(
        cls, held: contextlib.ExitStack, folder: str | Path, recipe: Recipe, facts: dict[str, Any], resume: bool = False
    ) -> RunFolder:
        """Open without beginning, and lock the folder until ``held`` is closed, unless the run is finished.

        Raises:
            RunError: As `open`, and where another process has the lock; that process is named.
        """
        begun = (Path(folder) / RUN).exists()
        there = cls.open(folder, recipe, facts, resume=resume, begin=False)
        if there.finished:
            return there
        held.enter_context(locked(there.path))
        if not begun:  # another may have begun, or ended, a run there before the lock was ours
            return cls.open(folder, recipe, facts, resume=resume, begin=False)
        there._require_resume(resume)
        return there

    def _require_resume(self, resume: bool) -> None:
        if self.half_done and not resume:
            raise RunError(f"{self.path} holds this run half done; add --resume to continue it, or name another --out")

    def chosen(self) -> dict[str, Any]:
        """Return what was chosen when the run began, by key of the recipe; empty for a new run."""
        about = read_json(self.path / RUN) if (self.path / RUN).exists() else {}
        found = about.get("chosen", {})
        possible = {"amp": ("off", "bf16"), "channels_last": (False, True)}
        for key, value in found.items() if isinstance(found, dict) else [("chosen", found)]:
            if value not in possible.get(key, ()):
                raise RunError(f"{self.path / RUN} is damaged: chosen: {key!r} can't be {value!r}")
        return found

    @property
    def finished(self) -> bool:
        return self.summary_file.exists()

    @property
    def half_done(self) -> bool:
        """Return whether there is a checkpoint to resume from, and no result yet."""
        return self.checkpoint_file.exists() and not self.finished

    @property
    def checkpoint_file(self) -> Path:
        return self.path / CHECKPOINT

    @property
    def genotype_file(self) -> Path:
        return self.path / GENOTYPE

    @property
    def summary_file(self) -> Path:
        return self.path / SUMMARY

    @property
    def plots(self) -> Path:
        return self.path / "plots"

    @property
    def weights(self) -> Path:
        return self.path / "weights"

    @property
    def title(self) -> str:
        """Return what distinguishes the run from others of its group, such as "relu cifar_resnet20 cifar10 s0"."""
        own = [self.facts.get("activation"), self.recipe.model, Path(self.recipe.data.name).name, f"s{self.facts.get('seed')}"]
        return " ".join(str(part) for part in own if part)

    def open_log(self, wandb: Wandb = DISABLED) -> RunLog:
        """Open the run's log; W&B's job type is the kind of the run."""
        config = {**self.facts, **self.recipe.model_dump(mode="json")}
        return RunLog(self.path, wandb.mode, config, name=self.title, group=wandb.group, job_type=self.facts["kind"])

    def summary(self) -> dict[str, Any]:
        """Return the result of a finished run. RunError where there is none, or it can't be read."""
        return read_json(self.summary_file)

    def finish(self, summary: dict[str, Any]) -> None:
        """Write the result, which marks the run as finished. NaN and ±inf become texts, as in the log.

        Raises:
            RunError: It can't be written.
        """
        write_json(self.summary_file, without_nan(summary))


def read_json(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file. RunError where it can't be read or holds something else."""
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise RunError(f"{path} is damaged: expected an object")
    return value


def _differences(path: Path, about: dict[str, Any], recipe: Recipe, facts: dict[str, Any]) -> list[str]:
    """Return how the run in the folder differs from this one, such as "search.epochs: 50 there, 20 here"."""
    if about.get("format") != FORMAT:
        return [f"format: {about.get('format')!r} there, {FORMAT!r} here"]
    own = ("format", "recipe_sha256", "versions", "commit", "chosen")
    there = {key: value for key, value in about.items() if key not in own}
    here = {key: value for key, value in facts.items() if key not in own}
    if (path / RECIPE).exists():
        try:
            kept = parse_recipe(strict_yaml.read(path / RECIPE), str(path / RECIPE))
        except RecipeError as error:
            raise RunError(f"the recipe of the run in {path} cannot be read: {error}") from error
        there["recipe"], here["recipe"] = kept.model_dump(mode="json"), recipe.model_dump(mode="json")
    else:
        there["recipe"], here["recipe"] = about.get("recipe_sha256"), recipe.sha256
    return differences(there, here)


def differences(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """Return the keys whose values differ, nested ones as ``outer.inner``, each with both values.

    >>> differences({"search": {"epochs": 50}, "seed": 1}, {"search": {"epochs": 20}, "seed": 1})
    ['search.epochs: 50 there, 20 here']
    """
    there, here = _flat(there), _flat(here)
    keys = [*here, *(key for key in there if key not in here)]
    missing = object()
    return [
        f"{key}: {_shown(there, key)} there, {_shown(here, key)} here"
        for key in keys
        if there.get(key, missing) != here.get(key, missing)
    ]


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flat(item, f"{prefix}{key}.") if isinstance(item, dict) else {f"{prefix}{key}": item}
    return flat


def _shown(values: dict[str, Any], key: str) -> str:
    if key not in values:
        return "absent"
    text = json.dumps(values[key], ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."


def _changes(before: Any) -> tuple[str, ...]:
    before = before if isinstance(before, dict) else {}
    return tuple(
        f"{name} was {before.get(name, 'unknown')} when this run began and is {now}: its last bits may differ"
        for name, now in versions().items()
        if before.get(name) != now
    )
