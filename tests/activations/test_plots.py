"""Pictures: drawn whole, without a display, and of anything a run can leave."""

import json

import pytest
import torch
from PIL import Image

from grafs_timm.activations import plots
from grafs_timm.activations.genotype import Genotype
from grafs_timm.errors import RunError
from grafs_timm.runs.plots import plot_shrinking
from grafs_timm.search.cell import Cell

GENOTYPE = Genotype.from_dict(
    {
        "format": "grafs-cell/1", "u1": {"op": "exp"}, "u2": {"op": "cube"}, "b1": {"op": "mul"},
        "u3": {"op": "sinh"}, "u4": {"op": "const", "gamma": 0.5}, "b2": {"op": "add"},
    }
)  # fmt: skip


def test_functions(tmp_path):
    def flat(x):
        return torch.zeros_like(x)

    path = plots.plot_functions({"found": GENOTYPE, "flat": flat, "prelu": torch.nn.PReLU()}, tmp_path / "new" / "f.png")
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.width > 1000
        assert len(picture.convert("RGB").resize((400, 200)).getcolors(80_000)) > 50
    assert [item.name for item in path.parent.iterdir()] == ["f.png"]


def test_a_function_that_is_not_finite_everywhere(tmp_path):
    assert plots.plot_functions({"log": torch.log, "pole": lambda x: 1 / x}, tmp_path / "f.png").exists()


def test_shrinking(tmp_path):
    survivors = Cell(wide=True).survivors
    lines = [{"kind": "start", "survivors": survivors}]
    lines += [
        {"kind": "epoch", "epoch": epoch, "survivors": {slot: names[: 4 - epoch] for slot, names in survivors.items()}}
        for epoch in (1, 2, 3)
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    with Image.open(plot_shrinking(tmp_path, tmp_path / "s.png")) as picture:
        assert picture.format == "PNG"


def test_no_search_to_draw(tmp_path):
    with pytest.raises(RunError, match="no epoch of a search yet"):
        plot_shrinking(tmp_path, tmp_path / "s.png")
    assert not list(tmp_path.iterdir())
