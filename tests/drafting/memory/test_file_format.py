"""A memory's file: what is written is read again, and every fault is reported with an error."""

import json
import os
import pickle
import stat
import struct
import subprocess
import sys

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from helpers import tiny_models
from helpers.drafts import propose
from lookahead import DraftMemory
from lookahead.drafting.log.ring import GAP
from lookahead.drafting.memory import file_format as persistence
from lookahead.drafting.store import Origin
from lookahead.errors import ConfigError, MemoryFileError

pytestmark = pytest.mark.usefixtures("matches_alone")


def made(**settings):
    """A memory with everything a file can hold."""
    memory = DraftMemory(**settings)
    memory.warm([[1, 2, 3, 4], [1, 2, 5]], namespace="a")
    memory.warm([[9, 8, 7]], namespace="Mandant „ä“ [b]")
    memory.store.open("live", namespace="a")
    for token in (1, 2, 3, 4, 1, 2):
        propose(memory.store, "live") if token > 1 else None
        memory.store.insert("live", [token], Origin.OUTPUT)
    memory.store.recycle("live", [1, 2], np.array([[2, 6, 5], [3, 5, 6]], np.int32))
    memory.store.forget("live")
    return memory


def same(one, other):
    first, second = one.contents(), other.contents()
    assert set(first.snapshot) == set(second.snapshot)
    for name, array in first.snapshot.items():
        assert array.dtype == second.snapshot[name].dtype or name == "names"
        assert array.tolist() == second.snapshot[name].tolist(), name
    assert (first.vocabulary_size, first.tokenizer) == (second.vocabulary_size, second.tokenizer)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "memory.safetensors"


def rewritten(path, *, metadata=None, checksum=True, **arrays):
    """The file at `path` with other metadata or arrays, its checksum made to fit."""
    with safe_open(path, framework="np") as file:
        held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        whole = file.metadata()
    held = {name: array for name, array in {**held, **arrays}.items() if array is not None}
    whole = {name: value for name, value in {**whole, **(metadata or {})}.items() if value is not None}
    if checksum:
        whole["sha256"] = persistence._checksum(held, whole)
    save_file({name: np.ascontiguousarray(array) for name, array in held.items()}, path, whole)


def test_what_is_saved_is_loaded(path):
    memory = made()
    memory.bind(vocabulary_size=64, tokenizer=tiny_models.tiny_tokenizer())
    memory.save(str(path))
    loaded = DraftMemory.load(path, tokenizer=tiny_models.tiny_tokenizer(), vocabulary_size=64)
    same(loaded, memory)
    assert loaded.namespaces == {"a": 13, "Mandant „ä“ [b]": 3}
    request = object()
    loaded.store.open(request, namespace="a")
    loaded.store.insert(request, [1, 2], Origin.PROMPT)
    assert {3, 5, 6} == set(propose(loaded.store, request, depth=1).token_ids[1:].tolist())


def test_an_empty_memory_has_a_file_too(path):
    DraftMemory().save(path)
    same(DraftMemory.load(path), DraftMemory())


def test_a_file_is_bound_by_whoever_is_first(path):
    made().save(path)
    loaded = DraftMemory.load(path, vocabulary_size=64)
    assert loaded.vocabulary_size == 64
    loaded.save(path, tokenizer=tiny_models.tiny_tokenizer())
    assert DraftMemory.load(path).tokenizer_fingerprint == loaded.tokenizer_fingerprint is not None


def test_another_tokenizer_or_vocabulary_is_refused(path):
    tokenizer = tiny_models.tiny_tokenizer()
    memory = made()
    memory.bind(vocabulary_size=64)
    memory.save(path, tokenizer=tokenizer)
    other = tiny_models.tiny_tokenizer()
    other.add_tokens(["more"])
    with pytest.raises(MemoryFileError, match=rf"{path}.*another|{path}.*of the tokenizer"):
        DraftMemory.load(path, tokenizer=other)
    with pytest.raises(MemoryFileError, match=rf"{path}.*vocabulary of 64, not of 99"):
        DraftMemory.load(path, vocabulary_size=99)
    made().save(path)
    with pytest.raises(MemoryFileError, match=r"token 9 is beyond a vocabulary of 9"):
        DraftMemory.load(path, vocabulary_size=9)


