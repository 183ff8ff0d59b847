"""The made pages: all of them, of the entries on disk, where they belong and nowhere else."""

import pytest
from made_campaign import made_entry
from tiny_runs import ROOT

from grafs_timm.errors import GenotypeError
from grafs_timm.publishing import card, catalogue, gallery, leaderboard, pages
from grafs_timm.utils.files import write_json


@pytest.fixture(scope="module")
def entry(tmp_path_factory):
    return made_entry(tmp_path_factory.mktemp("pages") / "zoo")


def zoo_of(entry, folder):
    write_json(folder / entry.family / f"{entry.name}.json", entry.to_dict())
    return folder


def test_every_page_of_a_zoo_beside_docs(entry, tmp_path):
    zoo = zoo_of(entry, tmp_path / "zoo")
    (tmp_path / "docs").mkdir()
    assert pages.made(zoo) == {
        zoo / "resnet" / "grafs_resnet_a1.md": card.text(entry, zoo),
        zoo / "README.md": leaderboard.text([entry]),
        tmp_path / "docs" / "zoo" / "index.html": gallery.page([entry]),
        **catalogue.pages([entry], tmp_path / "docs"),
    }


@pytest.mark.parametrize(("name", "docs"), [("zoo", False), ("shelf", True)])
def test_no_gallery_elsewhere(entry, tmp_path, name, docs):
    if docs:
        (tmp_path / "docs").mkdir()
    made = pages.made(zoo_of(entry, tmp_path / name))
    assert sorted(path.name for path in made) == ["README.md", "grafs_resnet_a1.md"]


def test_what_is_written_is_what_is_made(entry, tmp_path):
    zoo = zoo_of(entry, tmp_path / "zoo")
    (tmp_path / "docs").mkdir()
    written = pages.write(zoo)
    made = pages.made(zoo)
    assert set(written) == {*made, zoo / "resnet" / "grafs_resnet_a1.png", zoo / "resnet" / "grafs_resnet_a1_effect.png"}
    assert {path: path.read_text(encoding="utf-8") for path in made} == made


def test_links_lead_to_files(entry, tmp_path):
    import re

    zoo = zoo_of(entry, tmp_path / "zoo")
    evidence = zoo / "resnet" / "evidence" / "a1"
    evidence.mkdir(parents=True)
    (evidence / entry.batches[0].provenance.recipe).write_text("", encoding="utf-8")
    for beside in ("docs/using.md", "benchmarks/published_cpu.csv"):  # of this project
        assert (ROOT / beside).is_file()
        (tmp_path / beside).parent.mkdir()
        (tmp_path / beside).touch()
    pages.write(zoo)
    for page in (each for each in pages.made(zoo) if each.suffix != ".svg"):
        links = re.findall(r"\]\(([^)]+)\)|(?:href|src)=\"([^\"]+)\"|\"card\":\"([^\"]+)\"", page.read_text(encoding="utf-8"))
        for link in filter(lambda link: not link.startswith("data:"), map("".join, links)):
            assert (page.parent / link).exists(), link


def test_nothing_is_written_where_an_entry_is_wrong(entry, tmp_path):
    zoo = zoo_of(entry, tmp_path / "zoo")
    (zoo / "resnet" / "grafs_resnet_b.json").write_text("{}", encoding="utf-8")
    with pytest.raises(GenotypeError, match=r"grafs_resnet_b\.json"):
        pages.write(zoo)
    assert not (zoo / "README.md").exists()
