"""Put 256-entry tables into a model that PyTorch's post-training quantisation has converted."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, fx, nn

from ..activations.activation import FormulaActivation
from .int8 import Int8Table, QuantisationError, int8_table


class Int8Activation(nn.Module):
    """Compute an activation from a quantised tensor to a quantised tensor by a table.

    Args:
        activation: The float module.
        scale, zero_point: Of the output.
    """

    def __init__(self, activation: nn.Module, scale: float, zero_point: int) -> None:
        super().__init__()
        self.activation, self.scale, self.zero_point = activation, scale, zero_point
        self._tables: dict[tuple[float, int, bool], Int8Table] = {}

    def forward(self, x: Tensor) -> Tensor:
        """Return f(x), quint8 or qint8 as x is. The table is made at the first x of a scale."""
        key = x.q_scale(), x.q_zero_point(), x.dtype == torch.qint8
        if key not in self._tables:
            self._tables = {key: int8_table(self.activation, key[0], self.scale, key[1], self.zero_point, key[2])}
        return self._tables[key](x)


def int8_activations(converted: fx.GraphModule) -> fx.GraphModule:
    """Replace dequantise → found or published activation → quantise by a table.

    Args:
        converted: What ``torch.ao.quantization.quantize_fx.convert_fx`` returned.

    Returns:
        A copy whose activations work on 8-bit numbers; `Int8Activation` has their scales.

    Raises:
        QuantisationError: No activation lies between two quantised tensors.

    >>> import timm, warnings
    >>> from torch.ao.quantization import get_default_qconfig_mapping, quantize_fx
    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), timm.layers.create_act_layer("golu"), nn.Conv2d(4, 2, 3)).eval()
    >>> x = torch.randn(2, 3, 8, 8)
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")
    ...     prepared = quantize_fx.prepare_fx(model, get_default_qconfig_mapping("x86"), (x,))
    ...     _ = prepared(x)
    ...     int8_activations(quantize_fx.convert_fx(prepared))(x).shape
    torch.Size([2, 2, 4, 4])
    """
    model, found = copy.deepcopy(converted), 0
    modules = dict(model.named_modules())
    for node in list(model.graph.nodes):
        if node.target is not torch.quantize_per_tensor:
            continue
        called, scale, zero_point = node.args[:3]
        layer = modules.get(str(called.target)) if called.op == "call_module" else None
        if not isinstance(layer, FormulaActivation):
            continue
        before = called.args[0]
        if before.op != "call_method" or before.target != "dequantize":
            continue
        name = f"int8_activation_{found}"
        own = Int8Activation(layer, float(getattr(model, scale.target)), int(getattr(model, zero_point.target)))
        model.add_submodule(name, own)
        with model.graph.inserting_before(node):
            node.replace_all_uses_with(model.graph.call_module(name, (before.args[0],)))
        found += 1
    if not found:
        raise QuantisationError("no found or published activation lies between two quantised tensors; quantise its neighbours")
    model.graph.eliminate_dead_code()
    model.delete_all_unused_submodules()
    model.recompile()
    return model
