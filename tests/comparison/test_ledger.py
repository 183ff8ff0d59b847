"""The ledger: lines that say themselves whether they are whole, in files that are only ever added."""

import hashlib
import json
import random

import pytest
from made_ledger import DATE, FOUND, folder_in, made_ledger, made_line, planned, waiting
from tiny_runs import contents, full_disk

from grafs_timm.comparison import ledger
from grafs_timm.comparison.ledger import Ledger
from grafs_timm.errors import RunError

LATER = "2026-11-28T00:00:00Z"


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """The lines of a campaign's first jobs: six trainings of what was given and five searches."""
    return made_ledger(folder_in(tmp_path_factory.mktemp("zoo")), rounds=1, transfer={"random": 1}).ledger


@pytest.fixture(scope="module")
def search(filled):
    return next(line for line in filled.lines if line.kind == "search" and line.seed == 0)


@pytest.fixture(scope="module")
def relu(filled):
    return next(line for line in filled.lines if line.function == "relu")


@pytest.fixture(scope="module")
def cell(filled):
    """A training of a random cell, which has a genotype."""
    return next(line for line in filled.lines if line.kind == "training" and line.genotype)


def canonical(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def sha256(value):
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def fields(line):
    return json.loads(line.text())


def forged(line, **changes):
    """The text of a line with other fields, its key and sha256 made to fit them."""
    data = fields(line) | changes
    data["key"] = sha256([data[name] for name in ("kind", "recipe", "function", "model", "data", "seed", "split")])
    return canonical(data | {"sha256": sha256({name: each for name, each in data.items() if name != "sha256"})}) + "\n"


def again(line, **changes):
    """The run once more, with other fields."""
    data = fields(line) | changes
    return ledger.made(**{name: each for name, each in data.items() if name not in ("format", "key", "sha256")})


def better(line):
    """Its log with another test accuracy."""
    return [each | {"test_accuracy": 99.5} for each in line.log]


# --------------------------------------------------------------------------------------------------------- lines, files


def test_a_line_comes_back_from_its_text(filled, tmp_path):
    for line in filled.lines:
        (tmp_path / "one.jsonl").write_text(line.text(), encoding="utf-8")
        assert Ledger.read(tmp_path).lines == (line,)
        assert line.text() == forged(line)
        assert line.text().count("\n") == 1


def test_the_key_is_of_what_was_run(relu):
    assert relu.key == relu.own_key() == sha256(["training", relu.recipe, "relu", "cifar_resnet20", "digits", 0, "both"])
    others = ({"recipe": "0" * 64}, {"function": "gelu"}, {"model": "m"}, {"data": "d"}, {"seed": 1}, {"split": "test"})
    assert len({relu.key, *(again(relu, **change).key for change in others)}) == 7
    same = again(relu, log=better(relu), date=LATER, commit="1111111", hardware={"processor": "other"}, versions={"x": "1"})
    assert same.key == relu.key
    assert same.sha256 != relu.sha256


@pytest.mark.parametrize("change", [{"commit": "1111111"}, {"date": LATER}, {"hardware": {"processor": "other"}}])
def test_a_result_is_what_was_found_and_measured(relu, search, change):
    for line in (relu, search):
        slower = [each | {"seconds": 1e3} for each in line.log]
        assert again(line, log=slower, **change).result == line.result
    assert again(relu, log=better(relu)).result != relu.result
    assert again(search, genotype=FOUND[1].to_dict()).result != search.result
    assert again(search, held_out={"accuracy": 1.0, "loss": 1.0}).result != search.result


@pytest.mark.parametrize(
    "changes",
    [
        {"held_out": {"accuracy": 80, "loss": 2}},
        {"held_out": {"accuracy": "nan", "loss": "inf"}},
        {"log": [{"epoch": 1, "a": -0.0, "b": 1e22, "c": 5e-324, "d": 10**30, "e": 1.0}]},
        {"log": [{"epoch": 1, "formula": 'σ(x)·"\\\u2028\x00\x7f'}]},
        {"commit": "version 1.0"},
        {"seed": 2**32 - 1},
    ],
)
def test_any_value_comes_back_as_it_was(search, tmp_path, changes):
    line = again(search, **changes)
    ledger.add(tmp_path, [line])
    (there,) = Ledger.read(tmp_path).lines
    assert there == line
    assert there.text() == line.text() == forged(search, **changes)
    (tmp_path / "ledger.jsonl").write_text(ledger.unite([there]), encoding="utf-8")
    assert Ledger.read(tmp_path).lines == (line,)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"extra": 1}, "the new line: extra: "),
        ({"seed": -1}, "the new line: seed: "),
        ({"seed": True}, "the new line: seed: "),
        ({"commit": ""}, "the new line: commit: "),
        ({"held_out": {"accuracy": float("nan")}}, "the new line: held_out.accuracy"),
        ({"log": []}, "the new line: log: "),
        ({"log": [{"epoch": None}]}, "the new line: log.0.epoch"),
        ({"model": "hf_hub:x/y"}, "the new line: model: "),
        ({"genotype": None}, "the new line: genotype: missing"),
        ({"genotype": {"format": "grafs-cell/1"}}, "the new line: genotype: u1 is missing"),
        ({"date": "yesterday"}, "the new line: date: "),
    ],
)
def test_a_new_line_must_fit(search, change, said):
    with pytest.raises(RunError, match=said):
        again(search, **change)


