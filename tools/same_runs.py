"""Whether two folders of runs hold the same result, bit for bit, and whether all files in one are whole."""

from __future__ import annotations

import contextlib
import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from PIL import Image

from grafs_timm.config import strict_yaml
from grafs_timm.runs import checkpoint
from grafs_timm.runs.tracking import read_log

CLOCK = ("time", "seconds")  # keys and columns that say what a clock says
TOOK = re.compile(r"took [0-9.]+ (s|min|h)\b")
OF_CLOCK = re.compile(r'<(td|dd) class="(?:[a-z ]+ )?clock".*?</\1>', re.DOTALL)  # of a report's page
HIDDEN = re.compile(r"\.(.+)\.[a-z0-9_]{8}|\.lock")


def differences(folder: Path, other: Path) -> list[str]:
    """What of two finished runs, or matrices of runs, is not equal but for what clocks say; nothing where all is."""
    ours, theirs = ({name: each / name for name in _names(each)} for each in (folder, other))
    found = [f"{name} is in one of them only" for name in sorted(ours.keys() ^ theirs.keys())]
    for name in sorted(ours.keys() & theirs.keys()):
        for what in _unequal(_content(ours[name]), _content(theirs[name]), name):
            found.append(what)
    return found


def _names(folder: Path) -> set[str]:
    # what a job printed tells of every attempt; a lock's file stays where its holder was killed with the result written, and
    # holds nothing any more: a finished run is only read, so nobody takes it away
    files = (file for file in folder.rglob("*") if file.is_file() and file.suffix != ".txt" and file.name != ".lock")
    return {str(file.relative_to(folder)) for file in files}


def _content(path: Path) -> Any:
    """Of a run's file, without what clocks say."""
    if path.name == "log.jsonl":
        return [_timeless(line) for line in read_log(path.parent)]
    if path.name == "summary.json":
        return _timeless(json.loads(path.read_bytes()))
    if path.name == "run.json":
        return json.loads(path.read_bytes())
    if path.name == "checkpoint.pt":
        return {key: value for key, value in checkpoint.load(path).items() if key not in (*CLOCK, "log")}
    if path.name == "results.csv":
        with path.open(newline="", encoding="utf-8") as file:
            return [_timeless(row) for row in csv.DictReader(file)]
    if path.name == "report.md":
        return TOOK.sub("took", path.read_text(encoding="utf-8"))
    if path.name == "report.html":
        return TOOK.sub("took", OF_CLOCK.sub("", path.read_text(encoding="utf-8")))
    return path.read_bytes()


def _timeless(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in CLOCK}


def _unequal(ours: Any, theirs: Any, place: str) -> list[str]:
    """The places where two values differ in type, keys, length or a bit."""
    if type(ours) is not type(theirs):
        return [f"{place}: {type(ours).__name__} and {type(theirs).__name__}"]
    if isinstance(ours, torch.Tensor):
        return [] if _bits(ours) == _bits(theirs) else [f"{place}: other bits"]
    if isinstance(ours, dict):
        if list(ours) != list(theirs):
            return [f"{place}: other keys"]
        return [what for key in ours for what in _unequal(ours[key], theirs[key], f"{place}[{key!r}]")]
    if isinstance(ours, list | tuple):
        if len(ours) != len(theirs):
            return [f"{place}: {len(ours)} items and {len(theirs)}"]
        return [what for i, pair in enumerate(zip(ours, theirs, strict=True)) for what in _unequal(*pair, f"{place}[{i}]")]
    if isinstance(ours, bytes):
        return [] if ours == theirs else [f"{place}: other bytes"]
    if isinstance(ours, float):
        return [] if ours.hex() == theirs.hex() else [f"{place}: {ours!r} and {theirs!r}"]
    return [] if ours == theirs else [f"{place}: {str(ours)[:40]} and {str(theirs)[:40]}"]


def _bits(tensor: torch.Tensor) -> tuple[torch.dtype, torch.Size, bytes]:
    return tensor.dtype, tensor.shape, tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


# ---------------------------------------------------------------------------------------------------- after a kill


def damaged(folder: Path) -> list[str]:
    """Files that are neither whole nor hidden with the name of a write that did not end; others may be writing meanwhile."""
    found = []
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name.startswith("."):
            if not HIDDEN.fullmatch(path.name):
                found.append(f"{name}: hidden, and of no write")
        elif path.is_file():
            try:
                _read(path)
            except Exception as error:
                found.append(f"{name}: {type(error).__name__}: {error}")
    return found


def _image(path: Path) -> None:
    with Image.open(path) as image:
        image.load()


_READERS: dict[str, Callable[[Path], Any]] = {
    ".jsonl": lambda path: read_log(path.parent),
    ".json": lambda path: json.loads(path.read_bytes()),
    ".pt": checkpoint.load,
    ".safetensors": safetensors.torch.load_file,
    ".yaml": strict_yaml.read,
    ".png": _image,
}


def _read(path: Path) -> None:
    if path.suffix in _READERS:
        _READERS[path.suffix](path)
    elif path.suffix in (".csv", ".md", ".html") and not path.read_bytes().endswith(b"\n"):
        raise ValueError("ends within a line")


def unfinished(folder: Path) -> list[str]:
    """Files that a write left half done, and logs whose last line is."""
    found = [path.name.rpartition(".")[0][1:] for path in folder.rglob(".*") if path.name != ".lock"]
    for log in folder.rglob("log.jsonl"):
        with contextlib.suppress(OSError):
            content = log.read_bytes()
            if content and not content.endswith(b"\n"):
                found.append("log.jsonl")
    return sorted(found)


def progress(folder: Path) -> str:
    """What a run, or the runs of a matrix together, had written last."""
    logs = sorted(folder.rglob("log.jsonl"))
    if not logs:
        return "nothing" if not (folder / "run.json").exists() and not (folder / "matrix.json").exists() else "its settings"
    done = sum(1 for log in logs if (log.parent / "summary.json").exists())
    if (folder / "log.jsonl").exists():
        lines = read_log(folder)
        last = lines[-1] if lines else {"kind": "nothing"}
        said = " ".join([last["kind"], *(f"{key} {last[key]}" for key in ("epoch", "step") if key in last)])
        said = f"epoch {last['epoch']}" if last["kind"] == "epoch" else said
        result = [name for name in ("weights", "genotype.json", "plots", "summary.json") if (folder / name).exists()]
        return ", ".join([said, *result])
    epochs = sum(line["kind"] == "epoch" for log in logs for line in read_log(log.parent))
    return f"{epochs} epochs in {len(logs)} jobs, {done} done" + (", report" if (folder / "report.md").exists() else "")
