"""A genotype as data: round trips, files that are not one, its value, its formula, and when two are one function."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from operations import expanded

from grafs_timm.activations import genotype as genotypes
from grafs_timm.activations import ops
from grafs_timm.activations.genotype import Gene, Genotype
from grafs_timm.activations.similarity import distance, leans_on_bound, same_function
from grafs_timm.errors import GenotypeError, RunError

EXAMPLE = {
    "format": "grafs-cell/1",
    "u1": {"op": "silu"},
    "u2": {"op": "scale", "gamma": 0.5221},
    "b1": {"op": "gate"},
    "u3": {"op": "asinh"},
    "u4": {"op": "gelu"},
    "b2": {"op": "left"},
}


def cell(*names: str | tuple[str, float], bound: float | None = None) -> Genotype:
    """Genotype from op names in slot order, (name, γ) where there is a constant."""
    return Genotype(*(Gene(n) if isinstance(n, str) else Gene(*n) for n in names), bound=bound)


def of(unary: str | tuple[str, float], bound: float | None = None) -> Genotype:
    """The cell that is one unary operation."""
    return cell("identity", "identity", "left", "identity", unary, "right", bound=bound)


def product_of(left: str | tuple[str, float], right: str | tuple[str, float]) -> Genotype:
    return cell(left, right, "mul", "identity", "identity", "left")


# --- data ---------------------------------------------------------------------------------------------------------


def test_twenty_thousand_random_genotypes_survive_the_round_trip():
    rng = np.random.default_rng(0)
    for i in range(20_000):
        genotype = genotypes.random_genotype(rng, wide=i % 2 == 0)
        if i % 3 == 0:  # constants over all magnitudes, and a bound of its own
            far = float(np.clip(rng.choice([-1, 1]) * 10 ** rng.uniform(-300, 4), -1e4, 1e4))
            genes = {s: Gene(g.op, g.gamma if g.gamma is None else far) for s, g in genotype.genes().items()}
            genotype = Genotype(**genes, bound=float(10 ** rng.uniform(-3, 7)))
        again = Genotype.from_dict(json.loads(json.dumps(genotype.to_dict())))
        assert again == genotype
        assert again.sha256 == genotype.sha256


def test_random_genotypes_reach_every_candidate():
    rng = np.random.default_rng(1)
    drawn = [genotypes.random_genotype(rng).genes() for _ in range(600)]
    for slot, names in ops.candidates().items():
        assert {genes[slot].op for genes in drawn} == set(names)
    drawn = [genotypes.random_genotype(rng, wide=True).genes() for _ in range(800)]
    for slot, names in ops.candidates(wide=True).items():
        assert {genes[slot].op for genes in drawn} == set(names)
    gammas = [g.gamma for genes in drawn for s, g in genes.items() if g.gamma is not None and s.startswith("u")]
    assert abs(np.mean(gammas) - 1) < 0.05
    assert abs(np.std(gammas) - 0.25) < 0.05


def test_canonical_form_ignores_order_spelling_of_numbers_and_derived_fields():
    genotype = Genotype.from_dict(EXAMPLE)
    shuffled = dict(reversed(list(genotype.to_dict(derived=True).items())))
    assert Genotype.from_dict(shuffled, derived=True).canonical() == genotype.canonical()
    assert of(("const", 1)) == of(("const", 1.0))
    assert of(("const", 1)).sha256 == of(("const", 1.0)).sha256
    assert of(("const", -0.0)).sha256 == of(("const", 0.0)).sha256
    assert of("gelu").sha256 != of("gelu", bound=10).sha256 != of("gelu", bound=11).sha256
    assert genotype.canonical() == (
        '{"b1":{"op":"gate"},"b2":{"op":"left"},"format":"grafs-cell/1","u1":{"op":"silu"},'
        '"u2":{"gamma":0.5221,"op":"scale"},"u3":{"op":"asinh"},"u4":{"op":"gelu"}}'
    )
    # The hash is what published files carry: it must never change.
    assert genotype.sha256 == "017fca71ca490b78c3dd4201347a5e5e9e068d8e26f5b6cc1de8d7ac1a6f1418"


def test_save_then_load(tmp_path: Path):
    for bound in (None, 10.0):
        genotype = Genotype.from_dict(EXAMPLE | ({} if bound is None else {"bound": bound}))
        path = genotypes.save(genotype, tmp_path / "found.json")
        assert genotypes.load(path, derived=True) == genotype
        assert set(json.loads(path.read_text(encoding="utf-8"))) >= {"formula", "latex", "sha256"}


def test_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = genotypes.save(of("gelu"), tmp_path / "found.json")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"found\.json.*No space left.*is kept"):
        genotypes.save(of("relu"), path)
    assert genotypes.load(path) == of("gelu")
    assert os.listdir(tmp_path) == ["found.json"]


def test_neither_import_nor_loading_imports_sympy(tmp_path: Path):
    """Beyond what torch imports of it by itself."""
    path = genotypes.save(of("gelu", bound=10.0), tmp_path / "found.json")
    code = (
        "import sys, timm; before = set(sys.modules); from grafs_timm.activations import genotype as genotypes; "
        f"genotypes.load({str(path)!r}).canonical(); print(*set(sys.modules) - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    new = done.stdout.split()
    assert "grafs_timm.activations.genotype" in new
    assert not [name for name in new if name.startswith("sympy") or name == "grafs_timm.activations.formula"]


def test_each_gene_is_checked_once(monkeypatch: pytest.MonkeyPatch):
    checked: list[str] = []
    check = genotypes._checked_gene
    monkeypatch.setattr(genotypes, "_checked_gene", lambda slot, *rest: checked.append(slot) or check(slot, *rest))
    Genotype.from_dict(EXAMPLE)
    assert checked == list(ops.SLOTS)


# --- files that are no genotype -----------------------------------------------------------------------------------

MUTATIONS = [
    ({"u1": {"op": "gellu"}}, r"u1\.op: no unary operation 'gellu'; nearest: gelu"),
    ({"u1": {"op": "__import__('os').system('x')"}}, r"u1\.op: no unary operation"),
    ({"u1": {"op": "mul"}}, r"u1\.op: 'mul' is binary, u1 takes a unary operation"),
    ({"b1": {"op": "gelu"}}, r"b1\.op: 'gelu' is unary, b1 takes a binary operation"),
    ({"u1": {"op": ["gelu"]}}, r"u1\.op: no unary operation \['gelu'\]"),
    ({"u1": {"op": None}}, r"u1\.op: no unary operation None"),
    ({"u1": {"op": "\ud800"}}, r"u1\.op: no unary operation '\\ud800'"),
    ({"u1": {"op": "x" * 10_000}}, r"u1\.op: no unary operation 'x+\.\.\.x+'"),
    ({"u1": {}}, r"u1: op is missing"),
    ({"u1": "gelu"}, r"u1: must be an object"),
    ({"u1": None}, r"u1: must be an object"),
    ({"u1": {"op": "gelu", "gamma": 1.0}}, r"u1\.gamma: gelu has no constant"),
    ({"u2": {"op": "scale"}}, r"u2\.gamma: missing, scale needs its constant"),
    ({"u2": {"op": "scale", "gama": 1.0}}, r"u2: unknown key 'gama'; nearest: gamma"),
    ({"u2": {"op": "scale", "gamma": None}}, r"u2\.gamma: must be a number, got null"),
    ({"u2": {"op": "gelu", "gamma": None}}, r"u2\.gamma: must be a number, got null"),
    ({"u2": {"op": "scale", "gamma": True}}, r"u2\.gamma: must be a number, got True"),
    ({"u2": {"op": "scale", "gamma": "1.0"}}, r"u2\.gamma: must be a number, got '1\.0'"),
    ({"u2": {"op": "scale", "gamma": [1.0]}}, r"u2\.gamma: must be a number"),
    ({"u2": {"op": "scale", "gamma": 1e5}}, r"u2\.gamma: must be within ±10000, got 100000"),
    ({"u2": {"op": "scale", "gamma": 10**400}}, r"u2\.gamma: must be finite"),
    ({"u2": {"op": "scale", "gamma": math.nan}}, r"u2\.gamma: must be finite"),
    ({"bound": "10"}, r"bound: must be a number, got '10'"),
    ({"u2": {"op": "scale", "gamma": -math.inf}}, r"u2\.gamma: must be finite"),
    ({"format": "grafs-cell/2"}, r"format must be 'grafs-cell/1', found 'grafs-cell/2'"),
    ({"format": None}, r"format must be 'grafs-cell/1', found None"),
    ({"bound": 0}, r"bound must be above 0"),
    ({"bound": -1.0}, r"bound must be above 0"),
    ({"bound": 1e8}, r"bound must be above 0 and at most 1e\+07"),
    ({"bound": None}, r"bound: must be a number"),
    ({"bound": True}, r"bound: must be a number"),
    ({"bound": math.inf}, r"bound: must be finite"),
    ({"u5": {"op": "gelu"}}, r"unknown key 'u5'; nearest: u"),
    ({"fomula": "x"}, r"unknown key 'fomula'; nearest: formula"),
    ({1: 2}, r"unknown key 1"),
    ({"sha256": "0" * 64}, r"sha256 is '0+\.\.\.0+', the genotype's own is"),
    ({"sha256": None}, r"sha256 is None"),
    ({"formula": "GELU(x)"}, r"formula is 'GELU\(x\)', the genotype's own is 'asinh"),
    ({"latex": ["x"]}, r"latex is \['x'\]"),
]


@pytest.mark.parametrize(("change", "message"), MUTATIONS, ids=lambda v: str(v)[:40].encode("ascii", "replace").decode())
def test_a_dict_that_is_no_genotype(change: dict, message: str):
    with pytest.raises(GenotypeError, match=rf"^zoo/a\.json: {message}"):
        Genotype.from_dict(EXAMPLE | change, "zoo/a.json", derived=True)


@pytest.mark.parametrize("key", ["format", *ops.SLOTS])
def test_a_missing_key(key: str):
    with pytest.raises(GenotypeError, match=key):
        Genotype.from_dict({k: v for k, v in EXAMPLE.items() if k != key})


@pytest.mark.parametrize("data", [None, [], "gelu", 3, [EXAMPLE]])
def test_not_a_dict(data: object):
    with pytest.raises(GenotypeError, match="must be a JSON object"):
        Genotype.from_dict(data)


def test_the_constructor_checks_too():
    with pytest.raises(GenotypeError, match=r"u4\.op: no unary operation 'gellu'"):
        of("gellu")
    with pytest.raises(GenotypeError, match="u4 must be a Gene"):
        Genotype(Gene("relu"), Gene("relu"), Gene("add"), Gene("relu"), "relu", Gene("add"))  # type: ignore[arg-type]
    with pytest.raises(GenotypeError, match="bound"):
        of("gelu", bound=math.nan)


VALID = json.dumps(EXAMPLE)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe" + VALID.encode("utf-16-le"), "not JSON"),
        (VALID[:-1].encode(), "not JSON"),
        (VALID.replace("0.5221", "NaN").encode(), "NaN is not a number"),
        (VALID.replace("0.5221", "-Infinity").encode(), "Infinity is not a number"),
        (VALID.replace("0.5221", "9" * 6000).encode(), "an integer of 6000 digits"),
        (VALID.replace("0.5221", "1e999").encode(), "1e999 is too large for a number"),
        (VALID.replace('"op": "silu"', '"op": "silu", "op": "gelu"').encode(), "duplicate key 'op'"),
        (VALID.replace('{"format"', '{"format": "grafs-cell/1", "format"').encode(), "duplicate key 'format'"),
        (b"[" * 200_000, "nested more than 40 deep"),
        (b'{"u1":' * 150_000, "nested more than 40 deep"),
        (VALID.encode() + b" " * 1_000_000, "at most 1,000,000 bytes"),
        (b"\x80\x04\x95cos\nsystem\n(S'true'\ntR.", "not JSON"),
    ],
    ids=lambda v: str(v[:24]),
)
def test_a_file_that_is_no_genotype(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "found.json"
    path.write_bytes(content)
    with pytest.raises(GenotypeError, match=message) as caught:
        genotypes.load(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_no_file_and_a_folder(tmp_path: Path):
    with pytest.raises(GenotypeError, match=r"none\.json: cannot be read: No such file"):
        genotypes.load(tmp_path / "none.json")
    with pytest.raises(GenotypeError, match="cannot be read: Is a directory"):
        genotypes.load(tmp_path)
    with pytest.raises(GenotypeError, match="cannot be read"):
        genotypes.load("a\0b")


def test_damaged_bytes_give_a_genotype_or_its_error(tmp_path: Path):
    rng = np.random.default_rng(2)
    whole = (json.dumps(EXAMPLE | {"bound": 10.0, "sha256": Genotype.from_dict(EXAMPLE | {"bound": 10}).sha256})).encode()
    path, refused = tmp_path / "found.json", 0
    for _ in range(600):
        content = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            at = int(rng.integers(len(content)))
            match rng.integers(3):
                case 0:
                    content[at] = int(rng.integers(256))
                case 1:
                    del content[at : at + int(rng.integers(1, 8))]
                case 2:
                    content[at:at] = content[: int(rng.integers(1, 20))]
        path.write_bytes(content)
        try:
            assert isinstance(genotypes.load(path), Genotype)
        except GenotypeError:
            refused += 1
    assert refused > 500


# --- value --------------------------------------------------------------------------------------------------------


def by_references(genotype: Genotype, x: np.ndarray) -> np.ndarray:
    """The cell by the table's NumPy references, every slot computed."""
    genes, limits = genotype.genes(), genotype.limits

    def apply(slot: str, *given: np.ndarray) -> np.ndarray:
        return ops.get(genes[slot].op, len(given)).reference(*given, genes[slot].gamma, limits)

    inner = apply("b1", apply("u1", x), apply("u2", x))
    return apply("b2", apply("u3", inner), apply("u4", x))