def test_lines_are_ordered_by_key_then_date(filled, relu, tmp_path):
    early, late = again(relu, date="2026-11-26T00:00:00Z"), again(relu, date=LATER)
    files = ledger.add(tmp_path, [late, *reversed(filled.lines), early])
    assert [path.name for path in files] == [line.file_name for line in (late, *reversed(filled.lines), early)]
    found = Ledger.read(tmp_path)
    assert [line.key for line in found.lines] == sorted(line.key for line in found.lines)
    assert [line for line in found.lines if line.key == relu.key] == [early, relu, late]
    assert found.first()[relu.key] == early
    assert found.repetitions() == {relu.key: [relu, late]}


def test_files_are_called_after_what_they_hold(relu, search, cell):
    end = f"{relu.key[:8]}-{relu.sha256[:12]}.jsonl"
    assert relu.file_name == f"cifar_resnet20.digits.s0.relu.{end}"
    assert search.file_name.startswith(f"cifar_resnet20.digits.s0.search.{search.key[:8]}-")
    assert cell.file_name.startswith(f"cifar_resnet20.digits.s0.{cell.function[:8]}.{cell.key[:8]}-")


def test_nothing_is_an_empty_ledger(tmp_path):
    assert Ledger.read(tmp_path).lines == Ledger.read(tmp_path / "none").lines == ()
    assert ledger.add(tmp_path / "none", []) == []
    assert not (tmp_path / "none").exists()


def test_one_file_a_line_or_one_file_for_all(filled, tmp_path):
    several, one, both = tmp_path / "several", tmp_path / "one", tmp_path / "both"
    assert len(ledger.add(several, filled.lines)) == len(filled.lines) == 11
    one.mkdir()
    text = ledger.unite([*reversed(filled.lines), *filled.lines])
    (one / "ledger.jsonl").write_text(text, encoding="utf-8")
    ledger.add(both, filled.lines[:5])
    (both / "ledger.jsonl").write_text(text, encoding="utf-8")
    for folder in (several, one, both):
        found = Ledger.read(folder)
        assert found.lines == filled.lines
        assert found.repetitions() == {}
        assert ledger.unite(found.lines) == text
        assert len(found.ids()) == 11
    assert Ledger.read(one).where(filled.lines[3]) == f"{one / 'ledger.jsonl'}, line 4"
    assert Ledger.read(several).where(filled.lines[3]) == f"{several / filled.lines[3].file_name}, line 1"


def test_one_line_in_two_files_counts_once(relu, tmp_path):
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text(2 * relu.text(), encoding="utf-8")
    found = Ledger.read(tmp_path)
    assert found.lines == (relu,)
    assert found.where(relu) == f"{tmp_path / 'a.jsonl'}, line 1"


def test_what_is_there_is_not_written_again(filled, tmp_path):
    ledger.add(tmp_path, filled.lines[:4])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(ledger.add(tmp_path, filled.lines)) == len(filled.lines) - 4
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert ledger.add(tmp_path, filled.lines) == []


def test_other_files_are_no_lines(relu, tmp_path):
    ledger.add(tmp_path, [relu])
    for name in ("recipe.yaml", "activations.json", "cost.csv", f".{relu.file_name}.abcdefgh"):
        (tmp_path / name).write_text("half", encoding="utf-8")
    (tmp_path / "recipes").mkdir()
    assert Ledger.read(tmp_path).lines == (relu,)


