"""Images per second of the package's loaders beside timm's wds reader and torchvision's ImageFolder, on the same images.

    python tools/bench_loader.py --data path/to/cifar10 --out benchmarks/loader.csv

Two sets: shards of ``--data``, and JPEG stand-ins for photographs of about 160 pixels, made for the run. Every side goes
through whole epochs in alternating rounds and hands out normalised float batches; each keeps its worker processes, as many as
the others. Sides that decode crop at random, resize and flip. The resident set crops with a margin and flips, and so does a
second ImageFolder. ``ratio`` is a median over that of the faster of timm's reader and ImageFolder: below 1 is faster than both.
"""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from bench_csv import alternate, append, environment
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_dataset, create_loader
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from grafs_timm.cli import screen
from grafs_timm.data.images import Batches, DatasetInfo, load_split, open_dataset
from grafs_timm.data.streaming import Stream
from grafs_timm.data.tar_stream import Sample, read_samples

STREAM, RESIDENT = "Stream", "resident Batches"
TIMM, FOLDER, FOLDER_CROP = "timm wds reader", "ImageFolder + DataLoader", "ImageFolder + DataLoader, crop and flip"
NORMALISE = transforms.Normalize(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)


def part_of(info: DatasetInfo, shards: int, folder: Path) -> DatasetInfo:
    """The first ``shards`` training shards as a data set in ``folder``."""
    folder.mkdir()
    split = info.splits["train"]
    names, lengths = split.filenames[:shards], split.shard_lengths[:shards]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(Path(info.location(name)).resolve())
    classes = list(info.classes or ())
    return _described(folder, names, lengths, classes)


def made(images: int, shards: int, folder: Path) -> DatasetInfo:
    """JPEG images of 150 to 200 pixels a side, about as large in bytes as photographs, in ten classes."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for shard in range(shards):
        with tarfile.open(folder / f"{shard}.tar", "w") as tar:
            for key in range(images // shards):
                width, height = generator.integers(150, 201, 2).tolist()
                coarse = Image.fromarray(generator.integers(0, 256, (24, 24, 3), np.uint8)).resize(
                    (width, height), Image.Resampling.BICUBIC
                )
                pixels = np.asarray(coarse).astype(int) + generator.integers(-12, 13, (height, width, 3))
                file = io.BytesIO()
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
                for extension, content in (("jpg", file.getvalue()), ("cls", str(key % 10).encode())):
                    member = tarfile.TarInfo(f"{shard:02d}{key:05d}.{extension}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return _described(folder, [f"{shard}.tar" for shard in range(shards)], [images // shards] * shards, list("0123456789"))


def _described(folder: Path, names: list[str], lengths: list[int], classes: list[str]) -> DatasetInfo:
    split = {"name": "train", "filenames": names, "shard_lengths": lengths, "num_samples": sum(lengths)}
    (folder / "_info.json").write_text(json.dumps({"splits": {"train": split}, "classes": classes}), encoding="utf-8")
    return open_dataset(folder)


def unpack(info: DatasetInfo, folder: Path) -> None:
    """The same image files in a folder a class, as ImageFolder takes them."""
    split = info.splits["train"]
    for name, length in zip(split.filenames, split.shard_lengths, strict=True):
        for sample in read_samples(info.location(name), length, None):
            assert isinstance(sample, Sample)
            path = (
                folder / f"{sample.label:03d}" / f"{Path(name).name.split('.')[0]}-{Path(sample.key).name}.{sample.extension}"
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(sample.image)


def sides(
    info: DatasetInfo, files: Path, size: int, batch_size: int, workers: int, resident: bool
) -> dict[str, Callable[[], Iterable[tuple[torch.Tensor, torch.Tensor]]]]:
    """Name -> what gives an epoch's batches."""
    stream = Stream(
        info, "train", batch_size, train=True, image_size=size, channels=3, workers=workers, transform={"color_jitter": None}
    )
    timm_set: Any = create_dataset("wds/bench", root=str(info.folder), split="train", is_training=True, batch_size=batch_size)
    timm_loader: Any = create_loader(
        timm_set,
        (3, size, size),
        batch_size,
        is_training=True,
        color_jitter=0.0,
        num_workers=workers,
        device=torch.device("cpu"),
    )

    def folder(*first: Any) -> DataLoader[Any]:
        steps = transforms.Compose([*first, transforms.RandomHorizontalFlip(), transforms.ToTensor(), NORMALISE])
        return DataLoader(
            ImageFolder(str(files), steps),
            batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            persistent_workers=True,
        )

    found: dict[str, Any] = {TIMM: timm_loader, FOLDER: folder(transforms.RandomResizedCrop(size))}
    out = {STREAM: lambda: stream.epoch(0)} | {name: (lambda loader=loader: loader) for name, loader in found.items()}
    if resident:
        batches = Batches(load_split(info, "train"), batch_size, augment=("crop", "flip"))
        crop = folder(transforms.RandomCrop(size, padding=4))
        out |= {RESIDENT: lambda: batches.epoch(0), FOLDER_CROP: lambda: crop}
    return out


