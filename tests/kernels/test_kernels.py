"""The compiled loops against the plain ones, on a CPU: values, places, slopes, histograms, and the same bits again."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import warnings
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._inductor.exc import InvalidCxxCompiler

from grafs_timm import kernels
from grafs_timm.kernels import cpu, plain
from grafs_timm.utils import compiled

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
GRIDS = [(-16.0, 16.0, 4096), (-2.0, 2.0, 64), (-8.0, 24.0, 8192), (-1.0, 1.0, 2)]
EDGES = (0.0, -16.0, 16.0, 1e30, -1e30, 17.0, -17.0, 16.000002, -1e-9, 1e-9, 15.9999, 2.0, -2.0, math.inf, -math.inf, math.nan)


def table(n: int) -> Tensor:
    rows = torch.randn(n + 5, 2)
    rows[n + 2 :, 1] = math.nan
    return rows


def inputs(count: int, dtype: torch.dtype) -> Tensor:
    x = 6 * torch.randn(count)
    x[: len(EDGES)] = torch.tensor(EDGES)[:count]
    return x.to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("count", [0, 1, 5, 1024, 70_001])
def test_compiled_loops_are_the_plain_ones(count: int, grid: tuple[float, float, int], dtype: torch.dtype) -> None:
    torch.manual_seed(count)
    low, high, n = grid
    rows, x = table(n), inputs(count, dtype)
    one, two = (module.forward(x, rows, low, high, True) for module in (plain, cpu))
    huge = x.float().abs() > 1e20  # the last bits of such numbers, times a slope, are whatever order they are multiplied in
    torch.testing.assert_close(two[0][~huge], one[0][~huge], equal_nan=True, atol=1e-4, rtol=1e-2)
    assert torch.equal(one[1], two[1])
    assert int(one[2]) == int(two[2])
    assert cpu.forward(x, rows, low, high, False)[1].numel() == 0
    g = torch.randn(count).to(dtype)
    assert torch.equal(cpu.slope(g, one[1], rows).nan_to_num(9), plain.slope(g, one[1], rows).nan_to_num(9))
    spoilt, clean = one[1], one[1].clone()
    clean[clean == -1] = 0  # the place of what is not finite
    for place in (spoilt, clean):
        (slope, gradient), (expected_slope, expected) = (
            module.slope_and_rows(g, place, rows, low, high, True) for module in (cpu, plain)
        )
        assert torch.equal(slope.nan_to_num(9), expected_slope.nan_to_num(9))
        assert bool(gradient.isnan().any()) == bool((place == -1).any())
        finite = expected.isfinite() & gradient.isfinite()
        torch.testing.assert_close(gradient[finite], expected[finite], atol=2e-3, rtol=2e-3)
    assert cpu.slope_and_rows(g, clean, rows, low, high, False)[0].numel() == 0


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_same_number_of_threads_gives_the_same_bits(threads: int) -> None:
    torch.manual_seed(0)
    rows, x, g, before = table(4096), torch.randn(100_000), torch.randn(100_000), torch.get_num_threads()
    place = cpu.forward(x, rows, -16, 16, True)[1]
    torch.set_num_threads(threads)
    try:
        first, second = (cpu.slope_and_rows(g, place, rows, -16, 16, True) for _ in range(2))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_a_place_is_kept_to_an_eighth_of_an_interval_or_a_thousandth_of_the_way_outside() -> None:
    low, high, n = -16.0, 16.0, 4096
    x = torch.cat(
        [torch.linspace(-15.999, 15.999, 40_001), torch.logspace(-3, 4.5, 999) + 16, -torch.logspace(-3, 4.5, 999) - 16]
    )
    place = plain.forward(x, table(n), low, high, True)[1]
    row, kept = plain.row_of(place, n), plain.distance_of(place, low, high, n)
    knot = torch.where(row == 0, low, torch.where(row == n + 1, high, low + (row - 1) * (high - low) / n))
    error = (kept - (x - knot)).abs()
    inside = x.abs() <= 16
    assert error[inside].max() <= (high - low) / n / 8 + 2e-6
    assert (error / (x.abs() - 16))[~inside].max() <= 1.1e-3


def test_float64_and_a_machine_without_a_compiler_take_the_plain_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    here = torch.device("cpu")
    assert kernels.choose(here, torch.float32) is cpu
    assert kernels.choose(here, torch.float64) is plain

    def no_compiler() -> None:
        raise InvalidCxxCompiler

    monkeypatch.setattr(compiled, "_troubles", defaultdict(compiled._Trouble))
    monkeypatch.setattr(cpu, "loops", no_compiler)
    with pytest.warns(UserWarning, match="no compiler was found, so it runs as plain torch.*g\\+\\+"):
        assert kernels.choose(here, torch.float32) is plain
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # one notice is enough
        assert kernels.choose(here, torch.float32) is plain


def test_a_cuda_device_without_triton_takes_the_plain_loops_with_one_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setattr(compiled, "_troubles", defaultdict(compiled._Trouble))
    kernels._cuda.cache_clear()
    monkeypatch.delitem(sys.modules, "grafs_timm.kernels.cuda", raising=False)
    monkeypatch.delattr(kernels, "cuda", raising=False)
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.warns(UserWarning, match="runs as plain torch.*Triton"):
        assert kernels.choose(torch.device("cuda"), torch.float16) is plain
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kernels.choose(torch.device("cuda"), torch.float32) is plain


def test_on_cuda_it_is_triton() -> None:
    pytest.importorskip("triton", reason="Triton is there on Linux x86-64 only")
    assert kernels.choose(torch.device("cuda"), torch.bfloat16).__name__ == "grafs_timm.kernels.cuda"


def test_the_loops_take_few_compilations(tmp_path):
    """Whoever runs something for the first time waits for them: inductor alone would compile four test programs first."""
    log, compiler = tmp_path / "log", tmp_path / "g++"
    compiler.write_text(f'#!/bin/sh\ncase "$*" in *.cpp*) echo x >> {log};; esac\nexec g++ "$@"\n', encoding="utf-8")
    compiler.chmod(0o755)
    env = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"), "CXX": str(compiler)}
    code = "from grafs_timm.kernels import cpu; cpu.loops()"
    subprocess.run([sys.executable, "-c", code], env=env, check=True, cwd=Path(__file__).parents[2])
    assert log.read_text(encoding="utf-8").count("x") == 1


def test_each_processor_has_loops_of_its_own(monkeypatch):
    from torch._inductor.codecache import CppCodeCache

    sources = []
    monkeypatch.setattr(CppCodeCache, "load", lambda source, **_: sources.append(source))
    for name in ("one", "öther\nkind"):
        monkeypatch.setattr(cpu.hardware, "processor", lambda name=name: name)
        cpu.load("table.cpp")
    assert len(set(sources)) == 2
    assert all(source.isascii() for source in sources)
