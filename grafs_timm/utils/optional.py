"""Libraries that only an extra of this package brings: imported where they are used, and named where they are missing."""

from __future__ import annotations

import importlib
from typing import Any

from ..errors import GrafsError


def required(module: str, extra: str, purpose: str) -> Any:
    """The imported ``module``. GrafsError that says what installs it where it is missing or cannot be imported."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise GrafsError(f"{purpose} needs {module}: pip install 'grafs-timm[{extra}]' ({error})") from error
