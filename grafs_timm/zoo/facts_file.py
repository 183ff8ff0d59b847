"""Read ``zoo/published.json``: facts and cost of the published activation functions, by name."""

from __future__ import annotations

import functools
from typing import Any

from ..utils import resources, strict_json

NAME = "published.json"


@functools.cache
def read() -> dict[str, dict[str, Any]]:
    """Return name -> {"facts": as `activations.facts.Facts`, "cost": forward and backward ÷ GELU's, or None}."""
    data: dict[str, dict[str, Any]] = strict_json.read(resources.folder("zoo") / NAME)
    return data
