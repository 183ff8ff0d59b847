"""The Triton kernels against plain torch: in Triton's interpreter on any machine, compiled where there is a GPU.

The interpreter has to be chosen before Triton is imported, so that it runs in a process of its own: this file, as a program.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from grafs_timm.kernels import plain

if importlib.util.find_spec("triton") is None:
    pytest.skip("needs Triton", allow_module_level=True)


def version_of(package: str) -> tuple[int, int]:
    major, minor = importlib.metadata.version(package).split(".")[:2]
    return int(major), int(minor)


interpreted = pytest.mark.skipif(
    version_of("triton") < (3, 7) and version_of("numpy") >= (2, 4),
    reason="the interpreter of Triton before 3.7 does not run with NumPy 2.4",
)
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

GRIDS = {
    "1": (1, -4.0, 4.0),
    "64": (64, -16.0, 16.0),
    "4096": (4096, -16.0, 16.0),
    "8192": (8192, -8.0, 8.0),
    "100, uneven": (100, -3.3, 5.1),
}
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SIZES = [0, 1, 5, 1000, 5000]
NAMES = ["y", "place", "outside", "y in place", "slope", "slope of both", "gradient"]

Case = dict[str, Any]


def case(grid: str, dtype: torch.dtype, size: int, finite: bool = False) -> Case:
    """Inputs inside and outside of the grid, a third of them near 0; then knots, edges, and unless ``finite`` what is not."""
    n, low, high = GRIDS[grid]
    torch.manual_seed(n + size)
    x, g = torch.randn(size) * (high - low) / 5, torch.randn(size)
    x[::3] *= 0.01
    if size >= 1000:
        knots = low + torch.arange(200) * ((high - low) / n)
        ends = torch.tensor([low, high, 0.0, -0.0, 1e38, -1e38, 6e4, -6e4, low - 1e-6, high + 1e-6, 1e-30])
        x[: len(knots)], x[len(knots) : len(knots) + len(ends)] = knots, ends
        if finite:
            x = x.clamp(-6e4, 6e4)
        else:
            x[300:303] = torch.tensor([torch.inf, -torch.inf, torch.nan])
    rows = torch.randn(n + 5, 2)
    rows[n + 2 :, 1] = torch.nan
    return {"x": x.to(dtype), "g": g.to(dtype), "rows": rows, "low": low, "high": high}


def run(kernels: Any, c: Case) -> dict[str, Tensor]:
    y, place, outside = kernels.forward(c["x"], c["rows"], c["low"], c["high"], True)
    both = kernels.slope_and_rows(c["g"], place, c["rows"], c["low"], c["high"], True)
    over = kernels.forward(c["x"].clone(), c["rows"], c["low"], c["high"], False, inplace=True)[0]
    return dict(zip(NAMES, (y, place, outside, over, kernels.slope(c["g"], place, c["rows"]), *both), strict=True))


def same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.isnan(), b.isnan()) and bool((a == b)[~a.isnan()].all())


def check(c: Case, got: dict[str, Tensor]) -> None:
    """All but the table's gradient as plain torch has it, to the bit; that to 2⁻¹⁶ of the sum of its terms' sizes."""
    expected = run(plain, c)
    for name in NAMES[:-1]:
        assert same(got[name], expected[name]), name
    sizes = plain.slope_and_rows(c["g"].abs(), expected["place"], c["rows"], c["low"], c["high"], False)[1].abs()
    error = (got["gradient"] - expected["gradient"]).abs()
    assert got["gradient"].shape == expected["gradient"].shape
    assert torch.equal(got["gradient"].isnan(), expected["gradient"].isnan())
    assert bool(((error <= sizes * 2**-16) | expected["gradient"].isnan()).all())


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Calls the interpreter on all cases that the tests of this module take from it: key -> (case, what came out)."""
    keys = [(grid, dtype, size, False) for grid in GRIDS for dtype in DTYPES for size in SIZES]
    keys += [("4096", dtype, 5000, True) for dtype in DTYPES]
    cases = [case(*key) for key in keys]
    spoilt = case("64", torch.float32, 1000, True)
    spoilt["g"][17] = torch.inf
    strided = case("64", torch.float32, 1000)
    strided["rows"] = torch.stack([strided["rows"]] * 3)[1]
    cases += [case("4096", torch.float32, 5000), spoilt, strided]
    folder = tmp_path_factory.mktemp("interpreter")
    torch.save(cases, folder / "in.pt")
    command = [sys.executable, "-W", "ignore", __file__, str(folder / "in.pt"), str(folder / "out.pt")]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env={**os.environ, "TRITON_INTERPRET": "1"})
    assert done.returncode == 0, done.stderr
    return dict(zip([*keys, "again", "spoilt", "strided"], zip(cases, torch.load(folder / "out.pt"), strict=True), strict=True))


@interpreted
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("grid", GRIDS)
def test_as_plain_torch(ran: Any, grid: str, dtype: torch.dtype) -> None:
    for size in SIZES:
        check(*ran[grid, dtype, size, False])
    assert int(ran[grid, dtype, 5000, False][1]["outside"]) > 20