def test_the_cap_goes_with_the_file_and_a_smaller_one_keeps_the_newest(path):
    memory = DraftMemory(max_bytes=2**21)
    memory.warm([list(range(begin, begin + 100)) for begin in range(0, 20_000, 100)])
    memory.store.open("live")
    memory.store.insert("live", [1], Origin.OUTPUT)
    memory.store.recycle("live", np.arange(5000), np.arange(5000, dtype=np.int32)[:, None])
    memory.save(path)
    assert DraftMemory.load(path).store.max_bytes == 2**21
    small = DraftMemory.load(path, max_bytes=2**17)
    held = small.contents().snapshot
    assert small.nbytes <= 2**17
    assert 0 < len(held["tokens"]) < 5000
    assert held["tokens"][-101:].tolist() == [*range(19_900, 20_000), GAP]
    assert held["keys"][-1] & (2**31 - 1) == 4999
    with pytest.raises(ConfigError, match="max_bytes=100 is not allowed"):
        DraftMemory.load(path, max_bytes=100)


def test_what_was_learned_of_the_vocabulary_is_in_the_file_and_in_no_namespace(path):
    memory = DraftMemory()
    memory.warm([[1, 2, 3]], namespace="a")
    memory.learn_vocabulary(np.array([[5, 6], [7, 8]], np.int32))
    memory.save(path)
    loaded = DraftMemory.load(path)
    same(loaded, memory)
    assert loaded.namespaces == {"a": 3}
    for other in (loaded, DraftMemory()):
        other.merge(memory)
        other.store.insert("live", [0], Origin.PROMPT)
        assert {5, 6} <= set(propose(other.store, "live", depth=1).token_ids[1:].tolist())


def test_live_requests_and_their_prompts_are_not_in_the_file(path):
    memory = DraftMemory()
    memory.store.insert("live", [41, 42], Origin.PROMPT)
    memory.store.insert("live", [43], Origin.OUTPUT)
    memory.save(path)
    assert DraftMemory.load(path).namespaces == {}
    memory.store.forget("live")
    memory.save(path)
    assert DraftMemory.load(path).store.snapshot()["tokens"].tolist() == [43, GAP]


