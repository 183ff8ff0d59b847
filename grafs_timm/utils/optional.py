"""Import libraries that an extra of this package installs, where they are used."""

from __future__ import annotations

import importlib
from typing import Any

from ..errors import DOCTOR, GrafsError


def required(module: str, extra: str, purpose: str) -> Any:
    """Import an optional module.

    Args:
        module: Its name.
        extra: The extra of this package that installs it.
        purpose: What needs it, for the error.

    Raises:
        GrafsError: It is missing or cannot be imported; says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        how = f"pip install 'grafs-timm[{extra}]'; {DOCTOR} lists what is installed"
        raise GrafsError(f"{purpose} needs {module}: {how} ({error})") from error
