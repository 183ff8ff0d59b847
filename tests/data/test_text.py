"""Text: what is read, cut off, tokenised and drawn; nothing held out is ever trained on, and nothing is drawn by chance."""

import gzip
import json
import sys
from pathlib import Path

import pytest
import timm
import torch
from shard_files import write_info, write_tar
from tiny_runs import ROOT, recipe
from torch.nn import functional as F

from grafs_timm.config.schema import Text
from grafs_timm.data import tokens
from grafs_timm.data.text import TextBatches, TextSet, load_text
from grafs_timm.data.text_source import is_text, read_parts
from grafs_timm.errors import DataError, GrafsError, RecipeError, UnknownNameError
from grafs_timm.runs.training import make_model

SHARED = ROOT.parent / "shared" / "data" / "text"
STORY = "Lily found a needle — “sharp!” — and sewed a button on.\nThe end.\n<|endoftext|>\nTim’s café had 3 naïve cats.\n"


@pytest.fixture
def story(tmp_path: Path) -> Path:
    file = tmp_path / "story.txt"
    file.write_text(STORY * 40, encoding="utf-8")
    return file


def real(name: str) -> Path:
    if not (SHARED / name).is_file():
        pytest.skip(f"no {name} in {SHARED}")
    return SHARED / name


def counted(count: int) -> TextSet:
    """Tokens that are their own places."""
    return TextSet(torch.arange(count), count, count)


# ------------------------------------------------------------------------------------------------- reading and cutting


def test_parts_are_the_file_and_never_overlap(story):
    whole = story.read_bytes()
    data = load_text(story, Text(context=16, held_out=0.2))
    parts = [bytes(part.tokens.tolist()) for part in (data.train, data.validation, data.test)]
    assert b"".join(parts) == whole
    assert [part.num_bytes for part in (data.train, data.validation, data.test)] == list(map(len, parts))
    assert len(parts[1]) + len(parts[2]) == pytest.approx(0.2 * len(whole), abs=4)
    assert len(parts[1]) == pytest.approx(len(parts[2]), abs=4)
    assert data.vocab_size == 256
    assert data.train.tokens.dtype == torch.int64
    assert data.notices == ()


def test_cuts_fall_between_characters(tmp_path):
    file = tmp_path / "umlauts.txt"
    file.write_text("äöüß€😀" * 50, encoding="utf-8")
    for held_out in range(100, 140):
        parts = read_parts(file, held_out)
        assert held_out <= len(parts.validation) + len(parts.test) < held_out + 4
        for part in (parts.train, parts.validation, parts.test):
            part.decode()


def test_the_tail_of_the_last_of_several_files_is_held_out(tmp_path, story):
    last = tmp_path / "last.txt.gz"
    last.write_bytes(gzip.compress(b"0123456789" * 100))
    for spelt in (f"{story}::{last}", [story, last]):
        parts = read_parts(spelt, 100)
        assert parts.train == story.read_bytes() + b"0123456789" * 90
        assert parts.validation == parts.test == b"0123456789" * 5


def test_bare_names_are_found_below_the_data_folder(tmp_path, story, monkeypatch):
    monkeypatch.setenv("GRAFS_TIMM_DATA", str(tmp_path))
    monkeypatch.chdir("/")
    assert read_parts("story.txt", 0.1) == read_parts(story, 0.1).__class__("story.txt", *parts_of(story))


def parts_of(file: Path) -> tuple[bytes, bytes, bytes]:
    parts = read_parts(file, 0.1)
    return parts.train, parts.validation, parts.test


def test_what_is_text():
    assert is_text("a.txt")
    assert is_text("b/a.TXT.GZ::c.txt")
    assert not is_text("a.txt::b.tar")
    assert not is_text("digits")


@pytest.mark.parametrize("splits", [("train",), ("train", "test"), ("train", "validation", "test")])
def test_shards_keep_their_splits_and_lend_what_is_missing(tmp_path, splits):
    told = {split: [f"{split} {number}.\n" * 9 for number in range(10)] for split in splits}
    infos = {}
    for split, texts in told.items():
        write_tar(tmp_path / f"{split}.tar", [(f"{key:04d}.txt", text.encode()) for key, text in enumerate(texts)])
        write_info(tmp_path, {f"{split}.tar": 10})
        infos[split] = (tmp_path / "_info.json").read_text(encoding="utf-8")
    merged = {split: json.loads(info)["splits"]["train"] for split, info in infos.items()}
    (tmp_path / "_info.json").write_text(json.dumps({"splits": merged}), encoding="utf-8")
    parts = read_parts(tmp_path, 0.2)
    joined = {split: "".join(texts).encode() for split, texts in told.items()}
    if len(splits) == 1:
        assert parts.train + parts.validation + parts.test == joined["train"]
    elif len(splits) == 2:
        assert (parts.train + parts.validation, parts.test) == (joined["train"], joined["test"])
    else:
        assert (parts.train, parts.validation, parts.test) == tuple(joined.values())
    with pytest.raises(DataError, match="must not be tested on itself"):
        read_parts(tmp_path, 0.2, "train", "train")


