"""Put activations into a model, and say what was and what was not replaced.

One rule says which activations are meant. A block's own non-linearities are: whatever follows a convolution, a linear layer
or a normalisation, in stem, blocks and head, and the activated half of a gated MLP. Left as they are, unless asked for: what
is mostly a gate, a bound or an output, by its class (`activations`); the small MLPs inside squeeze-and-excitation and its kin,
and those that compute position biases. Left always: kernels of linear attention, and GLU and soft-max.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from timm.layers import ScaledStdConv2d, ScaledStdConv2dSame
from torch import Tensor, nn

from ..activations import gains, timm_maps
from ..errors import GrafsError, SearchError
from . import activation_table as activations
from . import functional, hooks, remembered, squeeze
from .activation_table import Activations, Also

_NEAR = 3  # how far above its activation squeeze-and-excitation is looked for: in a Sequential of its own, at most in two
_SCALED_CONVS = (ScaledStdConv2d, ScaledStdConv2dSame)

# Kind -> the modules whose inner MLP is of that kind, by class or by their name in the model. Squeeze-and-excitation of other
# classes is known by what it does.
KINDS: dict[str, tuple[str, ...]] = {
    "squeeze_excite": (
        "SqueezeExcite", "SEModule", "SEWithNorm", "EffectiveSEModule", "EseModule", "EcaModule", "CecaModule", "ChannelAttn",
        "LightChannelAttn", "CbamModule", "LightCbamModule", "GatherExcite", "GlobalContext", "SelectiveKernelAttn",
        "BilinearAttnTransform", "NonLocalAttn", "SplitAttn.act1",
    ),
    "position_bias": ("RelPosMlp", "cpb_mlp", "meta_mlp"),
}  # fmt: skip
_REASONS = {"squeeze_excite": "squeeze-excite", "position_bias": "position bias"}

# Activations that stay for another reason, by class or class.attribute. EvoNorm's x·σ(vx) is a part of its normalisation.
_FIXED: dict[str, str] = {
    "LiteMLA.kernel_func": "kernel of a linear attention",
    "EvoNorm2dB0": "part of its normalisation",
    "EvoNorm2dS0": "part of its normalisation",
    "EvoNorm2dS0a": "part of its normalisation",
    "NASNetALarge": "a function on intermediate features only",
    "PNASNet5Large": "a function on intermediate features only",
    "Xception": "a function on intermediate features only",
}


@dataclass
class Report:
    """What ``replace_activations`` did: ``replaced`` of ``total`` places; ``left`` names the others, each with its reason."""

    replaced: int = 0
    total: int = 0
    by: str = ""
    was: Counter[str] = field(default_factory=Counter)
    left: list[tuple[str, str]] = field(default_factory=list)

    def __str__(self) -> str:
        was = ", ".join(sorted(self.was)) or "none"
        line = f"replaced {self.replaced} of {self.total} activations ({was}) by {self.by}"
        if not self.left:
            return line
        first = {reason: name for name, reason in reversed(self.left)}
        counts = Counter(reason for _, reason in self.left)
        return line + "; left: " + ", ".join(f"{n} × {reason} ({first[reason]})" for reason, n in counts.items())


def find_sites(model: nn.Module, also: Also = ()) -> Iterator[tuple[str, nn.Module, str, str | None]]:
    """Every activation module's place: (name, parent, attribute, reason to leave it or None), in registration order.

    ``also``: which of ``KINDS`` count as a block's own, and classes of activations that are left otherwise, or that only the
    caller knows. A module registered at several places is found at each of them.
    """
    kinds, classes = activations.asked_for(also, KINDS)
    known, replaced = Activations(classes), activations.replaced()
    labels: dict[str, tuple[str, ...]] = {}  # of each module: class and attribute names on the way down to it
    around: dict[str, tuple[nn.Module, ...]] = {}  # of each module: itself and the nearest that hold it, from the inside
    excites = functools.cache(lambda module: squeeze.is_squeeze_excite(module, replaced))
    for parent_name, parent in model.named_modules():
        above, _, attribute = parent_name.rpartition(".")
        labels[parent_name] = (*labels.get(above, ()), attribute, type(parent).__name__)
        around[parent_name] = (parent, *(around.get(above, ()) if parent_name else ()))[:_NEAR]
        if parent in known:
            continue  # an activation made of another one is replaced whole
        for attribute, child in parent._modules.items():  # named_children would name a shared module once only
            if child is None or child not in known:
                continue
            reason = known.why_left(child) or _left_as_is(parent, attribute, child, labels[parent_name], kinds)
            if reason is None and "squeeze_excite" not in kinds and any(map(excites, around[parent_name])):
                reason = _REASONS["squeeze_excite"]
            yield f"{parent_name}.{attribute}" if parent_name else attribute, parent, attribute, reason


def _left_as_is(parent: nn.Module, attribute: str, child: nn.Module, way: tuple[str, ...], also: set[str]) -> str | None:
    if activations.is_hard_sigmoid(parent):
        return activations.PART_OF_GATE
    if remembered.by_name(parent, child):
        return remembered.BY_NAME
    place = f"{type(parent).__name__}.{attribute}"
    if place in _FIXED:
        return _FIXED[place]
    for kind, names in KINDS.items():
        if kind not in also and (place in names or not set(names).isdisjoint(way)):
            return _REASONS[kind]
    return None


def is_aside(reason: str) -> bool:
    """Whether a reason to leave an activation says that it is none of those that the model's own output passes."""
    return reason not in ("part of its normalisation", remembered.BY_NAME, remembered.FUSED)


