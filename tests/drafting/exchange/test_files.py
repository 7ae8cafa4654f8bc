"""Updates in a folder: whole, in order, old ones removed, and nothing foreign believed."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from lookahead.drafting.exchange import files
from lookahead.drafting.exchange.files import FileExchange, read_update, write_update
from lookahead.drafting.memory.journal import LearnedText, MemoryUpdate
from lookahead.errors import ConfigError, MemoryFileError

SOURCES = ("a" * 32, "b" * 32)
TEXTS = st.lists(
    st.builds(
        lambda name, tokens: LearnedText(name, np.array(tokens, np.int32), is_forgotten=not tokens),
        st.text(min_size=1, max_size=3),
        st.lists(st.integers(0, 2**31 - 1), max_size=4),
    ),
    max_size=4,
)


def update(source=SOURCES[0], begin=0, tokens=(1, 2)):
    text = LearnedText("tenant", np.array(tokens, np.int32))
    return MemoryUpdate(source=source, begin=begin, texts=(text,))


def as_lists(one):
    texts = [(text.namespace, text.tokens.tolist(), text.is_forgotten) for text in one.texts]
    return one.source, one.begin, one.vocabulary_size, one.tokenizer, texts


@given(texts=TEXTS, begin=st.integers(0, 2**40), size=st.none() | st.integers(1, 2**24))
def test_what_is_written_is_read(tmp_path_factory, texts, begin, size):
    path = tmp_path_factory.mktemp("updates") / "update"
    given_update = MemoryUpdate(
        source=SOURCES[0], begin=begin, texts=tuple(texts), vocabulary_size=size, tokenizer="abc"
    )
    write_update(path, given_update)
    assert as_lists(read_update(path)) == as_lists(given_update)


def test_each_update_is_received_once_in_order_and_not_ones_own(tmp_path):
    one, other = FileExchange(tmp_path), FileExchange(tmp_path)
    one.publish(update(begin=0))
    one.publish(update(begin=1))
    other.publish(update(SOURCES[1]))
    assert [(got.source, got.begin) for got in other.receive()] == [(SOURCES[0], 0), (SOURCES[0], 1)]
    assert [got.source for got in one.receive()] == [SOURCES[1]]
    assert one.receive() == other.receive() == []
    one.publish(update(begin=2))
    assert [got.begin for got in other.receive()] == [2]
    assert [got.begin for got in FileExchange(tmp_path).receive() if got.source == SOURCES[0]] == [0, 1, 2]
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in tmp_path.iterdir())


def test_old_files_are_removed_and_no_others(tmp_path):
    (tmp_path / "notes.txt").write_text("ours")
    exchange = FileExchange(tmp_path, max_age_s=0.01)
    exchange.publish(update(begin=0))
    time.sleep(0.02)
    exchange.publish(update(begin=1))
    assert [got.begin for got in FileExchange(tmp_path).receive()] == [1]
    assert (tmp_path / "notes.txt").exists()


def test_a_folder_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        FileExchange(tmp_path / "none")


def name(number, source="c" * 32):
    return f"{number:022d}-{source}-0000000000.update.safetensors"


def whole(path):
    write_update(path, update())
    return path.read_bytes()


@pytest.mark.parametrize(
    "content",
    [
        lambda _path: b"",
        lambda _path: b"\x00" * 100,
        lambda path: whole(path)[:-3],
        lambda path: (
            save_file({"tokens": np.zeros(1, np.int32)}, path, {"format": "other"}),
            path.read_bytes(),
        )[1],
        lambda path: whole(path).replace(b'"tenant"', b'"tenan5"').replace(b'\\"tenant\\"', b"5       ", 1),
        lambda path: whole(path).replace(b'"begin":"0"', b'"begin":"x"'),
    ],
)
def test_what_is_no_update_is_left_out_and_others_are_received(tmp_path, content):
    bad = content(tmp_path / "draft")
    (tmp_path / "draft").unlink(missing_ok=True)
    (tmp_path / name(1)).write_bytes(bad)
    with pytest.raises(MemoryFileError, match="remove it"):
        read_update(tmp_path / name(1))
    FileExchange(tmp_path).publish(update())
    assert [got.source for got in FileExchange(tmp_path).receive()] == [SOURCES[0]]


def test_parts_that_do_not_fit_together_are_refused(tmp_path):
    path = tmp_path / "update"
    metadata = {
        "format": files.FORMAT,
        "source": "a",
        "begin": "0",
        "namespaces": '["a"]',
        "vocabulary_size": "null",
        "tokenizer": "null",
    }
    arrays = {"lengths": np.array([2], np.int64), "is_forgotten": np.array([False])}
    for tokens in (np.zeros(1, np.int32), np.zeros(2, np.int64), np.zeros((1, 2), np.int32)):
        save_file({"tokens": tokens, **arrays}, path, metadata)
        with pytest.raises(MemoryFileError, match="fit together"):
            read_update(path)


def test_a_file_that_is_too_long_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "update"
    write_update(path, update())
    monkeypatch.setattr(files, "_MAX_FILE_BYTES", 10)
    with pytest.raises(MemoryFileError, match="longer than"):
        read_update(path)
