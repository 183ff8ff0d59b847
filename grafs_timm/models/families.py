"""Assign architectures to families, one row each.

A found activation is recommended per family (``grafs_resnet``), so this table decides what ``activation="auto"`` means.
Every submodule of timm.models that registers architectures is in one row. Related submodules share a row where structure and
default activation agree, so that one search serves them all. A row describes its small variant: a submodule whose variants
differ in their activation (byobnet, eva, maxxvit, metaformer, nfnet and others) is listed once; only MobileNetV2 has a row of its
own, before that of its submodule.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import timm
from timm.models import is_model_in_modules
from timm.utils import unwrap_model
from torch import nn

from ..errors import UnknownNameError
from ..utils.suggest import nearest
from . import benchmark_models as benchmark_models  # with small_models registers cifar_* and gpt_*

# What mixes positions: convolutions; attention; both; or dense layers or recurrences over the positions.
Kind = Literal["convolutional", "transformer", "hybrid", "mlp"]


@dataclass(frozen=True)
class Family:
    """Describe a family of architectures.

    Args:
        name: As in ``grafs_<family>``.
        modules: Submodules of timm.models whose architectures belong to it.
        patterns: Shell patterns of the names of further architectures.
        activation: timm's name of the default activation: the most frequent non-linearity of ``small`` as timm builds it,
            not counting gates (sigmoid, hard-sigmoid, soft-max).
        small: The architecture to search on.
        larger: Architectures to transfer the found activation to.
        kind: What mixes positions.
    """

    name: str
    modules: tuple[str, ...]
    patterns: tuple[str, ...]
    activation: str
    small: str
    larger: tuple[str, ...]
    kind: Kind


def _row(kind: Kind, name: str, activation: str, small: str, larger: str, modules: str, patterns: str = "") -> Family:
    return Family(name, tuple(modules.split()), tuple(patterns.split()), activation, small, tuple(larger.split()), kind)


# kind, family, default activation, small variant, larger ones, submodules of timm.models, patterns of further names
FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        _row("convolutional", "resnet",            "relu",       "cifar_resnet20",               "cifar_resnet32 cifar_resnet56 resnet18 resnet50", "resnet resnetv2 res2net resnest senet sknet tresnet", "cifar_resnet*"),
        _row("convolutional", "regnet",            "relu",       "regnetx_002",                  "regnety_004 regnetx_004 regnety_008 regnety_016", "regnet"),
        _row("convolutional", "byobnet",           "relu",       "mobileone_s1",                 "gernet_s repvgg_a0 repvgg_b0 gernet_l", "byobnet byoanet"),
        _row("convolutional", "vgg",               "relu",       "vgg11_bn",                     "vgg13_bn vgg16_bn vgg19_bn", "vgg", "cifar_vgg*"),
        _row("convolutional", "inception",         "relu",       "inception_v3",                 "inception_v4 inception_resnet_v2", "inception_v3 inception_v4 inception_resnet_v2"),
        _row("convolutional", "xception",          "relu",       "legacy_xception",              "xception41 xception65 nasnetalarge", "xception xception_aligned nasnet pnasnet"),
        _row("convolutional", "densenet",          "relu",       "densenet121",                  "densenet169 densenet201 dpn92", "densenet dpn selecsls"),
        _row("convolutional", "dla",               "relu",       "dla46x_c",                     "dla34 dla60 dla102", "dla"),
        _row("convolutional", "hrnet",             "relu",       "hrnet_w18_small",              "hrnet_w18_small_v2 hrnet_w18 hrnet_w32", "hrnet"),
        _row("convolutional", "vovnet",            "relu",       "ese_vovnet19b_slim_dw",        "ese_vovnet19b_dw hgnetv2_b2 ese_vovnet39b", "vovnet hgnet"),
        _row("convolutional", "ghostnet",          "relu",       "repghostnet_050",              "repghostnet_100 ghostnet_100 lcnetv2_base ghostnetv2_160", "ghostnet repghost lcnetv2"),
        _row("convolutional", "fasternet",         "relu",       "fasternet_t2",                 "fasternet_s fasternet_m fasternet_l", "fasternet"),
        _row("convolutional", "starnet",           "relu6",      "starnet_s050",                 "starnet_s1 starnet_s2 starnet_s4", "starnet"),
        _row("convolutional", "mobilenetv2",       "relu6",      "cifar_mobilenetv2",            "mobilenetv2_100 mobilenetv2_110d mobilenetv2_140", "", "cifar_mobilenetv2 mobilenetv2_*"),
        _row("convolutional", "efficientnet",      "silu",       "tinynet_e",                    "efficientnet_b0 tf_efficientnetv2_b0 rexnet_150 efficientnet_b3", "efficientnet rexnet"),
        _row("convolutional", "cspnet",            "silu",       "cspnext_tiny",                 "cs3darknet_m cspnext_m cs3darknet_l cs3darknet_x", "cspnet cspnext"),
        _row("convolutional", "nfnet",             "silu",       "nf_regnet_b0",                 "nf_regnet_b1 eca_nfnet_l0 nfnet_l0", "nfnet"),
        _row("convolutional", "mobilenetv3",       "hard_swish", "mobilenetv3_small_050",        "mobilenetv3_small_100 lcnet_100 mobilenetv3_large_100", "mobilenetv3 hardcorenas"),
        _row("convolutional", "convnext",          "gelu",       "convnext_zepto_rms",           "convnext_atto convnext_pico convnext_nano convnext_tiny", "convnext convmixer inception_next mambaout rdnet"),
        _row("convolutional", "focalnet",          "gelu",       "focalnet_tiny_srf",            "focalnet_small_srf focalnet_base_srf", "focalnet"),
        _row("transformer",   "vit",               "gelu",       "cifar_vit_tiny",               "cifar_vit_small vit_tiny_patch16_224 vit_small_patch16_224", "vision_transformer vision_transformer_relpos vision_transformer_sam deit beit eva naflexvit gemma4_vit qwen3_vit", "cifar_vit_*"),
        _row("transformer",   "swin",              "gelu",       "swin_tiny_patch4_window7_224", "swin_small_patch4_window7_224 swin_base_patch4_window7_224", "swin_transformer swin_transformer_v2 swin_transformer_v2_cr"),
        _row("transformer",   "pvt",               "gelu",       "pvt_v2_b0",                    "pvt_v2_b1 twins_svt_small pvt_v2_b2 twins_svt_base", "pvt_v2 twins"),
        _row("transformer",   "hiera",             "gelu",       "hiera_tiny_224",               "hiera_small_224 hiera_base_224 hiera_base_plus_224", "hiera hieradet_sam2 mvitv2"),
        _row("transformer",   "gcvit",             "gelu",       "gcvit_xxtiny",                 "gcvit_xtiny gcvit_tiny davit_tiny davit_small", "gcvit davit"),
        _row("transformer",   "pit",               "gelu",       "pit_ti_224",                   "pit_xs_224 nest_tiny pit_s_224 nest_small", "pit nest"),
        _row("transformer",   "xcit",              "gelu",       "xcit_nano_12_p16_224",         "xcit_tiny_12_p16_224 cait_xxs24_224 xcit_small_12_p16_224", "xcit cait"),
        _row("transformer",   "coat",              "gelu",       "coat_lite_tiny",               "coat_lite_mini coat_lite_small coat_lite_medium", "coat"),
        _row("transformer",   "convit",            "gelu",       "convit_tiny",                  "convit_small convit_base", "convit"),
        _row("transformer",   "crossvit",          "gelu",       "crossvit_tiny_240",            "crossvit_9_240 tnt_s_patch16_224 crossvit_small_240", "crossvit tnt"),
        _row("transformer",   "volo",              "gelu",       "volo_d1_224",                  "volo_d2_224 volo_d3_224", "volo"),
        _row("transformer",   "deepseek_vit",      "silu",       "deepseek_vit_412m",            "deepseek_vit_412m_align deepseek_vit_412m_enc", "deepseek_vit"),
        _row("hybrid",        "vit_hybrid",        "gelu",       "vit_tiny_r_s16_p8_224",        "vitamin_small_224 vit_small_r26_s32_224 vit_base_r50_s16_224", "vision_transformer_hybrid vitamin"),
        _row("hybrid",        "tiny_vit",          "gelu",       "visformer_tiny",               "tiny_vit_5m_224 tiny_vit_11m_224 tiny_vit_21m_224", "tiny_vit visformer"),
        _row("hybrid",        "efficientformer",   "gelu",       "efficientformerv2_s0",         "efficientformerv2_s1 swiftformer_l1 efficientformer_l1 efficientformerv2_l", "efficientformer efficientformer_v2 swiftformer"),
        _row("hybrid",        "edgenext",          "gelu",       "edgenext_xx_small",            "edgenext_x_small edgenext_small iformer_s edgenext_base", "edgenext iformer csatv2"),
        _row("hybrid",        "fastvit",           "gelu",       "fastvit_t8",                   "repvit_m1_0 fastvit_t12 fastvit_sa12 fastvit_sa24", "fastvit repvit"),
        _row("hybrid",        "metaformer",        "gelu",       "poolformer_s12",               "poolformer_s24 poolformer_s36 poolformer_m36", "metaformer"),
        _row("hybrid",        "mobilenetv5",       "gelu",       "mobilenetv5_base",             "mobilenetv5_300m mobilenetv5_300m_enc", "mobilenetv5"),
        _row("hybrid",        "mobilevit",         "silu",       "mobilevit_xxs",                "mobilevit_xs mobilevitv2_100 mobilevit_s", "mobilevit"),
        _row("hybrid",        "maxxvit",           "silu",       "maxvit_pico_rw_256",           "coatnet_nano_rw_224 maxvit_nano_rw_256 coatnet_0_rw_224 maxvit_tiny_rw_224", "maxxvit"),
        _row("hybrid",        "levit",             "hard_swish", "levit_128s",                   "levit_128 levit_192 levit_256", "levit"),
        _row("hybrid",        "efficientvit_mit",  "hard_swish", "efficientvit_b0",              "cpubone_nano efficientvit_b1 lowformer_b0 efficientvit_b2", "efficientvit_mit cpubone lowformer"),
        _row("hybrid",        "efficientvit_msra", "relu",       "efficientvit_m0",              "shvit_s1 efficientvim_m1 efficientvit_m3 efficientvit_m5", "efficientvit_msra efficientvim shvit"),
        _row("hybrid",        "nextvit",           "relu",       "nextvit_small",                "nextvit_base nextvit_large", "nextvit"),
        _row("mlp",           "mlp_mixer",         "gelu",       "cifar_mixer_tiny",             "cifar_mixer_small gmlp_ti16_224 mixer_s16_224 mixer_b16_224", "mlp_mixer sequencer", "cifar_mixer_*"),
        _row("transformer",   "gpt",               "gelu",       "gpt_mini",                     "gpt_tiny gpt_small", "", "gpt_mini gpt_tiny gpt_small"),
    )
}  # fmt: skip


def family_of(architecture: str | nn.Module) -> str:
    """Return the name of an architecture's family.

    Args:
        architecture: A timm model name (``name`` or ``name.tag``), or a model that timm built.

    Raises:
        UnknownNameError: timm has no such model (names the nearest), or it belongs to no family in the table.

    >>> family_of("resnet50.a1_in1k"), family_of("vit_tiny_patch16_224")
    ('resnet', 'vit')
    """
    label, name, module = _identify(architecture)
    for family in FAMILIES.values():
        if module in family.modules or any(fnmatchcase(name, pattern) for pattern in family.patterns):
            return family.name
    where = f" (timm.models.{module})" if module else ""
    raise UnknownNameError(f"{label}{where} belongs to no family in the table; the families: {', '.join(FAMILIES)}")


def default_activation(architecture: str | nn.Module) -> str:
    """Return timm's name of the family's default activation, such as "relu". Errors as `family_of`."""
    return FAMILIES[family_of(architecture)].activation


def nearest_family(family: str, have: Iterable[str]) -> str | None:
    """Choose the family whose activation is the likeliest substitute for another family's.

    Args:
        family: The family to find a substitute for.
        have: Families to choose from; names that the table lacks are ignored.

    Returns:
        ``family`` itself if it is in ``have``; else one with the same default activation, else of the same kind, else the
        first in the table's order. None if there is none to choose from.

    Raises:
        UnknownNameError: The table lacks ``family``.
    """
    if family not in FAMILIES:
        raise UnknownNameError(f"there is no family {family!r}{nearest(family, FAMILIES)}")
    wanted = FAMILIES[family]

    def distance(other: Family) -> tuple[bool, bool, bool]:
        return other.name != family, other.activation != wanted.activation, other.kind != wanted.kind

    known = set(have)
    candidates = [other for other in FAMILIES.values() if other.name in known]
    return min(candidates, key=distance).name if candidates else None


def check_name(architecture: str) -> None:
    """Raise UnknownNameError, with the nearest names, where timm has no such model; ``hf-hub:`` and ``local-dir:`` pass."""
    name = architecture.split(".")[0]
    if ":" not in architecture and not timm.is_model(name):
        raise UnknownNameError(f"timm has no model {architecture!r}{nearest(name, timm.list_models())}")


def _identify(architecture: str | nn.Module) -> tuple[str, str, str]:
    """Return (label for messages, architecture name or "", submodule of timm.models or "")."""
    if isinstance(architecture, str):
        check_name(architecture)
        name = architecture.split(".")[0]
        return architecture, name, _registered_in(name)
    model = unwrap_model(architecture)
    label = f"this {type(model).__name__}"
    cfg = getattr(model, "pretrained_cfg", None) or {}
    name = cfg.get("architecture") or ""
    if not timm.is_model(name):
        name = ""
    module = _registered_in(name) if name else ""
    if not module:  # built from a class of timm's or one derived from it
        sources = (_submodule(base.__module__) for base in type(model).__mro__)
        module = next((source for source in sources if source), "")
    return f"{label}, {name}" if name else label, name, module


def _registered_in(name: str) -> str:
    # timm's map files a user's own model under "resnet" too if its module is called resnet.py
    if not timm.model_entrypoint(name).__module__.startswith("timm."):
        return ""
    # not the entry point's __module__, which for a deprecated name is the registry
    return next((module for module in timm.list_modules() if is_model_in_modules(name, [module])), "")


def _submodule(module: str) -> str:
    return module.removeprefix("timm.models.") if module.startswith("timm.models.") else ""
