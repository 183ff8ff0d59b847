import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from own_data import as_counter, in_folder, in_shards, photos
from PIL import Image
from shard_files import colour, encoded
from tiny_runs import refused

from grafs_timm.data import load_split, open_dataset
from grafs_timm.data.pack import pack
from grafs_timm.data.sources import recognised
from grafs_timm.errors import DataError, GrafsError, GrafsWarning

pyarrow = pytest.importorskip("pyarrow")
datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.filterwarnings("ignore::grafs_timm.GrafsWarning")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAFS_TIMM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "cache" / "packed"


FEATURES = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "bee", "cow"])})


def images(count: int, start: int = 0) -> tuple[np.ndarray, list[int]]:
    """uint8 [N,8,8,3] and labels."""
    return np.stack([colour(start + number) for number in range(count)]), [number % 3 for number in range(count)]


def table(count: int, start: int = 0, features: object = FEATURES, **columns: object) -> "datasets.Dataset":
    pixels, labels = images(count, start)
    content = {"image": [Image.fromarray(image) for image in pixels], "label": labels} | columns
    return datasets.Dataset.from_dict(content, features=features)


def both() -> "datasets.DatasetDict":
    return datasets.DatasetDict({"train": table(30), "test": table(9, 100)})


def as_saved(folder: Path) -> Path:
    both().save_to_disk(folder, num_shards={"train": 3, "test": 1})
    return folder


def as_parquet(folder: Path) -> Path:
    (folder / "data").mkdir(parents=True)
    for number in range(2):
        table(30).shard(2, number, contiguous=True).to_parquet(folder / "data" / f"train-{number:05d}-of-00002.parquet")
    table(9, 100).to_parquet(folder / "data" / "test-00000-of-00001.parquet")
    return folder


def as_converted(folder: Path) -> Path:
    for split, content in both().items():
        (folder / split).mkdir(parents=True)
        content.to_parquet(folder / split / "0000.parquet")
    return folder


def as_plain_parquet(folder: Path) -> Path:
    """Without the library's own description of the columns."""
    folder.mkdir()
    for split, content in both().items():
        kept = content.data.table.replace_schema_metadata(None)
        pyarrow.parquet.write_table(kept, folder / f"{split}.parquet")
    return folder


FORMS = [as_saved, as_parquet, as_converted, as_plain_parquet]


@pytest.mark.parametrize("write", FORMS)
def test_the_images_of_every_form_come_back(tmp_path, write):
    import pyarrow.parquet  # noqa: F401

    info = open_dataset(write(tmp_path / "set"))
    assert (info.name, sorted(info.splits)) == ("set", ["test", "train"])
    assert info.classes == (("0", "1", "2") if write is as_plain_parquet else ("ant", "bee", "cow"))
    assert in_shards(info, "train") == as_counter(*images(30))
    assert in_shards(info, "test") == as_counter(*images(9, 100))
    assert load_split(info, "train").images.shape == (30, 3, 8, 8)


def test_one_table_has_a_tenth_of_each_class_held_out(tmp_path):
    table(60).save_to_disk(tmp_path / "set")
    with pytest.warns(
        GrafsWarning, match=r"set: the split test is 0\.1 of each class, .* those whose number has the lowest sha256"
    ):
        info = open_dataset(tmp_path / "set")
    assert [info.split(name).num_samples for name in ("train", "test")] == [54, 6]
    assert in_shards(info, "train", "test") == as_counter(*images(60))


def test_an_image_folder_saved_by_the_library_is_the_same_images(tmp_path):
    folder = photos(tmp_path / "photos")
    datasets.load_dataset("imagefolder", data_dir=str(folder), cache_dir=str(tmp_path / "hf"))["train"].save_to_disk(
        tmp_path / "set"
    )
    info = open_dataset(tmp_path / "set")
    assert info.classes == ("ant", "bee")
    assert in_shards(info, "train", "test") == in_folder(folder)


