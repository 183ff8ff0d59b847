"""Campaigns: what is wanted follows from recipe and ledger alone, and ledgers that grew apart become one."""

import json
import shutil
import statistics
import subprocess

import pytest
from made_ledger import DATE, FOUND, HARDWARE, OPTIONS, REAL, RECIPE, X, folder_in, made_ledger, made_line, planned, waiting
from tiny_runs import call, contents, full_disk, refused

from grafs_timm.activations import genotype as genotypes
from grafs_timm.activations.genotype import Gene, Genotype
from grafs_timm.comparison import campaign, campaign_files, campaign_run, campaign_text, ledger
from grafs_timm.comparison.campaign import Campaign
from grafs_timm.comparison.ledger import Ledger
from grafs_timm.config.recipe import parse_recipe
from grafs_timm.errors import RecipeError, RunError, UnknownNameError
from grafs_timm.jobs.options import Launch

GIVEN = ["relu", "gelu", "silu", "elu", "leaky_relu", "grafs2024_wrn", "random0"]
NEW = ["searches_s0", "searches_s3"]  # of the five functions found the others are GELU, ReLU and SiLU
FIGURES = {
    "relu": 90.0, "gelu": 91.5, "silu": 87.0, "elu": 86.0, "leaky_relu": 88.0, "grafs2024_wrn": 93.0, "searches_s0": 84.0,
    "searches_s3": 89.5,
}  # fmt: skip
KEPT = ["relu", "searches_s3", "grafs2024_wrn"]
SMALL = {  # two baselines and one found function
    "transfer": {"baselines": ["relu", "gelu"]},
    "campaign": {"searches": 1, "seeds": 3, "keep": 3, "keep_seeds": 4},
}
OTHER = {"hardware": "another processor", "date": "2026-11-28T12:00:00Z"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A campaign with nothing left."""
    return made_ledger(folder_in(tmp_path_factory.mktemp("whole")), FIGURES)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """Of a small campaign the search, and a training of what was given."""
    return made_ledger(folder_in(tmp_path_factory.mktemp("begun")), rounds=1, **SMALL)


def copied(own, zoo):
    """The campaign with its ledger copied to another place."""
    return Campaign.read(shutil.copytree(own.folder, folder_in(zoo)))


def small(**changes):
    return SMALL | {"campaign": SMALL["campaign"] | changes}


def labels(jobs):
    return [f"s{job.seed}" if job.kind == "search" else f"{job.label} s{job.seed}" for job in jobs]


# ------------------------------------------------------------------------------------------------------------ the plan


def test_first_come_the_given_activations_and_the_searches(tmp_path):
    own = planned(folder_in(tmp_path))
    assert labels(waiting(own)) == [f"{label} s0" for label in GIVEN] + [f"s{seed}" for seed in range(5)]
    assert waiting(own) == own.jobs()
    assert (own.family, own.default, str(own.home)) == ("resnet", "relu", "cifar_resnet20 on digits")
    assert list(tmp_path.iterdir()) == []


def test_then_blocks_by_seed(tmp_path):
    own = made_ledger(folder_in(tmp_path), FIGURES, rounds=1)
    trained = GIVEN + NEW
    assert labels(waiting(own)) == [f"{label} s0" for label in NEW] + [f"{label} s{n}" for n in (1, 2) for label in trained]
    own = made_ledger(folder_in(tmp_path), FIGURES, rounds=1)
    assert labels(waiting(own)) == [f"{label} s3" for label in KEPT]
    own = made_ledger(folder_in(tmp_path), FIGURES, rounds=1)
    assert labels(waiting(own)) == [f"{label} s{seed}" for seed in range(3) for label in KEPT]
    assert {str(job.place) for job in waiting(own)} == {"cifar_resnet32 on digits"}
    own = made_ledger(folder_in(tmp_path), FIGURES, rounds=1)
    assert waiting(own) == []
    assert [job.key for job in own.jobs() if job.key not in own.ledger.first()] == []


def test_half_a_block(tmp_path):
    """Whatever of a block is there already isn't wanted, in whichever order it came."""
    own = made_ledger(folder_in(tmp_path), FIGURES, rounds=1)
    jobs = waiting(own)
    ledger.add(own.folder, [made_line(job, 90.0) for job in jobs[::3]])
    assert waiting(Campaign.read(own.folder)) == [job for number, job in enumerate(jobs) if number % 3]


def test_every_job_is_there_once_and_none_besides(whole):
    keys = {job.key for job in whole.jobs()}
    assert keys == set(whole.ledger.first())
    assert len(whole.ledger.lines) == len(keys) == 5 + 9 * 3 + 3 + 9
    assert len({campaign_run.run_folder(whole.folder, job) for job in whole.jobs()}) == len(keys)


def test_found_functions_that_are_baselines_are_not_trained_again(whole):
    assert list(whole.activations) == [*GIVEN, *(f"searches_s{seed}" for seed in range(5))]
    assert whole.same_as == {"searches_s1": "gelu", "searches_s2": "relu", "searches_s4": "silu"}
    trained = {line.function for line in whole.ledger.lines if line.kind == "training"}
    assert {FOUND[0].sha256, FOUND[3].sha256} < trained
    assert not {FOUND[1].sha256, FOUND[2].sha256, FOUND[4].sha256} & trained


def test_what_two_searches_found_is_trained_once(tmp_path):
    own = made_ledger(folder_in(tmp_path), found=(FOUND[3], FOUND[0], FOUND[3]), **small(searches=3))
    assert list(own.activations) == ["relu", "gelu", "searches_s0", "searches_s1"]
    assert own.activations["searches_s0"].also == (2,)
    assert waiting(own) == []


def test_a_found_function_that_was_given_is_trained_once(tmp_path):
    """Its label stays, and it counts as found."""
    genotypes.save(FOUND[3], tmp_path / "earlier.json")
    asked = {"transfer": {"baselines": ["relu", "gelu"], "activations": [str(tmp_path / "earlier.json")]}}
    changes = small(searches=2, keep=2) | asked
    figures = {"relu": 90.0, "gelu": 99.0, "earlier": 89.7, "searches_s1": 70.0}
    for _ in range(6):
        own = made_ledger(folder_in(tmp_path), figures, found=(FOUND[3], FOUND[0]), rounds=1, **changes)
        keys = [job.key for job in waiting(own)]
        assert len(keys) == len(set(keys))
    assert waiting(own) == []
    assert list(own.activations) == ["relu", "gelu", "earlier", "searches_s1"]
    assert {row.activation for row in own.results("test")} == {"relu", "gelu", "earlier", "searches_s1"}
    assert own.kept() == ["relu", "earlier"]
    assert "search s0: tanh(x), held-out" in campaign_text.status_text(own)


# ----------------------------------------------------------------------------------------------------------- retirement


VARIED = {"guarded": {"guard": True}, "slow": {"architecture": {"lr": 1e-4}}}
OTHERS = (FOUND[1], Genotype(Gene("sigmoid"), X, Gene("left"), X, Gene("relu"), Gene("max")))  # GELU again, and a new function


def varied(folder):
    """A small campaign with two variants of its search; what its own search found is FOUND[0]."""
    own = made_ledger(folder, rounds=0, **small(searches=2, variants=VARIED))
    first = waiting(own)
    by_recipe = {own.searched_by[name].sha256: found for name, found in (("guarded", OTHERS), ("slow", FOUND))}
    ledger.add(own.folder, [made_line(job, 90.0, found=by_recipe.get(job.recipe.sha256, FOUND)) for job in first])
    return Campaign.read(own.folder)


def test_variants_are_further_searches(tmp_path):
    own = planned(folder_in(tmp_path), **small(searches=2, variants=VARIED))
    searches = [job for job in waiting(own) if job.kind == "search"]
    assert [str(job) for job in searches] == [
        "search s0", "search s1", "search guarded_s0", "search guarded_s1", "search slow_s0", "search slow_s1",
    ]  # fmt: skip
    assert [(job.recipe.search.guard, job.recipe.search.architecture.lr) for job in searches[::2]] == [
        (False, 6e-4), (True, 6e-4), (False, 1e-4),
    ]  # fmt: skip
    assert len({job.key for job in searches}) == len({job.recipe.sha256 for job in searches}) * 2 == 6
    plain = planned(folder_in(tmp_path), **small(searches=2))
    assert [job.key for job in waiting(plain)] == [job.key for job in waiting(own)][: len(waiting(plain))]


def test_what_variants_find_are_rows_beside_the_others(tmp_path):
    own = varied(folder_in(tmp_path))
    assert [(name, list(lines)) for name, lines in own.searched.items()] == [
        ("searches", [0, 1]), ("guarded", [0, 1]), ("slow", [0, 1]),
    ]  # fmt: skip
    assert list(own.searches) == [0, 1] == list(own.found_as)
    trained = {job.label for job in waiting(own) if job.kind == "training"}
    # own: a new function, and GELU; guarded: GELU, and a new one; slow: what the own searches found
    assert trained == {"relu", "gelu", "searches_s0", "guarded_s1"}
    labels = {(batch, seed): own.label_of(batch, seed) for batch in own.searched for seed in (0, 1)}
    assert labels["searches", 0] == labels["slow", 0] == "searches_s0"
    assert labels["guarded", 1] == "guarded_s1"
    assert {own.same_as[labels[each]] for each in (("searches", 1), ("slow", 1), ("guarded", 0))} == {"gelu"}


def test_status_names_searches_of_variants(tmp_path):
    text = campaign_text.status_text(varied(folder_in(tmp_path)))
    said = [line.strip().split(":")[0] for line in text.splitlines() if line.strip().startswith("search ")]
    assert said == ["search s0", "search s1", "search guarded_s0", "search guarded_s1", "search slow_s0", "search slow_s1"]
    assert text.count("(is gelu)") == 3


@pytest.mark.parametrize(
    ("apart", "below", "gone"),
    [
        ((-2.0, -2.0, -2.2), 1.0, True),
        ((-1.2, -1.3, -1.4), 1.0, True),  # −1.3 ± 0.25
        ((-1.0, -1.1, -1.2), 1.0, False),  # −1.1 ± 0.25
        ((-1.0, -1.1, -1.2), 0.5, True),
        ((-1.0, -1.1, -1.2), 0.0, True),
        ((-9.0, 0.0, -9.0), 1.0, False),
        ((-2.0, -2.0, -2.0), 1.0, False),  # nothing tells the spread
        ((2.0, 2.0, 2.2), 1.0, False),
    ],
)
def test_retirement(tmp_path, apart, below, gone):
    """Of the first seeds alone: what comes later changes nothing."""
    figures = {"relu": [90.0] * 6, "gelu": [90.0 + each for each in apart] + [10.0, 11.0, 12.0]}
    places = [{"model": "cifar_resnet32", "data": "digits"}]
    changes = small(seeds=5, keep_seeds=6, places=places, place_seeds=2, retire_below=below)
    own = made_ledger(folder_in(tmp_path), figures, **changes)
    assert waiting(own) == []
    assert list(own.retired()) == (["gelu"] if gone else [])
    at = [(line.model, line.seed) for line in own.ledger.lines if line.function == "gelu"]
    everywhere = [*(("cifar_resnet20", seed) for seed in range(6)), *(("cifar_resnet32", seed) for seed in range(2))]
    assert sorted(at) == (everywhere[:3] if gone else everywhere)
    assert own.kept() == ["relu", "searches_s0"] + ([] if gone else ["gelu"])
    if gone:
        found = own.retired()["gelu"]
        held_out = found.verdict.difference
        assert (found.label, found.after, round(held_out.mean, 3)) == ("gelu", 3, round(statistics.fmean(apart), 3))
        assert held_out.low < held_out.mean < held_out.high < -below
        assert "retired after 3 seeds: gelu, held-out difference −" in campaign_text.status_text(own)


def test_before_its_seeds_are_there_nothing_is_retired(tmp_path):
    figures = {"relu": [90.0] * 3, "gelu": [80.0, 80.1, 80.2]}
    own = made_ledger(folder_in(tmp_path), figures, rounds=1, **SMALL)
    last = next(job for job in waiting(own) if (job.label, job.seed) == ("gelu", 2))
    others = [job for job in waiting(own) if job != last]
    ledger.add(own.folder, [made_line(job, figures.get(job.label, [85.0] * 3)[job.seed]) for job in others])
    own = Campaign.read(own.folder)
    assert own.retired() == {}
    assert waiting(own) == [last]
    ledger.add(own.folder, [made_line(last, 80.2)])
    assert list(Campaign.read(own.folder).retired()) == ["gelu"]


def test_the_default_is_never_retired(tmp_path):
    figures = {"relu": [10.0, 10.1, 10.2, 10.3], "gelu": [90.0] * 4}
    own = made_ledger(folder_in(tmp_path), figures, **SMALL)
    assert own.retired() == {}
    assert own.kept()[0] == "relu"


# ------------------------------------------------------------------------------------------------ what is kept, places


def test_kept_are_the_default_the_best_found_and_the_best_others(whole):
    held_out = {}
    for row in whole.results("validation"):
        if str(row.place) == "cifar_resnet20 on digits" and row.seed < 3:
            held_out.setdefault(row.activation, []).append(row.accuracy)
    order = sorted(held_out, key=lambda label: -statistics.fmean(held_out[label]))
    assert order == ["grafs2024_wrn", "gelu", "relu", "searches_s3", "leaky_relu", "silu", "elu", "searches_s0", "random0"]
    assert whole.kept() == KEPT
    seeds = {label: sorted(row.seed for row in whole.results("test") if row.activation == label) for label in held_out}
    assert seeds == {label: [0, 0, 1, 1, 2, 2, 3] if label in KEPT else [0, 1, 2] for label in held_out}


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        (1, ["relu"]),
        (2, ["relu", "searches_s3"]),
        (4, [*KEPT, "gelu"]),
        (99, [*KEPT, "gelu", "leaky_relu", "silu", "elu", "searches_s0"]),  # random0 is retired
    ],
)
def test_how_many_are_kept(whole, tmp_path, keep, kept):
    folder = shutil.copytree(whole.folder, folder_in(tmp_path))
    own = planned(folder, campaign=RECIPE["campaign"] | {"keep": keep, "retire_below": 12.0})
    assert own.kept() == kept
    assert labels(waiting(own)) == [f"{label} s3" for label in kept if label not in KEPT]


