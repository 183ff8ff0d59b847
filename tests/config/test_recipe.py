"""Recipes: what they say when they are wrong, and that they come back as they were written."""

import json

import pytest
import yaml
from pydantic import ValidationError

from grafs_timm.comparison import campaign
from grafs_timm.config import strict_yaml
from grafs_timm.config.recipe import load_recipe, parse_recipe
from grafs_timm.config.schema import ImageData, Recipe, Select, TextData, Transfer
from grafs_timm.errors import RecipeError
from grafs_timm.utils.resources import folder

NAMES = sorted(path.stem for path in folder("recipes").glob("*.yaml"))
LEAST = {"model": "cifar_resnet20", "data": "digits"}


@pytest.fixture
def written(tmp_path):
    def write(content):
        path = tmp_path / "mine.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def problems(settings):
    with pytest.raises(RecipeError) as error:
        parse_recipe(settings, "r.yaml")
    return str(error.value).splitlines()


@pytest.mark.parametrize("name", NAMES)
def test_the_recipes_here_load_and_come_back_equal(name, written):
    recipe = load_recipe(name)
    again = load_recipe(written(recipe.to_yaml()))
    assert again == recipe
    assert again.sha256 == recipe.sha256
    assert load_recipe(f"{name}.yaml") == load_recipe(folder("recipes") / f"{name}.yaml") == recipe
    text = (folder("recipes") / f"{name}.yaml").read_text(encoding="utf-8")
    header = text.partition("\nmodel: ")[0]
    for section in ("search", "evaluate", "transfer"):
        command = "train" if section == "evaluate" else section
        commands = (f"grafs-timm {command} {name} ", f"-m grafs_timm {command} {name} ")
        by_campaign = section == "transfer" and name.endswith("_standard")  # its activations are for campaigns
        assert any(command in header for command in commands) == (f"\n{section}:" in text and not by_campaign), section
    if recipe.campaign:
        family = next(family for family, stems in campaign.RECIPES.items() if name in stems.values())
        assert f"grafs-timm campaign run {family} --budget {recipe.campaign.budget}" in header
        assert campaign.RECIPES[family][recipe.campaign.budget] == name
    assert "Expected: " in header
    assert "ime and hardware: " in header


def test_the_papers_settings():
    resnet, vit = load_recipe("resnet_cifar10"), load_recipe("vit_cifar10")
    assert (resnet.search.epochs, resnet.search.batch_size, resnet.search.architecture.lr) == (50, 128, 6e-4)
    assert (resnet.search.weights.lr, resnet.search.weights.weight_decay) == (0.1, 1e-4)
    assert (resnet.evaluate.epochs, resnet.evaluate.weights.decay_epochs) == (200, (100, 150))
    assert (vit.search.batch_size, vit.search.architecture.lr, vit.search.usual) == (512, 0.09, "gelu")
    assert vit.data.augment == ("trivial_augment", "crop", "flip")
    assert (vit.evaluate.epochs, vit.evaluate.weights.sched) == (500, "cosine")


def test_defaults_are_the_papers_resnet():
    resnet = load_recipe("resnet_cifar10").model_copy(update={"transfer": Transfer(), "campaign": None})  # these are ours
    assert parse_recipe(LEAST | {"data": {"name": "cifar10", "augment": ["crop", "flip"]}}) == resnet
    assert parse_recipe(LEAST) == parse_recipe(LEAST | {"data": {"name": "digits"}})


def test_the_hash_is_of_the_settings_not_of_the_text(written):
    plain = parse_recipe(LEAST)
    assert load_recipe(written("data: {name: digits}\n# a remark\nmodel: cifar_resnet20\namp: off\n")).sha256 == plain.sha256
    assert parse_recipe(LEAST | {"amp": "bf16"}).sha256 != plain.sha256
    assert len(plain.sha256) == 64


def test_frozen():
    with pytest.raises(ValidationError):
        parse_recipe(LEAST).model = "other"


