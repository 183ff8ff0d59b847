"""Small data sets of shards, for tests."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image


def encoded(pixels: np.ndarray, extension: str = "png") -> bytes:
    file = io.BytesIO()
    kind, options = {"png": ("PNG", {}), "webp": ("WEBP", {"lossless": True}), "jpg": ("JPEG", {})}[extension]
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def colour(seed: int, size: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def write_tar(path: Path, files: list[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def write_info(folder: Path, shards: dict[str, int], classes: list[str] | None = None, **more: object) -> None:
    split = {"name": "train", "num_samples": sum(shards.values()), "filenames": list(shards)}
    split |= {"shard_lengths": list(shards.values())} | more
    info: dict[str, object] = {"splits": {"train": split}}
    if classes:
        info["classes"] = classes
    (folder / "_info.json").write_text(json.dumps(info), encoding="utf-8")


def samples(count: int, extension: str = "png", start: int = 0) -> list[tuple[str, bytes]]:
    """``count`` colour images of three classes in turn."""
    out = []
    for key in range(start, start + count):
        out += [(f"{key:04d}.{extension}", encoded(colour(key), extension)), (f"{key:04d}.cls", str(key % 3).encode())]
    return out


def two_shards(folder: Path) -> Path:
    """Two shards of six, three classes, one shard gzipped."""
    folder.mkdir(exist_ok=True)
    write_tar(folder / "a.tar", samples(6))
    write_tar(folder / "b.tar.gz", samples(6, start=6))
    write_info(folder, {"a.tar": 6, "b.tar.gz": 6}, ["x", "y", "z"])
    return folder


def only(folder: Path, files: list[tuple[str, bytes]], count: int, classes: list[str] | None = None) -> Path:
    """A data set of the single shard bad.tar."""
    write_tar(folder / "bad.tar", files)
    write_info(folder, {"bad.tar": count}, classes)
    return folder