def test_a_file_is_written_whole_for_its_owner_alone(path, monkeypatch):
    made().save(path)
    assert os.name != "posix" or stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_bytes()

    def broken(_arrays, file, _metadata):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(persistence, "save_file", broken)
    with pytest.raises(MemoryFileError, match=rf"{path} cannot be written \(No space left on device\)"):
        DraftMemory().save(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_there_must_be_a_folder_and_a_file(tmp_path):
    with pytest.raises(MemoryFileError, match=r"nowhere.* cannot be written"):
        DraftMemory().save(tmp_path / "nowhere" / "memory")
    for missing in (tmp_path / "missing", tmp_path):
        with pytest.raises(MemoryFileError, match=f"there is no memory file {missing}"):
            DraftMemory.load(missing)


@pytest.mark.parametrize(
    "content", [b"", b"text", pickle.dumps([1]), b"\xff" * 100, struct.pack("<Q", 2) + b"{}", bytes(8)]
)
def test_what_is_no_memory_file_is_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(MemoryFileError, match=rf"{path} is (not a memory file|a safetensors file, but)"):
        DraftMemory.load(path)


def test_another_safetensors_file_is_refused(path):
    save_file({"weight": np.zeros(3, np.float16)}, path)
    with pytest.raises(MemoryFileError, match="is a safetensors file, but not a draft memory"):
        DraftMemory.load(path)


def test_a_newer_version_is_refused_by_name(path):
    made().save(path)
    newer = {"format_version": "2", "lookahead_version": "9.9"}
    rewritten(path, metadata=newer, more=np.zeros(1, np.float16))
    with pytest.raises(
        MemoryFileError, match=r"format version 2, written by lookahead 9\.9.*reads version 1"
    ):
        DraftMemory.load(path)
    rewritten(path, metadata={"format_version": "two"}, more=None)
    with pytest.raises(MemoryFileError, match="format version is 'two'"):
        DraftMemory.load(path)


def test_a_wrong_checksum_is_refused(path):
    made().save(path)
    for change in ({"metadata": {"namespaces": '["a", "b"]'}}, {"tokens": np.full(22, GAP, np.int32)}):
        rewritten(path, checksum=False, **change)
        with pytest.raises(MemoryFileError, match="checksum is wrong"):
            DraftMemory.load(path)


@pytest.mark.parametrize(
    ("metadata", "fault"),
    [
        ({"store": "TokenTrie"}, "of a 'TokenTrie'"),
        ({"store": None}, "of a None"),
        ({"vocabulary_size": "0"}, "vocabulary size is 0"),
        ({"vocabulary_size": "true"}, "vocabulary size is True"),
        ({"vocabulary_size": '"64"'}, "vocabulary size is '64'"),
        ({"vocabulary_size": "9"}, "the vocabulary has 9"),
        ({"vocabulary_size": None}, "vocabulary_size cannot be read"),
        ({"vocabulary_size": "[" * 100_000}, "vocabulary_size cannot be read"),
        ({"vocabulary_size": str(2**40)}, "vocabulary size is"),
        ({"tokenizer": "5"}, "no fingerprint"),
        ({"max_bytes": "-1"}, "cap is -1"),
        ({"max_bytes": str(2**60)}, "cap is"),
        ({"max_bytes": "1e9"}, "cap is"),
        ({"namespaces": '["a"]'}, "there are 1 namespaces"),
        ({"namespaces": '["a", "\\u0000vocabulary"]'}, "a text belongs to no namespace"),
        ({"namespaces": '["a", "a"]'}, "not a list of different names"),
        ({"namespaces": '["a", ""]'}, "not a list of different names"),
        ({"namespaces": '["a", "b\\u0000"]'}, "not a list of different names"),
        ({"namespaces": '{"a": 1}'}, "not a list of different names"),
        ({"namespaces": "oops"}, "namespaces cannot be read"),
    ],
)
def test_metadata_is_checked(path, metadata, fault):
    made().save(path)
    rewritten(path, metadata=metadata)
    with pytest.raises(MemoryFileError, match=rf"{path} is damaged: .*{fault}.*create it again"):
        DraftMemory.load(path)


HELD = made().contents().snapshot


def changed(name, *changes):
    array = HELD[name].copy()
    for place, value in changes:
        array[place] = value
    return {name: array}


@pytest.mark.parametrize(
    ("arrays", "fault"),
    [
        ({"tokens": None}, "lacks tokens"),
        ({"tokens": HELD["tokens"].astype(np.int64)}, "tokens is int64"),
        ({"tokens": HELD["tokens"][None]}, "not int32 of 1 axes"),
        ({"owners": HELD["owners"][:-1]}, "tokens and"),
        ({"successors": HELD["successors"][:, :7].copy()}, r"successors is \[2, 7\]"),
        ({"keys": HELD["keys"][:1]}, "successors is"),
        (changed("tokens", (0, -2)), "tokens are from -2"),
        (changed("tokens", (0, 64)), "the vocabulary has 64"),
        (changed("owners", (0, 0)), "owners are from 0"),
        (changed("owners", (-1, 3)), "to 3"),
        (changed("owners", (0, 2)), "an answer has no end"),
        (changed("tokens", (-1, 3)), "an answer has no end"),
        (changed("keys", (0, -1)), "successors' owners are from -1"),
        (changed("keys", (0, 5)), "successors' owners are from 0"),
        (changed("keys", (0, 3 << 31)), "to 3, not 1 to 2"),
        (changed("keys", (0, (1 << 31) + 64)), "not all in the vocabulary of 64"),
        (changed("successors", ((0, 0), 64)), "not all in the vocabulary of 64"),
        (changed("successors", ((0, 0), -2)), "not all in the vocabulary of 64"),
        (changed("successors", ((0, 1), 2)), "same successor twice"),
        (changed("successors", ((0, 1), -1)), "successors have a gap"),
        (changed("hit_rates", ((0, 0), np.nan)), "finite trials"),
        (changed("hit_rates", ((0, 1), 1e9)), "more hits than trials"),
        (changed("hit_rates", ((0, 0), 0.0)), "more hits than trials"),
        ({"hit_rates": np.ones((4, 3))}, "finite trials"),
        (changed("weights", ((0, 0), np.inf)), "not finite"),
        (changed("weights", ((1, 0), 0.0)), "not finite"),
        (changed("weights", ((0, 0), 1e9)), "beyond 1e"),
        ({"weights": np.ones((3, 3))}, "not finite"),
    ],
)
def test_arrays_are_checked(path, arrays, fault):
    memory = made()
    memory.bind(vocabulary_size=64)
    memory.save(path)
    rewritten(path, **arrays)
    with pytest.raises(MemoryFileError, match=rf"{path} is damaged: .*{fault}.*create it again"):
        DraftMemory.load(path)


@pytest.mark.parametrize("array", [{"more": np.zeros(1)}, {"tokens": np.zeros(3, np.float32)}])
def test_arrays_that_belong_in_no_memory_are_refused_unread(path, array):
    made().save(path)
    rewritten(path, **array)
    with pytest.raises(MemoryFileError, match="not a memory file, or a damaged one"):
        DraftMemory.load(path)


def test_the_calibration_of_another_release_are_left_out_and_the_text_is_kept(path):
    memory = made()
    memory.save(path)
    rewritten(path, hit_rates=np.ones((4, 2)), weights=np.ones((2, 3)))
    loaded = DraftMemory.load(path)
    assert loaded.namespaces == memory.namespaces
    assert (
        loaded.contents().snapshot["hit_rates"].tolist()
        == DraftMemory().contents().snapshot["hit_rates"].tolist()
    )


def test_no_torch_is_needed_and_another_process_reads_it(path):
    memory = made()
    memory.save(path, tokenizer=tiny_models.tiny_tokenizer())
    program = (
        "import json, sys\nfrom lookahead import DraftMemory\n"
        f"memory = DraftMemory.load({str(path)!r})\n"
        "print(json.dumps([memory.namespaces, memory.tokenizer_fingerprint, 'torch' in sys.modules]))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)  # noqa: S603
    assert json.loads(ran.stdout) == [memory.namespaces, memory.tokenizer_fingerprint, False]


@pytest.mark.parametrize("name", ["n" * 257, "\ud800"])
def test_a_name_that_earlier_releases_allowed_is_refused_with_what_to_do(path, name):
    made().save(path)
    rewritten(path, metadata={"namespaces": json.dumps(["a", name])})
    with pytest.raises(MemoryFileError, match=r"no longer allowed: .*give.*forget the namespace"):
        DraftMemory.load(path)


def test_a_file_does_not_grow_with_the_longest_name(path):
    memory = DraftMemory()
    for number in range(2000):
        memory.warm([[number]], namespace=f"{number}")
    memory.save(path)
    before = path.stat().st_size
    memory.warm([[1]], namespace="n" * 256)
    memory.save(path)
    assert path.stat().st_size < before + 1000
    assert memory.contents().snapshot["names"].dtype == np.object_
    same(DraftMemory.load(path), memory)