def test_every_problem_is_listed_with_its_path_and_what_is_right():
    lines = problems(
        {
            "model": "m",
            "modle": 1,
            "data": {"name": "cifar10", "augment": ["crop", "flipp"], "train_images": 5.5},
            "search": {
                "epochz": 3,
                "epochs": "50",
                "weights": {"opt": "sgdd", "decay_epochs": 3},
                "grid": {"low": True},
            },
            "amp": True,
        }
    )
    for expected in (
        "r.yaml: search.epochz: unknown key; nearest: epochs, log_epochs",
        "r.yaml: modle: unknown key; nearest: model, compile",
        "r.yaml: search.epochs: expected a whole number, got the text '50'",
        "r.yaml: data.train_images: expected a whole number, got 5.5",
        "r.yaml: data.augment.1: expected one of crop, flip, trivial_augment, got the text 'flipp'",
        "r.yaml: search.weights.decay_epochs: expected a list, got 3",
        "r.yaml: search.grid.low: expected a number, got true",
        "r.yaml: amp: expected one of off, auto, bf16, fp16, got true",
    ):
        assert expected in lines
    assert any(line.startswith("r.yaml: search.weights.opt: timm has no optimiser 'sgdd'; nearest: sgd") for line in lines)
    assert len(lines) == 9


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("search.epochs", 0, "expected a number ≥ 1, got 0"),
        ("search.batch_size", -3, "expected a number ≥ 1"),
        ("search.architecture_fraction", -0.5, "expected a number ≥ 0, got -0.5"),
        ("search.architecture_fraction", 1.0, "expected a number < 1, got 1.0"),
        ("search.warm_start", 50, "must be below epochs (50), got 50"),
        ("search.accumulate", 0, "≥ 1"),
        ("search.accumulate", 24, "must divide batch_size (128) into equal parts, got 24; the next smaller that does is 16"),
        ("search.shrink_start", 51, "must be at most epochs − 2 (48)"),
        ("search.weights.lr", 0, "expected a number > 0"),
        ("search.weights.lr", float("nan"), "expected a finite number, got nan"),
        ("search.weights.momentum", 1, "expected a number < 1"),
        ("search.weights.sched", "cosin", "expected one of none, cosine, multistep"),
        ("search.weights.sched", None, "expected one of none, cosine, multistep, got nothing"),
        ("search.weights.warmup_epochs", 50, "must be below epochs (50), got 50"),
        ("search.weights.clip_grad", -1, "expected a number > 0"),
        ("evaluate.weights.decay_epochs", [150, 100], "epochs must rise, got [150, 100]"),
        ("evaluate.weights.decay_epochs", [0], "expected a number ≥ 1"),
        ("evaluate.weights.decay_rate", 1.5, "expected a number ≤ 1"),
        ("search.architecture.betas", [0.5], "missing"),
        ("search.architecture.betas", [0.5, 1.0], "expected a number < 1"),
        ("search.grid.intervals", 0, "expected a number ≥ 1"),
        ("search.grid.intervals", 4095, "no knot at 0"),
        ("search.grid.low", 16, "0 must lie between low (16) and high (16)"),
        ("search.grid.low", -3.3, "no knot at 0"),
        ("data", {"name": "d", "channels": 2}, "data.channels: expected 1 or 3, got 2"),
        ("data", {"name": "d", "loading": "stream", "augment": ["flip"]}, "data.augment: streaming takes"),
        (
            "data",
            {"name": "d", "loading": "resident", "transform": {"re_prob": 0.1}},
            "data.transform: timm's transform is for loading: stream",
        ),
        ("data", {"name": "d", "mean": [0.5]}, "data.std: mean and std are given together"),
        ("evaluate.accumulate", 24, "the next smaller that does is 16"),
        ("evaluate.ema_decay", 1, "expected a number < 1"),
        ("transfer.seeds", 0, "expected a number ≥ 1, got 0"),
        ("transfer.data", [{"name": "d", "augmnt": []}], "transfer.data.0.augmnt: unknown key; nearest: augment"),
        ("transfer.data", ["d", {"name": "d", "loading": "strem"}], "transfer.data.1.loading: expected one of auto, resident"),
        ("search.wide", "yes", "expected true or false, got the text 'yes'"),
        ("search.usual", "", "text that is not empty"),
        ("data", 3, "expected a mapping of keys, got 3"),
        ("data", {}, "missing"),
        ("data", {"name": "d", "augment": ["flip", "flip"]}, "each augmentation once"),
        ("data", {"name": "d", "crop_padding": -1}, "expected a number ≥ 0"),
        ("model", None, "expected text, got nothing"),
        ("model_kwargs", {"a": float("inf")}, "finite numbers"),
        ("model_kwargs", {"a": [{1: 2}]}, "takes text"),
        ("model_kwargs", {"features_only": True}, "features_only gives feature maps"),
        ("model_kwargs", {"out_indices": [1, 2]}, "out_indices chooses feature maps"),
        ("model_kwargs", {"checkpoint_path": "a.pth"}, "evaluate.start_from takes a folder"),
        ("model_kwargs", {"pretrained_cfg_overlay": {"file": "a"}}, "evaluate.start_from"),
        ("model_kwargs", {"model_name": "resnet18"}, "the recipe's own key model"),
        ("search.model_kwargs", {"features_only": True}, "features_only gives feature maps"),
        ("search.model_kwargs", {"checkpoint_path": "a"}, "evaluate.start_from"),
        ("search", [], "expected a mapping of keys, got a list"),
        ("evaluate.measure_both", True, "nothing held out to measure"),
        ("campaign.budget", "huge", "expected one of reduced, standard, full"),
        ("campaign.keep", 0, "expected a number ≥ 1"),
        ("campaign.variants", 3, "expected a mapping of keys, got 3"),
        ("campaign.variants.guarded", 3, "expected a mapping of keys, got 3"),
        ("campaign.variants.guarded.gard", True, "unknown key; nearest: guard"),
        ("campaign.variants.guarded.warm_start", 60, "must be below epochs (50), got 60"),
        ("campaign.variants.Guarded", {}, "a name has at most 31 of a–z, 0–9 and _, a letter first"),
        ("campaign.variants.searches", {}, "searches and random cells are called so; take another name"),
        ("campaign.variants.random1", {}, "searches and random cells are called so; take another name"),
    ],
)
def test_impossible_values_are_refused(path, value, said):
    settings = json.loads(json.dumps(LEAST))
    settings["evaluate"] = {"weights": {"sched": "multistep", "decay_epochs": [100]}}
    at = settings
    *sections, key = path.split(".")
    for section in sections:
        at = at.setdefault(section, {})
    at[key] = value
    (line,) = problems(settings)
    assert line.startswith(f"r.yaml: {path}") or "no knot" in said
    assert said in line