def test_value_is_the_cell_of_references():
    rng = np.random.default_rng(3)
    x = torch.linspace(-4, 4, 201, dtype=torch.float64)
    for i in range(400):
        drawn = genotypes.random_genotype(rng, wide=i % 2 == 0)
        genotype = Genotype(**drawn.genes(), bound=(None, 10.0, 3.5)[i % 3])
        want = by_references(genotype, x.numpy())
        assert np.allclose(genotype(x).numpy(), want, rtol=1e-8, atol=1e-8), genotype


def test_sixteen_bit_is_rounded_once():
    x = torch.linspace(-6, 6, 301)
    genotype = cell("exp", "softplus", "mul", ("shift", 0.3), "gelu", "sub")
    for dtype in (torch.float16, torch.bfloat16):
        inputs = x.to(dtype)
        want = genotype(inputs.float()).to(dtype)
        assert torch.equal(genotype(inputs), want)
    top = of("cube")(torch.tensor([-65504.0, 300.0, 65504.0], dtype=torch.float16))
    assert top.tolist() == [-65504, 65504, 65504]
    twice = cell("identity", "identity", "add", "identity", "identity", "left")
    assert twice(torch.tensor([6e4, -6e4], dtype=torch.float16)).tolist() == [65504, -65504]
    # Growth ends where float16 ends also on the way, as it would with every step stored: e¹² is above 65504.
    inner = cell("exp", "identity", "left", ("scale", 0.001), "identity", "left")
    assert inner(torch.tensor([12.0], dtype=torch.float16)).item() == pytest.approx(65.5, rel=1e-3)
    assert inner(torch.tensor([12.0])).item() == pytest.approx(162.75, rel=1e-3)


