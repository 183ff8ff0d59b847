"""Check every sample of a data set: counts, labels, decodability, checksums, sizes. Problems are collected, not raised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..errors import DataError
from ..utils import remote
from . import samples, shards, tar_stream, text_source
from .datasets import open_dataset
from .info import DatasetInfo, SplitInfo
from .sources import EXTENSIONS

_MOST_PROBLEMS = 10_000  # kept per split


@dataclass
class SplitReport:
    """What one split holds.

    Args:
        name: The split's name.
        shards: Number of shards.
        sha256: Shards whose checksum is listed and right.
        images: Good samples, of images or of text.
        labels: Samples per label.
        sizes: Samples per (height, width).
        grey: Grey images.
        formats: Samples per file format.
        text_bytes: Total length of the samples of text.
        problems: What is wrong, a line each.
        unsaid: Problems beyond those kept.
    """

    name: str
    shards: int
    sha256: int = 0
    images: int = 0
    labels: Counter[int] = field(default_factory=Counter)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    grey: int = 0
    formats: Counter[str] = field(default_factory=Counter)
    text_bytes: int = 0
    problems: list[str] = field(default_factory=list)
    unsaid: int = 0

    def note(self, problem: object) -> None:
        """Add a problem; only count it if there are too many to read."""
        if len(self.problems) < _MOST_PROBLEMS:
            self.problems.append(str(problem))
        else:
            self.unsaid += 1


def check(name: str | Path, split: str | None = None, quiet: bool = False) -> tuple[DatasetInfo, list[SplitReport]]:
    """Read every sample of a data set.

    Args:
        name: Anything that ``--data`` takes.
        split: Check this split alone.
        quiet: Show no progress bar.

    Returns:
        The data set and a report per split; each problem names its shard and sample.

    Raises:
        UnknownNameError: There is no such data set or split.
        DataError: Its `_info.json` is missing or invalid.
    """
    info = open_dataset(name)
    chosen = {split: info.split(split)} if split else info.splits
    total = sum(spec.num_samples for spec in chosen.values())
    with tqdm(total=total, disable=quiet or None, unit="image", desc=info.name) as bar:
        return info, [_check_split(info, name, spec, bar) for name, spec in chosen.items()]


def _check_split(info: DatasetInfo, name: str, spec: SplitInfo, bar: tqdm) -> SplitReport:
    report = SplitReport(name, len(spec.filenames))
    texts: list[str] = []
    classes = len(info.classes) if info.classes else None
    for filename, length in zip(spec.filenames, spec.shard_lengths, strict=True):
        before = report.images
        location = info.location(filename)
        try:
            texts += _check_shard(report, location, spec.sha256.get(filename), classes, bar)
        except DataError as error:
            report.note(error)
        if report.images - before != length:
            report.note(f"{location}: {report.images - before} good samples, _info.json's shard_lengths say {length}")
    if texts and report.images > len(texts):
        report.note(f"{texts[0]}: no image, only text, as in {len(texts)} samples of a split that has images")
    if report.unsaid:
        report.problems.append(f"{name}: {report.unsaid} more problems")
    return report


def _is_text(sample: dict[str, bytes], classes: int | None) -> bool:
    """Return whether a sample is text to train on, not a caption beside an image or a label."""
    image = any(f".{key.lower()}" in EXTENSIONS for key in sample)
    return "txt" in sample and not image and ("cls" not in sample or classes is None)


def _check_shard(report: SplitReport, location: str, sha256: str | None, classes: int | None, bar: tqdm) -> list[str]:
    """Add a shard to the report; return the places of its samples of text."""
    texts = []
    with remote.open_file(location) as file:
        if sha256:
            found = shards.checksum(file)
            if found == sha256.lower():
                report.sha256 += 1
            else:
                report.note(f"{location}: sha256 is {found}, _info.json says {sha256}")
        for raw in tar_stream.samples(file, location):
            bar.update()
            sample, where = raw.files, raw.where
            try:
                if _is_text(sample, classes):
                    report.text_bytes += len(text_source.text_of(sample, where))
                    report.images += 1
                    report.formats["txt"] += 1
                    texts.append(where)
                    continue
                image = np.asarray(shards.decode_image(sample, where))
                label = samples.label_of(sample, where, classes)
            except DataError as error:
                report.note(error)
                continue
            report.images += 1
            report.labels[label] += 1
            report.sizes[image.shape[0], image.shape[1]] += 1
            report.grey += image.ndim == 2 or bool((image == image[..., :1]).all())
            report.formats[next(name for name in samples.FORMATS if name in sample)] += 1
    return texts


def as_text(info: DatasetInfo, reports: list[SplitReport]) -> str:
    """Format the reports as a table."""
    if all(set(report.formats) == {"txt"} for report in reports):
        return _as_text_of_text(info, reports)
    rows = [("split", "shards", "images", "a class", "size", "channels", "format", "sha256")]
    for report in reports:
        counts = [report.labels[label] for label in range(len(info.classes or ()) or max(report.labels, default=-1) + 1)]
        grey = report.grey
        rows.append(
            (
                report.name,
                str(report.shards),
                str(report.images),
                _span(counts),
                _sizes(report.sizes),
                "1" if grey == report.images else f"3 ({grey} grey)" if grey else "3",
                ", ".join(sorted(report.formats)),
                f"{report.sha256} of {report.shards}",
            )
        )
    classes = f"{len(info.classes)} classes" if info.classes else "classes not listed"
    return "\n".join([f"{info.name}  {info.folder}  {classes}", *_aligned(rows)])


def _as_text_of_text(info: DatasetInfo, reports: list[SplitReport]) -> str:
    rows = [("split", "shards", "samples", "bytes", "sha256")]
    for report in reports:
        counts = (str(report.shards), str(report.images), str(report.text_bytes))
        rows.append((report.name, *counts, f"{report.sha256} of {report.shards}"))
    return "\n".join([f"{info.name}  {info.folder}  text", *_aligned(rows)])


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _span(counts: list[int]) -> str:
    if not counts:
        return "-"
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"


def _sizes(sizes: Counter[tuple[int, int]]) -> str:
    if len(sizes) < 2:
        return "".join(f"{height}×{width}" for height, width in sizes) or "-"
    small, large = min(sizes, key=lambda size: size[0] * size[1]), max(sizes, key=lambda size: size[0] * size[1])
    return f"{small[0]}×{small[1]} to {large[0]}×{large[1]}"
