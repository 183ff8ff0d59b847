"""What a failure of compiled code does: this call is plain torch, and only a missing compiler ends the attempts."""

from __future__ import annotations

import contextlib
import warnings
from collections import defaultdict
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._inductor import exc
from torch.fx.experimental.proxy_tensor import make_fx

from grafs_timm.activations.activation import activation_class
from grafs_timm.activations.genotype import Gene, Genotype
from grafs_timm.kernels import cpu
from grafs_timm.search.table import Grid, lookup
from grafs_timm.utils import compiled

_KEEP = Gene("identity")
SILU = Genotype(_KEEP, _KEEP, Gene("left"), _KEEP, Gene("silu"), Gene("right"))
LARGE = 20_000


@pytest.fixture(autouse=True)
def no_trouble_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_troubles", defaultdict(compiled._Trouble))


def raised(error: BaseException, cause: BaseException | None = None) -> Callable[[], str]:
    def fast() -> str:
        raise error from cause

    return fast


PASSING = {
    "memory": MemoryError("8 GiB"),
    "memory of a GPU": torch.OutOfMemoryError("CUDA out of memory"),
    "a full disk": OSError(28, "No space left on device"),
    "a cache that may not be written": PermissionError(13, "Permission denied"),
    "a compiler that was killed": exc.CppCompileError(["g++"], "fatal error: Killed signal terminated program cc1plus"),
    "torch's refusal": RuntimeError("Cannot access data pointer of Tensor"),
    "a missing rule": NotImplementedError("no batching rule"),
    "another missing module": ImportError("no module", name="numba"),
}
LACKING = {
    "no C++ compiler": exc.InvalidCxxCompiler(),
    "no C++ compiler, told by inductor": exc.InductorError(exc.InvalidCxxCompiler(), None),
    "no Triton": exc.TritonMissing(None),
    "no Triton to import": ModuleNotFoundError("No module named 'triton'", name="triton"),
    "no part of Triton": ImportError("libtriton.so", name="triton._C.libtriton"),
}


@pytest.mark.parametrize("error", PASSING.values(), ids=PASSING)
def test_what_may_pass_is_told_once_and_tried_again(error: Exception) -> None:
    with pytest.warns(UserWarning, match=f"this call was computed by plain torch.*{type(error).__name__}"):
        assert compiled.attempt("a loop", raised(error), lambda: "plain") == "plain"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert compiled.attempt("a loop", raised(error), lambda: "plain") == "plain"
    for _ in range(2):
        last = compiled.attempt("a loop", lambda: "fast", lambda: "plain")
    assert last == "fast"


@pytest.mark.parametrize("error", [*LACKING.values(), "cause"], ids=[*LACKING, "as the cause of another"])
def test_without_a_compiler_no_call_tries_again(error: Exception | str) -> None:
    fast = raised(RuntimeError("did not build"), exc.InvalidCxxCompiler()) if isinstance(error, str) else raised(error)
    with pytest.warns(UserWarning, match=r"no compiler was found.*install a C\+\+ compiler"):
        assert compiled.attempt("a loop", fast, lambda: "plain") == "plain"
    assert compiled.attempt("a loop", lambda: "fast", lambda: "plain") == "plain"
    assert compiled.attempt("another loop", lambda: "fast", lambda: "plain") == "fast"


def test_what_keeps_failing_is_tried_less_and_less_and_at_once_when_it_works_again() -> None:
    tried = []

    def call(number: int) -> None:
        def fast() -> None:
            tried.append(number)
            raise MemoryError

        compiled.attempt("a loop", fast, lambda: None)

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for number in range(40):
            call(number)
    assert tried == [0, 1, 3, 7, 15, 31]
    assert len(said) == 1
    while compiled.attempt("a loop", lambda: "fast", lambda: "plain") == "plain":
        pass
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert compiled.attempt("a loop", raised(MemoryError()), lambda: "plain") == "plain"
    assert compiled.attempt("a loop", lambda: "fast", lambda: "plain") == "fast"


def test_one_failed_allocation_costs_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = activation_class(SILU)(), torch.randn(LARGE)
    fast, calls = cpu.curve, []

    def fails_once(*arguments: object) -> tuple[Tensor, Tensor]:
        calls.append(1)
        if len(calls) == 1:
            raise MemoryError("[enforce fail at alloc_cpu.cpp] can't allocate memory")
        return fast(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(cpu, "curve", fails_once)
    with pytest.warns(UserWarning, match="MemoryError"):
        first = layer(x)
    assert torch.equal(first, SILU(x))
    torch.testing.assert_close(layer(x), first, atol=1e-6, rtol=1e-6)
    assert len(calls) == 2


def batched(f: Callable[[Tensor], Tensor], x: Tensor) -> None:
    x = x.clone().requires_grad_()
    y = f(x)
    torch.autograd.grad(y, x, torch.ones(2, len(x)), is_grads_batched=True)


def doubled(f: Callable[[Tensor], Tensor], x: Tensor) -> None:
    x = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(f(x).sum(), x, create_graph=True)
    slope.sum().backward()


UNUSUAL: dict[str, Callable[[Callable[[Tensor], Tensor], Tensor], object]] = {
    "batched gradients": batched,
    "make_fx": lambda f, x: make_fx(f)(x),
    "vmap": lambda f, x: torch.vmap(f)(x.view(2, -1)),
    "vjp": lambda f, x: torch.func.vjp(f, x)[1](torch.ones_like(x)),
    "two derivatives": doubled,
    "trace": lambda f, x: torch.jit.trace(f, x),
    "export of a fake": lambda f, x: torch.func.functionalize(f)(x),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("use", UNUSUAL.values(), ids=UNUSUAL)
@pytest.mark.parametrize("which", ["activation", "lookup"])
def test_unusual_uses_leave_the_fast_path_on(which: str, use: Callable[..., object], monkeypatch: pytest.MonkeyPatch) -> None:
    grid = Grid()
    rows = grid.rows(torch.nn.functional.silu(grid.points(dtype=torch.float64))[None].float())[0].detach()
    f = activation_class(SILU)() if which == "activation" else lambda x: lookup(x, rows, grid)
    x = torch.randn(LARGE)
    with contextlib.nullcontext() if which == "activation" else contextlib.suppress(RuntimeError, NotImplementedError):
        use(f, x)
    loop, ran = ("curve" if which == "activation" else "forward"), []
    fast = getattr(cpu, loop)
    monkeypatch.setattr(cpu, loop, lambda *given, **named: ran.append(1) or fast(*given, **named))
    f(x)
    assert ran