def without_module(model: nn.Module) -> Iterator[tuple[str, str]]:
    """(name, reason) of the activations that no module stands for."""
    for name, module in model.named_modules():
        kind = type(module).__name__
        if kind in _FIXED and getattr(module, "v", module) is not None:  # an EvoNorm without v only normalises
            yield name or kind, _FIXED[kind]
        elif remembered.fused(module):
            yield name or kind, remembered.FUSED


def replace_sites(
    model: nn.Module, make: Callable[[nn.Module], nn.Module], by: str, also: Also = (),
    function: Callable[[Tensor], Tensor] | None = None,
) -> Report:  # fmt: skip
    """Replace, in place, each activation module m by make(m). GrafsError, with no site replaced, where there is none.

    ``function``: what every new module computes; normaliser-free networks then get its gain in place of the old one.
    """
    if searched := sum(getattr(module, "is_search_site", False) for module in model.modules()):
        raise SearchError(
            f"this {type(model).__name__} is being searched already: {searched} of its activations are sites. Call the "
            "search's finish(), which puts what it found in their place, or build or load the model anew"
        )
    functional.expose(model)
    report, places = Report(by=by), list(find_sites(model, also))
    report.left = [(name, reason) for name, _, _, reason in places if reason is not None] + list(without_module(model))
    meant = [(parent, attribute) for _, parent, attribute, reason in places if reason is None]
    report.total = len(meant) + len(report.left)
    if not meant:
        found = {name: parent._modules[attribute] for name, parent, attribute, _ in places}
        raise GrafsError(f"{type(model).__name__} {_why_none(model, report.left, found)}")
    ratio = _gain_ratio(model, meant, function) if function is not None else 1.0
    gone, staying = set[nn.Module](), {parent._modules[attribute] for _, parent, attribute, reason in places if reason}
    for parent, attribute in meant:
        old = parent._modules[attribute]
        assert old is not None
        report.was[type(old).__name__] += 1
        new = make(hooks.twin(old) if old in staying else old).train(old.training)
        parent._modules[attribute] = hooks.share(old, new)
        if isinstance(parent, functional.ScaledActivation):
            parent.gain *= ratio
        report.replaced += 1
        gone.add(old)
    for old in gone - staying:
        hooks.let_go(old)
    remembered.forget(model, {parent for parent, _ in meant})
    if not any(isinstance(module, functional.ScaledActivation) for module in model.modules()):
        for module in model.modules():
            if isinstance(module, _SCALED_CONVS):
                module.scale *= ratio
    return report


def _why_none(model: nn.Module, left: list[tuple[str, str]], found: Mapping[str, nn.Module | None]) -> str:
    """What to say of a model without a place to replace; ``found``: the modules of the places that are left."""
    if model in Activations():
        return "is an activation itself: put it into a model, such as nn.Sequential, to have it replaced there"
    none = "has no activation module to replace"
    if not left:
        return none + "; does it call functions instead? A class of your own counts with also=[Class]"
    reasons = {reason for _, reason in left}
    kinds = sorted({f'"{kind}"' for kind, reason in _REASONS.items() if reason in reasons})
    classes = sorted({activations.spelt(type(found[name])) for name, reason in left if activations.can_be_asked_for(reason)})
    how = f"; to replace them all the same give also=[{', '.join([*kinds, *classes])}]" if kinds or classes else ""
    return f"{none}: all {len(left)} are left as they are ({', '.join(sorted(reasons))}){how}"


def report_of(model: nn.Module, by: str) -> Report:
    """The report of a model whose activations are in already."""
    places = [(name, reason) for name, _, _, reason in find_sites(model)]
    left = [(name, reason) for name, reason in places if reason is not None] + list(without_module(model))
    meant = len(places) - sum(reason is not None for _, reason in places)
    return Report(replaced=meant, total=meant + len(left), by=by, left=left)


def _gain_ratio(model: nn.Module, meant: list[tuple[nn.Module, str]], function: Callable[[Tensor], Tensor]) -> float:
    """New gain over old one in a normaliser-free network, 1 in others and for the function it has already."""
    if not any(isinstance(module, _SCALED_CONVS) for module in model.modules()):
        return 1.0
    parent, attribute = meant[0]
    old = parent._modules[attribute]
    assert old is not None
    x = torch.linspace(-10, 10, 2001, dtype=torch.float64, device="cpu")
    with torch.no_grad():
        if torch.allclose(old.forward(x.clone()), function(x.clone()), rtol=1e-6, atol=1e-6):  # no hook is to see it
            return 1.0  # timm's own constants are sampled, and the model keeps them
    tabulated = (gain for name, gain in timm_maps.nfnet_gains().items() if timm_maps.layer(name) is type(old))
    return gains.gain(function) / next(tabulated, gains.gain(old.forward))