def test_any_shape_and_integers_refused():
    genotype = Genotype.from_dict(EXAMPLE)
    x = torch.randn(2, 3, 4, 5)
    want = genotype(x)
    assert want.shape == x.shape
    torch.testing.assert_close(genotype(x.to(memory_format=torch.channels_last)), want)
    torch.testing.assert_close(genotype(x[0, 0, 0, 0]), want[0, 0, 0, 0])
    assert genotype(x[:0]).shape == (0, 3, 4, 5)
    with pytest.raises(TypeError, match=r"torch\.int64.*x\.float\(\)"):
        genotype(torch.arange(3))


def test_dropped_branches_are_not_computed(monkeypatch: pytest.MonkeyPatch):
    computed: list[str] = []
    watched = {
        arity: {n: ops.Op(**{**vars(op), "compute": _watch(op, computed)}) for n, op in rows.items()}
        for arity, rows in ops.OPS.items()
    }
    monkeypatch.setattr(ops, "OPS", watched)
    x = torch.ones(2)
    for names, used in (
        (("exp", "sinh", "add", "cube", "gelu", "right"), ["gelu"]),
        (("exp", "sinh", "left", "cube", "gelu", "left"), ["exp", "cube"]),
        (("exp", "sinh", "right", "cube", "gelu", "add"), ["sinh", "cube", "gelu", "add"]),
    ):
        computed.clear()
        cell(*names)(x)
        assert computed == used


