"""A found activation where models go after training: TorchScript, and the checks of the deployment table on a sample."""

from __future__ import annotations

import copy
import csv
import functools
import io
import pickle
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from deployment_checks import CHECKS, Outcome, perform
from export_matrix import DOCS, OUTSIDE, Subject, in_timm, plan, random_cells, small
from torch import Tensor, nn

from grafs_timm.activations import facts
from grafs_timm.activations.activation import activation_class
from grafs_timm.activations.genotype import Genotype, random_genotype
from grafs_timm.zoo import lookup as zoo

GENOTYPES = [random_genotype(np.random.default_rng(seed), wide=True) for seed in range(30)]
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def _layer(genotype: Genotype) -> nn.Module:
    return activation_class(genotype)()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_scripted_it_is_the_formula_bit_by_bit(dtype: torch.dtype) -> None:
    top = torch.finfo(dtype).max
    x = torch.tensor([-top, -40.0, -1.0, -0.0, 0.0, 1e-3, 1.0, 40.0, top], dtype=dtype)
    for genotype in GENOTYPES:
        scripted = torch.jit.script(_layer(genotype))
        for shape in ((9,), (3, 3), (1, 3, 1, 3)):  # one script serves every shape, and still after it has been optimised
            assert torch.equal(scripted(x.view(shape)), genotype(x.view(shape)))


def test_scripted_it_has_the_formulas_gradient() -> None:
    def gradient(f: nn.Module) -> Tensor:
        x = torch.linspace(-4, 4, 81, requires_grad=True)
        y = f(x) + 0 * x  # a constant cell hands back no gradient of its own
        return torch.autograd.grad(y.sum(), x)[0]

    for genotype in GENOTYPES:
        layer = _layer(genotype)
        scripted, expected = torch.jit.script(layer), gradient(layer)
        for _ in range(3):
            torch.testing.assert_close(gradient(scripted), expected, rtol=1e-5, atol=1e-5)


def test_a_script_is_saved_and_loaded_with_its_numbers() -> None:
    model = nn.Sequential(nn.Linear(3, 8), _layer(GENOTYPES[0]), nn.Linear(8, 8), _layer(GENOTYPES[1]))
    x, buffer = torch.randn(5, 3), io.BytesIO()
    torch.jit.save(torch.jit.script(model), buffer)
    buffer.seek(0)
    assert torch.equal(torch.jit.load(buffer)(x), model(x))


def test_scripting_leaves_the_eager_model_whole() -> None:
    model = nn.Sequential(nn.Linear(3, 8), _layer(GENOTYPES[0]))
    x = torch.randn(5, 3)
    before, keys = model(x), list(model.state_dict())
    torch.jit.script(model)
    assert torch.equal(model(x), before)
    assert list(model.state_dict()) == keys
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(again[1]) is type(model[1])
        assert torch.equal(again(x), before)
        assert torch.equal(torch.jit.script(again)(x), before)


@functools.cache
def _committed() -> list[dict[str, str]]:
    with (DOCS / "deployment.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _performed(subject: Subject, names: Iterable[str]) -> list[Outcome]:
    return [outcome for name in names for outcome in perform(CHECKS[name], subject.make, subject.x, subject.slope)]


QUICK = [name for name in CHECKS if name not in ("torch.compile", "onnx")]


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_a_zoo_entry_in_a_timm_model_is_deployed_as_it_was_trained(name: str) -> None:
    entry = next(iter(zoo.entries().values()))
    outcomes = _performed(in_timm(entry.name, entry.genotype, name, facts.of(entry.genotype).lipschitz), QUICK)
    assert not [o for o in outcomes if not o.holds and (entry.name, name, o.check, o.what) not in OUTSIDE]


def test_random_cells_are_deployed_as_they_were_trained() -> None:
    for activation, genotype in list(random_cells().items())[3:27:8]:
        names = [name for name in QUICK if name != "checkpointing"]  # no switch of a plain nn.Sequential
        assert not [o for o in _performed(small(activation, genotype), names) if not o.holds]


@pytest.mark.parametrize("check", ["torch.compile", "onnx"])
def test_a_random_cell_is_compiled_and_exported(check: str) -> None:
    for package in CHECKS[check].needs:
        pytest.importorskip(package)
    (activation, genotype), *_ = random_cells().items()
    assert not [o for o in _performed(small(activation, genotype), [check]) if not o.holds]


@pytest.mark.slow
def test_everything_in_the_table_holds_but_what_is_known_not_to() -> None:
    outcomes = [(s.activation, s.model, o) for s, check in plan() for o in perform(check, s.make, s.x, s.slope)]
    failed = {(activation, model, o.check, o.what): o for activation, model, o in outcomes if not o.holds}
    assert not failed.keys() - OUTSIDE.keys()
    assert all(o.error is not None and o.error < 3 * o.tolerance for o in failed.values())


def test_what_is_known_not_to_hold_is_in_the_table_with_its_reason() -> None:
    said = {tuple(row[key] for key in ("activation", "model", "check", "what")): row for row in _committed()}
    assert {key for key, row in said.items() if row["holds"] == "no"} == OUTSIDE.keys()
    assert all(said[key]["note"] == why for key, why in OUTSIDE.items())


def test_the_table_has_every_entry_every_cell_and_every_check() -> None:
    have = {(row["activation"], row["model"], row["check"]) for row in _committed()}
    wanted = {(subject.activation, subject.model, check.name) for subject, check in plan()}
    assert have == wanted, "the table is of another zoo or other checks: run python tools/export_matrix.py"
    formulas = {row["activation"]: row["formula"] for row in _committed()}
    assert formulas["random_00"] == random_cells()["random_00"].text
    assert (DOCS / "deployment.md").read_text(encoding="utf-8").count("\n| ") > len(CHECKS)


def test_a_steep_function_may_err_by_its_slope_in_the_gradients_alone() -> None:
    model = nn.Linear(3, 2)
    for slope, allowed in ((0.5, 1e-4), (30.0, 3e-3)):
        outputs, gradients = perform(CHECKS["channels_last"], lambda: copy.deepcopy(model), torch.ones(2, 3, 1, 3), slope)
        assert outputs.tolerance == 1e-5
        assert gradients.tolerance == pytest.approx(allowed)
    _, exact = perform(CHECKS["deepcopy"], lambda: copy.deepcopy(model), torch.ones(2, 3), 30.0)
    assert exact.tolerance == 0.0
    steepest = {s.activation: s.slope for s, _ in plan(1)}
    assert steepest.pop("random_00") == 1.0
    assert steepest == {name: facts.of(entry.genotype).lipschitz for name, entry in zoo.entries().items()}


def test_a_check_says_how_far_off_a_model_is_and_what_it_raised() -> None:
    made = iter([1.0, 1.5])

    def other_each_time() -> nn.Module:
        model = nn.Linear(3, 2)
        nn.init.constant_(model.weight, next(made))
        nn.init.zeros_(model.bias)
        return model

    outputs, gradients = perform(CHECKS["channels_last"], other_each_time, torch.ones(2, 3, 1, 3))
    assert not outputs.holds
    assert outputs.error == pytest.approx(1 / 3)  # 3 where 4.5 was expected
    assert gradients.error == pytest.approx(1 / 3)
    (raised,) = perform(CHECKS["checkpointing"], lambda: nn.Linear(3, 2), torch.ones(2, 3))
    assert not raised.holds
    assert "set_grad_checkpointing" in raised.note