def test_images_that_are_turned_by_exif_are_as_in_an_image_folder(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    folder = photos(tmp_path / "photos", count=3)
    for name in ("ant", "bee"):
        Image.fromarray(colour(7)).resize((8, 5)).save(folder / name / "turned.jpg", exif=exif)
    files = sorted(folder.glob("*/*.*"))
    content = {"image": [str(file) for file in files], "label": [("ant", "bee").index(file.parent.name) for file in files]}
    datasets.Dataset.from_dict(content, features=FEATURES).save_to_disk(tmp_path / "set")
    assert in_shards(open_dataset(tmp_path / "set"), "train", "test") == in_folder(folder)


def test_validation_is_measured_where_the_test_split_has_no_labels(tmp_path):
    unlabelled = table(9, 100, label=[-1] * 9)
    datasets.DatasetDict({"train": table(30), "validation": table(9, 50), "test": unlabelled}).save_to_disk(tmp_path / "set")
    with pytest.warns(GrafsWarning, match="left out split test, whose labels are all -1"):
        info = open_dataset(tmp_path / "set")
    assert in_shards(info, "test") == as_counter(*images(9, 50))
    assert info.split_rule == "the split test is the source's validation images"


def test_the_columns_are_chosen_among_several(tmp_path):
    names = datasets.ClassLabel(names=["x", "y"])
    features = datasets.Features(
        {**FEATURES, "coarse": names, "fine_label": FEATURES["label"], "text": datasets.Value("string")}
    )
    del features["label"]
    pixels, labels = images(30)
    content = {
        "image": [Image.fromarray(image) for image in pixels],
        "fine_label": labels,
        "coarse": [0] * 30,
        "text": ["a"] * 30,
    }
    datasets.Dataset.from_dict(content, features=features).save_to_disk(tmp_path / "set")
    assert in_shards(open_dataset(tmp_path / "set"), "train", "test") == as_counter(pixels, labels)


def test_splits_of_other_names_are_left_out_with_a_note(tmp_path):
    datasets.DatasetDict({"train": table(30), "extra": table(9), "test": table(9, 100)}).save_to_disk(tmp_path / "set")
    with pytest.warns(GrafsWarning, match="left out the splits 'extra'; used are train, validation and test"):
        assert sorted(open_dataset(tmp_path / "set").splits) == ["test", "train"]


def test_data_pack_takes_it_too(tmp_path):
    assert pack(str(as_saved(tmp_path / "set")), tmp_path / "out") == []
    assert in_shards(open_dataset(tmp_path / "out"), "train") == as_counter(*images(30))


def test_a_changed_table_is_packed_anew(tmp_path):
    first = open_dataset(as_saved(tmp_path / "set"))
    table(30, 500).save_to_disk(tmp_path / "set" / "train", num_shards=3)
    second = open_dataset(tmp_path / "set")
    assert in_shards(second, "train") == as_counter(*images(30, 500))
    assert first.folder != second.folder


# ----------------------------------------------------------------------------------------------------------- bad input


TEXT = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
AUDIO = {"audio": {"bytes": pyarrow.binary(), "path": pyarrow.string()}}


def _text() -> "datasets.Dataset":
    return datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}, features=TEXT)


def _audio() -> "datasets.Dataset":
    """The columns of datasets.Audio, which needs a library to be made by."""
    sounds = pyarrow.array([{"bytes": b"RIFF", "path": "a.wav"}] * 2)
    features = {"audio": {"sampling_rate": 16000, "_type": "Audio"}, "label": {"names": ["no", "yes"], "_type": "ClassLabel"}}
    kept = pyarrow.table({"audio": sounds, "label": pyarrow.array([0, 1])})
    return kept.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def test_text_and_audio_are_named(tmp_path, cache):
    _text().save_to_disk(tmp_path / "text")
    message = refused("data", "check", tmp_path / "text")
    assert (
        "not one column of images (images and class labels are needed); its columns: text (string), label (ClassLabel)"
        in message
    )
    (tmp_path / "audio").mkdir()
    pyarrow.parquet.write_table(_audio(), tmp_path / "audio" / "train.parquet")
    with pytest.raises(DataError, match=r"its columns: audio \(Audio\), label \(ClassLabel\)"):
        open_dataset(tmp_path / "audio")
    assert not list(cache.glob("*"))