def test_shards_spelt_out_without_labels(tmp_path):
    write_tar(tmp_path / "train-0.tar", [("a.txt", b"one " * 30), ("b.txt", b"two " * 30)])
    assert read_parts(str(tmp_path / "train-0.tar"), 0.5).train == b"one " * 30


# --------------------------------------------------------------------------------------------------------- bad input


def bad(tmp_path: Path, content: bytes, name: str = "bad.txt") -> Path:
    (tmp_path / name).write_bytes(content)
    return tmp_path / name


def test_not_utf8(tmp_path):
    with pytest.raises(DataError, match=r"bad\.txt: not UTF-8: byte 0xe9 at offset 7 \(line 2\): invalid continuation byte"):
        load_text(bad(tmp_path, b"one\ncaf\xe9 au lait"))


def test_empty(tmp_path):
    with pytest.raises(DataError, match=r"bad\.txt: the file is empty"):
        load_text(bad(tmp_path, b""))
    with pytest.raises(DataError, match=r"bad\.txt\.gz: the file is empty"):
        load_text(bad(tmp_path, gzip.compress(b""), "bad.txt.gz"))


def test_truncated_gzip(tmp_path):
    with pytest.raises(DataError, match=r"bad\.txt\.gz: truncated or corrupt gzip"):
        load_text(bad(tmp_path, gzip.compress(STORY.encode())[:-9], "bad.txt.gz"))


def test_no_such_file(tmp_path, story):
    with pytest.raises(UnknownNameError, match=r"no text file '.*stori\.txt'; nearest: story\.txt"):
        load_text(tmp_path / "stori.txt")


def test_where_there_is_no_data_at_all_the_variable_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GRAFS_TIMM_DATA", raising=False)
    with pytest.raises(UnknownNameError) as refused:
        load_text("text/story.txt")
    looked_for = "looked for text/story.txt, data/text/story.txt"
    unset = "GRAFS_TIMM_DATA, which is not set, names the folder of your data"
    assert refused.value.args[0] == f"no text file 'text/story.txt'; {looked_for}; {unset}"
    monkeypatch.setenv("GRAFS_TIMM_DATA", str(tmp_path / "there"))
    with pytest.raises(UnknownNameError, match=r"there/text/story\.txt, data/text/story\.txt$"):
        load_text("text/story.txt")


def test_shorter_than_the_context(tmp_path):
    message = r"validation part: 50 tokens are too few for one window of data\.text\.context=50, which takes 51"
    with pytest.raises(DataError, match=message):
        load_text(bad(tmp_path, b"x" * 1000), Text(context=50))
    assert len(load_text(bad(tmp_path, b"x" * 1000), Text(context=49)).test) == 50


@pytest.mark.parametrize("held_out", [0.0001, 0.9999, 100, 1000])
def test_nothing_left_or_nothing_held_out(tmp_path, held_out):
    with pytest.raises(DataError, match=r"100 bytes of which .* are held out leave one part empty; see data\.text\.held_out"):
        load_text(bad(tmp_path, b"x" * 100), Text(held_out=held_out, context=1))


def test_unknown_tokenizer(story):
    with pytest.raises(UnknownNameError, match="no tokenizer 'byte'; nearest: bytes"):
        load_text(story, Text.model_construct(tokenizer="byte"))


def test_a_sample_that_is_no_text(tmp_path):
    write_tar(tmp_path / "a.tar", [("a.txt", b"x"), ("b.txt", b"ab\xff")])
    write_info(tmp_path, {"a.tar": 2})
    with pytest.raises(DataError, match=r"a\.tar: sample 'b': not UTF-8: byte 0xff at offset 2"):
        read_parts(tmp_path, 0.1)
    write_tar(tmp_path / "a.tar", [("a.txt", b"x"), ("b.cls", b"1")])
    with pytest.raises(DataError, match=r"sample 'b': no text \(txt\), only cls"):
        read_parts(tmp_path, 0.1)
    write_tar(tmp_path / "a.tar", [("a.txt", b"x")])
    with pytest.raises(DataError, match=r"1 samples, _info\.json's shard_lengths say 2"):
        read_parts(tmp_path, 0.1)


# -------------------------------------------------------------------------------------------------------- byte pairs