@pytest.mark.parametrize("place", ["key", "section", "value", "--set key", "--set value", "name", "a name of a recipe"])
def test_one_odd_text_does_not_fill_the_screen(place):
    odd = "x" * 66_000
    wrong = {"key": {odd: 1}, "section": {"search": {odd: 1}}, "value": {"amp": odd}, "name": {"model": [odd]}}
    override = {"--set key": f"search.{odd}=3", "--set value": f"search.epochs={odd}"}.get(place)
    name = odd[:200] if place == "a name of a recipe" else "resnet_digits"
    with pytest.raises(RecipeError) as error:
        parse_recipe(LEAST | wrong[place]) if place in wrong else load_recipe(name, [override or ""])
    assert len(str(error.value)) < 1000


def test_multistep_needs_its_epochs():
    (line,) = problems(LEAST | {"search": {"weights": {"sched": "multistep"}}})
    assert "search.weights.decay_epochs: sched: multistep needs" in line


def test_grids_of_other_widths_may_have_their_knot():
    grid = parse_recipe(LEAST | {"search": {"grid": {"low": -0.3, "high": 0.6, "intervals": 9}}}).search.grid
    assert grid.low == -0.3


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("model: m\nmodel: n\n", "line 2, column 1: duplicate key 'model'"),
        ("search: {epochs: 3, epochs: 4}", "duplicate key 'epochs'"),
        ("model: [", "not valid YAML at line"),
        ("a: 1\n--- \nb: 2", "not valid YAML"),
        ("- model", "expected a mapping of keys at the top, got a list"),
        ("", "expected a mapping of keys at the top, got nothing"),
        ("just words", "got the text 'just words'"),
        ("a: &x [1]\nb: *x", "line 2, column 4: aliases (*name) are not supported"),
        ("a: &x {b: 1}\nc:\n  <<: *x", "aliases"),
        ("a: &x [*x]", "aliases"),
        ("model: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        (b"model: \xff\xfe", "not UTF-8 text (byte 7)"),
        (b"model: \x00", "not valid YAML"),
        ("{[1]: 2}", "not valid YAML"),
        ("a: 2001-13-45", "not valid YAML"),
        ("a: " + "9" * 5000, "not valid YAML"),
        ("a: " + "[" * 20000, "nested too deeply"),
        ("# " + "x" * 1_000_000, "larger than 1,000,000 bytes"),
    ],
)
def test_what_is_no_recipe_file(written, content, said):
    path = written(content)
    with pytest.raises(RecipeError) as error:
        load_recipe(path)
    assert str(error.value).startswith(f"{path}: ")
    assert said in str(error.value)
    assert len(str(error.value)) < 400 + len(str(path))


