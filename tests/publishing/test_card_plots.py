"""The pictures of an entry: where they lie, that they show what the entry holds, and of batches small and large."""

import pytest
from made_campaign import made_entry
from PIL import Image

from grafs_timm.publishing import card_plots
from grafs_timm.zoo.entry import Difference


@pytest.fixture(scope="module")
def entry(tmp_path_factory):
    return made_entry(tmp_path_factory.mktemp("plots") / "zoo")


def pixels(path):
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return picture.convert("RGB").copy()


def test_both_pictures_are_drawn_where_they_belong(entry, tmp_path):
    drawn = card_plots.draw(entry, tmp_path)
    assert drawn == list(card_plots.paths(entry, tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["grafs_resnet_a1.png", "grafs_resnet_a1_effect.png"]
    for path in drawn:
        assert len(pixels(path).resize((300, 200)).getcolors(100_000)) > 50


def test_the_same_entry_gives_the_same_picture(entry, tmp_path):
    first, second = (card_plots.draw(entry, tmp_path / name) for name in ("a", "b"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_the_forest_has_a_panel_a_place_and_a_row_an_activation(entry, monkeypatch, tmp_path):
    kept = []
    monkeypatch.setattr(card_plots, "save_figure", lambda figure, path: kept.append(figure) or path)
    card_plots.draw(entry, tmp_path)
    panels = [axes for axes in kept[-1].axes if axes.get_title()]
    batch = entry.batches[0]
    assert [axes.get_title().partition("\n")[0] for axes in panels] == [f"{model} on {data}" for model, data in batch.places]
    for axes, (model, data) in zip(panels, batch.places, strict=True):
        rows = [row for row in batch.metrics if (row.model, row.data) == (model, data)]
        assert len(axes.get_yticklabels()) == len(rows)
        low, high = axes.get_xlim()
        assert low < 0 < high
        own = next(row.difference for row in rows if row.activation == batch.label)
        assert low < own.mean < high


@pytest.mark.parametrize("difference", [None, Difference(to="relu", mean=0.0, low=None, high=None, p=None, n=1)])
def test_what_has_no_interval_is_drawn_too(entry, tmp_path, difference):
    rows = tuple(row.model_copy(update={"difference": difference}) for row in entry.batches[0].metrics)
    batch = entry.batches[0].model_copy(update={"metrics": rows, "usual": "hard_swish"})
    for path in card_plots.draw(entry.model_copy(update={"batches": (batch, entry.batches[0])}), tmp_path):
        assert pixels(path).width > 600
