"""The card: its order, its words no stronger than the intervals, every number from the entry, and code that runs."""

import re
import shlex

import pytest
from made_campaign import FACTS, made_entry

from grafs_timm.config.recipe import load_recipe
from grafs_timm.publishing import card, claims
from grafs_timm.zoo import lookup as zoo
from grafs_timm.zoo.entry import Cost, Difference, Verified


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    return tmp_path_factory.mktemp("card") / "zoo"


@pytest.fixture(scope="module")
def entry(shelf):
    return made_entry(shelf)


def with_batch(entry, **changes):
    return entry.model_copy(update={"batches": (entry.batches[0].model_copy(update=changes),)})


def with_home(entry, mean, low, high):
    """The found function's difference at home set; all else as it is."""
    batch = entry.batches[0]
    own = Difference(to="relu", mean=mean, low=low, high=high, p=0.5, n=3)
    home = claims.home(batch)
    rows = tuple(row.model_copy(update={"difference": own}) if row is home else row for row in batch.metrics)
    return with_batch(entry, metrics=rows)


def test_the_sections_stand_in_the_promised_order(entry, shelf):
    text = card.text(entry, shelf)
    marks = [
        "# grafs_resnet_a1", "The activation f(x)", "(grafs_resnet_a1.png)", "(grafs_resnet_a1_effect.png)", "## How to use it",
        "## The function", "## Evidence at the standard budget", "## Every search", "## When not to use it",
        "## Where it came from", "## How to reproduce it",
    ]  # fmt: skip
    places = [text.index(mark) for mark in marks]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.1, 2.0, "better than relu where"),
        (-2.0, -0.1, "worse than relu where"),
        (-0.1, 2.0, "no difference from relu shown where"),
        (None, None, "too few for an interval"),
    ],
)
def test_the_sentence_says_no_more_than_the_interval(entry, low, high, words):
    changed = with_home(entry, 1.0 if low is None or high > 0 else -1.0, low, high)
    said = card.sentence(changed)
    assert words in said
    assert ("better than" in said) == (low is not None and low > 0)


def test_places_elsewhere_are_counted(entry):
    batch = entry.batches[0]
    counted = claims.elsewhere(batch)
    others = [place for place in batch.places if place != ("cifar_resnet20", "digits")]
    assert counted.places == len(others) > 0
    assert str(counted) in card.sentence(entry)
    alone = batch.model_copy(update={"metrics": tuple(row for row in batch.metrics if row.model == "cifar_resnet20")})
    assert str(claims.elsewhere(alone)) == "not measured elsewhere"


def test_every_training_and_every_search_is_in_the_tables(entry, shelf):
    text, batch = card.text(entry, shelf), entry.batches[0]
    for row in batch.metrics:
        assert f"| {claims.of(batch).text(row.mean, row.sd)} | {row.n} | {claims.verdict(batch, row).interval} |" in text
    for each in batch.searches:
        assert f"| {each.seed} | `{each.label}` |" in text
    assert text.count("**yes**") == sum(each.chosen for each in batch.searches) == 1
    assert text.count("`, the default") == len(batch.places)


def test_intervals_are_counted_as_they_are_shown(entry, shelf):
    text, batch = card.text(entry, shelf), entry.batches[0]
    section = text[text.index("## Evidence at") : text.index("### Reported")]
    assert len(re.findall(r"\d \[[+−]", section)) == claims.intervals(batch) > 10
    assert f"{claims.intervals(batch)} intervals of 95 %" in section


def test_when_not_to_use_it_follows_from_the_fields(entry):
    bad = entry.model_copy(
        update={"facts": FACTS.model_copy(update={"fp16": False, "lipschitz": 9.0, "kinks": (-1.0, 0.0), "monotone": "no"})}
    )
    said = " ".join(claims.warnings(with_batch(bad, cost=Cost(ratio=1.8, device="cpu"))))
    for words in ("float16", "not monotone", "reaches 9", "x = -1 and 0", "1.80 times", "budget was standard"):
        assert words in said
    assert "bfloat16" not in said
    good = entry.model_copy(update={"facts": FACTS.model_copy(update={"monotone": "rising"})})
    quiet = " ".join(claims.warnings(with_batch(good, cost=Cost(ratio=1.2, device="cpu"))))
    assert not any(words in quiet for words in ("float16", "monotone", "reaches", "Where time matters"))


def test_a_function_without_any_difference_is_not_recommended_over_the_usual(entry):
    batch = entry.batches[0]
    none = Difference(to="relu", mean=0.1, low=-1.0, high=1.2, p=0.8, n=3)
    rows = tuple(row.model_copy(update={"difference": none}) if row.kind == "found" else row for row in batch.metrics)
    said = " ".join(claims.warnings(with_batch(entry, metrics=rows)))
    assert "No difference from relu is shown for any of 2 pairs of model and data set: use relu" in said
    assert "worse" not in said


def test_another_usual_activation_that_is_better_is_named(entry):
    batch, better = entry.batches[0], {"0": 5.0, "1": 5.1, "2": 4.9}
    home = claims.home(batch)

    def lifted(row):
        if (row.activation, row.model, row.data) != ("elu", home.model, home.data):
            return row
        return row.model_copy(update={"each": {seed: home.each[seed] + by for seed, by in better.items()}})

    changed = with_batch(entry, metrics=tuple(map(lifted, batch.metrics)))
    said = "elu is better than it for cifar_resnet20 on digits"
    assert any(line.startswith(f"{said} (−5.00 [") for line in claims.warnings(changed))
    assert not any(line.startswith(said) for line in claims.warnings(entry))


