"""The committed support table against the installed timm, on a sample of every way."""

from __future__ import annotations

import dataclasses

import pytest
import timm
from tiny_runs import call, refused

from grafs_timm.models import support

ROWS = support.table()
SAMPLE = {row.architecture: row for way in support.WAYS for row in [r for r in ROWS if r.act_layer == way][::40]}
NAMED = (
    "mobilevitv2_050",
    "dm_nfnet_f0",
    "res2net50_14w_8s",
    "nasnetalarge",
    "test_efficientnet_evos",
    "swinv2_tiny_window8_256",
)

same_timm = pytest.mark.skipif(
    timm.__version__ != support.timm_version(), reason=f"the table is of timm {support.timm_version()}"
)


@same_timm
def test_every_architecture_stands_in_it():
    assert [row.architecture for row in ROWS] == [n for n in timm.list_models() if not n.startswith(("cifar_", "gpt_"))]


def test_almost_all_lose_every_activation_of_their_own():
    left = [row.architecture for row in ROWS if row.main_left or not row.replaced]
    assert len(left) <= 0.005 * len(ROWS), left
    assert all(row.main_left for row in ROWS if row.architecture in left)  # each with its reason


@same_timm
@pytest.mark.parametrize("architecture", sorted({*SAMPLE, *NAMED}))
def test_the_row_is_what_is_measured(architecture):
    assert support.examine(architecture) == support.table(architecture)[0]


def test_written_rows_are_read_back(tmp_path, monkeypatch):
    rows = [dataclasses.replace(row, main_left="a; b") for row in ROWS[:3]]
    support.write(rows, tmp_path / "t.csv")
    monkeypatch.setattr(support, "TABLE", tmp_path / "t.csv")
    assert support.table() == rows
    assert support.timm_version() == timm.__version__


def test_the_page_counts_the_rows():
    page = support.summary(ROWS)
    assert f"{len(ROWS)} architectures" in page
    for row in ROWS:
        assert not row.main_left or f"| {row.architecture} | {row.replaced} | {row.main_left} |" in page


def test_the_command():
    shown = call("models", "swinv2_cr_tiny*").stdout.splitlines()
    assert shown[0].split()[:3] == ["architecture", "family", "act_layer"]
    assert len(shown) > 1
    assert shown[1:] == call("models", "swinv2_cr_tiny*", "--measure").stdout.splitlines()[1:]
    assert "resnet18" in refused("models", "resnet_18")
    assert "no architecture" in refused("models", "resnet_18", "--measure")