def measure(
    info: DatasetInfo, files: Path, size: int, batch_size: int, workers: int, rounds: int, resident: bool
) -> list[dict[str, Any]]:
    count, epochs = info.splits["train"].num_samples, sides(info, files, size, batch_size, workers, resident)

    def whole(name: str) -> Callable[[], None]:
        def run() -> None:
            seen = sum(len(labels) for _, labels in epochs[name]())
            assert abs(seen - count) < batch_size * workers, f"{name} gave {seen} images of {count}"

        return run

    times = alternate({name: whole(name) for name in epochs}, rounds, warmup=1)
    best = min((TIMM, FOLDER, FOLDER_CROP)[: 3 if resident else 2], key=lambda name: times[name]["median_ms"])
    rows = []
    for name, time in times.items():
        # of timm's reader and ImageFolder with the transform that the stream has; with the resident set's own for that
        fastest = best if name == RESIDENT else min((TIMM, FOLDER), key=lambda name: times[name]["median_ms"])
        ratio = time["median_ms"] / times[fastest]["median_ms"]
        click.echo(f"{info.name:10s} {name:40s} {count / time['median_ms'] * 1e3:10.0f} images/s  {1 / ratio:6.2f} × {fastest}")
        rows.append(
            {"dtype": "float32", "subject": name, "baseline": fastest, "shape": f"{count} images to 3x{size}x{size}"}
            | {"what": f"epoch of {info.name}, {workers} workers", "ratio": f"{ratio:.4f}"}
            | {key: round(value, 4) for key, value in time.items()}
        )
    return rows


@click.command()
@click.option("--data", default="digits", show_default=True, help="A set of small images, all of one size.")
@click.option("--shards", default=2, show_default=True, help="So many training shards of it.")
@click.option("--batch", default=100, show_default=True, help="Must divide each worker's part of the images.")
@click.option("--workers", default=2, show_default=True)
@click.option("--rounds", default=9, show_default=True)
@click.option("--out", type=click.Path(dir_okay=False), help="Append the rows to this CSV file.")
@click.option("--quick", is_flag=True, help="A smoke test: one round, few large images.")
def main(data: str, shards: int, batch: int, workers: int, rounds: int, out: str | None, quick: bool) -> None:
    """Print and record medians with quartiles, and ratios to the faster of timm's reader and ImageFolder."""
    rounds = 1 if quick else rounds
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        small = replace(part_of(open_dataset(data), shards, folder / "small"), name=open_dataset(data).name)
        large = replace(made(40 if quick else 2000, 4, folder / "large"), name="jpeg160")
        rows = []
        for info, size, resident in ((small, load_split(small, "train", limit=1).images.shape[-1], True), (large, 128, False)):
            unpack(info, folder / f"{info.name} files")
            step = min(batch, info.splits["train"].num_samples // (2 * workers))
            rows += measure(info, folder / f"{info.name} files", size, step, workers, rounds, resident)
    if out:
        append(out, [environment("cpu") | row for row in rows])


if __name__ == "__main__":
    screen.never_die()
    main()
