"""Save and load checkpoints: tensors and plain values in one file, written whole, read without running code."""

from __future__ import annotations

import random
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import RunError, first_line
from ..utils.files import write_whole

FORMAT = "grafs-checkpoint/1"
_VALUES = (type(None), bool, int, float, str)
# Exactly these: a subclass, such as NumPy's float64 of float, would not load under weights_only.
_TENSORS = (Tensor, torch.nn.Parameter)


def save(path: str | Path, state: dict[str, Any]) -> Path:
    """Write a checkpoint. The one that was there is kept until the new one is whole.

    Args:
        state: Tensors, None, bool, int, float, str, and lists, tuples and dicts of them.

    Raises:
        TypeError: Something else is in ``state``; its keys are named.
        RunError: The file can't be written.

    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     load(save(Path(folder) / "checkpoint.pt", {"epoch": 3, "weight": torch.ones(2)}))["epoch"]
    3
    """
    _check(state, "state")
    return write_whole(path, lambda file: torch.save({"format": FORMAT, "state": state}, file))


def load(path: str | Path) -> dict[str, Any]:
    """Return what `save` wrote, tensors on the CPU. RunError where the file is missing, damaged or something else."""
    path = Path(path)
    if not path.is_file():
        raise RunError(f"no checkpoint at {path}")
    try:
        with zipfile.ZipFile(path) as archive:  # torch itself reads flipped bits without a word
            damaged = archive.testzip()
        if damaged:
            raise ValueError(f"the checksum of {damaged} in it does not fit")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # torch raises half a dozen kinds for a damaged file
        raise RunError(f"{path} is damaged or no checkpoint: {first_line(error)}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT or not isinstance(content.get("state"), dict):
        raise RunError(f"{path} is no checkpoint of this program (format {FORMAT})")
    return content["state"]


def restore(
    path: str | Path, load_state: Callable[[dict[str, Any]], None], read: Callable[[str | Path], dict[str, Any]] = load
) -> None:
    """Call ``load_state`` with the checkpoint that ``read`` returns. RunError where it is not this run's state."""
    state = read(path)
    try:
        load_state(state)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise RunError(f"{path} does not hold what this run needs to resume ({first_line(error)})") from error


def _check(value: Any, place: str) -> None:
    kind = type(value)
    if kind in (dict, OrderedDict):
        for key, item in value.items():
            if type(key) not in (str, int):
                raise TypeError(f"{place}: a checkpoint's keys are text or whole numbers, got {key!r} ({type(key).__name__})")
            _check(item, f"{place}[{key!r}]")
    elif kind in (list, tuple):
        for index, item in enumerate(value):
            _check(item, f"{place}[{index}]")
    elif kind not in _VALUES and kind not in _TENSORS:
        what = f"{kind.__module__}.{kind.__qualname__}"
        raise TypeError(f"{place}: a checkpoint takes tensors and plain values, got {what}; store its state_dict() or item()")


def rng_state() -> dict[str, Any]:
    """Return the state of torch's generators (CPU and each CUDA device), NumPy's global one and Python's ``random``."""
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    version, words, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [
            str(name),
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ],
        "python": [version, torch.tensor(words, dtype=torch.int64, device="cpu"), gauss],
    }


def seed_all(seed: int) -> None:
    """Seed every generator that `rng_state` covers."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore what `rng_state` returned. CUDA devices that this machine or the state lacks are skipped."""
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available():
        for device, value in zip(range(torch.cuda.device_count()), state["cuda"], strict=False):
            torch.cuda.set_rng_state(value, device)
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
