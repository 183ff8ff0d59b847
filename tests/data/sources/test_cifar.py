import os
import pickle
import pickletools

import numpy as np
import pytest
import torchvision
from own_data import as_counter, cifar10, in_shards

from grafs_timm.data import open_dataset
from grafs_timm.data.pack import Packing, pack
from grafs_timm.data.sources import cifar
from grafs_timm.errors import DataError, GrafsWarning

pytestmark = pytest.mark.filterwarnings("ignore::grafs_timm.GrafsWarning")
BATCH = "cifar-10-batches-py/data_batch_2"


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_the_images_are_those_that_torchvision_reads(tmp_path, monkeypatch, protocol):
    splits = cifar10(tmp_path, protocol=protocol)
    source = cifar.read("cifar10", tmp_path / "cifar-10-batches-py")
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda path, md5: True)
    for name, (images, labels) in splits.items():
        theirs = torchvision.datasets.CIFAR10(tmp_path, train=name == "train")
        split = source.splits[name]
        assert split.labels.tolist() == theirs.targets == labels
        for index, (image, _) in enumerate(theirs):
            assert split.read(index).tobytes() == image.tobytes() == images[index].tobytes()
    assert list(source.classes) == theirs.classes


def test_a_pickle_of_python_2_as_the_published_ones(tmp_path):
    """Strings and numpy's names as cPickle wrote them, protocol 2."""
    cifar10(tmp_path)
    rows = np.random.default_rng(0).integers(0, 256, (2, 3072), dtype=np.uint8)
    raw = rows.tobytes()
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    array += (
        b"(K\x01K\x02M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    array += b"\x89T" + len(raw).to_bytes(4, "little") + raw + b"tb"
    content = b"\x80\x02}(U\x04data" + array + b"U\x06labels](K\x07K\x03eu."
    pickletools.dis(content, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    (tmp_path / BATCH).write_bytes(content)
    train = cifar.read("cifar10", tmp_path / "cifar-10-batches-py").splits["train"]
    assert train.labels[4:6].tolist() == [7, 3]
    assert np.asarray(train.read(5)).transpose(2, 0, 1).tobytes() == rows[1].tobytes()


def test_files_that_are_not_the_published_ones_are_noted(tmp_path, monkeypatch):
    cifar10(tmp_path)
    with pytest.warns(
        GrafsWarning, match=r"test_batch: is not the file that is published \(its md5 is not 40351d587109b95175f4"
    ):
        cifar.read("cifar10", tmp_path / "cifar-10-batches-py")


def test_cifar100_has_its_fine_labels(tmp_path):
    folder, rows = tmp_path / "cifar-100-python", np.zeros((3, 3072), np.uint8)
    folder.mkdir()
    names = [f"f{number}" for number in range(100)]
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": names, "coarse_label_names": ["c"]}, 2))
    for split in ("train", "test"):
        content = {"data": rows, "fine_labels": [99, 0, 5], "coarse_labels": [0, 0, 0]}
        (folder / split).write_bytes(pickle.dumps(content, 2))
    info = open_dataset(tmp_path)
    assert (info.name, info.classes) == ("cifar100", tuple(names))
    black = np.zeros((3, 32, 32, 3), np.uint8)
    assert in_shards(info, "train") == as_counter(black, [99, 0, 5])


def test_data_pack_reads_them_by_the_same_reader(tmp_path, monkeypatch):
    splits = cifar10(tmp_path / "root")
    monkeypatch.setattr(pickle, "load", None)  # what torchvision calls
    pack("cifar10", tmp_path / "named", root=tmp_path / "root")
    pack(str(tmp_path / "root"), tmp_path / "found", Packing(splits={"train": "test"}, hold_out=0))
    assert in_shards(open_dataset(tmp_path / "named"), "train", "test") == as_counter(*splits["train"]) + as_counter(
        *splits["test"]
    )
    assert in_shards(open_dataset(tmp_path / "found"), "train") == as_counter(*splits["test"])
    with pytest.raises(DataError, match=r"torchvision's files of cifar100 are not in .*: no cifar-100-python/train"):
        pack("cifar100", tmp_path / "other", root=tmp_path / "root")


class _Calls:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class _State(_Calls):
    def __reduce__(self):
        return (*self.call, {"x": 1})


ARRAY = np.zeros((2, 3072), np.uint8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps(_Calls(os.mkdir, "made"), 2), r"the name (posix|os)\.mkdir is not allowed"),
        (pickle.dumps(_Calls(eval, "open('made', 'w')"), 4), r"the name builtins\.eval is not allowed"),
        (pickle.dumps(_Calls(np.fromfile, "x"), 2), r"the name numpy\S*\.fromfile is not allowed"),
        (pickle.dumps({"data": ARRAY.astype(object)}, 2), "an array of O8?; only bytes"),
        (pickle.dumps({"data": ARRAY.astype(np.float32)}, 2), "an array of f4; only bytes"),
        (pickle.dumps(np.dtype, 2) [:-1] + b"}(X\x01\x00\x00\x00aK\x01ub.", "the state of a name is set"),
        (b"cnumpy\ndtype\n)\x81.", "the operation NEWOBJ is not allowed"),
        (b"\x80\x02Pos.system\n.", "the operation PERSID is not allowed"),
        (b"\x80\x02\x82\x01.", "the operation EXT1 is not allowed"),
        (b"(ios\nsystem\n.", "the operation INST is not allowed"),
        (b"\x80\x02}r\xff\xff\xff\x7f.", "memo of 2147483647 entries"),
        (b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x00.", "truncated, corrupt"),
        (pickle.dumps({"data": ARRAY}, 2)[:3000], "truncated, corrupt"),
        (b"", "truncated, corrupt"),
        (b"<html>not found</html>", "truncated, corrupt"),
        (pickle.dumps([1, 2], 2), "holds no dictionary"),
        (pickle.dumps({}, 2), "data: expected N rows of 3072 bytes"),
        (pickle.dumps({"data": ARRAY[:, :9]}, 2), "data: expected N rows of 3072 bytes"),
        (pickle.dumps({"data": [1], "labels": [1]}, 2), "data: expected N rows of 3072 bytes"),
        (pickle.dumps({"data": ARRAY, "labels": [1]}, 2), "2 images, but 1 labels"),
        (pickle.dumps({"data": ARRAY, "labels": [1, 10]}, 2), r"labels: 10 is not in 0\.\.9"),
        (pickle.dumps({"data": ARRAY, "labels": [1, -1]}, 2), r"labels: -1 is not in 0\.\.9"),
        (pickle.dumps({"data": ARRAY, "labels": [1, "2"]}, 2), "labels: expected a list of int"),
        (pickle.dumps({"data": ARRAY, "labels": [1, True]}, 2), "labels: expected a list of int"),
        (pickle.dumps({"data": ARRAY}, 2), "labels: expected a list of int"),
    ],
)  # fmt: skip
def test_files_that_are_no_batches_call_nothing(tmp_path, monkeypatch, content, message):
    cifar10(tmp_path / "root")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "root" / BATCH).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        cifar.read("cifar10", tmp_path / "root" / "cifar-10-batches-py")
    assert str(tmp_path / "root" / BATCH) in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["root"]


def test_a_missing_batch_is_named(tmp_path):
    cifar10(tmp_path)
    (tmp_path / BATCH).unlink()
    with pytest.raises(DataError, match=r"data_batch_2: cannot be read: No such file|data_batch_2: no such file"):
        open_dataset(tmp_path)
