"""Which family an architecture belongs to, and what that family is used with: one row a family.

A found activation is recommended per family (``grafs_resnet``), so this table decides what ``activation="auto"`` means.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

import timm
from timm.models import is_model_in_modules
from timm.utils import unwrap_model
from torch import nn

from . import models as models  # registers cifar_*
from .errors import UnknownNameError
from .ops import nearest


@dataclass(frozen=True)
class Family:
    """``modules`` are submodules of timm.models whose architectures belong here, ``patterns`` names of further ones.

    ``activation`` is the usual one by its timm name, ``small`` the architecture to search on, ``larger`` those that
    what was found is carried over to.
    """

    name: str
    modules: tuple[str, ...]
    patterns: tuple[str, ...]
    activation: str
    small: str
    larger: tuple[str, ...]


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            "resnet", ("resnet", "resnetv2"), ("cifar_resnet*",), "relu",
            "cifar_resnet20", ("cifar_resnet32", "cifar_resnet56", "resnet18", "resnet50"),
        ),
        Family(
            "vit", ("vision_transformer", "deit"), ("cifar_vit_*",), "gelu",
            "cifar_vit_tiny", ("cifar_vit_small", "vit_tiny_patch16_224", "vit_small_patch16_224"),
        ),
    )
}  # fmt: skip


def family_of(architecture: str | nn.Module) -> str:
    """The family's name for a timm model name (``name`` or ``name.tag``) or a model that timm built.

    UnknownNameError where timm has no such model (with the nearest names) or the table above no row for it.
    """
    label, name, module = _identify(architecture)
    for family in FAMILIES.values():
        if module in family.modules or any(fnmatchcase(name, pattern) for pattern in family.patterns):
            return family.name
    where = f" (timm.models.{module})" if module else ""
    raise UnknownNameError(f"{label}{where} is of no family in the table; the families: {', '.join(FAMILIES)}")


def usual_activation(architecture: str | nn.Module) -> str:
    """The activation the architecture's family is used with, by its timm name ("relu"). Errors as `family_of`."""
    return FAMILIES[family_of(architecture)].activation


def _identify(architecture: str | nn.Module) -> tuple[str, str, str]:
    """(for messages, architecture name or "", submodule of timm.models or "")."""
    if isinstance(architecture, str):
        name = architecture.split(".")[0]
        if not timm.is_model(name):
            raise UnknownNameError(f"timm has no model {architecture!r}{nearest(name, timm.list_models())}")
        return architecture, name, _registered_in(name)
    model = unwrap_model(architecture)
    label = f"this {type(model).__name__}"
    cfg = getattr(model, "pretrained_cfg", None) or {}
    name = cfg.get("architecture") or ""
    if name and timm.is_model(name):
        return f"{label}, {name}", name, _registered_in(name)
    # Built from timm's class directly, or from a class derived from one.
    sources = (_submodule(base.__module__) for base in type(model).__mro__)
    return label, "", next((source for source in sources if source), "")


def _registered_in(name: str) -> str:
    # timm's own map rather than the entry point's __module__, which for a deprecated name is the registry
    return next((module for module in timm.list_modules() if is_model_in_modules(name, [module])), "")


def _submodule(module: str) -> str:
    return module.removeprefix("timm.models.") if module.startswith("timm.models.") else ""
