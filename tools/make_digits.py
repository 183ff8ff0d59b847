"""Make the embedded data set grafs_timm/data/digits from scikit-learn's copy of it. Running it again gives the same bytes.

    python tools/make_digits.py [FOLDER]

The images are the 1,797 of the test set of E. Alpaydin & C. Kaynak, Optical Recognition of Handwritten Digits, UCI
Machine Learning Repository, 1998 (doi 10.24432/C50P49), CC BY 4.0: 8×8 grey, 0..16, here scaled to 0..255. Changed: the
scale, the file format, the order, the split. The images of a class are ordered by their sha256; its first 36 are the
test split, and both splits take turns through the classes, so that any prefix is class-balanced.

The tars are the same everywhere; their gzip layer depends on the zlib that Python was built with.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

TEST_PER_CLASS = 36
Sample = tuple[bytes, int]  # PNG, label


def splits() -> dict[str, list[Sample]]:
    """The samples of both splits, in shard order."""
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]

    digits = load_digits()
    pixels = np.round(digits.images * 255 / 16).astype(np.uint8)
    out: dict[str, list[Sample]] = {"train": [], "test": []}
    turns: dict[str, list[tuple[int, str, Sample]]] = {"train": [], "test": []}
    for label in range(10):
        images = sorted((image.tobytes() for image in pixels[digits.target == label]), key=digest)
        for rank, image in enumerate(images):
            split = "test" if rank < TEST_PER_CLASS else "train"
            turns[split].append((rank, digest(image), (png(image), label)))
    for split, samples in turns.items():
        out[split] = [sample for _, _, sample in sorted(samples, key=lambda turn: turn[:2])]
    return out


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def png(image: bytes) -> bytes:
    """8×8 grey, stored rather than deflated: the same bytes from every zlib, and smaller once the shard is gzipped."""
    file = io.BytesIO()
    Image.frombytes("L", (8, 8), image).save(file, "PNG", compress_level=0)
    return file.getvalue()


def shard(samples: list[Sample]) -> bytes:
    """A .tar.gz without clock, user or file name in it."""
    tar_bytes = io.BytesIO()
    with tarfile.open(fileobj=tar_bytes, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for key, (image, label) in enumerate(samples):
            for extension, content in (("png", image), ("cls", str(label).encode())):
                member = tarfile.TarInfo(f"{key:04d}.{extension}")  # mtime, uid and gid are 0, mode 0644
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    file = io.BytesIO()
    with gzip.GzipFile("", "wb", 9, file, mtime=0) as packed:
        packed.write(tar_bytes.getvalue())
    return file.getvalue()


def make(folder: Path) -> None:
    """Write the two shards and `_info.json` to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    info: dict[str, object] = {
        "name": "digits",
        "source": "E. Alpaydin & C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998, doi 10.24432/C50P49",
        "license": "CC BY 4.0; scaled from 0..16 to 0..255, packed, ordered and split anew",
    }
    entries = {}
    for split, samples in splits().items():
        name, content = f"digits-{split}-000000.tar.gz", shard(samples)
        (folder / name).write_bytes(content)
        entries[split] = {
            "name": split,
            "num_samples": len(samples),
            "filenames": [name],
            "shard_lengths": [len(samples)],
            "alt_label": "",
            "sha256": {name: digest(content)},
        }
    info |= {"splits": entries, "classes": [str(digit) for digit in range(10)]}
    (folder / "_info.json").write_text(json.dumps(info, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "grafs_timm" / "data" / "digits")