def _watch(op: ops.Op, computed: list[str]):
    def compute(*args, **kwargs):
        computed.append(op.name)
        return op.compute(*args, **kwargs)

    return compute


# --- formula ------------------------------------------------------------------------------------------------------

FORMULAS = [
    (cell("gelu", "gelu", "gate", "asinh", "relu", "left"), "asinh(GELU(x)*sigmoid(GELU(x)))"),
    (cell("identity", "identity", "add", "identity", "exp", "left"), "2*x"),
    (cell("identity", "identity", "sub", "gelu", "exp", "left"), "0"),
    (cell("identity", "relu", "left", "relu", "relu", "max"), "ReLU(x)"),
    (cell("gelu", "silu", "max", "identity", ("const", 0.0), "max"), "ReLU(max(GELU(x), SiLU(x)))"),
    (cell("abs", "identity", "left", "relu", "neg_part", "add"), "abs(x) + min(x, 0)"),
    (cell("identity", "identity", "left", ("scale", 0.52214), ("shift", 1.0), "mul"), "0.5221*x*(x + 1)"),
    (cell("gelu", "silu", ("mix", 0.0), "identity", "identity", "left"), "0.5*GELU(x) + 0.5*SiLU(x)"),
    (cell("relu", ("const", 2.0), "gate", "identity", "identity", "left"), "2*sigmoid(ReLU(x))"),
    (cell(("const", 2.0), "relu", "gate", "identity", "identity", "left"), "0.8808*ReLU(x)"),
    (of("sqrt"), "sqrt(max(x, 1e-06))"),
    (of("sqrt", bound=10.0), "sqrt(max(x, 0.001))"),
    (of(("scale", 0.999999)), "x"),
    (of("leaky_relu"), "LeakyReLU(x)"),
    (of("softplus"), "softplus(x)"),
    (of("square"), "x**2"),
    (cell("abs", "abs", "add", "abs", "identity", "left"), "2*abs(x)"),
    (cell(("const", 30.0), "identity", "left", "exp", "identity", "left", bound=10.0), "10"),
    (cell(("const", 0.0), "identity", "left", "identity", "identity", "div"), "0"),
    (cell("identity", "identity", "left", "identity", ("const", 0.0), "div"), "100*x"),
    (cell("identity", "identity", "left", "identity", ("const", -0.001), "div"), "-100*x"),
]


