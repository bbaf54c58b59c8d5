"""Documents: where they come from, which split they are in, and that their tokens are made once."""

import gzip
import hashlib
import json
import os

import numpy as np
import pandas as pd
import pytest

from clipbench.errors import UserError
from clipbench.task.content import cache_folder
from clipbench.tasks import prepared_text
from clipbench.tasks.documents import Source, parts, split_of
from clipbench.tasks.encoders import Bytes, bytes_of_tokens
from clipbench.tasks.lm import LM
from clipbench.tasks.prepared_text import Limits, prepared

EVERYTHING = Limits(0.1, float("inf"), float("inf"))
SHAPE = {"layers": 1, "width": 8, "heads": 2, "tied": True, "dropout": 0.0, "init_std": 0.1}
SHAPE |= {"recurrent_init": None, "forget_bias": None}


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    """Each kind of file, "a", "b", … by name."""
    root = tmp_path / "texts"
    (root / "deep").mkdir(parents=True)
    (root / "a.txt").write_bytes(b"one\r\n\r\ntwo\r\nlines\n")
    (root / "deep" / "b.md").write_text("three")
    rows = [json.dumps({"text": text, "id": 1}) for text in ("four", "", "fünf")]
    (root / "c.jsonl").write_text("\n".join(rows))
    with gzip.open(root / "d.json.gz", "wt") as file:
        file.write(rows[0].replace("four", "six"))
    pd.DataFrame({"text": ["seven", None, "eight"], "id": [1, 2, 3]}).to_parquet(root / "e.parquet")
    (root / "empty.txt").write_text("")
    (root / ".hidden").write_text("nothing")
    return root


ROWS = [b"four", "fünf".encode(), b"six", b"three", b"seven", b"eight"]


@pytest.mark.parametrize(
    ("unit", "of_a"),
    [
        (None, [b"one\r\n\r\ntwo\r\nlines\n"]),
        ("file", [b"one\r\n\r\ntwo\r\nlines\n"]),
        ("paragraph", [b"one", b"two\r\nlines"]),
        ("line", [b"one", b"two", b"lines"]),
    ],
)
def test_documents_are_files_or_what_is_asked_for_and_rows_are_rows(folder, unit, of_a):
    assert sorted(Source(str(folder), unit)) == sorted(of_a + ROWS)


def test_of_a_single_file_paragraphs_are_documents(folder):
    assert list(Source(str(folder / "a.txt"))) == [b"one", b"two\r\nlines"]
    assert list(parts([b"a\n", b" \n", b"\n", b"b\n", b"c"], "paragraph")) == [b"a", b"b\nc"]


@pytest.mark.parametrize(
    ("name", "content", "more", "message"),
    [
        ("x.txt", b"ab\0cd", {}, "x.txt: it holds zero bytes, so it is no text"),
        ("x.jsonl", b'{"body": "a"}', {}, "no column 'text'; there are: body. task.column=NAME"),
        ("x.jsonl", b'{"text": 3}', {}, "its column 'text' holds int, not text"),
        ("x.jsonl", b"{", {}, "Cannot read .*x.jsonl"),
        ("x.json.gz", b"no gzip", {}, "Cannot read .*x.json.gz"),
        ("x.parquet", b"no parquet", {}, "Cannot read .*x.parquet"),
        ("x.txt", b"a", {"documents": "lines"}, "Unknown task.documents 'lines'. Did you mean 'line'"),
    ],
)
def test_what_is_no_text_is_one_message(tmp_path, name, content, more, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(Source(str(tmp_path / name), **more))


@pytest.mark.parametrize("data", ["./nowhere", "/no/where", "~/no-such-folder", "a/b/c"])
def test_a_path_that_is_not_there_is_no_data_set(data):
    with pytest.raises(UserError, match="there is no such file or folder"):
        Source(data)


def test_what_is_out_of_reach_is_one_message_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(
        UserError, match=r"Cannot load task\.data=no/where, .*task\.data=DIR, a folder of text"
    ):
        list(Source("no/where"))
    (tmp_path / "x.txt").write_text("a")
    known = {"batch_size": 1, "context": 2, "data": str(tmp_path / "x.txt"), **SHAPE}
    with pytest.raises(UserError, match=r"Cannot load task\.model=gtp, .*or one of gpt, llama, rnn_tanh"):
        LM(model="gtp", **known)
    with pytest.raises(UserError, match=r"Cannot load task\.tokenizer=no/where, .*a tokenizer\.json"):
        assert LM(model="gpt", tokenizer="no/where", **known).encoder


def test_the_split_is_by_the_hash_of_the_document_alone():
    documents = [str(i).encode() for i in range(2000)]
    counts = {"train": 0, "val": 0, "test": 0}
    for document in documents:
        number = int(hashlib.sha256(document).hexdigest()[:16], 16) / 2**64
        expected = "val" if number < 0.1 else "test" if number < 0.2 else "train"
        assert split_of(document, 0.1) == expected
        counts[expected] += 1
    assert 150 < counts["val"] < 250
    assert 150 < counts["test"] < 250


def texts_of(stream):
    return bytes(np.where(stream.tokens == 256, 0, stream.tokens).astype(np.uint8)).split(b"\0")[1:]


def lines(tmp_path, texts):
    (tmp_path / "lines.txt").write_text("\n".join(texts))
    return Source(str(tmp_path / "lines.txt"), "line")


def test_equal_documents_are_in_one_split_wherever_they_stand(tmp_path):
    streams = prepared(lines(tmp_path, [f"text {i % 50}" for i in range(200)]), Bytes(), EVERYTHING)
    parts = {split: texts_of(stream) for split, stream in streams.items()}
    assert sum(map(len, parts.values())) == 200
    kinds = [set(part) for part in parts.values()]
    assert sum(map(len, kinds)) == len(set.union(*kinds)) == 50


def test_reading_ends_after_so_many_bytes_and_held_out_parts_are_bounded(tmp_path):
    source = lines(tmp_path, [f"text {i:05}" for i in range(1000)])
    streams = prepared(source, Bytes(), Limits(0.1, 250, 5000))
    whole = prepared(source, Bytes(), EVERYTHING)
    assert [streams["val"].bytes, streams["test"].bytes] == [250, 250]
    read = [f"text {i:05}".encode() for i in range(500)]
    assert texts_of(streams["train"]) == [text for text in read if split_of(text, 0.1) == "train"]
    assert texts_of(streams["val"]) == texts_of(whole["val"])[:25]


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ((0.5, 1, 1), "task.held_out must be a number above 0 and below 0.5, got 0.5"),
        ((1, 1, 1), "task.held_out"),
        ((0.1, 0, 1), "task.eval_bytes must be a number above 0, got 0"),
        ((0.1, 1, "x"), "task.max_bytes"),
    ],
)
def test_limits_that_cannot_be(limits, message):
    with pytest.raises(UserError, match=message):
        Limits(*limits)