def test_where_every_search_found_a_baseline_the_best_others_are_kept(tmp_path):
    own = made_ledger(folder_in(tmp_path), found=FOUND[1:3], **small(searches=2))
    assert own.same_as == {"searches_s0": "gelu", "searches_s1": "relu"}
    assert own.kept() == ["relu", "gelu"]
    assert waiting(own) == []


def test_places(whole):
    rows = [row for row in whole.results("test") if row.model == "cifar_resnet32"]
    assert [(row.activation, row.seed) for row in rows] == [(label, seed) for seed in range(3) for label in sorted(
        KEPT, key=list(whole.activations).index)]  # fmt: skip
    recipes = {str(place): recipe for place, recipe in whole.trainings_by.items()}
    assert list(recipes) == ["cifar_resnet20 on digits", "cifar_resnet32 on digits"]
    home, place = recipes.values()
    assert place.model_copy(update={"model": "cifar_resnet20"}) == home
    assert (place.data.validation_images, place.evaluate.measure_both) == (100, True)


def test_a_figure_that_is_none_enters_nothing(tmp_path):
    own = made_ledger(folder_in(tmp_path), rounds=1, **SMALL)
    for job in waiting(own):
        line = made_line(job, 99.0)
        if job.label == "gelu":
            log = [each | {"validation_accuracy": "nan", "validation_loss": "nan"} for each in line.log]
            fields = line.model_dump(exclude={"format", "key", "sha256"}) | {"log": log}
            line = ledger.made(**fields)
        ledger.add(own.folder, [line])
    own = Campaign.read(own.folder)
    assert own.kept() == ["relu", "searches_s0"]
    assert own.retired() == {}