@interpreted
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_gradient_without_a_value_that_is_not_finite(ran: Any, dtype: torch.dtype) -> None:
    c, got = ran["4096", dtype, 5000, True]
    check(c, got)
    assert bool(got["gradient"].isfinite().all())
    total = c["g"].double().sum()
    assert float(got["gradient"][:, 0].double().sum() - total) == pytest.approx(0, abs=1e-3)


@interpreted
def test_the_same_input_gives_the_same_bits(ran: Any) -> None:
    first, second = ran["4096", torch.float32, 5000, False][1], ran["again"][1]
    for name in NAMES:
        assert same(first[name], second[name]), name


@interpreted
def test_an_infinite_gradient_shows_in_its_row_and_not_beyond_its_64(ran: Any) -> None:
    got = ran["spoilt"][1]
    row = int(plain.row_of(got["place"][17:18], 64))
    assert not bool(got["gradient"][row].isfinite().any())
    assert bool(got["gradient"][[0, 65]].isfinite().all())


@interpreted
def test_one_site_of_a_stack_of_tables(ran: Any) -> None:
    check(*ran["strided"])


@on_gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("size", [1, 1000, 12_345, 2**21])
def test_as_plain_torch_on_a_gpu(grid: str, dtype: torch.dtype, size: int) -> None:
    from grafs_timm.kernels import cuda

    for finite in (False, True):
        c = {k: v.cuda() if isinstance(v, Tensor) else v for k, v in case(grid, dtype, size, finite).items()}
        got = run(cuda, c)
        check(c, got)
        again = run(cuda, c)
        assert all(same(got[name], again[name]) for name in NAMES)


@on_gpu
def test_captured_in_a_cuda_graph() -> None:
    from grafs_timm.kernels import cuda

    c = {k: v.cuda() if isinstance(v, Tensor) else v for k, v in case("4096", torch.float32, 2**20).items()}
    expected = run(cuda, c)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = run(cuda, c)
    graph.replay()
    assert all(same(got[name], expected[name]) for name in NAMES)


COMPILE = """
import itertools

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from grafs_timm.kernels import cuda

pointers = dict(pair_ptr="i64", outside_ptr="i64", place_ptr="i16", column_ptr="i16", rows_ptr="fp32", part_ptr="fp32")
constants = {cuda._forward: dict(KEEP=True, BLOCK=cuda.BLOCK), cuda._slope: dict(BLOCK=cuda.BLOCK),
             cuda._rows: dict(HIGH=64, STEP=cuda.STEP)}
for dtype, (kernel, fixed) in itertools.product(["fp32", "bf16", "fp16"], constants.items()):
    names = kernel.arg_names
    pointers.update(x_ptr=dtype, g_ptr=dtype, y_ptr=dtype, grad_ptr=dtype)
    fixed = {**fixed, "SPLIT": dtype == "fp32"} if kernel is cuda._rows else fixed
    types = {k: "constexpr" if k in fixed else "*" + pointers[k] if k in pointers else
             "i32" if k in ("size", "n", "steps") else "fp32" for k in names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, k in enumerate(names) if k in pointers or k == "size"}
    source = ASTSource(kernel, types, {(names.index(k),): v for k, v in fixed.items()}, aligned)
    options = dict(num_warps=4, num_stages=1) if kernel is cuda._rows else dict(num_warps=4)
    ptx = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]
    print(dtype, kernel.__name__, ptx.count(".v4.b32"), ptx.count("wgmma.mma_async"), ptx.count("st.shared.b16"))
"""


def test_compiles_for_a_gpu_to_wide_accesses_and_tensor_cores(tmp_path: Path) -> None:
    """Without a GPU: what Triton makes of the kernels for compute capability 9.0."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, encoding="utf-8", env=environment)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    counts = {(a, b): [int(v) for v in values] for a, b, *values in (line.split() for line in done.stdout.splitlines())}
    for dtype in ("fp32", "bf16", "fp16"):
        assert counts[dtype, "_forward"][0] >= 3  # x, y and the places, 16 bytes at a time
        assert counts[dtype, "_slope"][0] >= 3
        _, products, narrow = counts[dtype, "_rows"]
        assert products == (32 if dtype == "fp32" else 16)  # four products or two, of eight instructions
        assert narrow < 16  # the one-hot matrices are not stored two bytes at a time


def mend_interpreter() -> None:
    """Triton's interpreter cuts float32 to bfloat16 instead of rounding, and multiplies bfloat16 matrices as integers."""
    import numpy as np
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    dot, cast = InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl

    def widened(handle: Any) -> Any:
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        return TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def rounding_cast(self: Any, handle: Any, to: Any) -> Any:
        if handle.dtype.scalar != tl.float32 or to.scalar != tl.bfloat16:
            return cast(self, handle, to)
        bits = torch.from_numpy(np.ascontiguousarray(handle.data)).bfloat16().view(torch.int16)
        return TensorHandle(bits.numpy().view(np.uint16), tl.bfloat16)

    InterpreterBuilder.create_dot = lambda self, a, b, *rest: dot(self, widened(a), widened(b), *rest)
    InterpreterBuilder.cast_impl = rounding_cast


if __name__ == "__main__":
    from grafs_timm.kernels import cuda

    mend_interpreter()
    torch.save([run(cuda, c) for c in torch.load(sys.argv[1])], sys.argv[2])