@pytest.mark.parametrize(("genotype", "text"), FORMULAS, ids=[text for _, text in FORMULAS])
def test_text_reads_as_one_would_write_it(genotype: Genotype, text: str):
    assert genotype.text == text


def test_latex():
    assert of("gelu").latex == r"\operatorname{GELU}\left(x\right)"
    assert of("sigmoid").latex == r"\sigma\left(x\right)"
    assert of("sqrt").latex == r"\sqrt{\max\left(x, 10^{-6}\right)}"
    assert of("atan").latex == r"\arctan{\left(x \right)}"
    assert product_of("relu", "relu").latex == r"\left(\operatorname{ReLU}\left(x\right)\right)^{2}"
    assert product_of("sigmoid", ("scale", 0.5)).latex == r"0.5 x \sigma\left(x\right)"


def test_formula_is_the_function():
    import sympy

    from grafs_timm.activations import formula

    rng = np.random.default_rng(4)
    x, compared = torch.linspace(-2, 2, 81, dtype=torch.float64), 0
    for i in range(300):
        genotype = genotypes.random_genotype(rng, wide=i % 3 == 0)
        if any(gene.op == "div" for gene in genotype.genes().values()):
            continue  # its safe denominator is not in the formula
        exact = expanded(formula.expression(genotype.genes(), genotype.limits))
        assert not exact.has(formula.Named)
        with np.errstate(all="ignore"):
            value = sympy.lambdify(formula.X, exact, ["numpy", "scipy"])(x.numpy()) * np.ones(len(x))
        # Judged only where neither the bound nor a definition's overflow plays a part.
        unbound = genotypes.evaluate(genotype, x, ops.Limits(1e12, ops.LIFTED.floor)).numpy()
        free = (genotype(x).numpy() == unbound) & np.isfinite(value)
        assert np.allclose(value[free], unbound[free], rtol=1e-6, atol=1e-6), (genotype, exact)
        compared += free.sum()
    assert compared > 0.9 * 250 * len(x)


def test_different_names_stay_different_in_text():
    texts = {of((n, 2.0) if op.has_gamma else n).text for n, op in ops.OPS[1].items()}
    assert len(texts) == len(ops.OPS[1])


