"""Handle layers that store which activation they were built with and compute by that instead of by the module.

Replacing the module is not enough there: the stored value must be reset or, where the layer uses nothing else, the activation
is reported as not replaced.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BY_NAME = "called by its name, not as the module"
FUSED = "fused with its layer"

_FLOAT = "torch.ao.nn.intrinsic.modules.fused"  # sequences of a layer and its ReLU, one unit in quantisation
_QUANTISED = ("torch.ao.nn.intrinsic.qat", "torch.ao.nn.intrinsic.quantized")
# torchvision's blocks end in a fused addition and ReLU; timm's InplaceAbn stores its activation's name
_FUSED = ("QuantizableBasicBlock", "QuantizableBottleneck", "InplaceAbn")

_LAYERS = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
_FUNCTIONS: dict[Callable[..., Tensor], type[nn.Module]] = {
    F.relu: nn.ReLU, torch.relu: nn.ReLU, F.gelu: nn.GELU, F.silu: nn.SiLU, F.elu: nn.ELU, F.selu: nn.SELU, F.celu: nn.CELU,
    F.leaky_relu: nn.LeakyReLU, F.relu6: nn.ReLU6, F.mish: nn.Mish, F.hardswish: nn.Hardswish, F.hardtanh: nn.Hardtanh,
    F.hardsigmoid: nn.Hardsigmoid, F.sigmoid: nn.Sigmoid, torch.sigmoid: nn.Sigmoid, F.tanh: nn.Tanh, torch.tanh: nn.Tanh,
    F.softplus: nn.Softplus, F.softsign: nn.Softsign, F.logsigmoid: nn.LogSigmoid, F.tanhshrink: nn.Tanhshrink,
    F.softshrink: nn.Softshrink, F.hardshrink: nn.Hardshrink,
}  # fmt: skip


def expose(layer: nn.Module) -> None:
    """Turn the function ``activation`` of one of torch's transformer layers into a module."""
    if isinstance(layer, _LAYERS):
        module = _FUNCTIONS.get(layer.__dict__.get("activation"))  # type: ignore[arg-type]
        if module is not None:
            layer.activation = module().train(layer.training)


def by_name(parent: nn.Module, child: nn.Module) -> bool:
    """Check whether ``parent``, a layer of transformers, computes by the stored name of its activation ``child``.

    Mamba and similar layers pass the name to a kernel (or its equivalent in torch) and never call the module.
    """
    module = sys.modules.get("transformers.activations")
    if module is None or not type(parent).__module__.startswith("transformers."):
        return False
    names = {value for value in parent.__dict__.values() if isinstance(value, str)} & module.ACT2CLS.keys()
    return any(type(module.ACT2FN[name]) is type(child) for name in names)


def fused(module: nn.Module) -> bool:
    """Check whether the module fuses an activation with a convolution, a linear layer, a norm or an addition."""
    kind = type(module)
    in_torch = kind.__module__.startswith(_QUANTISED) and any(name in kind.__name__ for name in ("ReLU", "Tanh"))
    return in_torch or kind.__name__ in _FUSED


def forget(model: nn.Module, parents: Collection[nn.Module]) -> None:
    """Make layers use their new activation.

    Args:
        model: The model.
        parents: Its modules that hold a new activation.
    """
    for layer in parents:
        if isinstance(layer, nn.TransformerEncoderLayer):
            layer.activation_relu_or_gelu = 0  # else torch's fused evaluation applies the ReLU or GELU it was built with
        elif type(layer).__module__ == _FLOAT and type(layer).forward is nn.Sequential.forward:
            layer.__class__ = nn.Sequential  # torch would quantise its class as a layer with the ReLU inside
    for encoder in model.modules():
        if isinstance(encoder, nn.TransformerEncoder) and not set(parents).isdisjoint(encoder.layers):
            encoder.use_nested_tensor = False  # only the fused evaluation takes nested tensors
