"""A few random images in the files of torchvision's data sets."""

import struct
from pathlib import Path

import numpy as np
import scipy.io

SVHN_FILES = {split: ["", f"{split}_32x32.mat", None] for split in ("train", "test", "extra")}  # the real ones' md5


def write_idx(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes())


def fashion_mnist(root: Path) -> np.ndarray:
    """Write 40 images to train and 20 to test below ``root``; returns uint8 [60,28,28]."""
    raw = root / "FashionMNIST" / "raw"
    images = np.random.default_rng(0).integers(0, 256, (60, 28, 28), dtype=np.uint8)
    for part, chosen in (("train", images[:40]), ("t10k", images[40:])):
        write_idx(raw / f"{part}-images-idx3-ubyte", chosen)
        write_idx(raw / f"{part}-labels-idx1-ubyte", (np.arange(len(chosen)) % 10).astype(np.uint8))
    return images


def svhn(root: Path) -> dict[str, np.ndarray]:
    """Write 30 images to train and 10 to test in ``root``, which needs `SVHN_FILES`; returns uint8 [32,32,3,n] of each."""
    generator, images = np.random.default_rng(0), {}
    for split, count in (("train", 30), ("test", 10)):
        images[split] = generator.integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
        labels = (np.arange(count) % 10 + 1).astype(np.uint8)[:, None]  # 10 stands for the digit 0
        scipy.io.savemat(root / f"{split}_32x32.mat", {"X": images[split], "y": labels})
    return images