def test_a_split_without_documents_is_one_message(tmp_path):
    (tmp_path / "x.txt").write_text("one\n\ntwo")
    task = LM(batch_size=1, context=2, model="gpt", data=str(tmp_path / "x.txt"), **SHAPE)
    with pytest.raises(
        UserError, match=r"of 2 documents none falls into .*task\.documents=paragraph or line"
    ):
        assert task.streams


class Once(Bytes):
    def __init__(self):
        self.calls = 0

    def __call__(self, documents):
        self.calls += 1
        return super().__call__(documents)


def test_tokens_are_made_once_and_again_where_something_changed(tmp_path):
    source, encoder = lines(tmp_path, [f"text {i}" for i in range(100)]), Once()
    first = prepared(source, encoder, EVERYTHING)
    again = prepared(source, encoder, EVERYTHING)
    assert encoder.calls == 1
    assert isinstance(again["train"].tokens, np.memmap)
    for split, stream in first.items():
        assert np.array_equal(stream.tokens, again[split].tokens)
        assert again[split][2:] == stream[2:]
    prepared(source, encoder, Limits(0.2, 1e9, 1e9))
    assert encoder.calls == 2
    prepared(lines(tmp_path, ["other", *(f"text {i}" for i in range(100))]), encoder, EVERYTHING)
    assert encoder.calls == 3
    kept = list((cache_folder() / "prepared").iterdir())
    assert len(kept) == 3
    for path in kept:
        os.truncate(path / "train.tokens", 10)
    prepared(lines(tmp_path, [f"text {i}" for i in range(100)]), encoder, EVERYTHING)
    assert encoder.calls == 4
    assert not [path for path in (cache_folder() / "prepared").iterdir() if path.name.startswith(".")]


def test_where_nothing_can_be_kept_tokens_are_made_all_the_same(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    source, encoder = lines(tmp_path, [f"text {i}" for i in range(100)]), Once()
    for _ in range(2):
        streams = prepared(source, encoder, EVERYTHING)
        assert sum(stream.documents for stream in streams.values()) == 100
        assert texts_of(streams["train"])
    assert encoder.calls == 2


def test_what_was_made_while_the_files_changed_is_not_kept(tmp_path, monkeypatch):
    source = lines(tmp_path, [f"text {i}" for i in range(100)])
    write = prepared_text._write

    def changing(*args):
        write(*args)
        (tmp_path / "lines.txt").write_text("others")

    monkeypatch.setattr(prepared_text, "_write", changing)
    assert prepared(source, Bytes(), EVERYTHING)["train"].documents > 50
    assert list((cache_folder() / "prepared").iterdir()) == []


def test_each_byte_counts_once_whatever_a_tokenizer_leaves_out():
    text = "a é 😀 b "
    assert bytes_of_tokens(text, [1, 3, 5, 5, 7]).tolist() == [1, 3, 5, 0, 3]
    assert bytes_of_tokens(text, [1]).tolist() == [len(text.encode())]
    assert bytes_of_tokens(text, []).tolist() == []
