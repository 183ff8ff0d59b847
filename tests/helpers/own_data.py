"""Data sets as people have them, small, and what they become in shards."""

import pickle
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torchvision
from PIL import Image
from shard_files import colour, encoded

from grafs_timm.data import DatasetInfo
from grafs_timm.data.shards import decode_image, verified_samples


def photos(folder: Path, classes: Iterable[str] = ("ant", "bee"), count: int = 12, size: int = 8) -> Path:
    """Write ``count`` images of each class as ``folder/CLASS/NUMBER.png`` or ``.jpg``."""
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            extension = ("png", "jpg")[number % 2]
            (folder / name / f"{number}.{extension}").write_bytes(encoded(colour(1000 * label + number, size), extension))
    return folder


def in_shards(info: DatasetInfo, *splits: str) -> Counter:
    """How often each (label, size, RGB pixels) is in these splits."""
    found: Counter = Counter()
    for split in map(info.split, splits):
        for name, length in zip(split.filenames, split.shard_lengths, strict=True):
            for sample in verified_samples(info.location(name), length, split.sha256[name]):
                found[_known(int(sample.files["cls"]), decode_image(sample.files, sample.where))] += 1
    return found


def in_folder(*folders: Path) -> Counter:
    """The same of what torchvision's ImageFolder reads."""
    return Counter(_known(label, image) for folder in folders for image, label in torchvision.datasets.ImageFolder(folder))


def _known(label: int, image: Image.Image) -> tuple[int, tuple[int, int], bytes]:
    return label, image.size, image.convert("RGB").tobytes()


def cifar10(root: Path, each: int = 4, protocol: int = 2) -> dict[str, tuple[np.ndarray, list[int]]]:
    """Write CIFAR-10's files below ``root``, ``each`` images a batch; returns (uint8 [N,32,32,3], labels) of each split."""
    folder, splits = root / "cifar-10-batches-py", {}
    folder.mkdir(parents=True)
    for split, names in (("train", [f"data_batch_{number}" for number in range(1, 6)]), ("test", ["test_batch"])):
        count = each * len(names)
        images = np.random.default_rng(len(names)).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        labels = [number % 10 for number in range(count)]
        for number, name in enumerate(names):
            part = slice(each * number, each * (number + 1))
            rows = np.ascontiguousarray(images[part].transpose(0, 3, 1, 2)).reshape(each, -1)
            content = {
                "batch_label": name,
                "data": rows,
                "labels": labels[part],
                "filenames": [f"{i}.png" for i in range(each)],
            }
            (folder / name).write_bytes(pickle.dumps(content, protocol))
        splits[split] = images, labels
    meta = {"label_names": [f"c{number}" for number in range(10)], "num_vis": 3072, "num_cases_per_batch": each}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol))
    return splits


def as_counter(images: np.ndarray, labels: list[int]) -> Counter:
    """How often each (label, size, RGB pixels) is among uint8 [N,H,W,3] and their labels."""
    return Counter(_known(label, Image.fromarray(image)) for image, label in zip(images, labels, strict=True))
