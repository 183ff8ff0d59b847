"""Every row of the table of published functions, against what the table says of itself: one test a property, all rows."""

from __future__ import annotations

import copy
import importlib.util
import math
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from sympy.utilities.lambdify import lambdify
from torch import Tensor, nn

import grafs_timm
from grafs_timm.activations import facts, formula, published, timm_maps
from grafs_timm.activations.activation import PublishedActivation, activation_class
from grafs_timm.activations.curve import curve_of, gradient
from grafs_timm.activations.published import Published
from grafs_timm.activations.published_cells import CELLS
from grafs_timm.activations.published_table import ROWS, SHAPES, Row
from grafs_timm.errors import ConstantError, GrafsWarning, UnknownNameError
from grafs_timm.zoo import facts_file, lookup

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# |f(x) − reference| ≤ tolerance · (1 + |reference| + |x|): the rounding of x and of one result, twice for float32's formulas
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}

every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))


def function(row: Row) -> Published:
    return Published(row.name)


def edges(dtype: torch.dtype) -> list[float]:
    """Finite numbers at which a careless formula overflows, divides by 0, or rounds away what matters."""
    info = torch.finfo(dtype)
    sizes = [0.0, info.tiny, 1e-3, 0.5, 12.0, 20.0, 50.0, 89.0, 300.0, 800.0, 65504.0, 1e15, 1e30, info.max]
    return [sign * size for size in sizes if size <= info.max for sign in (1.0, -1.0)]


def numbers(dtype: torch.dtype) -> Tensor:
    far = [sign * 10**power for power in (1.5, 2, 3, 4) for sign in (1, -1)]
    return torch.cat([torch.linspace(-12, 12, 961, dtype=torch.float64), torch.tensor(far, dtype=torch.float64)]).to(dtype)


@every_dtype
@every_row
def test_the_value_is_the_references(row: Row, dtype: torch.dtype) -> None:
    x = numbers(dtype)
    if row.shape == "wave" and dtype != torch.float64:
        x = x[x.abs() <= 100]  # beyond, rounding x alone changes a sine
    with np.errstate(over="ignore"):
        expected = row.reference(x.double().numpy(), **row.constants)
    top = torch.finfo(dtype).max
    expected = np.clip(expected, -top, top)
    error = np.abs(function(row)(x).double().numpy() - expected)
    assert (error <= TOLERANCE[dtype] * (1 + np.abs(expected) + np.abs(x.double().numpy()))).all()


@every_row
def test_the_formula_is_the_references(row: Row) -> None:
    x = np.linspace(-6, 6, 97) + 1e-3
    own = {
        "ReLU": lambda v: np.maximum(v, 0), "NegPart": lambda v: np.minimum(v, 0), "Sigmoid": lambda v: 1 / (1 + np.exp(-v)),
        "Softplus": lambda v: np.logaddexp(v, 0), "SiLU": lambda v: v / (1 + np.exp(-v)),
        "GELU": lambda v: v * (1 + np.vectorize(math.erf)(v / math.sqrt(2))) / 2,
        "ELU": lambda v: np.where(v > 0, v, np.expm1(np.minimum(v, 0))), "Sinc": lambda v: np.sinc(v / np.pi),
        "Larger": np.maximum, "Smaller": np.minimum, "erf": np.vectorize(math.erf),
    }  # fmt: skip
    values = lambdify(formula.X, function(row)._expression(), [own, "numpy"])(x)
    np.testing.assert_allclose(values, row.reference(x, **row.constants), rtol=1e-9, atol=1e-9)


@every_row
def test_the_gradient_is_the_values(row: Row) -> None:
    x = torch.linspace(-5, 5, 41, dtype=torch.float64) + 0.0137  # beside the kinks
    layer = activation_class(function(row))()
    assert torch.autograd.gradcheck(layer, x.requires_grad_())
    assert torch.autograd.gradgradcheck(layer, x)


