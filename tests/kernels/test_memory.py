"""No loop reads memory it was not written for: what GELU takes comes out right or is refused, and nothing ends the process."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from fuzz_activation import GELU, GRID, fuzzed, tabulated
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_leaves

import grafs_timm
from grafs_timm.activations import facts, similarity
from grafs_timm.activations.gains import gain
from grafs_timm.comparison.contenders import random_cells
from grafs_timm.data.images import Batches, ImageSet
from grafs_timm.data.text import TextBatches, TextSet
from grafs_timm.errors import TensorError
from grafs_timm.kernels import cpu, plain
from grafs_timm.models.binding import activation_of
from grafs_timm.search.bilevel import ActivationSearch
from grafs_timm.search.table import lookup

LARGE = 20_000


def right(x: Tensor, expected: Tensor | None = None) -> None:
    for name, function in tabulated().items():
        y = function(x)
        torch.testing.assert_close(y, F.gelu(x) if expected is None else expected, atol=2e-5, rtol=2e-5, msg=name)


def refused(x: Tensor) -> None:
    for function in tabulated().values():
        with pytest.raises((TypeError, RuntimeError)):
            function(x)


def float8(name: str) -> Callable[[], None]:
    def case() -> None:
        x = torch.ones(LARGE).to(getattr(torch, name))
        for function in list(tabulated().values())[:2]:
            with pytest.raises(TensorError, match=r"not implemented for '?Float8"):
                function(x)

    return case


def under(enter: Callable[[], object]) -> Callable[[], None]:
    def case() -> None:
        x = torch.randn(LARGE)
        functions, expected = tabulated(), F.gelu(x)
        enter()
        for function in functions.values():
            y = function(x)
            assert y.device.type == "cpu"
            torch.testing.assert_close(y.detach(), expected, atol=2e-5, rtol=2e-5)
        z = x.requires_grad_()
        for function in functions.values():
            function(z).backward(torch.ones_like(z))

    return case


def freed() -> None:
    x = torch.randn(LARGE)
    x.untyped_storage().resize_(0)
    for function in list(tabulated().values())[:2]:
        with pytest.raises(TensorError, match="not allocated"):
            function(x)


def fake() -> None:
    x, functions = torch.randn(LARGE), tabulated()
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert type(functions["activation"](x)).__name__ == "FakeTensor"


def traced() -> None:
    act, x = tabulated()["activation"], torch.randn(LARGE)
    torch.testing.assert_close(make_fx(act)(x)(2 * x), F.gelu(2 * x))


def rows_elsewhere() -> None:
    with pytest.raises(TensorError, match="move them"):
        lookup(torch.randn(LARGE), torch.zeros(GRID.intervals + 5, 2, device="meta"), GRID)


def direct(x: Tensor, rows: Tensor) -> Callable[[], None]:
    def case() -> None:
        with pytest.raises(TensorError):
            torch.ops.grafs_timm.lookup(x, rows, -1.0, 1.0, True)

    return case


def short_places() -> None:
    rows, g = torch.zeros(7, 2), torch.randn(LARGE)
    for loop in (cpu.slope, lambda *a: cpu.slope_and_rows(*a, -1.0, 1.0, True)):
        with pytest.raises(TensorError, match="place"):
            loop(g, torch.zeros(10, dtype=torch.int16), rows)


CASES: dict[str, Callable[[], None]] = {
    **{name: float8(name) for name in ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")},
    "an integer": lambda: refused(torch.arange(LARGE)),
    "complex numbers": lambda: refused(torch.randn(LARGE, dtype=torch.complex64)),
    "within torch.device": under(lambda: torch.device("meta").__enter__()),
    "under set_default_device": under(lambda: torch.set_default_device("meta")),
    "under a default dtype": under(lambda: torch.set_default_dtype(torch.float64)),
    "on cpu:0": lambda: right(torch.empty(LARGE, device="cpu:0").fill_(0.5)),
    "a negative view": lambda: right(torch._neg_view(torch.linspace(-3, 3, LARGE))),
    "zeros that are not stored": lambda: right(torch._efficientzerotensor((LARGE,)), torch.zeros(LARGE)),
    "storage given back": freed,
    "a fake tensor mode": fake,
    "make_fx": traced,
    "sparse": lambda: refused(torch.randn(LARGE).to_sparse()),
    "rows on another device": rows_elsewhere,
    "rows of float64": direct(torch.randn(LARGE), torch.zeros(7, 2, dtype=torch.float64)),
    "rows with gaps": direct(torch.randn(LARGE), torch.zeros(7, 4)[:, ::2]),
    "rows of one interval too few": direct(torch.randn(LARGE), torch.zeros(5, 2)),
    "places of another size": short_places,
}


def _in_forks() -> None:
    """Each case in a process of its own, forked from this one: print {case: how it ended}."""
    cpu.loops()  # compiled before the first fork; everything else is made in the forks, under what they enter
    endings = {}
    for name, case in CASES.items():
        if (child := os.fork()) == 0:
            code = 1
            try:
                case()
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        endings[name] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps(endings))


@pytest.fixture(scope="module")
def endings() -> tuple[dict[str, int], str]:
    paths = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, __file__], capture_output=True, encoding="utf-8", env={**os.environ, "PYTHONPATH": paths}
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.mark.parametrize("case", CASES)
def test_it_is_right_or_refused_and_the_process_lives(case: str, endings: tuple[dict[str, int], str]) -> None:
    codes, said = endings
    assert codes[case] == 0, said[-3000:]


def test_a_package_imported_under_another_default_device_is_the_same() -> None:
    script = """