def test_what_a_campaign_needs():
    with pytest.raises(RecipeError, match="campaign: this recipe has no such section"):
        campaign_files.resolved(parse_recipe({name: each for name, each in RECIPE.items() if name != "campaign"}))
    data = {"name": "digits", "train_images": 300, "test_images": 100}
    with pytest.raises(RecipeError, match=r"campaign\.held_out: a campaign selects by held-out images"):
        campaign_files.resolved(parse_recipe(RECIPE | {"data": data}))
    held_out = RECIPE | {"data": data, "campaign": RECIPE["campaign"] | {"held_out": 50}}
    own = campaign_files.resolved(parse_recipe(held_out))
    assert (own.data.validation_images, own.evaluate.measure_both) == (50, True)
    assert own.campaign.places[0].data == own.data
    assert campaign_files.resolved(own) == own
    # where the searches ran, with other images
    twice = [{"model": "cifar_resnet20", "data": data | {"validation_images": 50}}]
    with pytest.raises(RecipeError, match=r"campaign\.places: cifar_resnet20 on digits is there twice"):
        campaign_files.resolved(parse_recipe(RECIPE | {"campaign": RECIPE["campaign"] | {"places": twice}}))


# ----------------------------------------------------------------------------------------------------- other machines


def test_a_copied_ledger_goes_on_where_it_stopped(tmp_path):
    own = made_ledger(folder_in(tmp_path / "a"), FIGURES, rounds=1)
    ledger.add(own.folder, [made_line(job, 90.0) for job in waiting(own)[:7]])
    own = Campaign.read(own.folder)
    there = copied(own, tmp_path / "elsewhere")
    assert waiting(there) == waiting(own) == waiting(planned(there.folder))
    assert not {job.key for job in waiting(there)} & set(own.ledger.first())
    jobs = campaign_run.launch_jobs(tmp_path / "runs", waiting(there))
    assert [job.done for job in jobs] == [False] * len(waiting(own))
    assert jobs[0].name == "grafs2024_wrn, cifar_resnet20 on digits, seed 1"