def test_byte_pairs_are_learnt_from_the_training_part_alone(tmp_path):
    pytest.importorskip("tokenizers")
    file = bad(tmp_path, b"the cat sat on the mat. " * 100 + b"zyzzyva " * 60, "cats.txt")
    saved = tmp_path / "vocabulary.json"
    how = Text(tokenizer="bpe", vocab_size=265, context=8, held_out=480)
    data = load_text(file, how, save_vocabulary=saved)
    assert data.vocab_size == 265
    assert "no vocabulary file given; byte pairs learnt from the 2400 bytes of the training part: 265 tokens" in data.notices[0]
    assert data.notices[1] == f"vocabulary written to {saved}"
    assert len(data.train) < 2400 / 2
    assert len(data.test) == 240  # none of the pairs held out was seen: every byte stands alone
    again = load_text(file, how.model_copy(update={"vocabulary": str(saved)}))
    assert again.notices == ()
    assert torch.equal(again.train.tokens, data.train.tokens)
    with pytest.raises(DataError, match=r"a vocabulary of 265 tokens, data\.text\.vocab_size allows 260; set it to 265"):
        load_text(file, how.model_copy(update={"vocabulary": str(saved), "vocab_size": 260}))


def test_byte_pairs_give_every_byte_back(story, monkeypatch):
    pytest.importorskip("tokenizers")
    monkeypatch.setattr(tokens, "_PIECE", 1000)  # several pieces
    learnt = tokens.learn(story.read_bytes(), 400)
    odd = (STORY + "\n\n  \t日本語 😀 \r\n\n\n x").encode()
    found = learnt.encode(odd)
    assert learnt.decode(found.tolist()) == odd
    assert (found == 0).sum() == 1  # the mark between texts
    assert found.max() < learnt.vocab_size
    assert tokens.learn(story.read_bytes(), 400).text == learnt.text


def test_too_little_text_for_the_vocabulary_is_said(story):
    pytest.importorskip("tokenizers")
    data = load_text(story, Text(tokenizer="bpe", vocab_size=5000, context=8))
    assert data.vocab_size < 5000
    assert data.notices[0].endswith(f"{data.vocab_size} tokens of 5000 asked for: no more pairs recur")


def test_a_vocabulary_file_that_is_none(tmp_path, story):
    pytest.importorskip("tokenizers")
    for content, message in ((b"{}", "not a vocabulary of the tokenizers library"), (b"\xff\xfe", "not UTF-8 at byte 0")):
        how = Text(tokenizer="bpe", vocab_size=300, vocabulary=str(bad(tmp_path, content, "v.json")))
        with pytest.raises(DataError, match=rf"v\.json: .*{message}"):
            load_text(story, how)
    with pytest.raises(DataError, match=r"none\.json: the vocabulary cannot be read: No such file"):
        load_text(story, Text(tokenizer="bpe", vocab_size=300, vocabulary=str(tmp_path / "none.json")))
    with pytest.raises(DataError, match="save_vocabulary needs byte pairs that are learnt here"):
        load_text(story, save_vocabulary=tmp_path / "v.json")


