"""Build any timm model with an activation put in."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import timm
from timm.models import load_checkpoint
from torch import nn

from ..activations.named import Activation
from ..errors import GrafsError, GrafsWarning, WeightsError, first_line
from ..zoo import lookup as zoo
from . import binding, families, surgery
from .activation_table import Also
from .replace import replace_activations


def create_model(architecture: str, activation: Any = "auto", *, also: Also = (), **settings: Any) -> nn.Module:
    """Build a timm model and replace its activations, whether or not the architecture has an ``act_layer`` argument.

    Args:
        architecture: Any name that ``timm.create_model`` takes. ``local-dir:FOLDER``, written by `save_pretrained`, restores
            that model's own activation.
        activation: A zoo name, a name of timm's, a genotype or its file, or a module class. ``"auto"`` is the zoo's
            activation of the architecture's family where it is shown to be better than the default activation; otherwise
            the model keeps its default one, with a warning.
        also: As in `replace_activations`.
        **settings: Passed to ``timm.create_model``.

    Returns:
        The model; its ``activation_report`` is a `Report`.

    Raises:
        UnknownNameError: No such architecture or activation; names the nearest.
        GrafsError: ``act_layer`` is given as well.
        WeightsError: A checkpoint does not load, or a folder's weights were trained with another activation.

    >>> import grafs_timm
    >>> model = grafs_timm.create_model("cifar_resnet20", "grafs_resnet", num_classes=10)
    >>> print(model.activation_report)
    replaced 19 of 19 activations (ReLU) by grafs_resnet
    """
    if "act_layer" in settings:
        raise GrafsError(
            f"the activation is given twice: activation={activation!r} and act_layer={settings['act_layer']!r};"
            " leave act_layer out"
        )
    families.check_name(architecture)
    auto = isinstance(activation, str) and activation == "auto"
    if architecture.startswith("local-dir:"):
        return _from_folder(architecture.removeprefix("local-dir:"), None if auto else zoo.resolve(activation), also, settings)
    name = _recommended(architecture) if auto else None
    model = _built(architecture, settings)
    if auto and name is None:
        model.activation_report = surgery.report_of(model, "the default activation")  # type: ignore[assignment]
        return model
    found = zoo.resolve(name or activation)
    before = binding.activation_of(model) if settings.get("pretrained") else None
    model.activation_report = replace_activations(model, found, also)  # type: ignore[assignment]
    if before is not None:
        binding.warn_if_pretrained(architecture, binding.activation_of(model), before)
    return model


def _built(architecture: str, settings: dict[str, Any]) -> nn.Module:
    """Build timm's model. Errors are timm's, except for checkpoints, whose errors say little and have many types."""
    checkpoint = settings.get("checkpoint_path")
    if not checkpoint:
        model: nn.Module = timm.create_model(architecture, **settings)
        return model
    if not Path(checkpoint).is_file():
        instead = (
            "load_pretrained(model, folder) takes a folder of save_pretrained" if Path(checkpoint).is_dir() else "no such file"
        )
        raise WeightsError(f"checkpoint_path: {checkpoint}: {instead}")
    model = timm.create_model(architecture, **{key: value for key, value in settings.items() if key != "checkpoint_path"})
    try:
        load_checkpoint(model, str(checkpoint))
    except Exception as error:
        raise WeightsError(
            f"checkpoint_path: {checkpoint} does not load into {architecture}: {first_line(error)} (num_classes, in_chans and "
            "the like must be those that it was trained with; grafs_timm.load_pretrained loads .safetensors files too)"
        ) from error
    return model


def _recommended(architecture: str) -> str | None:
    """Return the name that ``auto`` stands for; None, with a warning, where the default activation is kept."""
    family = families.family_of(architecture)
    entry = zoo.names().get(f"grafs_{family}")
    if entry and entry.recommended:
        return f"grafs_{family}"
    if entry:
        why = f"grafs_{family} is {entry.notice}; activation='grafs_{family}' uses it anyway"
    else:
        near = families.nearest_family(family, sorted({each.family for each in zoo.entries().values() if each.alias}))
        hint = f"; the nearest family with one is {near!r}: activation='grafs_{near}' uses it, untested here" if near else ""
        why = f"the zoo has no activation for the family {family!r}{hint}"
    warnings.warn(f"activation='auto' leaves {architecture} with its default activation: {why}", GrafsWarning, stacklevel=3)
    return None


def _from_folder(folder: str, found: Activation | None, also: Also, settings: dict[str, Any]) -> nn.Module:
    from . import weights  # few models come from files

    model = weights.create_from(folder, **settings)
    own = binding.activation_of(model)
    if found is None:
        model.activation_report = surgery.report_of(model, own.name)  # type: ignore[assignment]
        return model
    model.activation_report = replace_activations(model, found, also)  # type: ignore[assignment]
    if settings.get("pretrained") and not (now := binding.activation_of(model)).computes_as(own):
        raise WeightsError(
            f"{folder}: these weights were trained with {own}, not with {now}; leave activation out to use theirs, or build "
            "the model without pretrained and call grafs_timm.load_pretrained(model, folder, activation='any')"
        )
    return model