# ------------------------------------------------------------------------------------------------ repetitions, subsets


def test_repetitions(relu, search, tmp_path):
    other = again(relu, log=better(relu), date=LATER)  # another figure
    equal = again(relu, hardware={"processor": "other", "threads": "8"}, date="2026-11-29T00:00:00Z")
    found = again(search, genotype=FOUND[1].to_dict(), date=LATER)  # a search that ended in another function
    ledger.add(tmp_path, [equal, found, other, search, relu])
    whole = Ledger.read(tmp_path)
    assert whole.first() == {relu.key: relu, search.key: search}
    assert whole.repetitions() == {relu.key: [other, equal], search.key: [found]}
    assert [line.result == relu.result for line in whole.repetitions()[relu.key]] == [False, True]


def test_a_ledger_as_it_was(filled, relu, tmp_path):
    ledger.add(tmp_path, filled.lines[:5])
    before = Ledger.read(tmp_path)
    assert len(set(before.ids())) == 5
    ledger.add(tmp_path, [*filled.lines, again(relu, date="2026-11-01T00:00:00Z")])
    grown = Ledger.read(tmp_path)
    assert grown.only(before.ids()).lines == before.lines
    assert grown.only(grown.ids()).lines == grown.lines
    assert grown.only(()).lines == ()
    assert grown.only(before.ids()).where(before.lines[0]) == before.where(before.lines[0])
    with pytest.raises(RunError, match=rf"{tmp_path}: the line {'0' * 16} and 1 more is missing or was changed"):
        grown.only([*before.ids(), "f" * 16, "0" * 16])


# -------------------------------------------------------------------------------------------------------- what is bad


def _without(text, name):
    return canonical({key: each for key, each in json.loads(text).items() if key != name}) + "\n"


def _log(line, **last):
    return [*line.log[:-1], line.log[-1] | last]