@every_dtype
@every_row
def test_value_and_gradient_are_finite_for_every_finite_number(row: Row, dtype: torch.dtype) -> None:
    x = torch.tensor(edges(dtype), dtype=dtype).requires_grad_()
    y = activation_class(function(row))()(x)
    (slope,) = torch.autograd.grad(y, x, torch.ones_like(y))
    assert y.isfinite().all()
    assert slope.isfinite().all()


@every_dtype
@every_row
def test_infinity_is_the_largest_number_and_nan_stays(row: Row, dtype: torch.dtype) -> None:
    layer, top = activation_class(function(row))(), torch.finfo(dtype).max
    y = layer(torch.tensor([torch.inf, -torch.inf, top, -top, torch.nan], dtype=dtype))
    assert torch.equal(y[:2], y[2:4])
    assert y[4].isnan()


@every_row
def test_shapes(row: Row) -> None:
    layer = activation_class(function(row))()
    for shape in ((), (0,), (0, 3), (2, 3, 4)):
        x = torch.randn(shape, requires_grad=True)
        y = layer(x)
        y.sum().backward()
        assert y.shape == x.grad.shape == shape
    with pytest.raises(TypeError, match="floating"):
        layer(torch.arange(3))


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=lambda d: str(d).removeprefix("torch."))
@every_row
def test_a_large_tensor_goes_through_in_one_pass_to_the_same_numbers(row: Row, dtype: torch.dtype) -> None:
    x = (6 * torch.randn(20_000, generator=torch.Generator().manual_seed(0))).to(dtype)
    for kink in facts_file.read()[row.name]["facts"]["kinks"]:
        x[x == kink] = 0.5  # the slope there is either side's
    g = torch.randn(20_000, generator=torch.Generator().manual_seed(1)).to(dtype)
    x.requires_grad_()
    y = activation_class(function(row))()(x)
    (slope,) = torch.autograd.grad(y, x, g)
    wide = x.detach().double()
    expected, steep = function(row)(wide), gradient(function(row), wide, g.double())
    scale = TOLERANCE[dtype] * (1 + wide.abs() + expected.abs())
    assert ((y.double() - expected).abs() <= scale).all()
    assert ((slope.double() - steep).abs() <= 10 * scale * (1 + g.double().abs())).all()