def test_without_tokenizers(story, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(GrafsError, match=r"byte pairs needs tokenizers: pip install 'grafs-timm\[gpt\]'"):
        load_text(story, Text(tokenizer="bpe", vocab_size=300))
    load_text(story, Text(context=16))  # bytes need nothing


# ----------------------------------------------------------------------------------------------------------- batches


def test_training_windows_cover_the_text_once_an_epoch_in_random_order():
    batches = TextBatches(counted(1005), 4, context=10, seed=3)
    assert len(batches) == 99 // 4
    epochs = []
    for epoch in range(3):
        seen = [(x, y) for x, y in batches.epoch(epoch)]
        assert len(seen) == len(batches)
        assert all(x.shape == y.shape == (4, 10) and torch.equal(x + 1, y) for x, y in seen)
        flat = torch.cat([x.flatten() for x, _ in seen])
        assert len(flat.unique()) == len(flat)
        assert flat.max() < 1004
        epochs.append(flat)
    assert not torch.equal(epochs[0], epochs[1])
    assert len({int(flat.min() % 10) for flat in epochs}) > 1  # the windows themselves are others
    assert (epochs[0].diff() != 1).sum() > 80  # not in the text's order


def test_the_same_draws_whatever_was_drawn_before():
    a, b = (TextBatches(counted(500), 4, context=8, seed=5) for _ in range(2))
    torch.manual_seed(1)
    list(a.epoch(0))
    whole = list(a.epoch(2))
    torch.manual_seed(2)
    for (x, y), (u, v) in zip(whole[5:], b.epoch(2, start=5), strict=True):
        assert torch.equal(x, u)
        assert torch.equal(y, v)
    other = TextBatches(counted(500), 4, context=8, seed=6)
    assert not torch.equal(other.starts(2), a.starts(2))


def test_measured_windows_are_consecutive():
    batches = TextBatches(counted(101), 4, context=10, train=False)
    seen = list(batches.epoch(0))
    assert [len(x) for x, _ in seen] == [4, 4, 2]
    assert len(batches) == 3
    assert torch.equal(torch.cat([x.flatten() for x, _ in seen]), torch.arange(100))
    assert torch.equal(torch.cat([y.flatten() for _, y in seen]), torch.arange(1, 101))
    assert TextBatches(counted(100), 4, context=10, train=False).windows == 9  # the last token has none after it


def test_shares_are_the_parts_of_each_batch():
    whole = list(TextBatches(counted(500), 6, context=8, seed=1).epoch(1))
    ranks = [list(TextBatches(counted(500), 6, context=8, seed=1, share=(rank, 3)).epoch(1)) for rank in range(3)]
    for step, (x, y) in enumerate(whole):
        assert torch.equal(torch.cat([rank[step][0] for rank in ranks]), x)
        assert torch.equal(torch.cat([rank[step][1] for rank in ranks]), y)
    measured = [TextBatches(counted(101), 4, context=10, train=False, share=(rank, 3)) for rank in range(3)]
    assert [len(each) for each in measured] == [1, 1, 1]
    starts = torch.cat([each.starts(0) for each in measured]).sort().values
    assert torch.equal(starts, torch.arange(0, 100, 10))
    with pytest.raises(DataError, match="batches of 4 do not divide into 3 equal parts"):
        TextBatches(counted(500), 4, context=8, share=(0, 3))


def test_one_window_is_enough_for_a_batch_of_one():
    assert [x.tolist() for x, _ in TextBatches(counted(9), 1, context=8).epoch(0)] == [[list(range(8))]]
    with pytest.raises(DataError, match="1 windows of 8 tokens do not fill one batch of 2"):
        TextBatches(counted(9), 2, context=8)
    with pytest.raises(DataError, match=r"8 tokens are too few for one window of data\.text\.context=8, which takes 9"):
        TextBatches(counted(8), 1, context=8)


def test_split_in_two():
    weights, architecture = counted(100).split(0.75)
    assert (weights.tokens.tolist(), architecture.tokens.tolist()) == (list(range(75)), list(range(75, 100)))
    assert (weights.num_bytes, architecture.num_bytes) == (75, 25)
    for fraction in (0.0, 1.0, 0.001):
        with pytest.raises(DataError, match="cannot be split at the fraction"):
            counted(100).split(fraction)


# --------------------------------------------------------------------------------------------- with the models, for real


def test_a_vocabulary_that_does_not_fit_the_model():
    pytest.importorskip("transformers")
    chosen = recipe(model="gpt_mini", model_kwargs={"vocab_size": 256})
    assert make_model(chosen, 256, (8,), "cpu").num_classes == 256
    with pytest.raises(RecipeError, match=r"the vocabulary has 300: model_kwargs\.vocab_size must be at least that"):
        make_model(chosen, 300, (8,), "cpu")


@pytest.mark.slow
def test_gpt_mini_learns_shakespeare_by_bytes():
    pytest.importorskip("transformers")
    data = load_text(real("tinyshakespeare.txt.gz"), Text(context=32, held_out=0.1))
    assert len(data.train) + len(data.validation) + len(data.test) == 1_115_394
    torch.manual_seed(0)
    model = timm.create_model("gpt_mini", context=32, dropout=0.0)
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3)
    measured = TextBatches(data.validation, 64, context=32, train=False)

    def loss_of(x, y):
        return F.cross_entropy(model(x).flatten(0, 1), y.flatten())

    def validation() -> float:
        model.eval()
        with torch.no_grad():
            return sum(loss_of(x, y).item() for _, (x, y) in zip(range(4), measured.epoch(0), strict=False)) / 4

    before = validation()
    for _, (x, y) in zip(range(80), TextBatches(data.train, 16, context=32).epoch(0), strict=False):
        model.train()
        optimiser.zero_grad()
        loss_of(x, y).backward()
        optimiser.step()
    assert before == pytest.approx(5.55, abs=0.15)  # ln 256
    letters = data.train.tokens.bincount(minlength=256).clamp(min=1).double()
    by_frequency = -(letters / letters.sum()).log()[data.validation.tokens].mean().item()
    assert validation() < by_frequency < 3.5  # it has learnt more than which letters are common


def test_tinystories_in_byte_pairs():
    pytest.importorskip("tokenizers")
    file = real("tinystories-train-head-cased-2MiB.txt.gz")
    data = load_text(file, Text(tokenizer="bpe", vocab_size=512, held_out=100_000))
    assert data.vocab_size == 512
    text = data.tokenizer.decode(data.test.tokens.tolist())
    assert gzip.decompress(file.read_bytes()).endswith(text)
    assert (
        int((data.train.tokens == 0).sum()) == data.tokenizer.decode(data.train.tokens.tolist()).count(b"<|endoftext|>") > 2000
    )
    assert 2 < data.train.num_bytes / len(data.train) < 4