def test_searches_of_others_are_not_searched_again(begun, tmp_path):
    own = planned(folder_in(tmp_path), **SMALL)
    assert labels(waiting(own)) == ["relu s0", "gelu s0", "s0"]
    ledger.add(own.folder, [line for line in begun.ledger.lines if line.kind == "search"])
    assert labels(waiting(planned(own.folder, **SMALL))) == ["relu s0", "gelu s0"]


@pytest.mark.parametrize(
    ("changes", "key", "old", "new"),
    [
        ({"evaluate": RECIPE["evaluate"] | {"epochs": 3}}, "evaluate.epochs", "2", "3"),
        ({"search": RECIPE["search"] | {"epochs": 5}}, "search.epochs", "4", "5"),
        ({"data": RECIPE["data"] | {"train_images": 200}}, "data.train_images", "300", "200"),
        ({"model": "cifar_resnet32"}, "model", '"cifar_resnet20"', '"cifar_resnet32"'),
    ],
)
def test_records_of_another_recipe(begun, tmp_path, changes, key, old, new):
    there, other = copied(begun, tmp_path / "a"), planned(folder_in(tmp_path / "b"), **(SMALL | changes))
    before = contents(tmp_path)
    with pytest.raises(RunError) as error:
        planned(there.folder, **(SMALL | changes))
    assert str(error.value) == f"{there.folder} holds records of another recipe\n  {key}: {old} there, {new} here"
    with pytest.raises(RunError) as error:
        other.merge(there.folder)
    assert str(error.value) == f"{other.folder} holds records of another recipe\n  {key}: {new} there, {old} here"
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "changes",
    [small(seeds=2, keep_seeds=2), small(searches=2), small(retire_below=9.0), SMALL | {"transfer": {"random": 2}}],
)
def test_wanting_more_or_less_is_no_other_recipe(begun, tmp_path, changes):
    own = planned(copied(begun, tmp_path).folder, **changes)
    assert own.ledger.lines == begun.ledger.lines
    assert {"relu", "gelu"} <= set(own.given)


def test_a_line_by_none_of_the_campaigns_recipes(begun, tmp_path):
    own = copied(begun, tmp_path)
    recipe = begun.recipe.for_training().model_copy(update={"channels_last": True})
    stray = made_line(begun.jobs()[0], 90.0).model_dump(exclude={"format", "key", "sha256"}) | {"recipe": recipe.sha256}
    (file,) = ledger.add(own.folder, [ledger.made(**stray)])
    for read in (lambda: Campaign.read(own.folder), lambda: planned(own.folder, **SMALL)):
        with pytest.raises(RunError, match=rf"{file}, line 1: made by the recipe {recipe.sha256[:12]}…, .*key does not fit"):
            read()
    (own.folder / "recipes").mkdir()
    (own.folder / "recipes" / "other.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    own = Campaign.read(own.folder)
    assert len(own.ledger.lines) == len(begun.ledger.lines) + 1
    assert own.results("test") == begun.results("test")  # of another recipe, and not compared with these
    assert waiting(own) == waiting(begun)


@pytest.mark.parametrize("name", ["recipe.yaml", "activations.json"])
def test_a_folder_that_is_no_ledger(begun, tmp_path, name):
    own, other = copied(begun, tmp_path / "a"), shutil.copytree(begun.folder, tmp_path / "b")
    (other / name).unlink()
    before = contents(tmp_path)
    for folder in (other, tmp_path / "none", tmp_path):
        with pytest.raises(RunError, match=rf"{folder} is not a ledger: it has no recipe\.yaml and activations\.json"):
            own.merge(folder)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["recipe.yaml", "activations.json", None])
@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b"{", b'{"format": "grafs-campaign/2"}', b"model: [", b"1"])
def test_a_damaged_ledger(begun, tmp_path, name, content):
    other = shutil.copytree(begun.folder, tmp_path / "b")
    path = other / (name or begun.ledger.lines[0].file_name)
    path.write_bytes(content)
    before = contents(tmp_path)
    for read in (lambda: Campaign.read(other), lambda: begun.merge(other)):
        with pytest.raises(RunError, match=str(path)):
            read()
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("label", "about"),
    [
        ("../x", {"kind": "baseline", "genotype": None}),
        ("x", {"kind": "other", "genotype": None}),
        ("x", {"kind": "found", "genotype": {"u1": {"op": "exec"}}}),
        ("x", {"kind": "found"}),
        ("x", None),
    ],
)
def test_activations_that_are_none(begun, tmp_path, label, about):
    own = copied(begun, tmp_path)
    path = own.folder / "activations.json"
    path.write_text(json.dumps({"format": campaign_files.FORMAT, "activations": {label: about}}), encoding="utf-8")
    with pytest.raises(RunError, match=f"{path} is damaged"):
        Campaign.read(own.folder)


def test_a_campaign_whose_folder_is_a_file(tmp_path):
    folder_in(tmp_path).parent.mkdir(parents=True)
    folder_in(tmp_path).write_text("mine", encoding="utf-8")
    with pytest.raises(RunError, match="is a file; a ledger is a folder"):
        planned(folder_in(tmp_path))


@pytest.mark.parametrize("room", [0, 1])
def test_beginning_on_a_full_disk(tmp_path, room):
    """Or killed there: whatever of the two files stands, the campaign begins again."""
    own = planned(folder_in(tmp_path), **SMALL)
    with pytest.raises(RunError, match="No space left"), full_disk(room):
        own.write()
    assert len(contents(tmp_path)) == room
    assert campaign_text.all_campaigns(tmp_path) == []
    again = planned(own.folder, **SMALL)
    again.write()
    assert labels(waiting(Campaign.read(own.folder))) == ["relu s0", "gelu s0", "s0"]
    before = contents(tmp_path)
    planned(own.folder, **SMALL).write()
    assert contents(tmp_path) == before