BAD = {
    "a key that does not fit": (lambda line: line.text().replace(line.key, "0" * 64), "key: the line says 000000000000…"),
    "a key of another seed": (lambda line: line.text().replace('"seed":0', '"seed":1'), "key: the line says"),
    "another recipe": (lambda line: line.text().replace(line.recipe, "0" * 64), "key: the line says"),
    "an edited figure": (
        lambda line: line.text().replace('"validation_accuracy":', '"validation_accuracy":1'),
        "sha256: the line says .* a figure was edited",
    ),
    "an edited date": (lambda line: line.text().replace(line.date, LATER), "sha256: the line says"),
    "an edited sha256": (lambda line: line.text().replace(line.sha256, "f" * 64), "sha256: the line says ffffffffffff…"),
    "a newer format": (lambda line: forged(line, format="grafs-ledger/2"), "is of the newer format grafs-ledger/2; .* update"),
    "a format of later": (lambda line: forged(line, format="grafs-ledger/10", more=[1]), "newer format grafs-ledger/10"),
    "another format": (lambda line: forged(line, format="grafs-zoo/1"), "format: "),
    "no format": (lambda line: _without(line.text(), "format"), "format: Field required"),
    "NaN": (lambda line: line.text().replace('"train_loss":1.0', '"train_loss":NaN'), "NaN is not a number in JSON"),
    "an infinity": (lambda line: line.text().replace('"train_loss":1.0', '"train_loss":1e999'), "too large for a number"),
    "a key twice": (lambda line: '{"seed":0,' + line.text()[1:], "duplicate key 'seed'"),
    "half a surrogate pair": (lambda line: line.text().replace('"0000000"', '"\\ud800"'), "damaged: .*surrogates not allowed"),
    "the same in a genotype": (
        lambda line: line.text().replace('"grafs-cell/1"', '"grafs-cell/1","formula":"\\ud800"'), "surrogates not allowed",
    ),
    "a text as seed": (lambda line: forged(line, seed="0"), "seed: Input should be a valid integer"),
    "a fraction as seed": (lambda line: forged(line, seed=0.0), "seed: Input should be a valid integer"),
    "a seed below 0": (lambda line: forged(line, seed=-1), "seed: "),
    "an object as log": (lambda line: forged(line, log={"epoch": 1}), "log: "),
    "true as a figure": (lambda line: forged(line, log=[{"epoch": True}]), r"log\.0\.epoch"),
    "null as a figure": (lambda line: forged(line, log=[{"epoch": None}]), r"log\.0\.epoch"),
    "a list as hardware": (lambda line: forged(line, hardware=["a"]), "hardware: "),
    "an unknown kind": (lambda line: forged(line, kind="selection"), "kind: "),
    "an extra field": (lambda line: forged(line, more=1), "more: Extra inputs are not permitted"),
    "a word as figure": (lambda line: forged(line, log=_log(line, test_loss="ninety")), r"log\.1\.test_loss: no number"),
    "a figure that is missing": (lambda line: forged(line, log=[*line.log[:1], {"epoch": 2}]), "test_accuracy: missing"),
    "a held-out figure that is missing": (
        lambda line: forged(line, log=json.loads(json.dumps(line.log).replace("validation_loss", "loss"))),
        "validation_loss: missing",
    ),
    "a training as search": (lambda line: forged(line, kind="search"), "function: "),
    "a search's split": (lambda line: forged(line, split="architecture"), "split: "),
    "a missing field": (lambda line: _without(line.text(), "commit"), "commit: Field required"),
    "another function's genotype": (lambda line: forged(line, genotype=FOUND[0].to_dict()), "function: .* own sha256 is"),
    "no genotype": (lambda line: forged(line, genotype=None), "genotype: missing"),
    "a genotype that is none": (lambda line: forged(line, genotype={"u1": "exec"}), "genotype: unknown|genotype: format"),
    "a path as model": (lambda line: forged(line, model="../x"), "model: String should match"),
    "a path as data": (lambda line: forged(line, data="a/b"), "data: String should match"),
    "a path as function": (lambda line: forged(line, function="../x"), "function: String should match"),
    "a path as name of a figure": (lambda line: forged(line, log=[{"../x": 1}]), r"log\.0\.\.\./x"),
    "a hidden name": (lambda line: forged(line, model=".x"), "model: String should match"),
    "a list": (lambda line: "[]\n", "expected an object, got list"),
    "a text": (lambda line: '"x"\n', "expected an object, got str"),
    "no JSON": (lambda line: "{\n", "is damaged: not JSON: line 1, column"),
    "an empty line": (lambda line: "\n", "is damaged: not JSON: line 1, column"),
    "too deep": (lambda line: "[" * 100_000 + "\n", "nested more than"),
    "no UTF-8": (lambda line: line.text().replace("0000000", "\udcff"), "is not UTF-8"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("number", [1, 2])
def test_a_bad_line(relu, cell, tmp_path, name, number):
    change, said = BAD[name]
    text = "" if number == 1 else relu.text()
    (tmp_path / "a.jsonl").write_text(relu.text(), encoding="utf-8")
    (tmp_path / "b.jsonl").write_bytes((text + change(cell)).encode("utf-8", "surrogateescape"))
    before = contents(tmp_path)
    with pytest.raises(RunError, match=rf"^{tmp_path}/b\.jsonl, line {number}\b.*{said}"):
        Ledger.read(tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("cut", "said"),
    [
        (lambda text: text[:-1], ", line 2 is cut short: restore the file from git, or remove it and collect again"),
        (lambda text: text[: text.index("\n")], ", line 1 is cut short"),
        (lambda text: text[: text.index("\n") + 99], ", line 2 is cut short"),
        (lambda text: text + "{", ", line 3 is cut short"),
        (lambda text: "", " holds no line: restore the file from git, or remove it and collect again"),
    ],
)
def test_a_file_that_is_cut_short(relu, cell, tmp_path, cut, said):
    (tmp_path / "b.jsonl").write_text(cut(relu.text() + cell.text()), encoding="utf-8")
    before = contents(tmp_path)
    with pytest.raises(RunError, match=rf"^{tmp_path}/b\.jsonl{said}"):
        Ledger.read(tmp_path)
    assert contents(tmp_path) == before


def test_a_file_instead_of_a_folder_and_a_folder_instead_of_a_file(relu, tmp_path):
    (tmp_path / "ledger").write_text(relu.text(), encoding="utf-8")
    with pytest.raises(RunError, match=r"ledger is a file; a ledger is a folder of \.jsonl files"):
        Ledger.read(tmp_path / "ledger")
    with pytest.raises(RunError, match=r"cannot write .*ledger"):
        ledger.add(tmp_path / "ledger", [relu])
    assert contents(tmp_path) == {"ledger": relu.text().encode()}
    (tmp_path / "x.jsonl").mkdir()
    with pytest.raises(RunError, match=r"x\.jsonl cannot be read: Is a directory"):
        Ledger.read(tmp_path)


def test_files_that_are_too_large_or_too_many(relu, tmp_path, monkeypatch):
    ledger.add(tmp_path, [relu, again(relu, date=LATER)])
    with monkeypatch.context() as patch:
        patch.setattr(ledger, "_LARGEST", 100)
        with pytest.raises(RunError, match=r"\.jsonl is larger than 0 MB: no ledger"):
            Ledger.read(tmp_path)
    monkeypatch.setattr(ledger, "_MOST_FILES", 1)
    with pytest.raises(RunError, match=rf"{tmp_path} holds 2 files; a ledger has 1 at most"):
        Ledger.read(tmp_path)


@pytest.mark.parametrize("room", [0, 1, 3])
def test_a_full_disk(filled, tmp_path, room):
    ledger.add(tmp_path, filled.lines[:2])
    before, new = contents(tmp_path), filled.lines[2:7]
    with pytest.raises(RunError, match=r"cannot write .*\.jsonl: .*No space left on device"), full_disk(room):
        ledger.add(tmp_path, new)
    assert contents(tmp_path) == before | {line.file_name: line.text().encode() for line in new[:room]}
    assert Ledger.read(tmp_path).lines == filled.only(line.sha256[:16] for line in filled.lines[: 2 + room]).lines
    assert len(ledger.add(tmp_path, new)) == 5 - room
    assert len(Ledger.read(tmp_path).lines) == 7


def _mutated(content, draw):
    """One to three changes of bytes."""
    content = bytearray(content)
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        at, other = draw.randrange(len(content)), draw.randrange(len(content))
        how = draw.choice(["flip", "set", "digit", "insert", "delete", "cut", "twice", "swap"])
        if how == "flip":
            content[at] ^= 1 << draw.randrange(8)
        elif how == "set":
            content[at] = draw.randrange(256)
        elif how == "digit":
            content[at : at + 1] = draw.choice([b"0", b"9", b"e", b".", b"-", b"a"])
        elif how == "insert":
            content[at:at] = draw.choice([b"0", b" ", b"\n", b"\r", b"\t", b'"', b"{", b"\\", b"\0"])
        elif how == "delete":
            del content[at : at + draw.choice([1, 1, 2, 40])]
        elif how == "cut":
            del content[at + 1 :]
        elif how == "twice":
            content[at:at] = content[min(at, other) : at]
        else:
            content[at], content[other] = content[other], content[at]
        content = content or bytearray(b" ")
    return bytes(content)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_bytes_change_it_is_seen(search, cell, tmp_path, seed):
    draw, path, line = random.Random(seed), tmp_path / "b.jsonl", (search, cell)[seed % 2]
    seen = equal = 0
    for _ in range(150):
        changed = _mutated(line.text().encode(), draw)
        path.write_bytes(changed)
        try:
            found = Ledger.read(tmp_path).lines
        except RunError as error:
            seen += str(error).startswith(f"{path}, line ")
        else:
            assert found == (line,), changed
            equal += 1
        assert path.read_bytes() == changed
    assert (seen + equal, equal < 30) == (150, True)


def test_figures_that_are_made_up_are_the_same_everywhere(filled, tmp_path):
    """Of the helper: a job's line hangs on nothing but the job and what is asked."""
    campaign = planned(folder_in(tmp_path), transfer={"random": 1})
    assert {job.key for job in waiting(campaign)} == {line.key for line in filled.lines}
    for job in waiting(campaign):
        assert made_line(job, 90.0) == made_line(job, 90.0)
    other = made_ledger(folder_in(tmp_path), {"relu": [50.0]}, seed=1, hardware="x", rounds=1, transfer={"random": 1}).ledger
    assert not {line.sha256 for line in other.lines} & {line.sha256 for line in filled.lines}
    assert [line.log[-1]["validation_accuracy"] for line in other.lines if line.function == "relu"] == [50.0]
    assert {line.date for line in other.lines} == {DATE}
