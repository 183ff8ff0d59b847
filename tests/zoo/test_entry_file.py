"""An entry's file: what is read back, what is wrong said by field, and thousands of mutations that are never a crash."""

import copy
import json
import re
import sys

import pytest
from made_campaign import made_entry
from made_ledger import FOUND
from mutations import Mutator

from grafs_timm.errors import GenotypeError
from grafs_timm.zoo import entry_file
from grafs_timm.zoo.entry import Contents, canonical_sha256


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    return made_entry(tmp_path_factory.mktemp("made") / "zoo", label="searches_s0")


@pytest.fixture
def data(contents):
    return copy.deepcopy(contents.to_dict())


def put(folder, data, name="grafs_resnet_a1"):
    path = folder / "resnet" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def test_what_is_written_is_read(contents, tmp_path):
    path = put(tmp_path, {})
    path.write_text(entry_file.text(contents), encoding="utf-8")
    assert entry_file.read(path) == contents
    assert entry_file.text(entry_file.read(path)) == path.read_text(encoding="utf-8")


def resealed(data):
    return data | {"sha256": canonical_sha256(data)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.update(sha256="0" * 64), "sha256: the file says 000"),
        (lambda d: d.update(licence="MIT"), "sha256: the file says"),
        (lambda d: d["genotype"].update(formula="x"), "genotype: formula"),
        (lambda d: d["genotype"].update(latex="x"), "genotype: latex"),
        (lambda d: d["genotype"].update(sha256="0" * 64), "genotype: sha256"),
        (lambda d: d["genotype"].pop("formula"), "genotype: formula, latex and sha256"),
        (lambda d: d.update(format="grafs-zoo/3"), "format: grafs-zoo/3 is of a newer grafs-timm"),
        (lambda d: d.update(format="other/1"), "format must be"),
        (lambda d: d.update(recomended=True), "recomended: unknown key; nearest: recommended"),
        (lambda d: d["batches"][0]["metrics"][2].update(meen=1.0), "batches[0].metrics[2].meen: unknown key; nearest: mean"),
        (lambda d: d["batches"][0]["cost"].update(rati=1.0), "batches[0].cost.rati: unknown key; nearest: ratio"),
        (lambda d: d["facts"].pop("gain"), "facts.gain: missing"),
        (lambda d: d["facts"].update(monotone="yes"), "facts.monotone"),
        (lambda d: d["batches"][0]["metrics"][1].update(mean="90"), "batches[0].metrics[1].mean"),
        (lambda d: d["batches"][0]["metrics"][1].update(mean=12.5), "batches[0].metrics[1].mean: 12.5, and each gives"),
        (lambda d: d["batches"][0]["metrics"][1].update(n=9), "batches[0].metrics[1].n"),
        (lambda d: d["batches"][0]["searches"][1].update(formula="x"), "batches[0].searches[1].formula"),
        (lambda d: d["batches"][0]["searches"][1].update(sha256="0" * 64), "batches[0].searches[1].sha256"),
        (lambda d: d["batches"][0]["searches"][1].update(chosen=True), "batches[0].searches: chosen"),
        (lambda d: d["batches"][0]["searches"].append(d["batches"][0]["searches"][0]), "is there twice"),
        (lambda d: d["batches"][0]["metrics"].append(d["batches"][0]["metrics"][0]), "is there twice"),
        (lambda d: d["batches"].append(d["batches"][0]), "evidence.folder"),
        (lambda d: d["batches"][0]["evidence"].update(folder="../up"), "batches[0].evidence.folder"),
        (lambda d: d["batches"][0]["evidence"]["files"].update({"../up": "0" * 64}), "batches[0].evidence.files"),
        (lambda d: d.update(genotype=FOUND[3].to_dict(derived=True)), "found another function than the entry"),
        (lambda d: d.update(batches=[]), "batches"),
    ],
)
def test_what_does_not_fit_is_said_by_field(data, tmp_path, change, said):
    change(data)
    hash_itself = said.startswith("sha256")
    with pytest.raises(GenotypeError) as error:
        entry_file.read(put(tmp_path, data if hash_itself else resealed(data)))
    assert said in str(error.value)
    assert "grafs_resnet_a1.json" in str(error.value)


def test_the_file_is_called_after_the_entry(data, tmp_path):
    with pytest.raises(GenotypeError, match=r"grafs_resnet_b9\.json: name: grafs_resnet_a1"):
        entry_file.read(put(tmp_path, data, "grafs_resnet_b9"))
    with pytest.raises(GenotypeError, match=r"name: must be grafs_resnet_<id>, got 'grafs_vit_a1'"):
        entry_file.parse(resealed(data | {"name": "grafs_vit_a1"}), "it")


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"[" * 200_000, b"{}", b"null", b"3"])
def test_files_that_are_no_entry(tmp_path, content):
    path = put(tmp_path, {})
    path.write_bytes(content)
    with pytest.raises(GenotypeError, match="not a zoo entry"):
        entry_file.read(path)
    with pytest.raises(GenotypeError, match="not a zoo entry"):
        entry_file.read(tmp_path / "resnet")


@pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=pytest.mark.slow)], ids=["a thousand", "ten thousand"])
def test_mutations_are_never_a_crash(data, tmp_path, count):
    """Each is refused with the file's name, and the field where it is JSON; none of their text is run."""
    canary = tmp_path / "canary"
    mutator, modules = Mutator(data, seed=0, canary=canary), set(sys.modules)
    accepted, by_kind = 0, {}
    for _ in range(count):
        content, kind = mutator.bytes()
        try:
            entry = entry_file.parse(content, "zoo/resnet/it.json")
        except GenotypeError as error:
            said = str(error)
            assert said.startswith("zoo/resnet/it.json: ")
            field = said.removeprefix("zoo/resnet/it.json: ")
            named = re.match(r"[a-z0-9_]+", field)
            # no entry at all, told by position; a field of the format; or one that the format has not
            known = bool(named) and named[0] in Contents.model_fields
            assert known or field.startswith("not a zoo entry") or "unknown key" in field, said
            by_kind[kind] = by_kind.get(kind, 0) + 1
        else:
            accepted += 1
            assert entry == Contents.model_validate(data)  # nothing that matters was changed
    assert len(by_kind) == 10
    assert accepted < 0.02 * count
    assert not canary.exists()
    assert {name.partition(".")[0] for name in set(sys.modules) - modules} <= {"sympy", "mpmath", "grafs_timm"}