def test_formulas_are_quick():
    rng = np.random.default_rng(5)
    of("gelu").text  # noqa: B018  (sympy loads once)
    took = []
    for _ in range(60):
        genotype = genotypes.random_genotype(rng)
        start = time.perf_counter()
        assert genotype.text
        assert genotype.latex
        took.append(time.perf_counter() - start)
    assert np.median(took) < 0.05


# --- one function or two ------------------------------------------------------------------------------------------


def test_scales_inside_and_outside_are_absorbed():
    swish = product_of("identity", "sigmoid")
    e_swish = cell("silu", ("const", 2.0), "mul", "identity", "identity", "left")
    beta = cell(("scale", 1.702), "identity", "gate", "identity", "identity", "left")
    assert same_function(swish, e_swish)
    assert same_function(swish, beta)
    assert same_function(beta, swish)
    assert same_function(swish, F.silu)
    assert same_function(of("tanh"), lambda x: 0.5 - torch.sigmoid(3.3 * x)), "both signs, both scales"
    assert same_function(F.relu, of("neg_part"))
    assert same_function(of("gelu"), F.gelu)


def test_different_functions_stay_apart():
    assert not same_function(F.relu, torch.abs)
    assert not same_function(F.gelu, F.relu)
    assert not same_function(of("leaky_relu"), of("relu"))
    assert not same_function(F.silu, F.gelu)
    assert not same_function(of("sin"), of("tanh"))
    assert 0.5 < distance(F.relu, torch.abs) < 1
    assert distance(F.gelu, F.silu) < 0.03  # near, once scaled: which is why x·σ(1.702x) passes for GELU


def test_both_directions_must_agree():
    there, back = distance(F.gelu, F.silu), distance(F.silu, F.gelu)
    assert abs(there - back) > 1e-5
    between = (there + back) / 2
    assert not same_function(F.gelu, F.silu, between)
    assert not same_function(F.silu, F.gelu, between)
    assert same_function(F.gelu, F.silu, max(there, back) + 1e-6)


def test_distance_by_hand():
    # ‖|x| − c·relu(x)‖²: half of E x² is left over.
    assert distance(F.relu, torch.abs) == pytest.approx(math.sqrt(0.5), abs=1e-4)
    assert distance(torch.square, lambda x: x) == pytest.approx(1, abs=1e-6)
    assert distance(F.silu, F.silu) < 1e-7


def test_constants_match_constants_only():
    zero, one, two = of(("const", 0.0)), of(("const", 1.0)), of(("const", 2.0))
    assert same_function(one, two)
    assert same_function(zero, zero)
    assert not same_function(zero, one)
    for other in (F.relu, torch.cos, lambda x: 100 + x.tanh()):
        assert distance(other, one) == distance(one, other) == distance(zero, other) == distance(other, zero) == 1
    with pytest.raises(ValueError, match="not finite"):
        distance(F.relu, torch.log)


def test_large_values_do_not_overflow():
    assert same_function(lambda x: 1e200 * x.relu(), lambda x: 1e-200 * x.relu())
    assert 0 <= distance(lambda x: (50 * x).exp(), of("exp")) <= 1


def test_distance_is_quick():
    genotype = Genotype.from_dict(EXAMPLE)
    distance(genotype, F.gelu)
    start = time.perf_counter()
    for _ in range(5):
        distance(genotype, F.gelu)
    assert (time.perf_counter() - start) / 5 < 0.1


@pytest.mark.parametrize(
    ("genotype", "leans"),
    [
        (of("gelu"), False),
        (of("tanh"), False),
        (cell("gelu", "identity", "left", "asinh", "silu", "add"), False),
        (product_of("sigmoid", "gelu"), False),
        (of("cube"), True),
        (of("exp"), True),
        (cell("exp", "exp", "mul", "sigmoid", "identity", "left"), False),
        (cell("exp", "cube", "add", ("scale", 0.1), "gelu", "add"), True),
        (cell(("const", 100.0), "identity", "mul", "identity", "identity", "left"), True),
    ],
    ids=lambda v: getattr(v, "text", str(v)),
)
def test_leaning_on_the_bound(genotype: Genotype, leans: bool):
    assert leans_on_bound(genotype) is leans
    assert leans_on_bound(Genotype(**genotype.genes(), bound=10.0)) is leans