def test_a_name_that_is_none():
    with pytest.raises(RecipeError, match=r"no recipe 'resnet_cifr10'.*nearest: resnet_cifar10"):
        load_recipe("resnet_cifr10")
    with pytest.raises(RecipeError, match="not a file and not a name"):
        load_recipe("elsewhere/resnet_cifar10.yaml")


def test_a_folder_is_no_recipe(tmp_path, monkeypatch):
    with pytest.raises(RecipeError, match="is a folder"):
        load_recipe(tmp_path)
    (tmp_path / "resnet_digits").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_recipe("resnet_digits").data.name == "digits"  # a folder that happens to bear a recipe's name


def test_overrides():
    recipe = load_recipe(
        "resnet_digits",
        [
            "search.epochs=12",
            "search.weights.lr=6e-4",
            "data.train_images=100",
            "model_kwargs.drop.rate=0.1",
            "amp=off",
        ],
    )
    assert (recipe.search.epochs, recipe.search.weights.lr, recipe.amp) == (12, 6e-4, "off")
    assert (recipe.data.name, recipe.data.train_images) == ("digits", 100)
    assert recipe.model_kwargs == {"drop": {"rate": 0.1}}
    assert load_recipe("resnet_cifar10", ["data=digits"]).data.augment == ()
    assert load_recipe("resnet_cifar10", ["search.usual=null", "search.epochs=4", "search.epochs=5"]).search.epochs == 5


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("search.epochz=3", "--set search.epochz=3: search.epochz: unknown key; nearest: epochs"),
        ("serch.epochs=3", "serch: unknown key; nearest: search"),
        ("search.epochs", "expected key=value"),
        ("=3", "expected key=value"),
        ("search..epochs=3", "expected key=value"),
        ("search.epochs.x=3", "search.epochs is one value and has no key 'x'"),
        ("search.epochs=[", "--set search.epochs=[: not valid YAML"),
        ("search.epochs=ten", "search.epochs: expected a whole number, got the text 'ten' (set by --set)"),
        ("search.epochs=0", "search.epochs: expected a number ≥ 1, got 0 (set by --set)"),
        ("search=3", "search: expected a mapping of keys, got 3 (set by --set)"),
    ],
)
def test_overrides_that_fit_nothing(override, said):
    with pytest.raises(RecipeError) as error:
        load_recipe("resnet_digits", [override])
    assert said in str(error.value)


AMBIGUOUS = ["010", "-010", "+007", "08", "00", "1_000", "0b11", "0o17", "1:30", "1:30.5", "190:20:30", "1_000.5", "0x_1f",
             "-1:30", "2024-01-01", "2001-12-14t21:59:43.10-05:00", "="]  # fmt: skip


@pytest.mark.parametrize("value", AMBIGUOUS)
@pytest.mark.parametrize("key", ["search.epochs", "search.weights.lr", "model_kwargs.depth", "data.train_images"])
def test_a_number_that_readers_of_yaml_disagree_about_is_refused(value, key, written):
    with pytest.raises(RecipeError, match=r"(read differently by YAML 1\.1 and 1\.2|to some readers of YAML); write") as error:
        load_recipe("resnet_digits", [f"{key}={value}"])
    assert str(error.value).startswith(f"--set {key}={value}: not valid YAML at line 1, column 1: {value} is ")
    with pytest.raises(RecipeError, match="line 3, column 19"):
        load_recipe(written(f"model: m\ndata: digits\nmodel_kwargs: {{a: {value}}}\n"))
    assert strict_yaml.parse(f"'{value}'", "x") == value
    assert strict_yaml.parse(strict_yaml.dump([value]), "x") == [value]


@pytest.mark.parametrize(("value", "meant"), [("010", "10"), ("1_000", "1000"), ("08", "8"), ("1:30", "it in decimal digits")])
def test_the_number_that_was_meant_is_named(value, meant):
    with pytest.raises(RecipeError, match=f"write {meant}, or in quotes"):
        strict_yaml.parse(f"[{value}]", "x")


