"""Each activation module is replaced or named with the reason why not, and what stays can be asked for."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm.layers
import torch
from timm.layers import activations as timms
from timm.layers import activations_me
from torch import Tensor, nn
from torch.nn import functional as F

import grafs_timm
from grafs_timm.activations.activation import FoundActivation, activation_class
from grafs_timm.activations.genotype import Genotype
from grafs_timm.errors import GrafsError
from grafs_timm.models import activation_table as activations
from grafs_timm.models import binding
from grafs_timm.models.replace import replace_activations
from grafs_timm.models.surgery import find_sites
from grafs_timm.search.bilevel import ActivationSearch

GATED = {
    "format": "grafs-cell/1", "u1": {"op": "silu"}, "u2": {"op": "scale", "gamma": 0.5221}, "b1": {"op": "gate"},
    "u3": {"op": "asinh"}, "u4": {"op": "gelu"}, "b2": {"op": "add"},
}  # fmt: skip
ARGUMENTS: dict[str, tuple[Any, ...]] = {"Threshold": (0.1, 0.0), "Softmax": (-1,), "Softmin": (-1,), "LogSoftmax": (-1,)}
NO_ACTIVATION = {"MultiheadAttention"}  # a layer of its own in torch's list


def classes_of(module: Any) -> list[type[nn.Module]]:
    """The modules that a file defines, but for what it only imports."""
    found = [each for each in vars(module).values() if inspect.isclass(each) and issubclass(each, nn.Module)]
    return [each for each in found if each.__module__ == module.__name__ and each.__name__ not in NO_ACTIVATION]


def all_classes() -> list[type[nn.Module]]:
    found = classes_of(nn.modules.activation) + classes_of(timms) + classes_of(activations_me)
    try:
        import transformers.activations
    except ImportError:
        return found
    return found + [each for each in classes_of(transformers.activations) if each.__name__ != "ClippedGELUActivation"]


def made(kind: type[nn.Module]) -> nn.Module:
    return kind(*ARGUMENTS.get(kind.__name__, ()))


def between(*acts: nn.Module) -> nn.Sequential:
    return nn.Sequential(*(module for act in acts for module in (nn.Linear(6, 6), act)), nn.Linear(6, 3))


@pytest.mark.parametrize("kind", all_classes(), ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_each_is_replaced_or_named(kind: type[nn.Module]) -> None:
    for put_in in (lambda model: replace_activations(model, GATED), lambda model: ActivationSearch(model, 10).report):
        model = between(nn.ReLU(), made(kind))
        report = put_in(model)
        if report.replaced == 2:
            assert not report.left
            assert not isinstance(model[3], kind)
        else:
            ((name, reason),) = report.left
            assert name == "3"
            assert len(reason) > 3
            assert isinstance(model[3], kind)
        assert report.total == 2


REPLACED: dict[str, Callable[[], nn.Module]] = {
    "RReLU": nn.RReLU,
    "Threshold": lambda: nn.Threshold(0.0, 0.0),
    "Threshold elsewhere": lambda: nn.Threshold(0.1, 20.0, inplace=True),
    "a clipped ReLU": lambda: nn.Hardtanh(0.0, 20.0),
    "ReLU6 as Hardtanh": lambda: nn.Hardtanh(0.0, 6.0, inplace=True),
    "ReLU6": nn.ReLU6,
}


@pytest.mark.parametrize("kind", REPLACED)
def test_nonlinearities_of_hidden_layers_are_replaced(kind: str) -> None:
    model = between(REPLACED[kind]())
    assert replace_activations(model, GATED).replaced == 1
    assert isinstance(model[1], FoundActivation)
    search = ActivationSearch(between(REPLACED[kind]()), 10)
    search.architecture_step(lambda: search.model(torch.randn(4, 6)).square().mean())
    assert search.finish()


STAYS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "Softplus": (nn.Softplus, "nn.Softplus"),
    "Softsign": (nn.Softsign, "nn.Softsign"),
    "LogSigmoid": (nn.LogSigmoid, "nn.LogSigmoid"),
    "Tanhshrink": (nn.Tanhshrink, "nn.Tanhshrink"),
    "Softshrink": (nn.Softshrink, "nn.Softshrink"),
    "Hardshrink": (nn.Hardshrink, "nn.Hardshrink"),
    "Sigmoid": (nn.Sigmoid, "nn.Sigmoid"),
    "Tanh": (nn.Tanh, "nn.Tanh"),
    "Hardsigmoid": (nn.Hardsigmoid, "nn.Hardsigmoid"),
    "Hardtanh": (nn.Hardtanh, "nn.Hardtanh"),
    "Hardtanh up to 1": (lambda: nn.Hardtanh(0.0, 1.0), "nn.Hardtanh"),
    "timm's Sigmoid": (timm.layers.Sigmoid, "timm.layers.Sigmoid"),
    "timm's HardSigmoid": (timm.layers.HardSigmoid, "timm.layers.HardSigmoid"),
    "timm's Tanh": (timm.layers.Tanh, "timm.layers.Tanh"),
    "timm's HardSigmoidMe": (activations_me.HardSigmoidMe, "timm.layers.activations_me.HardSigmoidMe"),
}


@pytest.mark.parametrize("kind", STAYS)
def test_a_network_of_what_stays_is_told_how_to_include_it(kind: str) -> None:
    make, spelt = STAYS[kind]
    with pytest.raises(GrafsError, match=r"no activation module to replace.* all 2 are left") as raised:
        replace_activations(between(make(), make()), GATED)
    assert f"also=[{spelt}]" in str(raised.value)
    with pytest.raises(GrafsError) as in_search:
        ActivationSearch(between(make(), make()), 10)
    assert str(in_search.value) == str(raised.value)
    model = between(make(), make())
    report = replace_activations(model, GATED, also=[eval_name(spelt)])
    assert (report.replaced, report.left) == (2, [])
    search = ActivationSearch(between(make(), make()), 10, also=[eval_name(spelt)])
    assert search.report.replaced == 2
    search.architecture_step(lambda: search.model(torch.randn(4, 6)).square().mean())
    search.finish()
    assert sum(isinstance(module, FoundActivation) for module in search.model.modules()) == 2


def eval_name(spelt: str) -> Any:
    first, *others = spelt.split(".")
    found: Any = {"nn": nn, "timm": timm}[first]
    for each in others:
        found = getattr(found, each)
    return found


@pytest.mark.parametrize(
    ("asked", "there"),
    [
        (nn.Sigmoid, timm.layers.Sigmoid), (timm.layers.Sigmoid, nn.Sigmoid), (nn.Tanh, timm.layers.Tanh),
        (nn.Hardsigmoid, timm.layers.HardSigmoid), (nn.Hardsigmoid, activations_me.HardSigmoidMe),
    ],
)  # fmt: skip
def test_a_class_stands_for_the_same_function_in_other_libraries(asked: type[nn.Module], there: type[nn.Module]) -> None:
    assert replace_activations(between(there(), nn.Softplus()), GATED, also=[asked]).replaced == 1


def test_the_error_names_every_kind_that_can_be_asked_for_once() -> None:
    model = between(nn.Softplus(), nn.Softplus(), nn.Tanh(), nn.Softmax(-1))
    with pytest.raises(GrafsError, match=r"all 4 are left .*also=\[nn\.Softplus, nn\.Tanh\]"):
        replace_activations(model, GATED)


def test_the_error_says_nothing_of_also_where_it_does_not_help() -> None:
    for act in (nn.Softmax(-1), nn.GLU()):
        with pytest.raises(GrafsError, match="all 1 are left") as raised:
            replace_activations(nn.Sequential(nn.Linear(6, 6), act), GATED)
        assert "also=" not in str(raised.value)


def test_the_kinds_by_name_are_named_in_it_as_well() -> None:
    se = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 4, 1), nn.ReLU(), nn.Conv2d(4, 8, 1), nn.Sigmoid())
    with pytest.raises(GrafsError, match=r"""also=\["squeeze_excite", nn\.Sigmoid\]"""):
        replace_activations(nn.Sequential(nn.Conv2d(3, 8, 1), se), GATED)


class Own(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x.sigmoid()


class OwnSoftplus(nn.Softplus):
    pass


class OwnSigmoid(nn.Sigmoid):
    pass


class OwnLeaky(nn.RReLU):
    pass


def test_classes_of_ones_own_count_where_they_are_named() -> None:
    model = between(Own(), nn.ReLU())
    assert (replace_activations(model, GATED).total, type(model[1])) == (1, Own)
    assert replace_activations(between(Own(), nn.ReLU()), GATED, also=[Own]).replaced == 2
    with pytest.raises(GrafsError, match=r"class of your own.*also=\[Class\]"):
        replace_activations(between(Own()), GATED)


def test_subclasses_are_what_they_derive_from() -> None:
    report = replace_activations(between(OwnSoftplus(), OwnSigmoid(), OwnLeaky()), GATED)
    assert report.replaced == 1
    assert [name for name, _ in report.left] == ["1", "3"]
    assert replace_activations(between(OwnSoftplus(), OwnSigmoid()), GATED, also=[nn.Softplus]).replaced == 1


def test_a_found_activation_called_like_a_gate_is_one_to_replace() -> None:
    model = between(activation_class(Genotype.from_dict(GATED), "sigmoid")())
    assert replace_activations(model, "gelu").replaced == 1


class GLU(nn.Module):
    """A block of its own with the name of an activation: what is inside counts."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.act = nn.Linear(6, 6), nn.Linear(6, 6), nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.a(x)) * self.b(x)


