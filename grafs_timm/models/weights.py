"""Save and load weights together with their activation, in timm's own folder format.

    model.safetensors   the weights; its metadata names the activation and its sha256
    config.json         timm's, so that ``timm.create_model("local-dir:FOLDER", pretrained=True)`` reads the folder, with
                        "activation": {name, sha256, genotype, beside, places} added

Swapping the activation silently lowers accuracy, so `load_pretrained` refuses weights that were trained with another one.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import timm
import torch
from safetensors import SafetensorError, safe_open
from timm.models._hub import load_model_config_from_path, save_config_for_hf
from timm.utils import unwrap_model
from torch import Tensor, nn

from ..activations.activation import FoundActivation
from ..errors import GrafsError, GrafsWarning, WeightsError, first_line, shortened
from ..utils.files import write_json, write_whole
from ..zoo import lookup as zoo
from ..zoo.model_config import CONFIG, NOT_MODEL_ARGS, read_config
from .binding import Bound, activation_of, activations_at, timm_name, warn_if_pretrained
from .replace import replace_activations
from .weights_record import WEIGHTS, Record, read_record, record_in, weights_file

__all__ = ["Bound", "activation_of", "create_from", "load_pretrained", "save_pretrained", "warn_if_pretrained"]

_SHOWN = 3  # keys in one message


# --- saving ---


def save_pretrained(
    model: nn.Module,
    folder: str | Path,
    model_args: Mapping[str, Any] | None = None,
    pretrained_cfg: Mapping[str, Any] | None = None,
) -> Path:
    """Save a model's weights with the activation they belong to.

    The folder's config has ``act_layer`` where plain timm restores every activation by it; `create_from` restores the others.

    Args:
        model: A model that timm built, wrapped (DDP, EMA, compiled) or not, on any device.
        folder: Where to write ``model.safetensors`` and ``config.json``, each as a whole.
        model_args: Arguments that the model was built with and timm does not record, as JSON values.
        pretrained_cfg: What differs from timm's description of the weights, such as ``input_size``, ``mean`` and ``std`` of
            the images they were trained with, as JSON values.

    Returns:
        ``folder``.

    Raises:
        WeightsError: The model was not built by timm, has several found activations, or has no weights (meta device).
        RunError: The folder cannot be written.

    >>> import grafs_timm
    >>> model = grafs_timm.create_model("test_resnet", "grafs_resnet", num_classes=10)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = grafs_timm.save_pretrained(model, folder)
    ...     again = timm.create_model(f"local-dir:{folder}", pretrained=True)
    >>> x = torch.zeros(1, 3, 32, 32)
    >>> torch.equal(model.eval()(x), again.eval()(x))
    True
    """
    folder, model = Path(folder), unwrap_model(model)
    bound = activation_of(model)
    if folder.exists() and not folder.is_dir():
        raise WeightsError(f"{folder} is a file; weights are saved into a folder")
    config = describe(model, bound, dict(model_args or {}), dict(pretrained_cfg or {}))
    tensors = {}
    for name, tensor in model.state_dict().items():
        if tensor.is_meta:
            raise WeightsError(f"{name} is on the meta device: the model has no weights to save")
        tensors[name] = tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)  # copies untie weights
    metadata = {"format": "pt", "activation": bound.name, "activation_sha256": bound.sha256 or ""}
    write_whole(folder / WEIGHTS, _in_one_order(safetensors.torch.save(tensors, metadata)))
    write_json(folder / CONFIG, config)
    return folder


def _in_one_order(content: bytes) -> bytes:
    """Sort the metadata of a file, which safetensors writes in any order, so that equal weights give equal files."""
    begin = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:begin])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of eight
    return len(text).to_bytes(8, "little") + text + content[begin:]


def describe(model: nn.Module, bound: Bound, model_args: dict[str, Any], changed_cfg: dict[str, Any]) -> dict[str, Any]:
    """Make timm's config.json of a model, with its activation; arguments and errors as of `save_pretrained`."""
    cfg = getattr(model, "pretrained_cfg", None)
    architecture = cfg.get("architecture") if cfg else None
    if hasattr(model, "feature_info") and not hasattr(model, "num_classes"):
        raise WeightsError(
            f"{type(model).__name__} is the part of a model that features_only=True gives, which no config.json restores: "
            "save the whole model, and make the features from its weights"
        )
    if not architecture or not timm.is_model(architecture):
        raise WeightsError(f"{type(model).__name__} was not built by timm.create_model, so no config.json can restore it")
    for name in NOT_MODEL_ARGS:
        if name in model_args:
            raise WeightsError(f"model_args: {name} is not an argument of a model")
    own = getattr(model, "_model_args", {}) | model_args
    asked = own.pop("act_layer", None)
    placeholder = {"act_layer": "none"} if asked is not None else {}  # timm cannot write a class
    config = _timm_config(model, model_args | placeholder, changed_cfg)
    arguments = config.get("model_args", {})
    arguments.pop("act_layer", None)
    restoring = _restoring_name(model, bound, architecture, arguments)
    if restoring:
        arguments["act_layer"] = restoring
    if arguments:
        config["model_args"] = arguments
    found = bound.activation.genotype
    config["activation"] = {
        "name": bound.name, "sha256": bound.sha256, "genotype": found.to_dict() if found else None,
        "beside": list(bound.beside),
        "places": [place for place, module in activations_at(model).items() if _same(module, bound)],
    }  # fmt: skip
    record_in(config, Path(CONFIG))  # check that it can be read again
    return config