@every_row
def test_training_keeps_the_input_and_nothing_else(row: Row) -> None:
    kept: list[Tensor] = []
    curve_of(function(row))  # making the curve computes with gradients too
    x = torch.randn(20_000, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        activation_class(function(row))()(x)
    assert [t.data_ptr() for t in kept] == [x.data_ptr()]


@pytest.mark.parametrize("name", published.list_published())
def test_the_stored_facts_are_the_functions(name: str) -> None:
    stored = facts_file.read()[name]
    assert facts.Facts.model_validate(stored["facts"]) == facts.of(published.get_published(name))
    assert stored["facts"]["fp16"]
    assert stored["facts"]["bf16"]


def test_the_stored_facts_are_of_these_functions_alone() -> None:
    assert list(facts_file.read()) == published.list_published()


@every_row
def test_the_row_is_complete(row: Row) -> None:
    assert row.shape in SHAPES
    assert row.title
    assert 10 < len(row.claim) <= 90
    assert any(char.isdigit() for char in row.source)
    assert Published(row.name).latex


def test_there_are_more_than_thirty() -> None:
    assert len(ROWS) >= 30
    assert len(CELLS) >= 15
    names = published.list_published()
    assert len(names) == len(set(names))
    assert not any(name.startswith("grafs_") for name in names)  # which the zoo's entries begin with


# --- names that others have


@pytest.mark.parametrize("name", published.list_published())
def test_a_name_of_timms_is_the_same_function(name: str) -> None:
    """Fails when a new timm has one of these names with another function."""
    layer = timm_maps.layer(name)
    assert layer is not None
    assert lookup.is_timms_the_same(name)


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")
@pytest.mark.parametrize("name", published.list_published())
def test_a_name_of_transformers_is_the_same_function(name: str) -> None:
    from transformers.activations import ACT2FN

    x = torch.linspace(-10, 10, 2001, dtype=torch.float64)
    torch.testing.assert_close(ACT2FN[name](x.clone()), published.get_published(name)(x), rtol=1e-6, atol=1e-6)


def test_timms_name_stays_timms_even_with_another_function(monkeypatch: pytest.MonkeyPatch) -> None:
    from timm.layers import create_act

    from grafs_timm.models import timm_names

    class GoLU(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * x

    for place in ("_ACT_LAYER_DEFAULT", "_ACT_LAYER_ME"):
        monkeypatch.setitem(getattr(create_act, place), "golu", GoLU)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        timm_names.register()
    assert timm.layers.get_act_layer("golu") is GoLU
    lookup._warn_if_other.cache_clear()
    with pytest.warns(GrafsWarning, match=r"timm's own 'golu', which is used, is another function .*x\*exp\(-exp\(-x\)\)"):
        assert lookup.act_layer("golu") is GoLU
    assert grafs_timm.get_published("golu")(torch.ones(1)).item() == pytest.approx(math.exp(-math.exp(-1)))
    lookup._warn_if_other.cache_clear()


# --- constants and names


def test_constants() -> None:
    swish = grafs_timm.get_published("e_swish", beta=2)
    assert str(swish) == "e_swish(beta=2.0)"
    assert swish == grafs_timm.get_published("E_Swish(beta=2)") != grafs_timm.get_published("e_swish")
    assert grafs_timm.get_published("e_swish", beta=1.375) == grafs_timm.get_published("e_swish")
    torch.testing.assert_close(swish(torch.ones(1)), 2 * torch.nn.functional.silu(torch.ones(1)))
    layer = grafs_timm.act_layer("e_swish", beta=2)
    assert layer is grafs_timm.act_layer("e_swish(beta=2.0)") is grafs_timm.act_layer(swish)
    again = pickle.loads(pickle.dumps(layer()))
    assert type(again) is type(copy.deepcopy(again)) is layer


@pytest.mark.parametrize(
    ("name", "constants", "message"),
    [
        ("e_swish", {"beta": math.nan}, "e_swish: beta must be a finite number, got nan; the paper's is 1.375"),
        ("e_swish", {"beta": math.inf}, "beta must be a finite number, got inf"),
        ("e_swish", {"beta": "2"}, "beta must be a finite number, got '2'"),
        ("e_swish", {"beta": True}, "beta must be a finite number, got True"),
        ("e_swish", {"bta": 1.0}, r"no constant 'bta'; nearest: beta; its constants: beta"),
        ("golu", {"beta": 1.0}, "golu: no constant 'beta'; it has none"),
        ("grafs2024_wrn", {"beta": 1.0}, "grafs2024_wrn has no constants, got beta"),
        ("snake", {"a": 0.0}, r"snake\(a=0.0\) is not finite on"),
        ("squareplus", {"b": -1.0}, r"squareplus\(b=-1.0\) is not finite on"),
        ("e_swish(beta=two)", {}, r"constants are written as in e_swish\(beta=1.5\), got 'beta=two'"),
        ("e_swish(beta=nan)", {}, "beta must be a finite number, got nan"),
    ],
)
def test_wrong_constants(name: str, constants: dict[str, float], message: str) -> None:
    with pytest.raises(ConstantError, match=message):
        grafs_timm.get_published(name, **constants)


@pytest.mark.parametrize("wrong", ["goluu", "grafs2024_wrm", "GoLU2", "gelo"])
def test_an_unknown_name_gives_the_nearest_of_all(wrong: str) -> None:
    near = {"goluu": "golu", "grafs2024_wrm": "grafs2024_wrn", "GoLU2": "golu", "gelo": "gelu"}[wrong]
    for look_up in (grafs_timm.get_published, grafs_timm.act_layer):
        with pytest.raises(UnknownNameError, match=f"; nearest: {near}"):
            look_up(wrong)


def test_the_zoo_tells_a_published_name_from_an_entry() -> None:
    with pytest.raises(UnknownNameError, match="'golu' is a published function, not an entry of the zoo; use"):
        grafs_timm.get_activation("golu")


# --- in models


@pytest.mark.parametrize("name", ["golu", "GOLU", "telu", "grafs2024_wrn", "star_relu"])
def test_in_timm_models(name: str) -> None:
    by_timm = timm.create_model("test_resnet", act_layer=name)
    ours = grafs_timm.create_model("test_resnet", name)
    assert f"by {name.lower()}" in str(ours.activation_report)
    assert type(by_timm.act1) is type(ours.act1) or name == "grafs2024_wrn"
    x = torch.randn(2, 3, 64, 64)
    ours.load_state_dict(by_timm.state_dict())
    torch.testing.assert_close(ours.eval()(x), by_timm.eval()(x))
    again = grafs_timm.replace_activations(ours, "relu")  # a published activation is replaced like any other
    assert again.replaced > 5


def test_in_a_normaliser_free_network() -> None:
    timm.create_model("test_nfnet", act_layer="golu")


def test_weights_are_bound_to_the_name(tmp_path: Path) -> None:
    model = timm.create_model("test_resnet", act_layer="golu", num_classes=3)
    grafs_timm.save_pretrained(model, tmp_path / "golu")
    again = grafs_timm.create_model(f"local-dir:{tmp_path / 'golu'}", pretrained=True)
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(again.eval()(x), model.eval()(x))
    with pytest.raises(grafs_timm.errors.WeightsError, match="golu"):
        grafs_timm.load_pretrained(timm.create_model("test_resnet", num_classes=3), tmp_path / "golu")
    other = grafs_timm.create_model("test_resnet", Published("e_swish", (("beta", 1.5),)), num_classes=3)
    grafs_timm.save_pretrained(other, tmp_path / "e_swish")
    back = grafs_timm.create_model(f"local-dir:{tmp_path / 'e_swish'}", pretrained=True)
    torch.testing.assert_close(back.eval()(x), other.eval()(x))


# --- deployed


class All(nn.Module):
    """Every published function, of one row of the input each."""

    def __init__(self) -> None:
        super().__init__()
        self.each = nn.ModuleList([lookup.act_layer(published.get_published(name))() for name in published.list_published()])

    def forward(self, x: Tensor) -> list[Tensor]:
        results = []
        for number, activation in enumerate(self.each):
            results.append(activation(x[number]))
        return results


def rows(numbers: Tensor) -> Tensor:
    return numbers.repeat(len(published.list_published()), 1)


@pytest.mark.parametrize("dynamo", [False, True])
def test_in_onnx(dynamo: bool, tmp_path: Path) -> None:
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    import onnxruntime

    model, x, path = All().eval(), rows(torch.linspace(-12, 12, 481)), tmp_path / "all.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (x,), str(path), dynamo=dynamo, input_names=["x"], verbose=False)
    run = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": x.numpy()})
    for name, got, expected in zip(published.list_published(), run, model(x), strict=True):
        np.testing.assert_allclose(got, expected.numpy(), rtol=1e-4, atol=2e-5, err_msg=name)


@every_dtype
def test_scripted_and_exported(dtype: torch.dtype) -> None:
    model, x = All(), rows(torch.linspace(-12, 12, 49, dtype=dtype))
    for other in (torch.jit.script(model), torch.export.export(model, (x,)).module()):
        for name, got, expected in zip(published.list_published(), other(x), model(x), strict=True):
            assert torch.equal(got, expected), name


@pytest.mark.slow
def test_compiled() -> None:
    model, x = All(), rows(torch.linspace(-12, 12, 481)).requires_grad_()
    compiled = torch.compile(model, fullgraph=True)
    for got, expected in zip(compiled(x), model(x), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
        a, b = (torch.autograd.grad(each.sum(), x, retain_graph=True)[0] for each in (got, expected))
        torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5)


def test_a_published_class_is_one_of_ours() -> None:
    assert issubclass(timm.layers.get_act_layer("golu"), PublishedActivation)
