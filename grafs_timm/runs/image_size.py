"""Advise on the key to set where a model refuses images for their size."""

from __future__ import annotations

import warnings
from typing import Any

import timm
import torch

from ..config.schema import Recipe

_USUAL = (32, 64, 128, 224)  # pixels a side to try, beside the model's own


def advice(recipe: Recipe, settings: dict[str, Any], shape: tuple[int, int, int]) -> str:
    """Return the end of an error message: what to set so that the model takes the images; "" where the size is not the cause.

    What is advised was tried, on torch's meta device, which computes no values.

    Args:
        recipe: Whose model refuses them.
        settings: Further arguments of ``timm.create_model``, its ``model_kwargs`` included.
        shape: (C, H, W) of the images.
    """
    channels, height, width = shape
    size = height if height == width else [height, width]
    if _takes(recipe.model, settings, shape):  # so it failed for another reason, such as a full GPU
        return ""
    if _takes(recipe.model, {**settings, "img_size": size}, shape):
        own = "search." if "img_size" in (recipe.search.model_kwargs or {}) else ""
        return f"; build it for them: --set {own}model_kwargs.img_size={size}".replace(", ", ",")
    sizes = sorted({*_USUAL, *_own_size(recipe.model)} - {height}, key=lambda one: abs(one - height))
    if found := next((one for one in sizes if _takes(recipe.model, settings, (channels, one, one))), None):
        own = ", and search.image_size likewise" if recipe.search.image_size else ""
        return f"; resize them: --set data.image_size={found}{own}"
    return ""


def _own_size(model: str) -> set[int]:
    known = timm.get_pretrained_cfg(model)
    return {known.input_size[-1]} if known else set()


def _takes(model: str, settings: dict[str, Any], shape: tuple[int, int, int]) -> bool:
    try:
        with warnings.catch_warnings(), torch.device("meta"), torch.no_grad():
            warnings.simplefilter("ignore")
            timm.create_model(model, **settings).eval()(torch.zeros(2, *shape, device="meta"))
    except Exception:  # whatever an architecture raises
        return False
    return True