def test_what_was_repeated_stands_beside_what_was_reported(entry, shelf):
    again = Verified(
        model="cifar_resnet20", data="digits", activation="searches_s0", seed=1, reported=90.125, again=89.5,
        versions={"torch": "2.13.0"}, hardware="another machine", date="2026-12-01",
    )  # fmt: skip
    text = card.text(entry.model_copy(update={"verified": (again,)}), shelf)
    assert "| 1 | 90.12 | 89.50 | torch 2.13.0, another machine, 2026-12-01 |" in text
    assert "No training has been repeated" not in text


def batches(entry, *budgets, seeds=3):
    """The entry with a batch of each budget, in which so many seeds are paired where it was searched."""
    made = []
    for number, budget in enumerate(budgets):
        batch = entry.batches[0].model_copy(update={"budget": budget})
        home = claims.home(batch)
        own = home.difference.model_copy(update={"n": seeds if isinstance(seeds, int) else seeds[number]})
        rows = tuple(row.model_copy(update={"difference": own}) if row is home else row for row in batch.metrics)
        folder = batch.evidence.model_copy(update={"folder": f"b{number}"})
        made.append(batch.model_copy(update={"metrics": rows, "evidence": folder}))
    return entry.model_copy(update={"batches": tuple(made)})


@pytest.mark.parametrize(
    ("budgets", "seeds", "headline"),
    [
        (("reduced", "standard"), (3, 3), 1),
        (("reduced", "standard"), (3, 2), 0),  # too few pairs make no headline
        (("full", "standard"), (5, 5), 0),
        (("reduced", "reduced"), (3, 5), 0),  # the one that found it
        (("standard", "reduced"), (1, 1), 0),
    ],
)
def test_the_highest_budget_with_enough_pairs_makes_the_headline(entry, shelf, budgets, seeds, headline):
    made = batches(entry, *budgets, seeds=seeds)
    assert claims.headline(made).evidence.folder == f"b{headline}"
    text = card.text(made, shelf)
    assert f"at the {budgets[headline]} budget (see below)" in card.sentence(made)
    folded = text[text.index("<details>") : text.index("</details>")]
    assert "## Further evidence: b" + str(1 - headline) in text[: text.index("<details>")]
    assert claims.at_home(made.batches[0]).interval in folded


@pytest.mark.parametrize(("low", "recommended"), [(0.1, True), (-0.1, False)])
def test_only_what_is_shown_to_be_better_is_recommended(entry, shelf, low, recommended):
    changed = with_home(entry, 1.0, low, 2.0)
    assert claims.recommended(changed) == recommended
    warned = "not shown to be better than relu (+1.00 "
    assert (warned in card.text(changed, shelf)) == (not recommended)
    assert (claims.not_shown(changed) is None) == recommended


def test_a_retired_activation_is_named_with_its_rule(entry, shelf):
    batch = entry.batches[0]
    (stopped,) = (row for row in batch.metrics if row.retired)
    assert (stopped.activation, stopped.retired, stopped.difference.level) == ("random0", 3, 0.975)  # 20 points below
    assert "Stopped early by the rule" in card.text(entry, shelf)
    assert "`random0` after 3 seeds" in card.text(entry, shelf)
    rows = tuple(row.model_copy(update={"retired": None}) for row in batch.metrics)
    assert "Stopped early" not in card.text(with_batch(entry, metrics=rows), shelf)


def test_hostile_text_stays_text(entry, shelf):
    choice = entry.batches[0].choice.model_copy(update={"why": "<script>x</script> | a\nb"})
    text = card.text(with_batch(entry, choice=choice), shelf)
    assert "<script>" not in text
    assert r"\<script\>x\</script\> | a b" in text


@pytest.mark.parametrize("family", ["resnet", "vit", "mlp_mixer"])
def test_the_code_of_how_to_use_it_runs(entry, shelf, family):
    (block,) = re.findall(r"```python\n(.*?)```", card.text(entry.model_copy(update={"family": family}), shelf), re.S)
    names = {}
    for line in block.replace("grafs_resnet_a1", zoo.get_activation("grafs_resnet").name).splitlines():
        exec(line, names)
        if line.startswith("model ="):
            layer = names["grafs_timm"].act_layer(zoo.get_activation("grafs_resnet").name)
            assert any(isinstance(module, layer) for module in names["model"].modules())
    assert names["model"].activation_report.total == names["model"].activation_report.replaced > 0


def test_the_commands_name_files_that_are_there(entry, shelf):
    text = card.text(entry, shelf)
    (block,) = re.findall(r"```\n(grafs-timm.*?)```", text, re.S)
    commands = [shlex.split(line, comments=True) for line in block.splitlines()]
    recipes = [word for words in commands for word in words if word.endswith(".yaml")]
    assert len(recipes) == 2
    for recipe in recipes:
        assert load_recipe(str(shelf.parent / recipe)).model == "cifar_resnet20"
    assert ["grafs-timm", "zoo", "verify", "grafs_resnet_a1", "--retrain"] in commands