def _timm_config(model: nn.Module, model_args: dict[str, Any], changed_cfg: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / CONFIG
        try:
            save_config_for_hf(model, path, model_config={"pretrained_cfg": changed_cfg}, model_args=model_args)
            config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (TypeError, ValueError, AttributeError, KeyError) as error:
            raise WeightsError(f"timm cannot describe this {type(model).__name__}: {error}; see model_args") from error
    return config


def _restoring_name(model: nn.Module, bound: Bound, architecture: str, arguments: dict[str, Any]) -> str | None:
    """Return the ``act_layer`` by which plain timm gives every place of the model its activation, or None."""
    wanted = {place: _function(module) for place, module in activations_at(model).items()}
    if bound.sha256 is not None:
        names = list(dict.fromkeys(e.name for e in zoo.names().values() if e.genotype.sha256 == bound.sha256))
    else:
        if _holds(architecture, arguments, wanted):
            return None  # the architecture's own
        names = [bound.name]
    return next((name for name in names if _holds(architecture, arguments | {"act_layer": name}, wanted)), None)


def _holds(architecture: str, arguments: dict[str, Any], wanted: dict[str, str]) -> bool:
    try:
        with torch.device("meta"):
            model = timm.create_model(architecture, **arguments)
    except Exception:  # any error of an architecture that does not take the argument
        return False
    return {place: _function(module) for place, module in activations_at(model).items()} == wanted


def _function(module: nn.Module) -> str:
    return module.genotype.sha256 if isinstance(module, FoundActivation) else timm_name(module)


def _same(module: nn.Module, bound: Bound) -> bool:
    return _function(module) == (bound.sha256 or bound.name)


# --- reading ---


def load_pretrained(model: nn.Module, source: str | Path, activation: Literal["same", "any"] = "same") -> nn.Module:
    """Load weights into a model that has the activation they were trained with.

    Weights that record no activation are assumed to be trained with a stock one: a model with a found one gives a warning.

    Args:
        model: The model; unchanged where an error is raised.
        source: A folder of `save_pretrained`, or a .safetensors file.
        activation: ``"any"`` also loads weights that were trained with another activation, to train them again.

    Returns:
        ``model``.

    Raises:
        WeightsError: The activations differ (names both), the weights do not fit (names the first keys), or a file is missing,
            damaged or contradicts itself.

    >>> import grafs_timm
    >>> trained = grafs_timm.create_model("test_resnet", "grafs_resnet", num_classes=10)
    >>> other = timm.create_model("test_resnet", num_classes=10)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     grafs_timm.load_pretrained(other, grafs_timm.save_pretrained(trained, folder))
    Traceback (most recent call last):
    grafs_timm.errors.WeightsError: ... was trained with grafs_resnet_c10_s2 (...), the model has relu: ...
    """
    if activation not in ("same", "any"):
        raise WeightsError(f'activation is "same" or "any", got {activation!r}')
    inner, file = unwrap_model(model), weights_file(source)
    record = read_record(source)
    if activation == "same":
        _require_same(inner, record, file)
    _require_fit(inner, _shapes(file), file)  # before tensors of any size are read
    inner.load_state_dict(_tensors(file))
    return model


def _shapes(file: Path) -> dict[str, list[int]]:
    try:
        with safe_open(file, "pt") as opened:
            names = getattr(opened, "offset_keys", opened.keys)()  # the order of the file, where safetensors tells it
            return {name: opened.get_slice(name).get_shape() for name in names}
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{file} is damaged or no safetensors file: {error}") from error


def _tensors(file: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load_file(file)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{file} is damaged or no safetensors file: {error}") from error
    return tensors


def _require_same(model: nn.Module, record: Record | None, file: Path) -> None:
    has = activation_of(model)
    if record is None:
        if has.sha256:
            notice = f"{file} does not say which activation its weights were trained with; the model has {has}"
            warnings.warn(notice, GrafsWarning, stacklevel=3)
    elif not _known(record.bound, has).computes_as(has):
        raise WeightsError(
            f"{file} was trained with {record.bound}, the model has {has}: swapping the activation silently lowers accuracy. "
            f'Put {record.bound.name} into the model, or load with activation="any" to train it again'
        )


def _known(noted: Bound, has: Bound) -> Bound:
    """Complete the record of a lone weights file, which has name and hash only, by what the model has."""
    return replace(noted, beside=has.beside) if noted.sha256 and noted.activation.genotype is None else noted


def _require_fit(model: nn.Module, shapes: Mapping[str, list[int]], file: Path) -> None:
    own = model.state_dict()
    problems = {
        "missing": [name for name in own if name not in shapes],
        "unexpected": [name for name in shapes if name not in own],
        "of another shape": [
            f"{name} {shapes[name]} there, {list(tensor.shape)} in the model"
            for name, tensor in own.items()
            if name in shapes and shapes[name] != list(tensor.shape)
        ],
    }
    if said := [f"{what}: {', '.join(names[:_SHOWN])}{_more(names)}" for what, names in problems.items() if names]:
        raise WeightsError(f"{file} does not fit this {type(model).__name__}; " + "; ".join(said))


def _more(names: list[str]) -> str:
    return f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""


# --- restoring ---


def create_from(folder: str | Path, pretrained: bool = False, **settings: Any) -> nn.Module:
    """Build the model that `save_pretrained` wrote, with its activation everywhere it was.

    Args:
        folder: The folder. Without a recorded activation the model is what timm makes of the folder.
        pretrained: Load the weights too.
        **settings: Override the folder's (``num_classes``, ``in_chans`` ...); timm adapts the weights to them.

    Raises:
        WeightsError: As `load_pretrained`; also where ``act_layer`` is given, or the architecture no longer has the modules.
    """
    path = Path(str(folder).removeprefix("local-dir:"))
    config = read_config(path)
    record = read_record(path) if pretrained else record_in(config, path / CONFIG)
    if "act_layer" in settings:
        raise WeightsError(f"{path} has its own activation; leave act_layer out, or replace it in the model and train it again")
    if record is not None and (named := config.get("model_args", {}).get("act_layer")):
        in_zoo = zoo.names().get(named) if isinstance(named, str) else None
        # the recorded function even if the name means another one now; the name if not, since some models take no class
        same = in_zoo is not None and in_zoo.genotype.sha256 == record.bound.sha256
        settings["act_layer"] = named if same else record.bound.layer
    adapted = pretrained and bool(settings.keys() - {"act_layer"})
    try:
        model: nn.Module = timm.create_model(f"local-dir:{path}", pretrained=adapted, **settings)
    except GrafsError:
        raise
    except Exception as error:  # any error of an architecture that does not take a value
        how = f"with model_args {shortened(repr(config['model_args']), 300)}" if config.get("model_args") else "from its values"
        raise WeightsError(f"timm cannot build {config['architecture']} from {path} {how}: {first_line(error)}") from error
    if record is not None:
        _put(model, record, path, strict="features_only" not in settings)
    if pretrained and not adapted:
        load_pretrained(model, path)
    return model


def starting_from(source: str, architecture: str) -> dict[str, Any]:
    """Make the arguments by which timm.create_model starts from saved weights, trained with any activation.

    timm adapts the input layer, and starts a new head if the classes differ.

    Args:
        source: A folder of `save_pretrained`, or ``"pretrained"`` for timm's own weights.
        architecture: The model to build.

    Raises:
        WeightsError: The folder holds another architecture or no readable weights.
    """
    if source == "pretrained":
        return {"pretrained": True}
    folder = Path(source)
    config, file = read_config(folder), weights_file(folder)
    if config["architecture"] != architecture:
        raise WeightsError(f"{folder} holds weights of {config['architecture']}, the model is {architecture}")
    read_record(folder)  # raises if damaged
    saved, _, _ = load_model_config_from_path(folder)
    kept = {key: saved[key] for key in ("input_size", "num_classes") if key in saved}
    return {"pretrained": True, "pretrained_cfg_overlay": {**kept, "file": str(file), "custom_load": False}}


def origin(source: str) -> dict[str, Any]:
    """Describe the weights a training started from, for its result: the file's hash, and the activation if it is known."""
    if source == "pretrained":
        return {"start_from": source}
    with weights_file(source).open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    record = read_record(source)
    return {"start_from": source, "start_sha256": sha256, "trained_with": str(record.bound) if record else None}


def _put(model: nn.Module, record: Record, folder: Path, strict: bool) -> None:
    """Put the recorded activation at every recorded place."""
    bound, layer, at = record.bound, record.bound.layer, activations_at(model)
    if not bound.beside and any(place not in at or not _same(at[place], bound) for place in record.places):
        # as it was put in, which also sets what an architecture needs, such as a gain
        replace_activations(model, bound.activation)
        at = activations_at(model)
    missing = [place for place in record.places if place not in at]
    if missing and strict:
        shown = ", ".join(missing[:_SHOWN]) + _more(missing)
        raise WeightsError(f"{folder}: this {type(model).__name__} has no activation at {shown}")
    for place in record.places:
        if place in at and not _same(at[place], bound):
            parent, _, attribute = place.rpartition(".")
            model.get_submodule(parent)._modules[attribute] = layer().train(at[place].training)
    now = activation_of(model)
    if not now.computes_as(bound):
        raise WeightsError(f"{folder} records {bound}, but the model built from it has {now}: set its activations yourself")