def test_a_dict_without_train(tmp_path):
    datasets.DatasetDict({"test": table(9), "validation": table(9)}).save_to_disk(tmp_path / "set")
    with pytest.raises(DataError, match="set: no split train, only test, validation"):
        open_dataset(tmp_path / "set")
    (tmp_path / "tables").mkdir()
    table(9).to_parquet(tmp_path / "tables" / "test-00000-of-00001.parquet")
    with pytest.raises(DataError, match="tables: no split train, only test"):
        open_dataset(tmp_path / "tables")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": ["ant"] * 6}, r"not one column of labels .* label \(string\)\. In datasets, class_encode_column"),
        ({"label": [0.5] * 6}, r"not one column of labels .* label \(double\)"),
        ({"label": [0, 1, None] * 2}, "split train: an empty cell in column 'label'"),
        ({"label": [0, 1, -2] * 2}, r"split train, row 2: label -2 is outside 0\.\.999999"),
        ({"label": [-1] * 6}, "split train, row 0: label -1 is outside .*; -1 stands for none"),
        ({"label": [0, 1, 10**7] * 2}, r"split train, row 2: label 10000000 is outside 0\.\.999999"),
        ({"image": [None] * 6}, "row 0: column 'image' has no image"),
        ({"image": [{"bytes": None, "path": "/etc/passwd"}] * 6}, "has no image, at most the path of one"),
        ({"image": [{"bytes": b"no image", "path": None}] * 6}, r"set: train/\d: this image is truncated, corrupt or not"),
    ],
)
def test_tables_that_are_wrong(tmp_path, cache, columns, message):
    pixels, labels = images(6)
    content = {"image": [{"bytes": encoded(image), "path": None} for image in pixels], "label": labels} | columns
    schema = None
    if content["image"][0] is None:
        schema = pyarrow.schema(
            {"image": pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()}), "label": pyarrow.int64()}
        )
    elif content["image"][0]["bytes"] is None:
        kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
        schema = pyarrow.schema({"image": kind, "label": pyarrow.int64()})
    (tmp_path / "set").mkdir()
    pyarrow.parquet.write_table(pyarrow.table(content, schema=schema), tmp_path / "set" / "train.parquet")
    with pytest.raises(DataError, match=message):
        open_dataset(tmp_path / "set")
    assert not list(cache.glob("*"))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("dataset_dict.json", {"splits": ["../../other"]}, "splits: expected a list of names"),
        ("dataset_dict.json", {"splits": "train"}, "splits: expected a list of names"),
        ("dataset_dict.json", [], "expected an object of JSON"),
        ("dataset_dict.json", {"splits": ["train", "gone"]}, "gone: no state.json, so it is no split that save_to_disk wrote"),
        (
            "train/state.json",
            {"_data_files": [{"filename": "../test/data-00000-of-00001.arrow"}]},
            "expected names of arrow files",
        ),
        ("train/state.json", {"_data_files": [{"filename": "/etc/passwd"}]}, "expected names of arrow files"),
        ("train/state.json", {"_data_files": [{"filename": "gone.arrow"}]}, r"gone\.arrow: cannot be read: No such file"),
        ("train/state.json", {"_data_files": []}, "expected names of arrow files"),
        ("train/state.json", {"_data_files": [1]}, "expected names of arrow files"),
        ("train/state.json", {"_indices_data_files": [{"filename": "i.arrow"}]}, "chosen by a list of indices"),
    ],
)
def test_descriptions_that_are_wrong(tmp_path, file, content, message):
    folder = as_saved(tmp_path / "set")
    (folder / file).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DataError, match=message):
        open_dataset(folder)


@pytest.mark.parametrize("write", [as_saved, as_parquet])
def test_damaged_tables_are_errors(tmp_path, write):
    folder = write(tmp_path / "set")
    file = next(iter(sorted([*folder.rglob("*train*.parquet"), *folder.rglob("train/*.arrow")])))
    whole = file.read_bytes()
    generator, found = np.random.default_rng(0), Counter()
    for number in range(40):
        damaged = bytearray(whole)
        if number % 2:
            del damaged[int(generator.integers(len(whole))) :]
        else:
            for place in (*generator.integers(len(whole), size=10), *-generator.integers(1, 900, size=4)):
                damaged[place] = generator.integers(256)
        file.write_bytes(damaged)
        try:
            open_dataset(folder)
            found["read"] += 1  # a pixel that has changed, perhaps
        except GrafsError:
            found["refused"] += 1
    assert found["refused"] > 10
    assert found.total() == 40


def test_a_second_file_without_the_labels(tmp_path):
    folder = as_parquet(tmp_path / "set")
    table(15).remove_columns("label").to_parquet(folder / "data" / "train-00001-of-00002.parquet")
    with pytest.raises(DataError, match=r"train-00001-of-00002\.parquet: truncated, corrupt or not such a table: .*label"):
        open_dataset(folder)


def test_parquet_files_that_do_not_fit_in_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAFS_TIMM_MAX_RESIDENT_MB", "1")
    (tmp_path / "set").mkdir()
    content = {"image": [{"bytes": bytes(100_000), "path": None}] * 20, "label": [0, 1] * 10}
    pyarrow.parquet.write_table(
        pyarrow.table(content), tmp_path / "set" / "train.parquet", use_dictionary=False, compression="zstd"
    )
    with pytest.raises(DataError, match=r"because parquet files are read whole; .*GRAFS_TIMM_MAX_RESIDENT_MB="):
        open_dataset(tmp_path / "set")


def test_several_configurations(tmp_path):
    for name in ("plain", "augmented"):
        as_plain_parquet(tmp_path / name)
    (tmp_path / "set").mkdir()
    for name in ("plain", "augmented"):
        (tmp_path / name).rename(tmp_path / "set" / name)
    with pytest.raises(DataError, match=r"several folders hold parquet files \(augmented, plain\); name one of them, such as"):
        open_dataset(tmp_path / "set")
    assert open_dataset(tmp_path / "set" / "plain").split("train").num_samples == 30


def test_pyarrow_is_asked_for_where_it_is_missing(tmp_path):
    folder = as_saved(tmp_path / "set")
    assert recognised(folder).kind == "a Hugging Face data set"
    code = "import sys; sys.modules['pyarrow'] = None\n"
    code += f"from grafs_timm.data import open_dataset; open_dataset({str(folder)!r})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8")
    assert "needs pyarrow: pip install 'grafs-timm[hf-data]'" in result.stderr.splitlines()[-1]
