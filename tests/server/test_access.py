"""Keys and namespaces: who may ask for what."""

import json

import pytest

from lookahead.errors import ConfigError, NotFoundError
from lookahead.server.access import Access, KeyRing
from lookahead.server.http.errors import ApiError
from lookahead.server.protocol.common import LookaheadOptions

A, B = Access(("tenant-a", "shared")), Access(None, is_admin=True)


def test_a_key_opens_its_namespaces_and_no_others():
    ring = KeyRing([("key-of-a", A), ("key-of-b", B)])
    assert ring.access_of("key-of-a") is A
    assert ring.access_of("key-of-b") is B
    assert ring.access_of("key-of-c") is ring.access_of("") is ring.access_of("schlüssel") is None
    assert A.scope(LookaheadOptions(), None) == ("tenant-a", ())
    assert A.scope(LookaheadOptions(namespace="shared", reads=["tenant-a"]), None) == (
        "shared",
        ("tenant-a",),
    )
    assert B.scope(LookaheadOptions(), None) == ("default", ())
    for options in (LookaheadOptions(namespace="other"), LookaheadOptions(reads=["other"])):
        with pytest.raises(ApiError) as refused:
            A.scope(options, None)
        assert refused.value.status == 403
        B.scope(options, None)


@pytest.mark.parametrize("name", ["", "a\0b", "a\x1fb", "a\nb", "x" * 201, "é" * 101])
def test_names_that_no_client_may_use(name):
    for options in (LookaheadOptions(namespace=name), LookaheadOptions(reads=[name])):
        with pytest.raises(ApiError) as refused:
            B.scope(options, None)
        assert refused.value.status == 400


def test_a_salt_separates_within_a_namespace():
    names = {A.scope(LookaheadOptions(), salt)[0] for salt in (None, "one", "two")}
    assert len(names) == 3
    assert all(name.startswith("tenant-a") for name in names)
    assert B.scope(LookaheadOptions(), "one")[0] not in names  # of another namespace
    assert len(A.scope(LookaheadOptions(), "x" * 4000)[0]) < 256


def test_a_file_of_keys(tmp_path):
    path = tmp_path / "keys.json"
    entries = [{"key": "key-of-a", "namespaces": ["tenant-a"]}, {"key": "key-of-b", "admin": True}]
    path.write_text(json.dumps({"keys": entries}))
    ring = KeyRing.load(path)
    assert ring.access_of("key-of-a") == Access(("tenant-a",))
    assert ring.access_of("key-of-b") == Access(None, is_admin=True)


@pytest.mark.parametrize(
    "content",
    [
        "no JSON",
        "[]",
        "{}",
        '{"keys": []}',
        '{"keys": [{}]}',
        '{"keys": [{"key": 5}]}',
        '{"keys": [{"key": "short"}]}',
        '{"keys": [{"key": "long enough", "namespaces": []}]}',
        '{"keys": [{"key": "long enough", "namespaces": "all"}]}',
        '{"keys": [{"key": "long enough", "namespaces": ["a\\u0000b"]}]}',
        '{"keys": [{"key": "long enough", "admin": "yes"}]}',
        '{"keys": [{"key": "long enough", "role": "admin"}]}',
        '{"keys": [{"key": "long enough"}, {"key": "long enough"}]}',
    ],
)
def test_a_malformed_file_of_keys_is_refused(tmp_path, content):
    path = tmp_path / "keys.json"
    path.write_text(content)
    with pytest.raises(ConfigError):
        KeyRing.load(path)


def test_a_missing_file_of_keys_is_named(tmp_path):
    with pytest.raises(NotFoundError, match=r"keys\.json"):
        KeyRing.load(tmp_path / "keys.json")


def test_keys_are_not_kept_as_they_are():
    assert "key-of-a" not in repr(vars(KeyRing([("key-of-a", A)])))
