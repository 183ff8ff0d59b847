"""Read Hugging Face data sets on disk with pyarrow: folders of ``save_to_disk``, and parquet files.

Nothing but the files' tables and JSON is read; no code that a folder brings is run.
"""

from __future__ import annotations

import itertools
import os
import re
import warnings
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from ...errors import DataError, GrafsWarning
from ...utils import limits
from ..info import split_word
from .source import Own, Source, Split
from .tables import INFO, Table, read_object

_DICT, _STATE = "dataset_dict.json", "state.json"


def found_in(folder: Path) -> Own | None:
    """Return the data set that a folder holds, None if it holds none; the tables are not opened yet.

    Raises:
        DataError: It has no training split, or several configurations.
        OSError: A folder cannot be read.
    """
    if (folder / _DICT).is_file():
        names = read_object(folder / _DICT).get("splits")
        if not isinstance(names, list) or not all(isinstance(name, str) and re.fullmatch(r"\w[\w.-]*", name) for name in names):
            raise DataError(f"{folder / _DICT}: splits: expected a list of names such as train and test")
        parts = {name: _saved(folder / name) for name in names}
    elif (folder / _STATE).is_file() and (folder / INFO).is_file():
        parts = {"train": _saved(folder)}  # one table, whichever part of another set it was
    elif found := _tables(folder):
        parts = _by_split(found)
    else:
        return None
    splits = _common(folder, parts)
    files = tuple(file for files in splits.values() for file in files)
    more = tuple(file for file in sorted(folder.rglob("*.json")) if file.name in (_DICT, _STATE, INFO))
    name = folder.resolve().name
    return Own(name, "a Hugging Face data set", folder.resolve(), (*files, *more), partial(_open, name, splits))


# --------------------------------------------------------------------------------------------------------- its files


def _saved(folder: Path) -> list[Path]:
    """Return the arrow files that `state.json` lists."""
    if not (folder / _STATE).is_file():
        raise DataError(f"{folder}: no {_STATE}, so it is no split that save_to_disk wrote completely")
    state = read_object(folder / _STATE)
    if state.get("_indices_data_files"):
        raise DataError(f"{folder}: its rows are chosen by a list of indices; load it and save_to_disk again")
    listed = state.get("_data_files")
    files = listed if isinstance(listed, list) else []
    names = [str(file.get("filename")) if isinstance(file, dict) else "" for file in files]
    if not names or not all(re.fullmatch(r"\w[\w.-]*\.arrow", name) for name in names):
        raise DataError(f"{folder / _STATE}: _data_files: expected names of arrow files in this folder")
    return [folder / name for name in names]


def _tables(folder: Path) -> list[Path]:
    """Return the parquet files, or the arrow files of the library's own cache, in a folder or in its folders of splits."""
    here = sorted(folder.glob("*.parquet")) or (sorted(folder.glob("*.arrow")) if (folder / INFO).is_file() else [])
    if here:
        return here
    holding = [Path(entry) for entry in sorted(os.scandir(folder), key=lambda entry: entry.name) if _holds_parquet(entry)]
    if len(holding) > 1 and not all(split_word(place.name) for place in holding):
        names = ", ".join(place.name for place in holding[:5])
        raise DataError(f"{folder}: several folders hold parquet files ({names}); name one of them, such as {holding[0]}")
    return [file for place in holding for file in sorted(place.glob("*.parquet"))]


def _holds_parquet(entry: os.DirEntry[str]) -> bool:
    if entry.name.startswith(".") or not entry.is_dir():
        return False
    with os.scandir(entry.path) as inside:  # the first ones tell; a folder of images may have a million
        return any(file.name.endswith(".parquet") for file in itertools.islice(inside, 100))


def _by_split(files: Iterable[Path]) -> dict[str, list[Path]]:
    parts: dict[str, list[Path]] = {}
    for file in files:
        own = re.match(r"(.+?)-\d+-of-\d+$", file.stem)
        words = [own[1]] if own else [*re.findall("[a-z]+", file.stem.lower()), file.parent.name]
        parts.setdefault(next((word for word in words if split_word(word)), own[1] if own else ""), []).append(file)
    return {"train": parts[""]} if set(parts) == {""} else parts


def _common(folder: Path, parts: Mapping[str, list[Path]]) -> dict[str, list[Path]]:
    """Return the splits whose names are common ones, under these; DataError where train is not among them."""
    splits: dict[str, list[Path]] = {}
    for name, files in parts.items():
        word = split_word(name)
        if word and (word == name or word not in splits):  # train, and not trainval, of both
            splits[word] = files
    if "train" not in splits:
        raise DataError(f"{folder}: no split train, only {', '.join(filter(None, parts)) or 'files of no split'}")
    if others := [name for name in parts if not split_word(name)]:
        left = ", ".join(map(repr, others))
        warnings.warn(f"{folder}: left out the splits {left}; used are train, validation and test", GrafsWarning)
    return splits


# --------------------------------------------------------------------------------------------------------- to images


def _open(name: str, splits: Mapping[str, list[Path]]) -> Source:
    found: dict[str, Split] = {}
    budget = limits.Budget(limits.RESIDENT, "the tables in memory")
    classes: tuple[str, ...] | None = None
    for split, files in splits.items():
        table = Table(split, files, budget)
        labels = table.labels()
        if split != "train" and (labels == -1).all():
            warnings.warn(f"{table.where}: left out split {split}, whose labels are all -1", GrafsWarning)
            continue
        own = table.columns.classes
        if found and own != classes:
            raise DataError(f"{table.where}: split {split} has other classes than the first split")
        classes = own
        count = len(own) if own else limits.CLASSES.value
        if (wrong := np.flatnonzero((labels < 0) | (labels >= count))).size:
            raise DataError(
                f"{table.where}: split {split}, row {wrong[0]}: label {labels[wrong[0]]} is outside 0..{count - 1}"
                + ("; -1 stands for none" if labels[wrong[0]] == -1 else "")
            )
        found[split] = Split(labels, partial(_row, split), table.image)
    highest = max(int(split.labels.max()) for split in found.values())
    return Source(name, classes or tuple(map(str, range(highest + 1))), found)


def _row(split: str, index: int) -> str:
    return f"{split}/{index}"
