"""Which functions are not worth a training, and that every known one is."""

import json

import pytest
from tiny_runs import ROOT

from grafs_timm.activations import published
from grafs_timm.activations.genotype import Gene, Genotype
from grafs_timm.activations.screening import reasons

X, LEFT = Gene("identity"), Gene("left")


def unary(op, *gamma, bound=None):
    return Genotype(X, X, LEFT, Gene(op, *gamma), X, LEFT, bound=bound)


@pytest.mark.parametrize("name", published.list_published())
def test_every_published_function_passes(name):
    assert reasons(published.get_published(name)) == ()


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (unary("const", 1.5), "constant on [−5, 5]"),
        (unary("scale", 0.0), "constant on [−5, 5]"),
        (lambda x: 1 / (x - x[0]), "not finite on [−5, 5]"),
        (unary("scale", 0.01), "gain: 100, outside 0.05 to 20"),
        (unary("scale", 25.0), "gain: 0.04, outside 0.05 to 20"),
        (Genotype(X, X, LEFT, Gene("exp"), Gene("exp"), LEFT), "slope: up to 147 on [−5, 5], more than 100"),
        (
            Genotype(Gene("scale", 30.0), X, LEFT, Gene("sigmoid"), X, LEFT),
            "saturating: flat for 40 % of the inputs on the left",
        ),
        (
            Genotype(Gene("scale", 9.0), X, LEFT, Gene("square"), X, LEFT, bound=10.0),
            "leaning on the bound of the search: at ±10",
        ),
    ],
)
def test_why_a_function_is_screened_out(function, said):
    assert any(reason.startswith(said) for reason in reasons(function)), reasons(function)


@pytest.mark.parametrize("op", ["relu", "abs", "neg", "square", "elu", "gelu", "tanh", "sigmoid", "softplus"])
def test_usual_shapes_pass(op):
    assert reasons(unary(op)) == ()


def test_of_the_searches_in_the_ledgers_one_is_screened_out():
    """It lies on the bound; another that only touches it was recommended by its selection."""
    out = {}
    for file in sorted((ROOT / "zoo").glob("*/evidence/*/ledger.jsonl")):
        for line in map(json.loads, file.read_text(encoding="utf-8").splitlines()):
            if line["kind"] == "search":
                out[file.parts[-4], line["seed"]] = reasons(Genotype.from_dict(line["genotype"], derived=False))
    assert len(out) == 20
    assert [which for which, why in out.items() if why] == [("vit", 3)]
    assert out["vit", 3][0].startswith("leaning on the bound of the search: at ±10 for 11 %")
