"""Replace a model's activations, and report what was and what was not replaced.

The rule: a block's own non-linearities are replaced, that is whatever follows a convolution, a linear layer or a normalisation
in stem, blocks and head, and the activated half of a gated MLP. Not replaced unless asked for: classes that are mostly gates,
bounds or outputs (`activation_table`); the small MLPs inside squeeze-and-excitation and similar modules, and those that
compute position biases. Never replaced: kernels of linear attention, GLU and soft-max.
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

_NEAR = 3  # levels above an activation that are searched for squeeze-and-excitation: it may be inside two Sequentials
_SCALED_CONVS = (ScaledStdConv2d, ScaledStdConv2dSame)

# Kind -> the modules whose inner MLP is of that kind, by class or by their name in the model. `squeeze` recognises
# squeeze-and-excitation of other classes.
KINDS: dict[str, tuple[str, ...]] = {
    "squeeze_excite": (
        "SqueezeExcite", "SEModule", "SEWithNorm", "EffectiveSEModule", "EseModule", "EcaModule", "CecaModule", "ChannelAttn",
        "LightChannelAttn", "CbamModule", "LightCbamModule", "GatherExcite", "GlobalContext", "SelectiveKernelAttn",
        "BilinearAttnTransform", "NonLocalAttn", "SplitAttn.act1",
    ),
    "position_bias": ("RelPosMlp", "cpb_mlp", "meta_mlp"),
}  # fmt: skip
_REASONS = {"squeeze_excite": "squeeze-excite", "position_bias": "position bias"}

# Activations that are not replaced for another reason, by class or class.attribute. EvoNorm's x·σ(vx) is part of its norm.
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
    """Report which activations of a model were replaced.

    Args:
        replaced: Number of activations that were replaced.
        total: Number of all activations.
        by: What replaced them.
        was: Class name -> number of replaced modules of that class.
        left: (name, reason) of each activation that was not replaced.

    >>> from grafs_timm import replace_activations
    >>> report = replace_activations(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Sigmoid()), "silu")
    >>> report.replaced, report.total, report.left
    (1, 2, [('2', 'sigmoid gate')])
    """

    replaced: int = 0
    total: int = 0
    by: str = ""
    was: Counter[str] = field(default_factory=Counter)
    left: list[tuple[str, str]] = field(default_factory=list)

    def __str__(self) -> str:
        line = f"{self.replaced} of {self.total} activations are {self.by}"  # of a model that was built with them
        if self.was:
            was = ", ".join(sorted(self.was))
            line = f"replaced {self.replaced} of {self.total} activations ({was}) by {self.by}"
        if not self.left:
            return line
        first = {reason: name for name, reason in reversed(self.left)}
        counts = Counter(reason for _, reason in self.left)
        return line + "; left: " + ", ".join(f"{n} × {reason} ({first[reason]})" for reason, n in counts.items())


def find_sites(model: nn.Module, also: Also = ()) -> Iterator[tuple[str, nn.Module, str, str | None]]:
    """Find every activation module of a model.

    Args:
        model: The model.
        also: Which of ``KINDS`` to replace too, and classes that are not replaced by default or that only the caller knows.

    Yields:
        (name, parent, attribute, reason not to replace it or None), in registration order. A module that is registered
        several times is found each time.
    """
    kinds, classes = activations.asked_for(also, KINDS)
    known, replaced = Activations(classes), activations.replaced()
    labels: dict[str, tuple[str, ...]] = {}  # per module: class and attribute names on the path to it
    around: dict[str, tuple[nn.Module, ...]] = {}  # per module: itself and its nearest parents, from the inside
    excites = functools.cache(lambda module: squeeze.is_squeeze_excite(module, replaced))
    for parent_name, parent in model.named_modules():
        above, _, attribute = parent_name.rpartition(".")
        labels[parent_name] = (*labels.get(above, ()), attribute, type(parent).__name__)
        around[parent_name] = (parent, *(around.get(above, ()) if parent_name else ()))[:_NEAR]
        if parent in known:
            continue  # an activation that contains another one is replaced as a whole
        for attribute, child in parent._modules.items():  # named_children yields a shared module once only
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
    """Check whether activations that are not replaced for this reason are beside the model's main path."""
    return reason not in ("part of its normalisation", remembered.BY_NAME, remembered.FUSED)


def without_module(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield (name, reason) of the activations that are not modules."""
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
    """Replace, in place, each activation module m by make(m).

    Args:
        model: The model.
        make: Makes the new module from the old one.
        by: Names the new modules in the report.
        also: As in `find_sites`.
        function: What the new modules compute; normaliser-free networks then get its gain instead of the old one.

    Raises:
        GrafsError: There is no activation to replace. The model is unchanged.
        SearchError: The model is being searched.
    """
    if searched := sum(getattr(module, "is_search_site", False) for module in model.modules()):
        raise SearchError(
            f"this {type(model).__name__} is being searched already: {searched} of its activations are sites. Call the "
            "search's finish(), which replaces them by what it found, or build or load the model again"
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
        new = make(hooks.without_hooks(old) if old in staying else old).train(old.training)
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
    """Explain why there is nothing to replace; ``found`` has the modules that are left by name."""
    if model in Activations():
        return "is an activation itself: put it into a model, such as nn.Sequential, to replace it there"
    none = "has no activation module to replace"
    if not left:
        return none + "; does it call functions instead? For a class of your own give also=[Class]"
    reasons = {reason for _, reason in left}
    kinds = sorted({f'"{kind}"' for kind, reason in _REASONS.items() if reason in reasons})
    classes = sorted({activations.spelt(type(found[name])) for name, reason in left if activations.can_be_asked_for(reason)})
    how = f"; to replace them anyway give also=[{', '.join([*kinds, *classes])}]" if kinds or classes else ""
    return f"{none}: all {len(left)} are left as they are ({', '.join(sorted(reasons))}){how}"


def report_of(model: nn.Module, by: str) -> Report:
    """Make the report of a model that has its activations already."""
    places = [(name, reason) for name, _, _, reason in find_sites(model)]
    left = [(name, reason) for name, reason in places if reason is not None] + list(without_module(model))
    meant = len(places) - sum(reason is not None for _, reason in places)
    return Report(replaced=meant, total=meant + len(left), by=by, left=left)


def _gain_ratio(model: nn.Module, meant: list[tuple[nn.Module, str]], function: Callable[[Tensor], Tensor]) -> float:
    """Return new gain / old gain in a normaliser-free network; 1 in others and if the function stays the same."""
    if not any(isinstance(module, _SCALED_CONVS) for module in model.modules()):
        return 1.0
    parent, attribute = meant[0]
    old = parent._modules[attribute]
    assert old is not None
    x = torch.linspace(-10, 10, 2001, dtype=torch.float64, device="cpu")
    with torch.no_grad():
        if torch.allclose(old.forward(x.clone()), function(x.clone()), rtol=1e-6, atol=1e-6):  # forward: without hooks
            return 1.0  # keep timm's constants, which are sampled
    tabulated = (gain for name, gain in timm_maps.nfnet_gains().items() if timm_maps.layer(name) is type(old))
    return gains.gain(function) / next(tabulated, gains.gain(old.forward))
