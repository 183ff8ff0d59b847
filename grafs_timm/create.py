"""Build any timm model with an activation put in."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import timm
from torch import nn

from . import binding, families, surgery, zoo
from .errors import GrafsError, WeightsError


def create_model(architecture: str, activation: Any = "auto", *, also: Collection[str] = (), **settings: Any) -> nn.Module:
    """``timm.create_model(architecture, **settings)`` with an activation put in; the model has ``activation_report``.

    One way for every architecture: timm builds the model as it stands, then the activations are replaced by the rule of
    `surgery`, whether or not the architecture has an ``act_layer`` argument. ``auto`` takes the recommended entry of the
    architecture's family, and is a GrafsError that names the nearest family where the zoo has none. ``also`` as in
    `zoo.replace_activations`. ``local-dir:FOLDER``, as `weights.save_pretrained` wrote it, has an activation of its own:
    ``auto`` takes that, and another one with ``pretrained=True`` is a WeightsError.
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
    found = zoo.resolve(_recommended(architecture) if auto else activation)
    model: nn.Module = timm.create_model(architecture, **settings)
    before = binding.activation_of(model) if settings.get("pretrained") else None
    model.activation_report = zoo.replace_activations(model, found, also)  # type: ignore[assignment]
    if before is not None:
        binding.warn_if_pretrained(architecture, binding.activation_of(model), before)
    return model


def _recommended(architecture: str) -> str:
    family = families.family_of(architecture)
    if f"grafs_{family}" in zoo.names():
        return f"grafs_{family}"
    have = sorted({e.family for e in zoo.entries().values() if e.recommended})
    near = families.nearest_family(family, have)
    if near is None:
        raise GrafsError(f"the zoo has no activation for the family {family!r} of {architecture}; it is empty")
    raise GrafsError(
        f"the zoo has no activation for the family {family!r} of {architecture}; the nearest it has is of {near!r}: "
        f"activation='grafs_{near}' puts that in, untested here"
    )


def _from_folder(folder: str, found: zoo.Resolved | None, also: Collection[str], settings: dict[str, Any]) -> nn.Module:
    from . import weights  # reads files that few models come from

    model = weights.create_from(folder, **settings)
    own = binding.activation_of(model)
    if found is None:
        model.activation_report = surgery.report_of(model, own.name)  # type: ignore[assignment]
        return model
    model.activation_report = zoo.replace_activations(model, found, also)  # type: ignore[assignment]
    if settings.get("pretrained") and not (now := binding.activation_of(model)).computes_as(own):
        raise WeightsError(
            f"{folder}: these weights were trained with {own}, not with {now}; leave activation out to have theirs, or build "
            "the model without pretrained and say grafs_timm.load_pretrained(model, folder, activation='any')"
        )
    return model
