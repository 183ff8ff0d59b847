"""Read which activation saved weights belong to."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..activations.genotype import Genotype
from ..activations.named import Activation
from ..errors import GenotypeError, WeightsError
from ..zoo.model_config import CONFIG, read_config
from .binding import Bound

WEIGHTS = "model.safetensors"
_FIELDS = ("name", "sha256", "genotype", "beside", "places")


@dataclass(frozen=True)
class Record:
    """Hold what a folder records: its activation, and the names of the modules that are ``bound.layer``, () for all."""

    bound: Bound
    places: tuple[str, ...] = ()


def weights_file(source: str | Path) -> Path:
    """Return the .safetensors file of a source. Raises WeightsError where there is none."""
    path = Path(str(source).removeprefix("local-dir:"))
    file = path / WEIGHTS if path.is_dir() else path
    if not file.is_file():
        raise WeightsError(f"no weights at {file}; a source is a folder that holds {WEIGHTS}, or a .safetensors file")
    if file.suffix != ".safetensors":
        raise WeightsError(f"{file} is not a .safetensors file; other formats can run code when they are read")
    return file


def read_record(source: str | Path) -> Record | None:
    """Read which activation a source's weights belong to, None where it records none; opens no file that it names.

    Raises:
        WeightsError: The record is damaged, or the two files of a folder name different activations.
    """
    path = Path(str(source).removeprefix("local-dir:"))
    record = record_in(read_config(path), path / CONFIG) if path.is_dir() and (path / CONFIG).is_file() else None
    file = weights_file(source)
    try:
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{file} is damaged or no safetensors file: {error}") from error
    if "activation" not in metadata:
        return record
    noted = Bound(Activation(metadata["activation"], sha256=metadata.get("activation_sha256") or None))
    if record is None:
        return Record(noted)
    if (noted.sha256 or noted.name) != (record.bound.sha256 or record.bound.name):
        raise WeightsError(f"{path}: {CONFIG} says the weights were trained with {record.bound}, {file.name} says {noted}")
    return record


def record_in(config: dict[str, Any], path: Path) -> Record | None:
    """Read the record in a config; ``path`` names its file in errors. Raises WeightsError where it is damaged."""
    if "activation" not in config:
        return None
    data, where = config["activation"], f"{path}: activation"
    if not isinstance(data, dict) or set(data) != set(_FIELDS):
        raise WeightsError(f"{where}: expected an object of {', '.join(_FIELDS)}")
    name, sha256 = data["name"], data["sha256"]
    if not isinstance(name, str) or not re.fullmatch(r"[^/\\\x00-\x1f]{1,200}", name):
        raise WeightsError(f"{where}.name: expected a name without slashes, got {name!r}")
    for field in ("beside", "places"):
        if not isinstance(data[field], list) or not all(isinstance(item, str) for item in data[field]):
            raise WeightsError(f"{where}.{field}: expected a list of names")
    genotype = None
    if data["genotype"] is not None or sha256 is not None:
        try:
            genotype = Genotype.from_dict(data["genotype"], source=f"{where}.genotype")
        except GenotypeError as error:
            raise WeightsError(str(error)) from error
        if genotype.sha256 != sha256:
            raise WeightsError(f"{where}.sha256 is {sha256!r}, the genotype's own is {genotype.sha256}: file altered")
    return Record(Bound(Activation(name, genotype), tuple(data["beside"])), tuple(data["places"]))
