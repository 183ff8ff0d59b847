"""Run folders: a run goes on in its own folder, and in no other."""

import json

import pytest

from grafs_timm.config.recipe import load_recipe
from grafs_timm.errors import RunError
from grafs_timm.runs.folder import RunFolder, versions

RECIPE = load_recipe("resnet_digits")
FACTS = {"kind": "search", "model": "cifar_resnet20", "data": "digits", "seed": 0, "activation": None}


def contents(path):
    return {item.name: item.read_bytes() for item in path.iterdir()}


@pytest.fixture
def begun(tmp_path):
    return RunFolder.open(tmp_path / "a" / "run", RECIPE, FACTS)


def test_a_new_folder(begun):
    assert not begun.finished
    assert not begun.half_done
    assert load_recipe(begun.path / "recipe.yaml") == RECIPE
    about = json.loads((begun.path / "run.json").read_text(encoding="utf-8"))
    assert FACTS.items() <= about.items()
    assert about["recipe_sha256"] == RECIPE.sha256
    assert about["versions"] == versions()
    assert about["versions"]["torch"][0].isdigit()


def test_before_the_first_checkpoint_it_begins_anew(begun):
    (begun.path / "log.jsonl").write_text("{}\n", encoding="utf-8")
    assert RunFolder.open(begun.path, RECIPE, FACTS).notes == ()


def test_half_done(begun):
    begun.checkpoint_file.touch()
    before = contents(begun.path)
    with pytest.raises(RunError, match="half done; add --resume to continue it, or name another --out"):
        RunFolder.open(begun.path, RECIPE, FACTS)
    assert RunFolder.open(begun.path, RECIPE, FACTS, resume=True).half_done
    assert contents(begun.path) == before


def test_finished(begun):
    begun.checkpoint_file.touch()
    begun.finish({"accuracy": 0.5})
    for resume in (False, True):
        again = RunFolder.open(begun.path, RECIPE, FACTS, resume=resume)
        assert again.finished
        assert not again.half_done
        assert again.summary() == {"accuracy": 0.5}


def test_another_run(begun):
    before = contents(begun.path)
    for recipe, facts, said in (
        (RECIPE, FACTS | {"seed": 1}, "seed: 0 there, 1 here"),
        (RECIPE, FACTS | {"extra": [1]}, "extra: absent there, [1] here"),
        (RECIPE, {key: FACTS[key] for key in FACTS if key != "model"}, 'model: "cifar_resnet20" there, absent here'),
        (load_recipe("resnet_digits", ["search.epochs=12"]), FACTS, "recipe.search.epochs: 30 there, 12 here"),
    ):
        with pytest.raises(RunError) as error:
            RunFolder.open(begun.path, recipe, facts, resume=True)
        assert "belongs to another run" in str(error.value)
        assert said in str(error.value)
    with pytest.raises(RunError, match=r"and [0-9]+ more"):
        RunFolder.open(begun.path, load_recipe("vit_cifar10"), FACTS)
    assert contents(begun.path) == before


def test_killed_between_the_two_first_files(begun):
    (begun.path / "recipe.yaml").unlink()
    (begun.path / ".recipe.yaml.x1").touch()
    with pytest.raises(RunError, match="recipe: "):
        RunFolder.open(begun.path, load_recipe("vit_cifar10"), FACTS)
    RunFolder.open(begun.path, RECIPE, FACTS)
    assert load_recipe(begun.path / "recipe.yaml") == RECIPE


def test_other_versions_are_noted(begun):
    about = json.loads((begun.path / "run.json").read_text(encoding="utf-8"))
    about["versions"]["torch"] = "1.0"
    (begun.path / "run.json").write_text(json.dumps(about), encoding="utf-8")
    (note,) = RunFolder.open(begun.path, RECIPE, FACTS).notes
    assert note.startswith("torch was 1.0 when this run began and is ")


def test_a_folder_of_something_else(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(RunError, match="holds no run"):
        RunFolder.open(tmp_path, RECIPE, FACTS, resume=True)
    assert contents(tmp_path) == {"thesis.txt": b"mine"}
    with pytest.raises(RunError, match="is a file"):
        RunFolder.open(tmp_path / "thesis.txt", RECIPE, FACTS)
    with pytest.raises(RunError, match="cannot"):
        RunFolder.open(tmp_path / "thesis.txt" / "below", RECIPE, FACTS)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"format": "grafs-run/9"}'])
def test_a_damaged_run_json(begun, content):
    (begun.path / "run.json").write_text(content, encoding="utf-8")
    with pytest.raises(RunError, match=r"run.json is damaged|format: 'grafs-run/9' there"):
        RunFolder.open(begun.path, RECIPE, FACTS, resume=True)


def test_a_damaged_recipe(begun):
    (begun.path / "recipe.yaml").write_text("model: [", encoding="utf-8")
    with pytest.raises(RunError, match=r"recipe.yaml: not valid YAML"):
        RunFolder.open(begun.path, RECIPE, FACTS, resume=True)


def test_no_result_yet(begun):
    with pytest.raises(RunError, match=r"summary.json cannot be read"):
        begun.summary()
