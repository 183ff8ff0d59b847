"""Turn activations that models of timm and torch call as functions into modules, so that they can be replaced."""

from __future__ import annotations

from typing import Any

from timm.layers.filter_response_norm import FilterResponseNormTlu2d, inv_instance_rms
from timm.models.mobilevit import LinearSelfAttention
from timm.models.nfnet import GammaAct
from torch import Tensor, nn
from torch.nn import functional as F

from ..activations import timm_maps
from ..errors import GrafsError
from . import hooks, remembered


class ScaledActivation(nn.Module):
    """gain · act(x), the activation of DeepMind's NFNets; the gain keeps the variance of a standard normal input."""

    def __init__(self, act: nn.Module, gain: float) -> None:
        super().__init__()
        self.act = act
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        """Return gain · act(x), like x."""
        return self.act(x) * self.gain


class ActivatedLinearSelfAttention(LinearSelfAttention):
    """MobileViTv2's separable self-attention (Mehta and Rastegari 2022) with the ReLU of its values as a module ``act``.

    Self-attention only, [B,C,P,N] in and out, as all of timm's architectures use it.
    """

    def forward(self, x: Tensor, x_prev: Tensor | None = None) -> Tensor:
        """Map [B,C,P,N] to [B,C,P,N]. Raises GrafsError for cross-attention."""
        if x_prev is not None:
            raise GrafsError("cross-attention of MobileViTv2 has no replaceable activation")
        width = self.embed_dim
        query, key, value = self.qkv_proj(x).split([1, width, width], dim=1)
        context = (key * self.attn_drop(F.softmax(query, dim=-1))).sum(dim=-1, keepdim=True)
        return self.out_drop(self.out_proj(self.act(value) * context))


class ActivatedFilterResponseNorm(FilterResponseNormTlu2d):
    """Filter response normalisation (Singh and Krishnan 2020) with its thresholded unit max(y, τ) as act(y − τ) + τ."""

    def forward(self, x: Tensor) -> Tensor:
        """Map [B,C,H,W] to [B,C,H,W]."""
        weight, bias, tau = (p.view(1, -1, 1, 1).to(x.dtype) for p in (self.weight, self.bias, self.tau))
        return self.act(x * inv_instance_rms(x, self.eps) * weight + bias - tau) + tau


def expose(model: nn.Module) -> None:
    """Turn each activation called as a function into a module, in place; the model's output stays the same."""
    for parent in list(model.modules()):
        remembered.expose(parent)
        if type(parent) is LinearSelfAttention:
            parent.act = nn.ReLU()
            parent.__class__ = ActivatedLinearSelfAttention
        elif type(parent) is FilterResponseNormTlu2d and parent.tau is not None:
            parent.act = nn.ReLU()
            parent.__class__ = ActivatedFilterResponseNorm
        for attribute, child in parent._modules.items():
            if isinstance(child, GammaAct):
                made = ScaledActivation(_layer_of(child)(), child.gamma).train(child.training)
                parent._modules[attribute] = hooks.share(child, made)


def _layer_of(gamma_act: GammaAct) -> Any:
    for known in timm_maps.find().functions:
        for name, function in known.items():
            if function is gamma_act.act_fn:
                return timm_maps.layer(name)
    raise GrafsError(f"GammaAct applies {gamma_act.act_fn!r}, which timm has no module for")
