"""A found activation where models go after training: TorchScript, and the checks of the deployment table on a sample."""

from __future__ import annotations

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from grafs_timm.activation import activation_class
from grafs_timm.formula import Genotype, random_genotype

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
