"""Define the published activation functions, one row each; `published` reads this table.

A row's function is that of its paper with the default constants; ``compute`` keeps value and gradient finite for every finite
input. Functions with trained parameters are another kind and are not here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy  # loads its parts when they are used
import torch
import torch.nn.functional as F
from torch import Tensor

from . import ops
from .ops import Array

_EXP = 20.0  # exp(exp(−x)) and exp(exp(x)) have reached their limits beyond ±20 in float64
_FAR = 1e15  # beyond it a curve is its asymptote, and x² does not overflow float32 before it


@dataclass(frozen=True)
class Row:
    """Define one published function.

    Args:
        name: As ``act_layer`` spells it.
        title: As its authors spell it.
        compute: ``compute(x, **constants)`` maps a float32 or float64 tensor of finite numbers to the same shape.
        reference: The same function in NumPy float64, written independently for the tests.
        sympy: ``sympy(S, x, **constants)`` builds the symbolic form from the namespace S of ``formula.namespace``.
        shape: The family of shapes that it belongs to, a key of `SHAPES`.
        source: Paper, year and arXiv number or DOI.
        claim: What the authors report, in one line.
        constants: Name -> default value.
        also: Later or other names of the same function.
    """

    name: str
    title: str
    compute: Callable[..., Tensor]
    reference: Callable[..., Array]
    sympy: Callable[..., Any]
    shape: str
    source: str
    claim: str
    constants: Mapping[str, float] = field(default_factory=dict)
    also: tuple[str, ...] = ()


SHAPES = {
    "one-sided": "zero for negative x, or nearly a straight line there",
    "exponential": "the identity for positive x, an exponential that levels off for negative x",
    "smooth ReLU": "convex and monotone, between 0 and x",
    "gated": "the identity times a gate that rises from 0 to 1: a dip below 0, then x",
    "other gate": "the identity times another function, which need not rise or end at 1",
    "power": "grows faster than x",
    "wave": "a sine is part of it",
}


def _softplus(x: Tensor) -> Tensor:
    return F.softplus(x, threshold=40)


def _gelu(x: Tensor) -> Tensor:
    return ops.OPS[1]["gelu"].compute(x, gamma=None, limits=ops.LIFTED)


def _sinc(x: Tensor) -> Tensor:
    return ops.OPS[1]["sinc"].compute(x, gamma=None, limits=ops.LIFTED)


def _square(x: Tensor) -> Tensor:
    root = math.sqrt(torch.finfo(x.dtype).max)
    return x.clamp(-root, root).square()


def _expit(x: Array) -> Array:
    return scipy.special.expit(x)


def _softplus64(x: Array) -> Array:
    return np.logaddexp(x, 0)


def _gelu64(x: Array) -> Array:
    return x * scipy.special.ndtr(x)


def _elu64(x: Array) -> Array:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def _gelu_tanh(x: Tensor) -> Tensor:
    near = x.clamp(-12.0, 12.0)  # beyond it the gate is 0 or 1, and x³ could overflow
    return x * (2 * math.sqrt(2 / math.pi) * (near + 0.044715 * near.pow(3))).sigmoid()


def _squareplus(x: Tensor, b: float) -> Tensor:
    below, above = x.clamp(-_FAR, 0.0), x.clamp(min=0.0)  # for x < 0 the plain formula is a difference of nearly equal numbers
    root = (above.clamp(max=_FAR).square() + b).sqrt()
    rising = torch.where(above > _FAR, above, (above + root) / 2)
    return torch.where(x < 0, b / 2 / ((below.square() + b).sqrt() - below), rising)


def _isrlu(x: Tensor, alpha: float) -> Tensor:
    below = x.clamp(-_FAR, 0.0)
    return F.relu(x) + below / (1 + alpha * below.square()).sqrt()


def _serlu(x: Tensor, scale: float, alpha: float) -> Tensor:
    below = x.clamp(-800.0, 0.0)  # the exponential is 0 beyond in every dtype
    return scale * (F.relu(x) + alpha * (below * below.exp()))


def _colu(x: Tensor) -> Tensor:
    below, above = x.clamp(-800.0, 0.0), x.clamp(0.0, _EXP)  # two forms of one gate, neither of which overflows on its side
    grown = (below + below.exp()).exp()
    fallen = above * (-(above + above.exp())).exp()
    return x * torch.where(x < 0, grown / (grown - below), 1 / (1 - fallen))


def _eis(x: Tensor, delta: float) -> Tensor:
    near = x.clamp(-40.0, _FAR)  # further below, f is 0 in every dtype
    return x * (_softplus(near) / (near + delta * (-near).exp()))


def _eis_root(x: Tensor) -> Tensor:
    near = x.clamp(-_FAR, _FAR)
    return _softplus(x) * (near / (1 + near.square()).sqrt())


def _serf(x: Tensor) -> Tensor:
    near = x.clamp(-800.0, _EXP)  # erf's slope times a number near the dtype's largest would overflow
    return near * _softplus(near).erf() + F.relu(x - _EXP)


def _gelu_tanh64(x: Array) -> Array:
    near = np.clip(x, -1e4, 1e4)
    return x * _expit(2 * math.sqrt(2 / math.pi) * (near + 0.044715 * near**3))


_GELU_PAPER = "Hendrycks, Gimpel 2016, arXiv 1606.08415"
_SWISH_PAPER = "Ramachandran, Zoph, Le 2017, arXiv 1710.05941"
_SINE_PAPER = "Vitvitskyi et al. 2026, arXiv 2602.05688"
_TANHSOFT = "Biswas et al. 2020, arXiv 2009.03863"
_EIS = "Biswas et al. 2020, arXiv 2009.13501"
_ELISH_PAPER = "Basirat, Roth 2018, arXiv 1808.00783"

ROWS = (
    # --- one-sided
    Row(
        "relu", "ReLU", F.relu, lambda x: np.maximum(x, 0), lambda S, x: S.ReLU(x), "one-sided",
        "Nair, Hinton 2010, ICML", "better features than binary units in restricted Boltzmann machines",
    ),
    Row(
        "relu6", "ReLU6", lambda x: x.clamp(0.0, 6.0), lambda x: np.clip(x, 0, 6), lambda S, x: S.Min(S.ReLU(x), 6),
        "one-sided", "Howard et al. 2017 (MobileNets), arXiv 1704.04861", "suits low-precision inference",
    ),
    Row(
        "leaky_relu", "LeakyReLU", lambda x, slope: F.leaky_relu(x, slope), lambda x, slope: np.where(x > 0, x, slope * x),
        lambda S, x, slope: S.ReLU(x) + slope * S.NegPart(x), "one-sided",
        "Maas, Hannun, Ng 2013, ICML workshop", "keeps a gradient below 0; as good as ReLU in acoustic models", {"slope": 0.01},
    ),
    # --- exponential
    Row(
        "elu", "ELU", lambda x, alpha: F.elu(x, alpha), lambda x, alpha: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))),
        lambda S, x, alpha: S.ReLU(x) + alpha * S.NegPart(S.exp(x) - 1), "exponential",
        "Clevert, Unterthiner, Hochreiter 2015, arXiv 1511.07289", "faster learning, better CIFAR-100 than ReLU",
        {"alpha": 1.0},
    ),
    Row(
        "selu", "SELU", lambda x, scale, alpha: scale * F.elu(x, alpha),
        lambda x, scale, alpha: scale * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))),
        lambda S, x, scale, alpha: scale * (S.ReLU(x) + alpha * S.NegPart(S.exp(x) - 1)), "exponential",
        "Klambauer et al. 2017, arXiv 1706.02515", "deep fully connected networks keep mean 0 and variance 1 without norms",
        {"scale": 1.0507009873554805, "alpha": 1.6732632423543772},
    ),
    Row(
        "celu", "CELU", lambda x, alpha: F.celu(x, alpha),
        lambda x, alpha: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0) / alpha)),
        lambda S, x, alpha: S.ReLU(x) + alpha * S.NegPart(S.exp(x / alpha) - 1), "exponential",
        "Barron 2017, arXiv 1704.07483", "ELU with a continuous slope for every α", {"alpha": 1.0},
    ),
    Row(
        "isrlu", "ISRLU", _isrlu, lambda x, alpha: np.where(x > 0, x, x / np.sqrt(1 + alpha * x * x)),
        lambda S, x, alpha: S.ReLU(x) + S.NegPart(x) / S.sqrt(1 + alpha * S.NegPart(x) ** 2), "exponential",
        "Carlile et al. 2017, arXiv 1710.09967", "ELU's shape at less cost", {"alpha": 1.0},
    ),
    Row(
        "serlu", "SERLU", _serlu, lambda x, scale, alpha: scale * np.where(x > 0, x, alpha * x * np.exp(np.minimum(x, 0))),
        lambda S, x, scale, alpha: scale * (S.ReLU(x) + alpha * S.NegPart(x) * S.exp(S.NegPart(x))), "exponential",
        "Zhang, Li 2018, arXiv 1807.10117", "self-normalising like SELU, with a dip",
        {"scale": 1.07862, "alpha": 2.90427},
    ),
    Row(
        "elish", "ELiSH", lambda x: F.elu(x) * x.sigmoid(), lambda x: _elu64(x) * _expit(x),
        lambda S, x: S.ELU(x) * S.Sigmoid(x), "exponential", _ELISH_PAPER, "found by genetic algorithms on CIFAR and ImageNet",
    ),
    Row(
        "hard_elish", "HardELiSH", lambda x: F.elu(x) * ((x + 1) / 2).clamp(0, 1),
        lambda x: _elu64(x) * np.clip((x + 1) / 2, 0, 1),
        lambda S, x: S.ELU(x) * S.ReLU(S.Min((x + 1) / 2, 1)), "exponential", _ELISH_PAPER, "ELiSH with a hard sigmoid",
    ),
    # --- smooth ReLU
    Row(
        "softplus", "Softplus", _softplus, _softplus64, lambda S, x: S.Softplus(x), "smooth ReLU",
        "Dugas et al. 2000, NeurIPS", "convex, monotone and smooth models of option prices",
    ),
    Row(
        "shifted_softplus", "shifted softplus", lambda x: _softplus(x) - math.log(2), lambda x: _softplus64(x) - math.log(2),
        lambda S, x: S.Softplus(x) - S.constant(math.log(2)), "smooth ReLU",
        "Schütt et al. 2017 (SchNet), arXiv 1706.08566", "smooth potential energy surfaces, with f(0) = 0",
    ),
    Row(
        "squareplus", "Squareplus", _squareplus,
        lambda x, b: np.where(x < 0, b / 2 / (np.sqrt(x * x + b) + np.abs(x)), (x + np.sqrt(x * x + b)) / 2),
        lambda S, x, b: (x + S.sqrt(x**2 + b)) / 2, "smooth ReLU",
        "Barron 2021, arXiv 2112.11687", "softplus's shape by algebra alone", {"b": 4.0},
    ),
    Row(
        "nlrelu", "NLReLU", lambda x, beta: (beta * F.relu(x)).clamp(max=torch.finfo(x.dtype).max).log1p(),
        lambda x, beta: np.log1p(beta * np.maximum(x, 0)), lambda S, x, beta: S.log(beta * S.ReLU(x) + 1), "one-sided",
        "Liu et al. 2019, arXiv 1908.03682", "above ReLU in shallow networks on CIFAR-10", {"beta": 1.0},
    ),
    # --- gated
    Row(
        "gelu", "GELU", _gelu, _gelu64, lambda S, x: S.GELU(x), "gated", _GELU_PAPER,
        "above ReLU and ELU in vision, language and speech",
    ),
    Row(
        "gelu_tanh", "GELU (tanh)", _gelu_tanh, _gelu_tanh64,
        lambda S, x: x * (1 + S.tanh(S.constant(math.sqrt(2 / math.pi)) * (x + S.constant(0.044715) * x**3))) / 2, "gated",
        _GELU_PAPER, "an approximation of GELU", also=("gelu_new",),
    ),
    Row(
        "quick_gelu", "QuickGELU", lambda x, beta: x * (beta * x).sigmoid(), lambda x, beta: x * _expit(beta * x),
        lambda S, x, beta: x * S.Sigmoid(beta * x), "gated", _GELU_PAPER, "a cheaper approximation of GELU", {"beta": 1.702},
    ),
    Row(
        "silu", "SiLU, Swish", F.silu, lambda x: x * _expit(x), lambda S, x: S.SiLU(x), "gated",
        f"Elfwing, Uchibe, Doya 2017, arXiv 1702.03118; {_SWISH_PAPER}", "above ReLU on ImageNet, found by a search",
        also=("swish",),
    ),
    Row(
        "e_swish", "E-Swish", lambda x, beta: beta * F.silu(x), lambda x, beta: beta * x * _expit(x),
        lambda S, x, beta: beta * S.SiLU(x), "gated", "Alcaide 2018, arXiv 1801.07145", 
        "above ReLU and Swish on CIFAR with β of 1.125 to 1.375",
        {"beta": 1.375},
    ),
    Row(
        "hard_swish", "Hardswish", lambda x: x * (x / 6 + 0.5).clamp(0, 1), lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
        lambda S, x: x * S.Min(S.ReLU(x + 3), 6) / 6, "gated", "Howard et al. 2019 (MobileNetV3), arXiv 1905.02244",
        "Swish's accuracy at less latency on phones", also=("hardswish",),
    ),
    Row(
        "mish", "Mish", lambda x: x * _softplus(x).tanh(), lambda x: x * np.tanh(_softplus64(x)),
        lambda S, x: x * S.tanh(S.Softplus(x)), "gated", "Misra 2019, arXiv 1908.08681",
        "above Swish and ReLU on CIFAR, ImageNet and COCO",
    ),
    Row(
        "golu", "GoLU", lambda x: x * (-(-x.clamp(min=-_EXP)).exp()).exp(), lambda x: x * np.exp(-np.exp(-np.maximum(x, -50))),
        lambda S, x: x * S.exp(-S.exp(-x)), "gated", "Das et al. 2025, arXiv 2502.03654",
        "above GELU, Swish and ReLU on ImageNet, COCO and TinyStories",
    ),
    Row(
        "serf", "Serf", _serf, lambda x: x * scipy.special.erf(_softplus64(x)),
        lambda S, x: x * S.erf(S.Softplus(x)), "gated", "Nag et al. 2021, arXiv 2108.09598",
        "above ReLU, Swish and Mish in vision and language",
    ),
    Row(
        "tanhexp", "TanhExp, TeLU", lambda x: x * x.clamp(max=_EXP).exp().tanh(),
        lambda x: x * np.tanh(np.exp(np.minimum(x, 50))), lambda S, x: x * S.tanh(S.exp(x)), "gated",
        "Liu, Di 2020, arXiv 2003.09855; again as TeLU by Fernandez, Mali 2024, arXiv 2412.20269",
        "faster convergence of lightweight networks", also=("telu",),
    ),
    Row(
        "smish", "Smish", lambda x: x * x.sigmoid().log1p().tanh(), lambda x: x * np.tanh(np.log1p(_expit(x))),
        lambda S, x: x * S.tanh(S.log(1 + S.Sigmoid(x))), "gated", "Wang, Ren, Wang 2022, doi 10.3390/electronics11040540",
        "above Mish on CIFAR-10",
    ),
    Row(
        "logish", "Logish", lambda x: x * x.sigmoid().log1p(), lambda x: x * np.log1p(_expit(x)),
        lambda S, x: x * S.log(1 + S.Sigmoid(x)), "gated", "Zhu et al. 2021, doi 10.1016/j.neucom.2021.06.067",
        "above Swish and Mish on CIFAR-10",
    ),
    Row(
        "phish", "Phish", lambda x: x * _gelu(x).tanh(), lambda x: x * np.tanh(_gelu64(x)),
        lambda S, x: x * S.tanh(S.GELU(x)), "other gate", "Naveen 2022, doi 10.36227/techrxiv.17283824",
        "above Swish, ReLU and GELU on small classification tasks",
    ),
    Row(
        "gish", "Gish", lambda x: x * (-F.elu(-x.clamp(max=_EXP).exp())).log1p(),
        lambda x: x * np.log(2 - np.exp(-np.exp(np.minimum(x, 50)))), lambda S, x: x * S.log(2 - S.exp(-S.exp(x))), "gated",
        "Kaytan et al. 2023, doi 10.1007/s00521-023-09035-5", "above Swish, Mish, Logish and Smish on CIFAR-10",
    ),
    Row(
        "aria2", "Aria-2", lambda x, alpha, beta: x * (-alpha * _softplus(-beta * x.clamp(-_FAR, _FAR))).exp(),
        lambda x, alpha, beta: x * np.exp(-alpha * _softplus64(-beta * x)),
        lambda S, x, alpha, beta: x * (1 + S.exp(-beta * x)) ** (-alpha), "gated",
        "Patwardhan et al. 2018, arXiv 1805.08878", "above ReLU, ELU and Swish on CIFAR", {"alpha": 1.5, "beta": 2.0},
    ),
    Row(
        "colu", "CoLU", _colu, lambda x: x / (1 - x * np.exp(-(x + np.exp(np.minimum(x, 50))))),
        lambda S, x: x / (1 - x * S.exp(-(x + S.exp(x)))), "gated", "Vagerwal 2021, arXiv 2112.12078",
        "above Swish, Mish and ReLU on CIFAR-10",
    ),
    Row(
        "tanhsoft_06", "TanhSoft x·tanh(0.6eˣ)", lambda x, gamma: x * (gamma * x.clamp(max=_EXP).exp()).tanh(),
        lambda x, gamma: x * np.tanh(gamma * np.exp(np.minimum(x, 50))), lambda S, x, gamma: x * S.tanh(gamma * S.exp(x)),
        "gated", _TANHSOFT, "above ReLU on CIFAR-10", {"gamma": 0.6},
    ),
    Row(
        "tanhsoft_087", "TanhSoft tanh(0.87x)·softplus x", lambda x, alpha: (alpha * x).tanh() * _softplus(x),
        lambda x, alpha: np.tanh(alpha * x) * _softplus64(x), lambda S, x, alpha: S.tanh(alpha * x) * S.Softplus(x),
        "gated", _TANHSOFT, "above ReLU on CIFAR-100", {"alpha": 0.87},
    ),
    Row(
        "eis_1", "EIS x·softplus(x)/(x + 1.16e⁻ˣ)", _eis, lambda x, delta: x * _softplus64(x) / (x + delta * np.exp(-x)),
        lambda S, x, delta: x * S.Softplus(x) / (x + delta * S.exp(-x)), "gated", _EIS, "above ReLU on CIFAR",
        {"delta": 1.16},
    ),
    Row(
        "eis_2", "EIS x·softplus(x)/√(1 + x²)", _eis_root,
        lambda x: x * _softplus64(x) / np.sqrt(1 + x * x), lambda S, x: x * S.Softplus(x) / S.sqrt(1 + x**2), "gated", _EIS,
        "above ReLU on CIFAR",
    ),
    Row(
        "max_sigmoid", "max(x, σ(x))", lambda x: torch.maximum(x, x.sigmoid()),
        lambda x: np.maximum(x, _expit(x)), lambda S, x: S.Max(x, S.Sigmoid(x)), "smooth ReLU", _SWISH_PAPER,
        "the second best of the search that found Swish",
    ),
    # --- other gates
    Row(
        "lisht", "LiSHT", lambda x: x * x.tanh(), lambda x: x * np.tanh(x), lambda S, x: x * S.tanh(x), "other gate",
        "Roy et al. 2019, arXiv 1901.05894", "above ReLU and Swish on CIFAR, never negative",
    ),
    Row(
        "dsilu", "dSiLU", lambda x: x.sigmoid() * (1 + x * (-x).sigmoid()), lambda x: _expit(x) * (1 + x * _expit(-x)),
        lambda S, x: S.Sigmoid(x) * (1 + x * (1 - S.Sigmoid(x))), "other gate",
        "Elfwing, Uchibe, Doya 2017, arXiv 1702.03118", "above sigmoid in reinforcement learning",
    ),
    # --- powers
    Row(
        "relu2", "ReLU²", lambda x: _square(F.relu(x)), lambda x: np.maximum(x, 0) ** 2, lambda S, x: S.ReLU(x) ** 2, "power",
        "So et al. 2021 (Primer), arXiv 2109.08668", "language models train faster, found by a search",
        also=("squared_relu",),
    ),
    Row(
        "star_relu", "StarReLU", lambda x, scale, bias: scale * _square(F.relu(x)) + bias,
        lambda x, scale, bias: scale * np.maximum(x, 0) ** 2 + bias, lambda S, x, scale, bias: scale * S.ReLU(x) ** 2 + bias,
        "power", "Yu et al. 2022 (MetaFormer baselines), arXiv 2210.13452", "above GELU in MetaFormers at less cost",
        {"scale": 0.8944, "bias": -0.4472},
    ),
    # --- waves
    Row(
        "gelu_sine", "GELU + 0.1·sin x", lambda x, a: _gelu(x) + a * x.sin(), lambda x, a: _gelu64(x) + a * np.sin(x),
        lambda S, x, a: S.GELU(x) + a * S.sin(x), "wave", _SINE_PAPER,
        "found by a language model's search for shifted data", {"a": 0.1},
    ),
    Row(
        # sinc is the normalised one, as in the two public implementations that give code
        "gelu_sinc", "GELU·(1 + 0.5·sinc x)", lambda x, a: _gelu(x) * (1 + a * _sinc(math.pi * x.clamp(-1e30, 1e30))),
        lambda x, a: _gelu64(x) * (1 + a * np.sinc(x)), lambda S, x, a: S.GELU(x) * (1 + a * S.Sinc(S.pi * x)), "wave",
        _SINE_PAPER, "found by a language model's search for shifted data", {"a": 0.5},
    ),
    Row(
        "gcu", "GCU", lambda x: x * x.cos(), lambda x: x * np.cos(x), lambda S, x: x * S.cos(x), "wave",
        "Noel et al. 2021, arXiv 2108.12943", "one neuron learns XOR; above ReLU on CIFAR in small networks",
    ),
    Row(
        "snake", "Snake", lambda x, a: x + (a * x).sin().square() / a, lambda x, a: x + np.sin(a * x) ** 2 / a,
        lambda S, x, a: x + S.sin(a * x) ** 2 / a, "wave", "Ziyin, Hartwig, Ueda 2020, arXiv 2006.08195",
        "extrapolates periodic functions", {"a": 1.0},
    ),
    Row(
        "gmtu", "GMTU", lambda x, beta, gamma, leak: (beta * x).tanh() * (-gamma * _square(x)).exp() + leak * x,
        lambda x, beta, gamma, leak: np.tanh(beta * x) * np.exp(-gamma * x * x) + leak * x,
        lambda S, x, beta, gamma, leak: S.tanh(beta * x) * S.exp(-gamma * x**2) + leak * x, "wave", _SINE_PAPER,
        "found by a language model's search for shifted data", {"beta": 1.5, "gamma": 0.2, "leak": 0.1},
    ),
)  # fmt: skip

TABLE = {row.name: row for row in ROWS}
NAMES = {name: row for row in ROWS for name in (row.name, *row.also)}