def test_merging_on_a_full_disk(whole, tmp_path):
    own = made_ledger(folder_in(tmp_path), FIGURES, rounds=1)
    before = contents(own.folder)
    with pytest.raises(RunError, match="No space left"), full_disk(3):
        own.merge(whole.folder)
    assert before.items() < contents(own.folder).items() < contents(whole.folder).items()
    assert len(contents(own.folder)) == len(before) + 3
    Campaign.read(own.folder).merge(whole.folder)
    assert contents(own.folder) == contents(whole.folder)


# ------------------------------------------------------------------------------------------------------ grown apart


def apart(start, one, other):
    """Two machines go on from ``start``: with seed 1, and with seed 2; one training both do, with another figure."""
    jobs = waiting(start)
    first, second = ([job for job in jobs if job.seed == seed] for seed in (1, 2))
    common = next(job for job in first if job.label == "gelu")
    ledger.add(one.folder, [made_line(job, 90.0) for job in first])
    ledger.add(other.folder, [made_line(job, 91.0, **OTHER) for job in [*second, common]])
    return common


def git(folder, *arguments):
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false", "-c", "core.autocrlf=false")
    return subprocess.run(["git", "-C", folder, *who, *arguments], check=True, capture_output=True, encoding="utf-8").stdout


def test_ledgers_that_grew_apart_become_one(begun, tmp_path):
    one, other = copied(begun, tmp_path / "one"), copied(begun, tmp_path / "other")
    common = apart(begun, one, other)
    files = {folder.folder: set(contents(folder.folder)) for folder in (one, other)}
    new = [set.union(*files.values()) - each for each in files.values()]
    assert [path.name for path in Campaign.read(one.folder).merge(other.folder)] == [
        line.file_name for line in Ledger.read(other.folder).lines if line.file_name in new[0]
    ]
    assert contents(one.folder).keys() == set.union(*files.values())
    Campaign.read(other.folder).merge(one.folder)
    assert contents(other.folder) == contents(one.folder)
    merged = Campaign.read(one.folder)
    assert merged.merge(other.folder) == []
    (again,) = merged.ledger.repetitions()[common.key]
    assert (again.hardware["processor"], merged.ledger.first()[common.key].date) == ("another processor", DATE)
    # what block 1 still lacks, and what nobody trained twice
    assert labels(waiting(merged)) == ["searches_s0 s0"]
    assert f"repeated, another figure: {again.file_name} on another processor" in campaign_text.status_text(merged)


@pytest.mark.parametrize("into", ["one", "other"])
def test_git_merges_them_to_the_same_bytes(begun, tmp_path, into):
    root = tmp_path / "git"
    folder = shutil.copytree(begun.folder, folder_in(root))
    git(root, "init", "-q", "-b", "start")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "Begin")
    one, other = copied(begun, tmp_path / "one"), copied(begun, tmp_path / "other")
    apart(begun, one, other)
    for name, each in (("one", one), ("other", other)):
        git(root, "checkout", "-q", "-b", name, "start")
        shutil.copytree(each.folder, folder, dirs_exist_ok=True)
        git(root, "add", "-A")
        git(root, "commit", "-q", "-m", name)
    git(root, "checkout", "-q", into)
    git(root, "merge", "-q", "--no-edit", "other" if into == "one" else "one")
    assert git(root, "status", "--porcelain") == ""
    merged, theirs = (one, other) if into == "one" else (other, one)
    Campaign.read(merged.folder).merge(theirs.folder)
    assert contents(folder) == contents(merged.folder)
    assert Campaign.read(folder).ledger.lines == Campaign.read(merged.folder).ledger.lines
    lines = ledger.unite(Campaign.read(folder).ledger.lines)
    assert lines == ledger.unite(Campaign.read(merged.folder).ledger.lines)


def test_a_closed_ledger_takes_new_lines(begun, tmp_path):
    """One file for all, as `ledger.unite` makes it, and then a merge from one that went on."""
    closed, other = copied(begun, tmp_path / "a"), copied(begun, tmp_path / "b")
    for line in begun.ledger.lines:
        (closed.folder / line.file_name).unlink()
    (closed.folder / "ledger.jsonl").write_text(ledger.unite(begun.ledger.lines), encoding="utf-8")
    assert waiting(Campaign.read(closed.folder)) == waiting(begun)
    ledger.add(other.folder, [made_line(waiting(begun)[0], 90.0)])
    (new,) = Campaign.read(closed.folder).merge(other.folder)
    assert Campaign.read(closed.folder).ledger.lines == Campaign.read(other.folder).ledger.lines
    assert sorted(path.name for path in closed.folder.glob("*.jsonl")) == sorted([new.name, "ledger.jsonl"])


def test_two_machines_whose_searches_found_different_functions(tmp_path):
    """The earlier search counts; what was trained of the other function is kept, and nothing more of it is wanted."""
    figures = {"relu": 90.0, "gelu": 89.8, "searches_s0": 89.6}
    one = made_ledger(folder_in(tmp_path / "one"), figures, found=FOUND[:1], **SMALL)
    other = made_ledger(folder_in(tmp_path / "other"), figures | {"searches_s0": 99.0}, found=FOUND[3:4], **OTHER, **SMALL)
    own = Campaign.read(one.folder)
    own.merge(other.folder)
    own = Campaign.read(one.folder)
    assert own.searches[0].genotype == FOUND[0].to_dict()
    assert (own.kept(), waiting(own)) == (["relu", "searches_s0", "gelu"], [])
    assert list(own.retired()) == []
    label = f"other_{FOUND[3].sha256[:8]}"
    assert [row.seed for row in own.results("test") if row.activation == label] == [0, 1, 2, 3]
    assert f"    {label} " in campaign_text.status_text(own)


def test_a_campaign_as_it_was(whole, begun, tmp_path):
    own = copied(begun, tmp_path)
    ids = own.ledger.ids()
    ledger.add(own.folder, [made_line(job, 90.0) for job in waiting(own)])
    assert waiting(Campaign.read(own.folder)) != waiting(begun)
    assert waiting(Campaign.read(own.folder, ids)) == waiting(begun)
    with pytest.raises(RunError, match="is missing or was changed"):
        Campaign.read(own.folder, whole.ledger.ids())


