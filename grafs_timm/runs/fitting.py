"""Choose the settings that a recipe leaves to the machine: ``amp: auto``, ``channels_last: auto``, ``compile: auto``.

A run keeps what was chosen in its run.json, so that it resumes on another machine as it began.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import timm
import torch
from torch import nn

from ..config.schema import Recipe
from ..errors import DOCTOR, GrafsWarning
from ..utils import hardware

WORTH_COMPILING = 5_000  # steps of a search on a CPU
_ROUNDS = 3


def fit(recipe: Recipe, device: str, kept: dict[str, Any] | None = None) -> tuple[Recipe, dict[str, str]]:
    """Settle ``amp`` and ``channels_last`` where the recipe says auto.

    Args:
        recipe: With or without ``auto``.
        device: "cpu", "cuda" or "cuda:N".
        kept: The values that a half-done run began with.

    Returns:
        The recipe without ``auto``, and a reason for each key that was settled.

    >>> settled, why = fit(Recipe(model="resnet18", data="digits", channels_last="auto"), "cpu")
    >>> settled.channels_last, why["channels_last"]
    (True, 'true (a model of convolutions)')
    """
    why: dict[str, str] = {}
    for key, choose in (("amp", _amp), ("channels_last", _channels_last)):  # in this order: the second looks at the first
        if getattr(recipe, key) == "auto":
            value, reason = choose(recipe, device)
            if kept and key in kept:
                value, reason = kept[key], "as the run began"
            recipe = recipe.model_copy(update={key: value})
            why[key] = f"{str(value).lower()} ({reason})"
    return recipe, why


def _amp(recipe: Recipe, device: str) -> tuple[str, str]:
    if device.startswith("cuda"):
        there = torch.cuda.is_bf16_supported(including_emulation=False)
        return ("bf16", "this GPU computes in bfloat16") if there else ("off", "this GPU has no bfloat16")
    if hardware.has_bf16():
        return "bf16", "this processor has bfloat16 instructions"
    return "off", "this processor has no bfloat16 instructions"


def _channels_last(recipe: Recipe, device: str) -> tuple[bool, str]:
    if device != "cpu" and recipe.amp == "off":
        return False, "a GPU gains by it in mixed precision only"
    return (True, "a model of convolutions") if is_convolutional(recipe) else (False, "not a model of convolutions")


def is_convolutional(recipe: Recipe) -> bool:
    """Return whether most layers with weights of the recipe's model are convolutions of images.

    Such a model is faster in channels_last on a CPU; of a transformer only the patch embedding is a convolution.
    """
    from ..models import small_models  # noqa: F401  registers the small models of the paper

    try:
        with torch.device("meta"):
            modules = list(timm.create_model(recipe.model, **recipe.model_kwargs).modules())
    except Exception:  # an unknown name, or arguments that do not fit: `make_model` says so
        return False
    convolutions = sum(isinstance(module, nn.Conv2d) for module in modules)
    return convolutions > sum(isinstance(module, nn.Linear) for module in modules)


def compiles(recipe: Recipe, steps: int, device: str) -> tuple[bool, str]:
    """Return whether a search compiles its tabulation, and why: half a minute at first, then milliseconds less in every step.

    It depends on the recipe and the kind of device alone, so that a resumed search computes as the stopped one did.

    Args:
        recipe: Of the search.
        steps: Of the whole search.
        device: "cpu", "cuda" or "cuda:N".
    """
    if recipe.compile != "auto":
        return recipe.compile == "model", "as the recipe says"
    if device != "cpu":
        return True, "on a GPU"
    return steps >= WORTH_COMPILING, f"{steps} steps; it pays from {WORTH_COMPILING}"


def warn_if_emulated(recipe: Recipe, device: str) -> None:
    """Warn where bfloat16 was asked for on a processor that emulates it, with the factor that it costs there."""
    if recipe.amp == "bf16" and device == "cpu" and not hardware.has_bf16():
        warnings.warn(
            "amp: this processor has no bfloat16 instructions and emulates them: a convolution takes "
            f"{_slowdown():.0f} times as long as in float32; set amp=off, or amp=auto to use bfloat16 only where it is fast "
            f"({DOCTOR} shows what this machine has)",
            GrafsWarning,
        )


def _slowdown() -> float:
    """Time a convolution forward and backward in bfloat16 ÷ float32."""
    layer, images = nn.Conv2d(32, 32, 3, padding=1, device="cpu"), torch.randn(16, 32, 16, 16, device="cpu")
    wide = _seconds(lambda: layer(images).sum().backward())
    layer, images = layer.bfloat16(), images.bfloat16()
    return _seconds(lambda: layer(images).sum().backward()) / wide


def _seconds(step: Callable[[], object]) -> float:
    times = []
    for _ in range(_ROUNDS):
        begin = time.perf_counter()
        step()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)
