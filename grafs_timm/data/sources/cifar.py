"""Read CIFAR-10 and CIFAR-100 from torchvision's files, which are pickles, without running what a pickle asks for.

Only the operations that these files need are allowed, and numpy's names in them stand for classes of this module, which
accept arrays of bytes and nothing else. So no function of another module is ever called.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import pickletools
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...errors import DataError, GrafsWarning
from ...utils import limits, remote
from .source import Source, Split

# class of torchvision, key of the labels, key of the class names
SETS = {"cifar10": ("CIFAR10", "labels", "label_names"), "cifar100": ("CIFAR100", "fine_labels", "fine_label_names")}
_SIDE = 32
_ALLOWED = re.compile(
    "PROTO|FRAME|STOP|MARK|EMPTY_(DICT|LIST|TUPLE)|DICT|SETITEMS?|LIST|APPENDS?|TUPLE[123]?|NONE|NEW(TRUE|FALSE)|INT|BININT[12]?|"
    "LONG1?|STRING|UNICODE|(SHORT_)?BIN(STRING|UNICODE|BYTES)|BIN(UNICODE|BYTES)8|PUT|GET|(LONG_)?BIN(PUT|GET)|MEMOIZE|"
    "(STACK_)?GLOBAL|REDUCE|BUILD"
)


def read(name: str, folder: Path) -> Source:
    """Read a data set's files.

    Args:
        name: One of `SETS`.
        folder: What torchvision unpacks: ``cifar-10-batches-py`` or ``cifar-100-python``.

    Returns:
        Its splits ``train`` and ``test``.

    Raises:
        DataError: A file is missing, or its content is not the data set's.
    """
    import torchvision

    cls, labels_key, names_key = SETS[name]
    known = getattr(torchvision.datasets, cls)
    meta = _content(folder / known.meta["filename"], known.meta["md5"])
    classes = _list_of(str, meta, names_key, folder / known.meta["filename"])
    splits = {}
    for split, files in (("train", known.train_list), ("test", known.test_list)):
        parts = [_images(folder / file, md5, labels_key, len(classes)) for file, md5 in files]
        images, labels = (np.concatenate([part[index] for part in parts]) for index in (0, 1))
        splits[split] = _split(images, labels)
    return Source(name, tuple(classes), splits)


def _split(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> Split:
    def image(index: int) -> Image.Image:
        return Image.fromarray(np.ascontiguousarray(images[index].transpose(1, 2, 0)))

    return Split(labels, str, image)


def _images(path: Path, md5: str, labels_key: str, classes: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return uint8 [N,3,32,32] and int64 [N]."""
    content = _content(path, md5)
    data = content.get("data")
    if not isinstance(data, _Bytes) or data.values is None or data.values.shape[1:] != (3 * _SIDE**2,):
        raise DataError(f"{path}: data: expected N rows of {3 * _SIDE**2} bytes, an image each")
    labels = _list_of(int, content, labels_key, path)
    if len(labels) != len(data.values) or not labels:
        raise DataError(f"{path}: {len(data.values)} images, but {len(labels)} {labels_key}")
    if wrong := [label for label in labels if not 0 <= label < classes]:
        raise DataError(f"{path}: {labels_key}: {str(wrong[0])[:30]} is not in 0..{classes - 1}")
    return data.values.reshape(-1, 3, _SIDE, _SIDE), np.array(labels, np.int64)


def _list_of(kind: type, content: dict[str, Any], key: str, path: Path) -> list[Any]:
    found = content.get(key)
    if not isinstance(found, list) or not found or any(type(item) is not kind for item in found):
        raise DataError(f"{path}: {key}: expected a list of {kind.__name__}")
    return found


def _content(path: Path, md5: str) -> dict[str, Any]:
    """Return the dictionary that a file holds; a warning where the file is not the published one."""
    content = remote.read(path, limits.FILE)
    try:
        found = _unpickled(content)
    except Exception as error:  # a damaged pickle raises what it meets
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise DataError(f"{path}: truncated, corrupt or not a file of this data set: {reason}") from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: holds no dictionary, so it is not a file of this data set")
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        warnings.warn(f"{path}: is not the file that is published (its md5 is not {md5})", GrafsWarning)
    return found


def _unpickled(content: bytes) -> Any:
    for operation, argument, _ in pickletools.genops(content):
        if not _ALLOWED.fullmatch(operation.name):
            raise pickle.UnpicklingError(f"the operation {operation.name} is not allowed")
        if operation.name.endswith("PUT") and int(argument or 0) > len(content):  # the memo would get as long
            raise pickle.UnpicklingError(f"memo of {argument} entries")
    return _Restricted(io.BytesIO(content), encoding="latin1").load()


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NAMES:
            raise pickle.UnpicklingError(f"the name {module}.{name} is not allowed")
        return _Name(_NAMES[module, name])

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("persistent names are not allowed")


class _Name:
    """Stands for a name of numpy's: it can be called, and has no state to be set."""

    __slots__ = ("__make",)

    def __init__(self, make: Any) -> None:
        self.__make = make

    def __call__(self, *arguments: Any) -> Any:
        return self.__make(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("the state of a name is set")


class _Byte:
    """Stands for numpy's dtype, which must be that of bytes."""

    __slots__ = ()

    def __init__(self, code: Any = None, *_: Any) -> None:
        if code not in ("u1", "|u1", "uint8"):
            raise pickle.UnpicklingError(f"an array of {str(code)[:30]}; only bytes (u1) are allowed")

    def __setstate__(self, state: Any) -> None:
        """Take byte order and alignment, which bytes do not depend on."""


class _Bytes:
    """Stands for numpy's array: uint8, filled when its state is set."""

    __slots__ = ("values",)

    def __init__(self, *_: Any) -> None:
        self.values: NDArray[np.uint8] | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, by_columns, content = state
        if not isinstance(dtype, _Byte):
            raise pickle.UnpicklingError("an array of something else than bytes")
        raw = content.encode("latin1") if isinstance(content, str) else content
        if not isinstance(raw, bytes):
            raise pickle.UnpicklingError("an array whose content is not bytes")
        self.values = np.frombuffer(raw, np.uint8).reshape(shape, order="F" if by_columns else "C")


def _encoded(text: Any, encoding: Any) -> bytes:
    """Stand for ``_codecs.encode``, with which Python 3 writes bytes in old protocols."""
    if encoding != "latin1" or not isinstance(text, str):
        raise pickle.UnpicklingError(f"text encoded as {str(encoding)[:30]}")
    return text.encode("latin1")


_NAMES: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): _Byte,
    ("numpy", "ndarray"): _Bytes,
    ("numpy.core.multiarray", "_reconstruct"): _Bytes,
    ("numpy._core.multiarray", "_reconstruct"): _Bytes,
    ("_codecs", "encode"): _encoded,
}