# --------------------------------------------------------------------------------------------------- the command line


@pytest.fixture
def shipped(monkeypatch):
    """The tiny recipes in place of those that ship."""
    stems = {"reduced": "resnet_digits_reduced", "standard": "resnet_digits_standard", "full": "resnet_digits"}
    recipes = {"resnet_digits_standard": RECIPE | SMALL, "resnet_digits_reduced": RECIPE | {"campaign": None}}
    monkeypatch.setattr(campaign, "RECIPES", {"resnet": stems})
    monkeypatch.setattr(campaign, "load_recipe", lambda stem: parse_recipe(recipes[stem], stem))


@pytest.mark.usefixtures("shipped")
def test_opening_one_by_its_family(begun):
    zoo = begun.folder.parents[2]
    own = Campaign.open("resnet", "standard", zoo)
    assert (own.folder, own.ledger.lines, own.recipe) == (begun.folder, begun.ledger.lines, begun.recipe)
    with pytest.raises(UnknownNameError, match=r"no campaign for the family 'resnett'; nearest: resnet"):
        Campaign.open("resnett", "standard", zoo)
    with pytest.raises(UnknownNameError, match=r"no budget 'standart'; nearest: standard"):
        Campaign.open("resnet", "standart", zoo)


@pytest.mark.usefixtures("shipped")
def test_plan_on_the_command_line(begun, tmp_path):
    text = call("campaign", "plan", "resnet", "--zoo", begun.folder.parents[2]).stdout
    assert text.startswith("resnet, standard: 7 runs are known to be wanted and not done\n")
    assert "    7 trainings of cifar_resnet20 on digits: about 0.0 h\n      searches_s0 s0, relu s1, gelu s1, " in text
    assert "together about 0.0 h with 2 workers" in text
    assert text.endswith("  what comes after these depends on their results\n")
    nothing = call("campaign", "plan", "resnet", "--zoo", tmp_path).stdout  # timed here
    assert "    2 trainings of cifar_resnet20 on digits: about 0.0 h\n      relu s0, gelu s0\n" in nothing
    assert "    1 searches: not timed yet\n      search s0\n" in nothing
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("shipped")
def test_what_the_command_line_refuses(begun, tmp_path):
    own, zoo = copied(begun, tmp_path / "zoo"), tmp_path / "zoo"
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    before = contents(tmp_path)
    for arguments, said in (
        (("plan", "resnett", "--zoo", zoo), "no campaign for the family 'resnett'"),
        (("plan", "resnet", "--zoo", zoo, "--budget", "reduced"), "campaign: this recipe has no such section"),
        (("plan", "resnet", "--zoo", zoo, "--budget", "huge"), "'huge' is not one of"),
        (("plan", "resnet", "--zoo", tmp_path / "file"), "is a file"),
        (("status", "resnett", "--zoo", zoo), "no campaign for the family 'resnett'"),
        (("status", "--zoo", tmp_path / "none"), "no ledger yet; grafs-timm campaign run FAMILY begins one"),
        (("merge", tmp_path / "none", "resnet", "--zoo", zoo), "is not a ledger"),
        (("merge", tmp_path, "resnet", "--zoo", zoo), "is not a ledger"),
        (("merge", tmp_path / "file", "resnet", "--zoo", zoo), "is a file"),
        (("collect", "resnet", "--zoo", zoo, "--runs", tmp_path / "file"), "is a file"),
    ):
        assert said in refused("campaign", *arguments)
        assert contents(tmp_path) == before
    line = own.folder / own.ledger.lines[0].file_name
    line.write_text(line.read_text(encoding="utf-8")[:-9], encoding="utf-8")
    before = contents(tmp_path)
    for command in (
        ("plan", "resnet", "--zoo", zoo),
        ("status", "--zoo", zoo),
        ("status", "--json", "--zoo", zoo),
        ("collect", "resnet", "--zoo", zoo, "--runs", tmp_path / "runs"),
        ("merge", own.folder, "resnet", "--zoo", tmp_path / "new"),
    ):
        assert f"error: {line}, line 1 is cut short" in refused("campaign", *command)
    assert contents(tmp_path) == before


def test_status_as_json(whole):
    zoo = whole.folder.parents[2]
    text = call("campaign", "status", "resnet", "--zoo", zoo, "--json").stdout
    rows = [json.loads(line) for line in text.splitlines()]
    assert [row["key"] for row in rows] == [line.key for line in whole.ledger.lines]
    for row in rows:
        assert (row["family"], row["budget"], row["campaign"]) == ("resnet", "standard", "digits_standard")
        assert {"model", "data", "activation", "seed", "figure", "kind", "epochs", "seconds"} <= set(row)
        assert isinstance(row["figure"], float)
        assert (row["hardware"]["processor"], row["date"], row["repetition"]) == (HARDWARE, DATE, False)
    trainings = {(row["model"], row["activation"], row["seed"]): row for row in rows if row["kind"] == "training"}
    assert set(trainings) == {(row.model, row.activation, row.seed) for row in whole.results("test")}
    for row in whole.results("test"):
        shown = trainings[row.model, row.activation, row.seed]
        assert (shown["figure"], shown["split"], shown["seconds"]) == (row.accuracy, "test", row.seconds)
    for row in whole.results("validation"):
        assert trainings[row.model, row.activation, row.seed]["held_out"] == row.accuracy
    searches = sorted((row["seed"], row["activation"]) for row in rows if row["kind"] == "search")
    assert searches == [(seed, found.text) for seed, found in enumerate(FOUND)]


