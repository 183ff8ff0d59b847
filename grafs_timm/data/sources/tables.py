"""Read the images and labels of arrow and parquet files, as Hugging Face's library writes them, with pyarrow."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError, shortened
from ...utils import limits, remote, strict_json
from ...utils.optional import required

INFO = "dataset_info.json"
_LABELS = ("label", "labels", "fine_label")
_IMAGES = ("image", "img")


def read_object(path: Path) -> dict[str, Any]:
    """Read an object of JSON. Raises DataError where the file holds none."""
    try:
        found = strict_json.parse(remote.read(path, limits.INFO), limits.INFO.value)
    except DataError:
        raise
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None
    if not isinstance(found, dict):
        raise DataError(f"{path}: expected an object of JSON")
    return found


@dataclass(frozen=True)
class _Columns:
    """The columns of a table that are read, and the names of its classes; None where the table has none."""

    image: str
    label: str
    classes: tuple[str, ...] | None


class Table:
    """The images and labels of one split, as record batches; arrow files stay on the disk.

    Args:
        split: The split's name.
        files: Its files.
        budget: The memory that it may take.

    Raises:
        DataError: A file cannot be read, or has no images or no labels.
    """

    def __init__(self, split: str, files: list[Path], budget: limits.Budget) -> None:
        with _explained(files[0]):
            self.split, self.batches, self.columns = split, list[Any](), _columns(files[0])
        wanted = [self.columns.image, self.columns.label]
        for file in files:
            with _explained(file):
                for batch in _batches(file, wanted, budget):
                    both = batch.select(wanted)  # KeyError where a file lacks a column that the first has
                    both.validate(full=True)  # offsets from outside lead nowhere else
                    if both.num_rows:
                        self.batches.append(both)
        self.starts = np.cumsum([0, *(batch.num_rows for batch in self.batches)])
        self.where = str(files[0].parent)

    def labels(self) -> NDArray[np.int64]:
        """Return int64 [N]; DataError where one is missing or there are no rows."""
        parts = [batch.column(self.columns.label) for batch in self.batches]
        if not parts or any(part.null_count for part in parts):
            what = "an empty cell" if parts else "no rows"
            raise DataError(f"{self.where}: split {self.split}: {what} in column {self.columns.label!r}")
        return np.concatenate([np.asarray(part).astype(np.int64) for part in parts])

    def image(self, index: int) -> bytes:
        """Return the image file of a row."""
        place = int(np.searchsorted(self.starts, index, side="right")) - 1
        with _explained(Path(self.where)):
            value = self.batches[place].column(self.columns.image)[index - int(self.starts[place])].as_py()
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            raise DataError(
                f"{self.where}: split {self.split}, row {index}: column {self.columns.image!r} has no image, at most the path "
                "of one; save_to_disk of a recent version of datasets puts the images into the files"
            )
        limits.SAMPLE.check(len(content), f"{self.where}: split {self.split}, row {index}")
        return content


@contextlib.contextmanager
def _explained(file: Path) -> Iterator[None]:
    """Turn pyarrow's errors into a DataError that names the file."""
    try:
        yield
    except DataError:
        raise
    except (OSError, ValueError, KeyError, TypeError, NotImplementedError, MemoryError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise DataError(f"{file}: truncated, corrupt or not such a table: {reason}") from error


def _arrow(part: str = "") -> Any:
    return required(f"pyarrow{part}", "hf-data", "reading a Hugging Face data set")


def _stream(file: Path) -> Any:
    """Open an arrow file, which the system maps into memory, in either of the formats."""
    mapped = _arrow().memory_map(str(file))
    try:
        return _arrow(".ipc").open_stream(mapped)
    except _arrow().ArrowInvalid:
        mapped.seek(0)
        return _arrow(".ipc").open_file(mapped)


def _batches(file: Path, wanted: list[str], budget: limits.Budget) -> Iterator[Any]:
    if file.suffix == ".arrow":
        before = _arrow().total_allocated_bytes()
        reader = _stream(file)
        for batch in reader if hasattr(reader, "__iter__") else map(reader.get_batch, range(reader.num_record_batches)):
            budget.take(max(_arrow().total_allocated_bytes() - before, 0), str(file))  # of a compressed file
            before = _arrow().total_allocated_bytes()
            yield batch
        return
    parquet = _arrow(".parquet").ParquetFile(str(file))
    # of all columns, because pyarrow aborts the process where it is asked for a damaged description of one
    size = sum(parquet.metadata.row_group(group).total_byte_size for group in range(parquet.metadata.num_row_groups))
    whole = f"{file}: {size >> 20} MB in memory, because parquet files are read whole; save_to_disk of datasets makes others"
    limits.RESIDENT.check(size, whole)
    for batch in parquet.iter_batches(batch_size=256, columns=wanted):
        budget.take(batch.nbytes, str(file))
        yield batch


def _schema(file: Path) -> Any:
    if file.suffix == ".arrow":
        return _stream(file).schema
    return _arrow(".parquet").ParquetFile(str(file)).schema_arrow


def _columns(file: Path) -> _Columns:
    """Choose the columns of images and labels. DataError where there are none, or several."""
    schema = _schema(file)
    features = _features(schema, file)
    kinds = {name: _kind(features.get(name), schema.field(name).type) for name in schema.names}
    has = ", ".join(f"{name} ({kind})" for name, kind in list(kinds.items())[:20]) or "none"
    what = "images and class labels are needed"
    image = _the_one([name for name, kind in kinds.items() if kind == "Image"], _IMAGES)
    if image is None:
        raise DataError(f"{file}: not one column of images ({what}); its columns: {shortened(has, 500)}")
    label = _the_one([name for name, kind in kinds.items() if kind == "ClassLabel"], _LABELS)
    label = label or _the_one([name for name in _LABELS if kinds.get(name) == "integer"], _LABELS)
    if label is None:
        raise DataError(
            f"{file}: not one column of labels ({what}); its columns: {shortened(has, 500)}. In datasets, class_encode_column "
            "makes class labels of text or numbers, and rename_column a column called label"
        )
    return _Columns(image, label, _names(features.get(label), file, label))


def _the_one(names: list[str], preferred: tuple[str, ...]) -> str | None:
    return names[0] if len(names) == 1 else next((name for name in preferred if name in names), None)


def _features(schema: Any, file: Path) -> dict[str, Any]:
    """Return the library's description of the columns, from the table's schema or from the file beside it."""
    given = (schema.metadata or {}).get(b"huggingface")
    try:
        found = strict_json.parse(given)["info"]["features"] if given else None
    except (ValueError, KeyError, TypeError):
        found = None
    if found is None and (file.parent / INFO).is_file():
        found = read_object(file.parent / INFO).get("features")
    return found if isinstance(found, dict) else {}


def _kind(feature: Any, column: Any) -> str:
    types, named = _arrow(".types"), feature.get("_type") if isinstance(feature, dict) else None
    binary = (types.is_binary, types.is_large_binary)
    if types.is_struct(column) and (place := column.get_field_index("bytes")) >= 0:
        shaped = any(check(column.field(place).type) for check in binary)
    else:
        shaped = any(check(column) for check in binary)
    if named == "ClassLabel":
        return "ClassLabel" if types.is_integer(column) else f"ClassLabel as {column}"
    if named in ("Image", None) and shaped:
        return "Image"
    if types.is_integer(column):
        return "integer"
    return str(named if isinstance(named, str) and named not in ("Image", "Value") else column)


def _names(feature: Any, file: Path, label: str) -> tuple[str, ...] | None:
    if not isinstance(feature, dict) or feature.get("_type") != "ClassLabel":
        return None
    names = feature.get("names")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise DataError(f"{file}: column {label!r}: the class label has no list of names")
    return tuple(names)
