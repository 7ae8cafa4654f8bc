"""Whatever happens to a memory's file, it is refused with our error, or loads what was saved."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookahead import DraftMemory
from lookahead.errors import MemoryFileError

ANSWERS = st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=12), max_size=6)
NAMESPACES = st.text(
    st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1, max_size=5
)


def held(memory):
    contents = memory.contents()
    arrays = {name: (array.shape, array.tolist()) for name, array in contents.snapshot.items()}
    return arrays, contents.vocabulary_size, contents.tokenizer, contents.max_bytes


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    memory = DraftMemory(max_bytes=2**20)
    memory.warm([[1, 2, 3], [4, 5]], namespace="a")
    memory.warm([[6, 7]], namespace="b")
    memory.store.open("live", namespace="b")
    memory.store.recycle("live", [6], [[7, 8]])
    memory.bind(vocabulary_size=50)
    path = tmp_path_factory.mktemp("memory") / "memory"
    memory.save(path)
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    return content, header, held(DraftMemory.load(path)), path


def refused_or_the_same(content, expected, path):
    path.write_bytes(content)
    try:
        loaded = DraftMemory.load(path)
    except MemoryFileError:
        return
    assert held(loaded) == expected


@given(data=st.data())
def test_flipped_bytes(saved, data):
    content, header, expected, path = saved
    damaged = bytearray(content)
    anywhere = st.one_of(st.integers(0, header - 1), st.integers(0, len(content) - 1))
    for place in data.draw(st.lists(anywhere, min_size=1, max_size=3, unique=True)):
        damaged[place] ^= data.draw(st.integers(1, 255))
    refused_or_the_same(bytes(damaged), expected, path)


def test_every_byte_of_the_header(saved):
    content, header, expected, path = saved
    for place in range(header):
        damaged = bytearray(content)
        damaged[place] ^= 1 + place % 255
        refused_or_the_same(bytes(damaged), expected, path)


@given(data=st.data())
def test_truncation_and_what_is_appended(saved, data):
    content, _, expected, path = saved
    cut = content[: data.draw(st.integers(0, len(content) - 1))]
    refused_or_the_same(cut, expected, path)
    refused_or_the_same(content + data.draw(st.binary(min_size=1, max_size=20)), expected, path)


@given(content=st.binary(max_size=200))
def test_any_bytes(saved, content):
    refused_or_the_same(content, None, saved[-1])


@given(first=ANSWERS, second=ANSWERS, names=st.tuples(NAMESPACES, NAMESPACES), forgotten=st.booleans())
def test_saving_and_loading_changes_nothing(saved, first, second, names, forgotten):
    path = saved[-1]
    memory = DraftMemory(max_bytes=2**18)
    for name, answers in zip(names, (first, second), strict=True):
        memory.warm(answers, namespace=name)
    if forgotten:
        memory.forget_namespace(names[0])
    memory.save(path)
    loaded = DraftMemory.load(path)
    assert held(loaded) == held(memory)
    loaded.save(path)
    assert held(DraftMemory.load(path)) == held(memory)
    merged = DraftMemory(max_bytes=2**18)
    merged.merge(memory)
    assert merged.namespaces == memory.namespaces