@pytest.mark.parametrize("value", ["!!int 010", "!!int '1:30'", "!!float 1:30", "!!int 1_0", "!!float '1_0.5'", "{<<: {a: 3}}"])
def test_neither_a_tag_nor_a_merge_makes_another_value(value):
    with pytest.raises(RecipeError, match=r"read differently by YAML 1\.1 and 1\.2|readers of YAML"):
        strict_yaml.parse(value, "x")


def test_what_all_readers_agree_about_is_read():
    text = "[0, -3, +3, 0x1F, 1.5, .5, 5., 1e3, 1.5e-3, -.5E+2, 007.5, '010', !!str 010, 1:2:x, a_1, v010]"
    numbers = [0, -3, 3, 31, 1.5, 0.5, 5.0, 1000.0, 0.0015, -50.0, 7.5, "010", "010", "1:2:x", "a_1", "v010"]
    assert strict_yaml.parse(text, "x") == numbers


NAMED = ["set #2", "2024", "no", "1e5", "null", "a: b", "{train,test}.tar", "[x]", "&x", "*", "'quoted'", '"', "- x", " set ",
         "!!int 3", "0o17", "1:30", "2024-01-01", "ünïcode 🙂", "%", "@x", "?", "~", "|", "key=value", "a\nb", "#"]  # fmt: skip


@pytest.mark.parametrize("name", NAMED)
def test_what_an_option_gives_is_taken_as_it_is_typed(name, written):
    recipe = load_recipe("resnet_digits", given={"data.name": name, "model": name, "transfer.models": [name]})
    assert (recipe.data.name, recipe.model, recipe.transfer.models) == (name, name, (name,))
    assert load_recipe(written(recipe.to_yaml())) == recipe


@pytest.mark.parametrize("name", [name for name in NAMED if name != "'quoted'"])
@pytest.mark.parametrize("key", ["data.name", "model", "search.weights.opt", "data.train_split"])
def test_a_key_that_takes_text_takes_it_as_it_is_typed(name, key):
    if key == "search.weights.opt":
        with pytest.raises(RecipeError, match="timm has no optimiser") as error:
            load_recipe("resnet_digits", [f"{key}={name}"])
        assert f"no optimiser {name!r}" in str(error.value)
        return
    found = load_recipe("resnet_digits", [f"{key}={name}"])
    *sections, last = key.split(".")
    for section in sections:
        found = getattr(found, section)
    assert getattr(found, last) == name


def test_overrides_may_quote_and_give_null_where_a_key_takes_it():
    recipe = load_recipe("resnet_digits", ["data.name='set #2'", "search.usual=null", "data.train_images=~"])
    assert (recipe.data.name, recipe.search.usual, recipe.data.train_images) == ("set #2", None, None)
    assert load_recipe("resnet_digits", ["search.usual=no"]).search.usual == "no"
    assert load_recipe("resnet_digits", ["data=set #2"]).data.name == "set #2"
    assert load_recipe("resnet_digits", ["data={name: set}"]).data.name == "set"


def test_numbers_with_exponents_are_numbers_and_texts_stay_texts():
    value = {"a": "1e3", "b": "off", "c": 1e-05, "d": "6", "e": "ünïcode", "f": "", "g": [None, True]}
    assert strict_yaml.parse(strict_yaml.dump(value), "x") == value
    assert strict_yaml.parse("[6e-4, 1.5e3, -1E2, 1e3x]", "x") == [6e-4, 1500.0, -100.0, "1e3x"]
    recipe = Recipe(model="m", model_kwargs=value, data={"name": "d"})
    assert yaml.safe_load(recipe.to_yaml())["model_kwargs"]["b"] == "off"


# ---------------------------------------------------------------------------------------------------------------- text


def of_text(text, **more):
    return {"model": "gpt_mini", "data": {"name": "stories.txt.gz", "text": text, **more}}


def test_text_comes_back_equal(written):
    recipe = parse_recipe(of_text({"tokenizer": "bpe", "vocab_size": 512, "held_out": 4096}))
    assert load_recipe(written(recipe.to_yaml())) == recipe
    assert recipe.data.text.context == 256
    assert load_recipe(written("model: gpt_mini\ndata: {name: a.txt}"), ["data.text.context=64"]).data.text.context == 64


BEFORE = Select(seeds=2, keep=2)  # the defaults when these hashes were made


