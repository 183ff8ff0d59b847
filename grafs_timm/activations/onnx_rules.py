"""Add ONNX rules to torch's older exporter (TorchScript, ``dynamo=False``), the default of timm's ``onnx_export``.

It lacks rules for some functions that ONNX has had since opset 9.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable
from typing import Any

_OPERATORS = ("Asinh", "Sinh", "Cosh")
_SINCE = 9  # opset


@functools.cache
def add() -> None:
    """Register the missing rules, once a process; rules that are there already stay."""
    from torch.onnx import register_custom_op_symbolic

    for operator in _OPERATORS:
        if not _is_known(f"aten::{operator.lower()}"):
            register_custom_op_symbolic(f"aten::{operator.lower()}", _rule(operator), _SINCE)


def _rule(operator: str) -> Callable[..., Any]:
    def rule(graph: Any, x: Any) -> Any:
        return graph.op(operator, x).setType(x.type())

    return rule


def _is_known(name: str) -> bool:
    for place in ("torch.onnx._internal.torchscript_exporter.registration", "torch.onnx._internal.registration"):
        with contextlib.suppress(ImportError, AttributeError):  # the first since torch 2.9
            return bool(importlib.import_module(place).registry.is_registered_op(name, _SINCE))
    return False