import torch
with torch.device("meta"):
    from grafs_timm.activations.activation import activation_class
    from grafs_timm.activations.genotype import Gene, Genotype
    from grafs_timm.activations.similarity import same_function
    one = Genotype(Gene("silu"), Gene("scale", 0.5), Gene("gate"), Gene("asinh"), Gene("gelu"), Gene("add"))
    assert same_function(one, one)
    act = activation_class(one)()
    x = torch.linspace(-3, 3, 20000, device="cpu")
    torch.testing.assert_close(act(x), one(x), atol=1e-5, rtol=1e-5)
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    assert similarity.SAMPLES.device.type == "cpu"


_MAKERS = {
    *("tensor", "zeros", "ones", "empty", "full", "arange", "linspace", "logspace", "eye", "as_tensor"),
    *("rand", "randn", "randint", "randperm"),
}
_FOLDER = Path(grafs_timm.__file__).parent


@pytest.mark.parametrize("file", sorted(_FOLDER.rglob("*.py")), ids=lambda file: str(file.relative_to(_FOLDER)))
def test_no_tensor_inherits_the_default_device(file: Path) -> None:
    for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(call, ast.Call) and ast.unparse(call.func) in [f"torch.{name}" for name in _MAKERS]:
            of_numpy = ast.unparse(call).startswith("torch.as_tensor(self.task.transform")
            assert of_numpy or "device" in [key.arg for key in call.keywords], f"line {call.lineno}: {ast.unparse(call)}"


def _images() -> ImageSet:
    pixels = torch.arange(24 * 3 * 64, device="cpu").view(24, 3, 8, 8).mul(37).remainder(256).to(torch.uint8)
    return ImageSet(pixels, torch.arange(24, device="cpu") % 3, ("a", "b", "c"))


def _searched() -> list[Tensor]:
    model = nn.Sequential(nn.Linear(4, 8, device="cpu"), nn.ReLU(), nn.Linear(8, 2, device="cpu"))
    search, x = ActivationSearch(model, 4), torch.ones(3, 4, device="cpu")
    for _ in range(2):
        search.architecture_step(lambda: model(x).square().mean())
        search.end_epoch()
    return list(search.cell.state_dict().values())


ELSEWHERE: dict[str, Callable[[], object]] = {
    "a search": _searched,
    "batches": lambda: list(Batches(_images(), 8, augment=["crop", "flip", "trivial_augment"]).epoch(0)),
    "batches in order": lambda: list(Batches(_images(), 8, shuffle=False).epoch(0)),
    "a part": lambda: list(_images().split(0.5)[0].images),
    "windows of text": lambda: list(TextBatches(TextSet(torch.arange(99, device="cpu"), 99, 99), 4, context=8).epoch(0)),
    "facts": lambda: facts.of(GELU),
    "a gain": lambda: gain(GELU),
    "16-bit safety": lambda: facts.finite_in(GELU, torch.bfloat16),
    "random cells": lambda: list(islice(random_cells(3, seed=0), 3)),
    "a model's activation": lambda: activation_of(timm.create_model("test_resnet").to_empty(device="cpu")).name,
}


@pytest.mark.parametrize("what", ELSEWHERE)
def test_a_default_device_changes_nothing(what: str) -> None:
    torch.manual_seed(0)
    expected = ELSEWHERE[what]()
    torch.set_default_device("meta")
    try:
        torch.manual_seed(0)
        found = ELSEWHERE[what]()
    finally:
        torch.set_default_device(None)
    for got, want in zip(tree_leaves(found), tree_leaves(expected), strict=True):
        assert torch.equal(got, want) if isinstance(want, Tensor) else got == want


@pytest.mark.parametrize("shapes", [((5,), (3,)), ((3,), (5,)), ((2, 3), (3, 2)), ((), (1,)), ((0,), (4,))], ids=str)
def test_a_gradient_of_another_shape_than_its_places_is_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    g, place = torch.randn(shapes[0]), torch.zeros(shapes[1], dtype=torch.int16)
    with pytest.raises(ValueError, match="of shape"):
        torch.ops.grafs_timm.lookup_slope(g, place, torch.zeros(7, 2), -1.0, 1.0)


def test_the_plain_loops_take_no_compiled_ones_dtypes_for_granted() -> None:
    x = torch.randn(9, dtype=torch.float64)
    assert plain.forward(x, torch.zeros(7, 2), -1.0, 1.0, False)[0].dtype == torch.float64
    assert GELU(x).dtype == torch.float64


@pytest.mark.slow
def test_five_thousand_drawn_calls_end_no_process_and_differ_nowhere() -> None:
    counts, findings = fuzzed(5000, seed=1)
    print(dict(counts))
    assert not findings, "\n".join(findings)
    assert counts["right"] > 1000


if __name__ == "__main__":
    _in_forks()
