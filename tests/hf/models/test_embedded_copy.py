"""The embedded model's converted copy: made once, made again when it is damaged, and only then."""

import os

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import lookahead
from helpers import tiny_models
from lookahead.files import try_lock
from lookahead.hf.models import copies, embedded


class Conversion:
    """Replaces the slow conversion of a GGUF file and counts its calls."""

    def __init__(self, monkeypatch, tmp_path):
        self.count = 0
        self.model = tiny_models.tiny_model("llama")
        self.cache = tmp_path / "cache"
        self.source = tmp_path / "tiny.gguf"
        self.source.write_bytes(b"weights")
        monkeypatch.setattr(embedded, "_embedded_file", lambda: self.source)
        monkeypatch.setattr(embedded, "load_unpacked", self.load)
        monkeypatch.setenv("XDG_CACHE_HOME", str(self.cache))

    def load(self, _path, dtype):
        self.count += 1
        return self.model.to(dtype), tiny_models.tiny_tokenizer()

    def entries(self):
        return list((self.cache / "lookahead" / "embedded").iterdir())


@pytest.fixture
def conversion(monkeypatch, tmp_path):
    return Conversion(monkeypatch, tmp_path)


def test_each_file_is_converted_once_per_dtype(conversion):
    first, _ = lookahead.load_embedded("float32")
    second, tokenizer = lookahead.load_embedded(torch.float32)
    assert conversion.count == 1
    assert all(
        torch.equal(mine, its)
        for mine, its in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    assert not second.training
    assert second.name_or_path == tokenizer.name_or_path == embedded.EMBEDDED_NAME
    assert tokenizer.decode(tokenizer("Hello")["input_ids"]) == "Hello"

    assert lookahead.load_embedded("bfloat16")[0].dtype == torch.bfloat16
    conversion.source.write_bytes(b"other weights")
    lookahead.load_embedded("bfloat16")
    assert conversion.count == 3
    assert len(conversion.entries()) == 3  # no partial file is left


def test_the_model_loads_without_a_writable_cache(conversion):
    conversion.cache.write_text("a file where the folder should be")
    lookahead.load_embedded("float32")
    lookahead.load_embedded("float32")
    assert conversion.count == 2


def test_a_broken_cache_is_converted_again(conversion, caplog):
    lookahead.load_embedded("float32")
    (entry,) = conversion.entries()
    (entry / "model.safetensors").write_bytes(b"cut off")
    model, _ = lookahead.load_embedded("float32")
    assert conversion.count == 2
    assert "cannot be read" in caplog.text
    assert torch.equal(model.lm_head.weight, conversion.model.lm_head.weight)
    lookahead.load_embedded("float32")
    assert conversion.count == 2


@pytest.mark.parametrize(
    "error", [MemoryError("no memory left"), ImportError("no such package"), KeyboardInterrupt()]
)
@pytest.mark.parametrize("loader", [AutoModelForCausalLM, AutoTokenizer])
def test_an_error_that_is_not_the_copys_is_the_callers_and_the_copy_stays(
    conversion, monkeypatch, loader, error
):
    lookahead.load_embedded("float32")

    def failing(*_args, **_kwargs):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(loader, "from_pretrained", failing)
        with pytest.raises(type(error)):
            lookahead.load_embedded("float32")
    lookahead.load_embedded("float32")
    assert conversion.count == 1


@pytest.mark.parametrize(
    "error",
    [OSError(24, "Too many open files"), PermissionError(13, "Permission denied"), RuntimeError("device")],
)
def test_a_whole_copy_that_cannot_be_read_now_stays(conversion, monkeypatch, caplog, error):
    lookahead.load_embedded("float32")

    def failing(*_args, **_kwargs):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(AutoModelForCausalLM, "from_pretrained", failing)
        model, _ = lookahead.load_embedded("float32")
    assert torch.equal(model.lm_head.weight, conversion.model.lm_head.weight)
    assert conversion.count == 2
    assert str(error) in caplog.text
    lookahead.load_embedded("float32")
    assert conversion.count == 2


def cut(path):
    path.write_bytes(path.read_bytes()[:50])


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", copies._DIGESTS])
@pytest.mark.parametrize("damage", [cut, os.unlink])
def test_a_damaged_copy_is_made_again(conversion, name, damage):
    lookahead.load_embedded("float32")
    (entry,) = conversion.entries()
    damage(entry / name)
    if name == copies._DIGESTS:  # it is read only after an error
        cut(entry / "model.safetensors")
    lookahead.load_embedded("float32")
    assert conversion.count == 2
    lookahead.load_embedded("float32")
    assert conversion.count == 2
    assert conversion.entries() == [entry]


@pytest.mark.skipif(os.name != "posix", reason="there are no locks")
def test_a_damaged_copy_stays_while_another_process_reads_it(conversion):
    lookahead.load_embedded("float32")
    (entry,) = conversion.entries()
    cut(entry / "config.json")
    reading = os.open(entry, os.O_RDONLY)
    try:
        assert try_lock(reading, shared=True)
        lookahead.load_embedded("float32")
        assert (entry / "model.safetensors").exists()
    finally:
        os.close(reading)
    assert conversion.count == 2
    lookahead.load_embedded("float32")
    lookahead.load_embedded("float32")
    assert conversion.count == 3


def test_a_full_disk_keeps_no_copy_and_fails_nothing(conversion, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(type(tiny_models.tiny_tokenizer()), "save_pretrained", full)
        lookahead.load_embedded("float32")
    assert conversion.entries() == []
    lookahead.load_embedded("float32")
    assert len(conversion.entries()) == 1


def test_a_file_in_the_copys_place_fails_nothing(conversion):
    lookahead.load_embedded("float32")
    (entry,) = conversion.entries()
    entry.rename(entry.with_name("away"))
    entry.write_text("a file")
    lookahead.load_embedded("float32")
    assert conversion.count == 2