def test_a_block_that_is_called_like_an_activation_is_gone_into() -> None:
    report = replace_activations(nn.Sequential(GLU()), GATED)
    assert (report.replaced, report.left) == (1, [])


WRONG: dict[str, tuple[Any, str]] = {
    "no list": ("squeeze_excite", r"also=\['squeeze_excite'\]"),
    "a class alone": (nn.Softplus, r"also=\[nn\.Softplus\]"),
    "nothing": (None, r"also is a list, .* got None"),
    "an instance alone": (nn.Sequential(nn.ReLU()), "also is a list"),
    "an instance": ([nn.Softplus()], r"also=\[nn\.Softplus\]"),
    "a layer": ([nn.Linear], r"nn\.Linear.* is no activation"),
    "every module": ([nn.Module], "is no activation"),
    "a layer of timm": ([timm.layers.Mlp], "is no activation"),
    "a container": ([nn.Sequential], "is no activation"),
    "no module": ([int], "is no activation"),
    "a number": ([3], "3 is neither"),
    "a gated linear unit": ([nn.GLU], "gated linear unit.*cannot be replaced"),
    "a soft-max": ([nn.ReLU, nn.LogSoftmax], "soft-max.*cannot be replaced"),
    "the name of a class": (["Softplus"], r"also=\[nn\.Softplus\]"),
    "a kind spelt wrongly": (["squeeze_exite"], "nearest: squeeze_excite"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_cannot_be_meant_by_also_is_refused(kind: str) -> None:
    also, message = WRONG[kind]
    for put_in in (
        lambda model: replace_activations(model, GATED, also=also),
        lambda model: ActivationSearch(model, 10, also=also),
        lambda model: list(find_sites(model, also)),
    ):
        model = between(nn.ReLU(), nn.Softplus())
        with pytest.raises(GrafsError, match=message):
            put_in(model)
        assert isinstance(model[1], nn.ReLU)


def test_what_is_asked_for_stays_all_the_same_in_a_side_network() -> None:
    se = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 4, 1), nn.Softplus(), nn.Conv2d(4, 8, 1), nn.Sigmoid())

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.act, self.se = nn.Conv2d(3, 8, 1), nn.Softplus(), se

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.act(self.conv(x))
            return y * self.se(y)

    report = replace_activations(Block(), GATED, also=[nn.Softplus, nn.Sigmoid])
    assert report.replaced == 1
    assert report.left == [("se.2", "squeeze-excite"), ("se.4", "squeeze-excite")]


