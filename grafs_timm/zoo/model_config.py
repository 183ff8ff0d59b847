"""Read a folder's config.json, which others may have written: with limits, and every value that timm uses checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import timm
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ..errors import WeightsError, shortened
from ..utils import strict_json
from ..utils.suggest import nearest

CONFIG = "config.json"
# Arguments of timm.create_model that would read files or replace what the folder says of itself.
NOT_MODEL_ARGS = (
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "checkpoint_path",
    "cache_dir",
    "model_name",
    "features_only",
)
_FILE_FIELDS = ("file", "hf_hub_filename")  # of timm's description: where else weights would lie

_Count = Annotated[int, Field(ge=0, le=10**7)]
_Pixels = Annotated[int, Field(ge=1, le=10**5)]
_Size = tuple[_Pixels, _Pixels, _Pixels]
_Moments = Annotated[list[Annotated[float, Field(allow_inf_nan=False)]], Field(min_length=1, max_length=1000)]
_Share = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]
_Probability = Annotated[float, Field(ge=0, le=1)]
_Where = str | list[str]
_LARGEST_ARGUMENT = 10**7
_DEEPEST = 5


class _Described(BaseModel):
    """What of timm's ``pretrained_cfg`` decides how a model is built and images are prepared; other keys are timm's own."""

    model_config = ConfigDict(strict=True, extra="allow")

    architecture: str | None = None
    tag: str | None = None
    custom_load: bool = False
    input_size: _Size | None = None
    test_input_size: _Size | None = None
    min_input_size: _Size | None = None
    fixed_input_size: bool | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos", "random", ""] | None = None
    crop_pct: _Share | None = None
    test_crop_pct: _Share | None = None
    crop_mode: Literal["center", "squash", "border"] | None = None
    mean: _Moments | None = None
    std: _Moments | None = None
    num_classes: _Count | None = None
    label_offset: _Count | None = None
    pool_size: list[_Pixels] | None = None
    test_pool_size: list[_Pixels] | None = None
    first_conv: _Where | None = None
    classifier: _Where | None = None
    label_names: list[str] | None = None
    label_descriptions: dict[str, Any] | None = None

    @field_validator("input_size", "test_input_size", "min_input_size", mode="before")
    @classmethod
    def _from_list(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value


class _Arguments(BaseModel):
    """Arguments that most architectures take; the architecture itself refuses what else does not fit it."""

    model_config = ConfigDict(strict=True, extra="allow")

    num_classes: _Count | None = None
    in_chans: Annotated[int, Field(ge=1, le=10**5)] | None = None
    img_size: _Pixels | list[_Pixels] | None = None
    global_pool: str | bool | None = None
    drop_rate: _Probability | None = None
    drop_path_rate: _Probability | None = None
    proj_drop_rate: _Probability | None = None
    attn_drop_rate: _Probability | None = None
    pos_drop_rate: _Probability | None = None
    patch_drop_rate: _Probability | None = None
    drop_block_rate: _Probability | None = None


class _Config(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    architecture: str
    num_classes: _Count | None = None
    num_features: _Count | None = None
    label_names: list[str] | None = None
    label_descriptions: dict[str, Any] | None = None
    pretrained_cfg: _Described | None = None
    model_args: _Arguments | None = None


def read_config(folder: Path) -> dict[str, Any]:
    """Read the folder's config.json. WeightsError, naming the key, where it is missing, damaged, or names files of its own."""
    path = folder / CONFIG
    try:
        with path.open("rb") as file:
            content = file.read(strict_json.LARGEST + 1)
        if len(content) > strict_json.LARGEST:
            raise ValueError(f"too large, at most {strict_json.LARGEST} bytes are read")
        config = json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is missing or damaged: {error}") from error
    if not isinstance(config, dict):
        raise WeightsError(f"{path} is damaged: expected an object")
    name, arguments = config.get("architecture"), config.get("model_args", {})
    if not isinstance(name, str) or not timm.is_model(name):
        shown = shortened(repr(name))
        raise WeightsError(f"{path}: architecture: timm has no model {shown}{nearest(shown, timm.list_models())}")
    if not isinstance(arguments, dict):
        raise WeightsError(f"{path}: model_args: expected an object")
    _check_described(config, path)
    _check_arguments(arguments, f"{path}: model_args")
    cfg = config.get("pretrained_cfg")
    named = [f"model_args: {each}" for each in NOT_MODEL_ARGS if each in arguments]
    named += [f"pretrained_cfg: {each}" for each in _FILE_FIELDS if isinstance(cfg, dict) and cfg.get(each)]
    if named:
        raise WeightsError(f"{path}: {named[0]} is no argument of a model, and a folder names no other file")
    return config


def _check_described(config: dict[str, Any], path: Path) -> None:
    """An old file has what is now ``pretrained_cfg`` in its place, beside the architecture."""
    try:
        _Config.model_validate({key: config[key] for key in config if key != "pretrained_cfg"})
        if "pretrained_cfg" in config:
            if not isinstance(config["pretrained_cfg"], dict):
                raise WeightsError(
                    f"{path}: pretrained_cfg: expected an object, got {shortened(repr(config['pretrained_cfg']))}"
                )
            _Config.model_validate({"architecture": "", "pretrained_cfg": config["pretrained_cfg"]})
        else:
            _Described.model_validate(config)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"] if part not in ("str", "list[str]"))
        got = shortened(repr(first["input"]))
        raise WeightsError(f"{path}: {shortened(where)}: {first['msg'].lower()}, got {got}; timm writes these values") from None


def _check_arguments(value: Any, where: str, depth: int = 0) -> None:
    """Raise a WeightsError for what no model is built with: sizes that would take all memory, pages of text."""
    if depth > _DEEPEST:
        raise WeightsError(f"{where}: lists within lists, more than {_DEEPEST} deep")
    if isinstance(value, dict | list):
        if len(value) > 1000:
            raise WeightsError(f"{where}: {len(value)} values, where 1000 are taken at most")
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            _check_arguments(item, f"{where}.{shortened(str(key))}", depth + 1)
    elif isinstance(value, int | float) and not abs(value) <= _LARGEST_ARGUMENT:
        raise WeightsError(f"{where}: {shortened(str(value))} is past {_LARGEST_ARGUMENT}, and no model is as large")
    elif isinstance(value, str) and len(value) > 1000:
        raise WeightsError(f"{where}: a text of {len(value)} characters")