def test_recipes_of_images_do_not_speak_of_text():
    """Else every finished run would take its own recipe for another one."""
    assert "text" not in load_recipe("resnet_digits").model_dump(mode="json")["data"]
    explicit = load_recipe("resnet_digits").model_copy(update={"channels_last": False, "select": BEFORE})
    assert explicit.sha256 == "d8a14436c78ad0858feeb9f2612c148363f27d071a1a323525eb2a544341ae3e"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ({"tokeniser": "bpe"}, "data.text.tokeniser: unknown key; nearest: tokenizer"),
        ({"tokenizer": "words"}, "data.text.tokenizer: expected one of bytes, bpe, got the text 'words'"),
        ({"held_out": 1.5}, "data.text.held_out: a fraction below 1 or a whole number of bytes, got 1.5"),
        ({"held_out": 0}, "data.text.held_out: expected a number > 0, got 0"),
        ({"vocab_size": 512}, "data.text.vocab_size: there are 256 bytes, got 512; tokenizer: bpe has more tokens"),
        ({"vocabulary": "v.json"}, "data.text.vocabulary: tokenizer: bytes needs none; leave this out, or tokenizer: bpe"),
        ({"tokenizer": "bpe"}, "data.text.vocab_size: tokenizer: bpe begins with the 256 bytes"),
        ("bytes", "data.text: expected a mapping of keys, got the text 'bytes'"),
    ],
)
def test_impossible_text(text, problem):
    (line,) = problems(of_text(text))
    assert line.startswith(f"r.yaml: {problem}")


def test_what_speaks_of_images_is_refused_beside_text():
    what = "only valid for images; remove it when data.text is set"
    assert problems(of_text({}, image_size=32, augment=["flip"], loading="stream")) == [
        f"r.yaml: data.{key}: {what}" for key in ("augment", "image_size", "loading")
    ]
    found = problems({**of_text({}), "channels_last": True, "evaluate": {"mixup": 0.1}})
    assert [line.split(": ")[1] for line in found] == ["evaluate.mixup", "channels_last"]


def test_a_data_section_is_of_images_or_of_text(written):
    assert isinstance(parse_recipe(of_text({})).data, TextData)
    assert isinstance(parse_recipe(of_text(None)).data, ImageData)
    both = parse_recipe(of_text({}) | {"transfer": {"data": ["b.txt", {"name": "c.txt", "text": {"context": 8}}]}})
    assert [type(each) for each in both.transfer.data] == [ImageData, TextData]
    assert problems(of_text({}, crop_paddin=3)) == ["r.yaml: data.crop_paddin: unknown key; nearest: crop_padding, loading"]
    assert problems({"model": "m", "data": {"name": "n", "txt": {}}}) == ["r.yaml: data.txt: unknown key; nearest: text"]
    with pytest.raises(RecipeError, match=r"data\.image_size: only valid for images; .* \(set by --set\)"):
        load_recipe(written("model: gpt_mini\ndata: {name: a.txt, text: {}}"), ["data.image_size=8"])


def test_recipes_of_text_keep_the_hash_that_was_made_with_the_keys_of_images():
    recipe = parse_recipe(of_text({}))
    assert (
        recipe.model_copy(update={"select": BEFORE}).sha256
        == "41d4d4ccdbb82b94028ea3e09bd4986f32d966936c55eb43a520bc330488382e"
    )
    assert list(recipe.model_dump()["data"]) == [*ImageData.model_fields, "text"]
    defaults = ImageData(name="stories.txt.gz").model_dump(mode="json")
    assert parse_recipe(of_text({}, **defaults)).sha256 == recipe.sha256
    for key, value in (("crop_padding", 4.0), ("augment", None), ("on_bad_shard", "skip"), ("mean", [0.5])):
        assert problems(of_text({}, **defaults | {key: value})) == [
            f"r.yaml: data.{key}: only valid for images; remove it when data.text is set"
        ]


def test_recipes_whose_searches_are_the_same_search_by_equal_recipes():
    small = {"data": {"name": "cifar10", "crop_padding": 2, "image_size": 16}}
    own = parse_recipe(LEAST | small)
    other = parse_recipe(
        LEAST | {"data": {"name": "cifar10"}, "search": {"image_size": 16, "crop_padding": 2}, "evaluate": {"epochs": 9}}
    )
    assert own.for_searching() == other.for_searching() == other.for_searching().for_searching()
    assert own.for_training() != other.for_training()