def test_status_as_json_where_a_training_has_no_figure(tmp_path):
    """Of text, whose loss may be no number; the row is JSON all the same."""
    (tmp_path / "tales.txt").write_text("a tale " * 1000, encoding="utf-8")
    changes = {
        "model": "gpt_mini", "data": {"name": str(tmp_path / "tales.txt"), "text": {"context": 16}},
        "search": RECIPE["search"] | {"usual": "gelu"}, "transfer": {"baselines": ["relu"]},
        "campaign": {"searches": 1, "seeds": 2, "keep": 2},
    }  # fmt: skip
    own = made_ledger(folder_in(tmp_path), rounds=1, **changes)
    assert (own.default, own.home.data) == ("gelu", "tales.txt")
    line = made_line(next(job for job in waiting(own) if (job.label, job.seed) == ("relu", 1)), 90.0)
    log = [each | {"test_loss": "nan", "validation_loss": "nan"} for each in line.log]
    ledger.add(own.folder, [ledger.made(**(line.model_dump(exclude={"format", "key", "sha256"}) | {"log": log}))])
    text = call("campaign", "status", "--zoo", tmp_path, "--json").stdout
    rows = [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]
    assert len(rows) == 4
    (none,) = [row for row in rows if not isinstance(row["figure"], float)]
    assert (none["activation"], none["seed"], none["figure"], none["held_out"]) == ("relu", 1, "nan", "nan")
    assert all(2 < row["figure"] < 3 for row in rows if row != none)  # nats, not per cent
    text = call("campaign", "status", "--zoo", tmp_path).stdout
    assert [line.split()[1] for line in text.splitlines() if line.startswith("    relu ")] == ["n=1"]
    (there,) = [path for path in own.folder.glob("*.relu.*") if "nan" not in path.read_text(encoding="utf-8")]
    there.unlink()
    assert "    relu                   n=0  no figure\n" in call("campaign", "status", "--zoo", tmp_path).stdout


def test_status_as_text(whole, begun):
    text = call("campaign", "status", "--zoo", whole.folder.parents[2]).stdout
    lines = text.splitlines()
    assert lines[0] == "resnet, standard (digits_standard): 44 lines"
    about = "accuracy in per cent, mean ± sd over n training seeds, and the paired difference to relu"
    assert f"  cifar_resnet20 on digits: {about}" in lines
    assert f"  cifar_resnet32 on digits: {about}" in lines
    mine = [row.accuracy for row in whole.results("test") if (row.activation, row.model) == ("gelu", "cifar_resnet20")]
    (gelu,) = [line for line in lines if line.startswith("    gelu ")]
    assert f"n=3  {statistics.fmean(mine):.2f} ± {statistics.stdev(mine):.2f} " in gelu
    assert "held-out" in gelu
    assert [line.split()[1] for line in lines if line.startswith("    relu ")] == ["n=4", "n=3"]
    assert "  search s1: GELU(x) (is gelu), held-out " in text
    assert "; nearest published: " in text
    assert "  retired after 3 seeds: random0, held-out difference −" in text
    assert lines[-3:] == ["  nothing is left", f"  spent, a core each: {(39 * 4 + 5 * 20) / 3600:.1f} h on {HARDWARE}", ""]
    assert "repeated" not in text
    left = campaign_text.status_text(begun)
    begin = "next: searches_s0, cifar_resnet20 on digits, seed 0; relu, cifar_resnet20 on digits, seed 1"
    assert begin.replace("; ", ", ") in left
    assert " ..." in left.splitlines()[-2]


@pytest.mark.usefixtures("shipped")
def test_merge_on_the_command_line(begun, tmp_path):
    one, other = copied(begun, tmp_path / "one"), copied(begun, tmp_path / "other")
    apart(begun, one, other)
    count = len(set(contents(other.folder)) - set(contents(one.folder)))
    merge = ("campaign", "merge", other.folder, "resnet", "--zoo")
    assert call(*merge, tmp_path / "one").stdout == f"{count} lines added to {one.folder}\n"
    assert call(*merge, tmp_path / "one").stdout == f"0 lines added to {one.folder}\n"
    new = folder_in(tmp_path / "new")
    call(*merge, tmp_path / "new")
    assert contents(new) == contents(other.folder)
    rows = [json.loads(line) for line in call("campaign", "status", "--zoo", tmp_path / "one", "--json").stdout.splitlines()]
    assert [row["hardware"]["processor"] for row in rows if row["repetition"]] == ["another processor"]
    third = made_ledger(folder_in(tmp_path / "third"), rounds=1, **(SMALL | {"evaluate": RECIPE["evaluate"] | {"epochs": 5}}))
    before = contents(tmp_path)
    text = refused("campaign", "merge", third.folder, "resnet", "--zoo", tmp_path / "one")
    assert "holds records of another recipe\n  evaluate.epochs: " in text
    assert contents(tmp_path) == before


@pytest.mark.usefixtures("shipped")
def test_jobs_to_run_elsewhere(begun, tmp_path):
    own = copied(begun, tmp_path / "zoo")
    printed = call("campaign", "run", "resnet", "--zoo", tmp_path / "zoo", "--runs", tmp_path / "runs", "--print-jobs").stdout
    assert len(printed.splitlines()) == len(waiting(own)) == 7
    assert f" train {tmp_path}/runs/recipes/{own.recipe.for_training().sha256[:12]}.yaml --activation " in printed
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["activations", "recipes"]
    assert contents(own.folder) == contents(begun.folder)


# ------------------------------------------------------------------------------------------------------------ for real


