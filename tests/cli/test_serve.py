"""`lookahead serve`: what it refuses before it loads a model."""

import json
import socket

import pytest

from lookahead.cli import main

pytest.importorskip("fastapi")


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("LOOKAHEAD_API_KEY", raising=False)


def refusal_of(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--model", "/nowhere/model", *arguments])
    return ended.value.code, " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])  # noqa: S104
def test_other_machines_are_let_in_with_a_key_only(capsys, host):
    code, message = refusal_of(capsys, "--host", host)
    assert code == 2
    assert "--api-key" in message


def test_a_port_that_is_taken_is_named_and_no_memory_is_written(capsys, tmp_path):
    file = tmp_path / "memory.safetensors"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, message = refusal_of(capsys, "--port", str(port), "--memory", str(file))
    assert code == 1
    assert f"127.0.0.1:{port}" in message
    assert not file.exists()


def test_keys_are_given_in_one_way_and_are_long_enough(capsys, tmp_path, monkeypatch):
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": [{"key": "a long key"}]}))
    assert refusal_of(capsys, "--api-key", "a long key", "--api-keys", str(file))[0] == 2
    assert refusal_of(capsys, "--api-key", "short")[0] == 2
    assert refusal_of(capsys, "--api-keys", str(tmp_path / "missing.json"))[0] == 2
    monkeypatch.setenv("LOOKAHEAD_API_KEY", "short")
    assert refusal_of(capsys)[0] == 2


def test_settings_out_of_range_are_refused(capsys):
    for arguments in (["--metrics-prefix", "a b"], ["--decoding-length", "many"], ["--max-rows", "0"]):
        assert refusal_of(capsys, "--port", "0", *arguments)[0] == 2


def test_a_server_needs_its_packages(capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "uvicorn" else object())
    code, message = refusal_of(capsys)
    assert code == 2
    assert "lookahead-llm[serve]" in message