def test_create_model_passes_it_on() -> None:
    with torch.device("meta"):
        ours = grafs_timm.create_model("seresnet18", GATED, also=["squeeze_excite", nn.Sigmoid])
    assert ours.activation_report.left == []


def test_saved_weights_bring_what_was_asked_for(tmp_path: Path) -> None:
    model = grafs_timm.create_model("seresnet18", GATED, also=["squeeze_excite", nn.Sigmoid], num_classes=3).eval()
    grafs_timm.save_pretrained(model, tmp_path / "w")
    again = grafs_timm.create_model(f"local-dir:{tmp_path / 'w'}", pretrained=True).eval()
    x = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(again(x), model(x))
    assert [type(m).__name__ for m in again.modules()] == [type(m).__name__ for m in model.modules()]


def test_a_model_that_is_an_activation_is_told_so() -> None:
    with pytest.raises(GrafsError, match=r"ReLU is an activation itself.*nn\.Sequential"):
        replace_activations(nn.ReLU(), GATED)


class HandWritten(nn.Module):
    """The hard sigmoid of MobileNetV3 as it was written by hand before torch had it."""

    def __init__(self, act: nn.Module, scale: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.act, self.scale = act, scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scale(self.act, x)


class Swish(nn.Module):
    def __init__(self, gate: nn.Module) -> None:
        super().__init__()
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x * self.gate(x)
        return y


HARD: dict[str, Callable[[], nn.Module]] = {
    "relu6(x+3)/6": lambda: HandWritten(nn.ReLU6(), lambda act, x: act(x + 3) / 6),
    "in place": lambda: HandWritten(nn.ReLU6(inplace=True), lambda act, x: act(x + 3.0) / 6.0),
    "times a sixth": lambda: HandWritten(nn.ReLU6(), lambda act, x: act(x + 3) * (1 / 6)),
    "a clipped ReLU": lambda: HandWritten(nn.Hardtanh(0.0, 6.0), lambda act, x: act(x + 3) / 6),
    "hard tanh": lambda: HandWritten(nn.Hardtanh(), lambda act, x: (act(x / 3) + 1) / 2),
    "down": lambda: HandWritten(nn.ReLU6(), lambda act, x: 1 - act(x + 3) / 6),
}


@pytest.mark.parametrize("kind", HARD)
def test_a_hard_sigmoid_written_by_hand_is_a_gate(kind: str) -> None:
    seen: list[nn.Module] = []
    gate = HARD[kind]()
    gate.act.register_forward_hook(lambda module, *_: seen.append(module))
    model, x = between(nn.ReLU(), Swish(gate)), torch.linspace(-5, 5, 11)
    before = gate(x.clone())
    seen.clear()
    report = replace_activations(model, GATED)
    assert report.replaced == 1
    ((name, reason),) = report.left
    assert (name, "hard" in reason) == ("3.gate.act", True)
    assert seen == []
    assert torch.equal(gate(x), before)


def test_no_class_is_advised_where_the_gate_stays_all_the_same() -> None:
    with pytest.raises(GrafsError, match="part of a hard-sigmoid gate") as raised:
        replace_activations(between(HARD["in place"]()), GATED)
    assert "also=" not in str(raised.value)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU6()

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        z: Tensor = self.act(x if y is None else x + y)
        return z


HOLDS: dict[str, Callable[[], nn.Module]] = {
    "an addition": Residual,
    "a sequence": lambda: nn.Sequential(nn.ReLU6()),
    "with another": lambda: nn.Sequential(nn.Identity(), nn.ReLU6()),
    "shifted": lambda: HandWritten(nn.ReLU6(), lambda act, x: act(x + 3)),
    "hard swish": lambda: HandWritten(nn.ReLU6(), lambda act, x: x * act(x + 3) / 6),
    "two inputs": lambda: HandWritten(nn.ReLU6(), lambda act, x: act(x, x)),
}


@pytest.mark.parametrize("kind", HOLDS)
def test_what_only_holds_a_relu6_is_none(kind: str) -> None:
    assert replace_activations(between(HOLDS[kind]()), GATED).replaced == 1


FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], type[nn.Module]]] = {
    "tanh": (torch.tanh, nn.Tanh),
    "sigmoid": (torch.sigmoid, nn.Sigmoid),
    "softplus": (F.softplus, nn.Softplus),
    "softsign": (F.softsign, nn.Softsign),
    "hard tanh": (F.hardtanh, nn.Hardtanh),
    "log-sigmoid": (F.logsigmoid, nn.LogSigmoid),
    "shrinkage": (F.softshrink, nn.Softshrink),
    "soft tanh": (F.tanhshrink, nn.Tanhshrink),
}


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_functions_in_a_layer_of_torchs_are_named_too(kind: str) -> None:
    function, asked = FUNCTIONS[kind]
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, activation=function, batch_first=True).eval()
    model, x = nn.Sequential(layer, nn.ReLU()), torch.randn(2, 5, 8)
    before = model(x)
    ((name, _),) = replace_activations(model, "relu").left
    assert name == "0.activation"
    torch.testing.assert_close(model(x), before)
    assert replace_activations(model, GATED, also=[asked]).replaced == 2
    assert not torch.allclose(model(x), before, atol=1e-4)


def test_weights_tell_two_values_of_one_class_apart() -> None:
    models = [between(nn.Hardtanh(0.0, top)) for top in (6.0, 20.0)]
    models += [between(nn.Threshold(low, 0.0)) for low in (0.0, 0.5)]
    models += [between(nn.RReLU(0.1, high)) for high in (0.3, 0.4)]
    bound = [binding.activation_of(model) for model in models]
    assert len({each.name for each in bound}) == len(models)
    assert not any(a.computes_as(b) for i, a in enumerate(bound) for b in bound[:i])


def test_without_transformers_nothing_of_it_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "transformers.activations", raising=False)
    assert all(not each.__module__.startswith("transformers") for each in activations.replaced())
    assert activations.Activations().why_left(nn.Softplus()) is not None