def run(folder, root, **more):
    """What it says, and what failed; of a campaign that takes half a minute."""
    said = []
    launch = Launch(warm=True, workers=more.pop("workers", 2), quiet=True)
    how = {"options": OPTIONS, "launch": launch} | more
    return said, campaign_run.run(planned(folder, **REAL), root, say=said.append, **how)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A campaign that was run: a training of ReLU, a search, and a training of what it found; with what was said."""
    root = tmp_path_factory.mktemp("real")
    said, failed = run(folder_in(root / "zoo"), root / "runs")
    assert failed == []
    return root, Campaign.read(folder_in(root / "zoo")), said


def test_a_campaign_runs(real):
    root, own, said = real
    assert waiting(own) == []
    assert {line.key for line in own.ledger.lines} == {job.key for job in own.jobs()}
    assert len(own.ledger.lines) == len(list(own.folder.glob("*.jsonl"))) == len(said)
    assert own.ledger.repetitions() == {}
    assert all(line.startswith("done      ") for line in said)
    assert "done      relu, cifar_resnet20 on digits, seed 0: test " in "\n".join(said)
    for line in own.ledger.lines:
        assert len(line.log) == (4 if line.kind == "search" else 2)
        assert (line.split, set(line.held_out)) == (
            ("architecture", {"accuracy", "loss"}) if line.kind == "search" else ("both", set())
        )
        assert {"processor", "threads"} == set(line.hardware)
        assert {"python", "torch", "timm"} <= set(line.versions)
    assert {"recipe.yaml", "activations.json"} <= {path.name for path in own.folder.iterdir()}
    assert not [name for name in contents(root) if name.endswith(".lock")]
    assert [row.activation for row in own.results("test")] == list(own.activations)[: len(said) - 1]


def test_a_second_run_does_nothing(real):
    root, own, _ = real
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    assert run(own.folder, root / "runs") == ([], [])
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()} == before


def test_collecting_what_is_there_adds_nothing(real, tmp_path):
    root, own, _ = real
    before = contents(own.folder)
    assert campaign_run.collect(planned(own.folder, **REAL), root / "runs") == []
    assert contents(own.folder) == before
    new = planned(folder_in(tmp_path), **REAL)
    assert sorted(campaign_run.collect(new, root / "runs"), key=lambda line: line.order) == list(own.ledger.lines)
    assert contents(new.folder) == before


def test_collecting_from_elsewhere_on_the_command_line(real, tmp_path, shipped, monkeypatch):
    root, own, _ = real
    monkeypatch.setattr(campaign, "load_recipe", lambda stem: parse_recipe(RECIPE | REAL, stem))
    collect = ("campaign", "collect", "resnet", "--zoo", tmp_path, "--runs")
    assert call(*collect, root / "none").stdout == f"0 lines added to {folder_in(tmp_path)}\n"
    runs = shutil.copytree(root / "runs" / "runs", tmp_path / "copied" / "deep" / "down")
    shutil.copytree(next(runs.glob("*.relu.*")), tmp_path / "copied" / "unfinished")
    (tmp_path / "copied" / "unfinished" / "summary.json").unlink()
    shutil.copytree(next(runs.glob("*.relu.*")), tmp_path / "copied" / "the same again")
    assert call(*collect, tmp_path / "copied").stdout == f"{len(own.ledger.lines)} lines added to {folder_in(tmp_path)}\n"
    assert call(*collect, tmp_path / "copied").stdout == f"0 lines added to {folder_in(tmp_path)}\n"
    assert contents(folder_in(tmp_path)) == contents(own.folder)


def test_collecting_runs_of_another_campaign(real, tmp_path):
    root, _, _ = real
    own = planned(folder_in(tmp_path), **(REAL | {"evaluate": RECIPE["evaluate"] | {"epochs": 3}}))
    with pytest.raises(RunError, match=r"runs/cifar_resnet20\..*: made by the recipe .* none of this campaign's"):
        campaign_run.collect(own, root / "runs")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["summary.json", "run.json", "log.jsonl", "recipe.yaml"])
@pytest.mark.parametrize("content", ["", "{}\n", "{\n", "[]\n", '{"kind": "epoch"}\n'])
def test_collecting_a_damaged_run(real, tmp_path, name, content):
    root = real[0]
    run_folder = next((root / "runs" / "runs").glob("*.relu.*"))
    there = shutil.copytree(run_folder, tmp_path / "runs" / run_folder.name)
    (there / name).write_text(content, encoding="utf-8")
    new = planned(folder_in(tmp_path), **REAL)
    with pytest.raises(RunError, match=str(there)):
        campaign_run.collect(new, tmp_path / "runs")
    assert not new.folder.exists()


def test_only_what_the_ledger_lacks_is_run(real, tmp_path):
    _, own, _ = real
    last = own.jobs()[-1]
    line = own.ledger.first()[last.key]
    there = copied(own, tmp_path)
    (there.folder / line.file_name).unlink()
    said, failed = run(there.folder, tmp_path / "runs")
    assert (len(said), failed) == (1, [])
    assert [path.name for path in (tmp_path / "runs" / "runs").iterdir() if path.is_dir()] == [
        campaign_run.run_folder(tmp_path, last).name
    ]
    (new,) = [each for each in Campaign.read(there.folder).ledger.lines if each.key == last.key]
    assert new.result == line.result
    assert len(Campaign.read(there.folder).ledger.lines) == len(own.ledger.lines)


def test_a_folder_that_holds_another_run(real, tmp_path):
    """As where folders were copied by hand: it is said, rather than tried again and again."""
    root, own, _ = real
    last, relu = own.jobs()[-1], next((root / "runs" / "runs").glob("*.relu.*"))
    there = copied(own, tmp_path)
    (there.folder / own.ledger.first()[last.key].file_name).unlink()
    wrong = shutil.copytree(relu, campaign_run.run_folder(tmp_path / "runs", last))
    before = contents(there.folder)
    with pytest.raises(RunError, match=rf"{wrong} holds another run than {last}"):
        run(there.folder, tmp_path / "runs", minutes=0.1)
    assert contents(there.folder) == before


def test_jobs_that_fail_are_reported_and_not_tried_again(tmp_path):
    said, failed = run(folder_in(tmp_path), tmp_path / "runs", workers=1, options=("--device", "cuda:99", *OPTIONS[2:]))
    assert sorted(outcome.state for outcome in failed) == ["failed", "failed"]
    assert [line.partition(" ")[0] for line in said] == ["failed", "failed"]
    assert Ledger.read(folder_in(tmp_path)).lines == ()


def test_minutes_that_are_over(tmp_path):
    said, failed = run(folder_in(tmp_path), tmp_path / "runs", workers=1, minutes=0.02)
    assert failed == []
    assert said == ["stopped; what was running resumes from its last checkpoint with the same command"]
    assert labels(waiting(Campaign.read(folder_in(tmp_path)))) == ["relu s0", "s0"]
