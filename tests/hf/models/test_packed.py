"""GGUF files with packed weights: the same model, bit for bit, as with the weights dequantized."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

pytest.importorskip("gguf")

from helpers.fused_steps import fused_steps
from helpers.samples import IS_WHOLE
from helpers.tiny_gguf import TOKENS, WIDTH, write_tiny_gguf
from lookahead import Lookahead, LookaheadConfig
from lookahead.backends.cpu.kernels.gguf.formats import Packing
from lookahead.errors import ConfigError, UnsupportedModelError
from lookahead.hf.machine.dtypes import resolve_dtype
from lookahead.hf.models import loading
from lookahead.hf.models import packed as packed_loading
from lookahead.hf.models.gguf import load_gguf, load_gguf_tokenizer
from lookahead.hf.models.loading import load_model, load_packed_if_possible
from lookahead.hf.models.packed_modules import PackedEmbedding, PackedLinear
from lookahead.hf.steps import compiled_cpu

__all__ = ["fused_steps"]

FILES = [
    ("llama", Packing.Q4_1, {"token_embd": Packing.Q8_0}, True),
    ("llama", Packing.Q4_0, {"blk.1.attn_q": Packing.Q5_1, "output": Packing.Q6_K}, False),
    ("qwen2", Packing.Q5_0, {"blk.0.ffn_down": Packing.Q4_K, "blk.1.ffn_down": Packing.Q6_K}, False),
    ("qwen3", Packing.Q5_K, {}, True),
]
DTYPES = ["bfloat16", "float32"]
PROMPT = "the thin thing there"


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(params=FILES, ids=lambda given: f"{given[0]}-{given[1].name}")
def path(request, tmp_path):
    architecture, packing, others, is_tied = request.param
    file = tmp_path / "tiny.gguf"
    write_tiny_gguf(file, architecture, packing, others, is_tied=is_tied)
    return str(file)


@pytest.fixture
def llama(tmp_path):
    file = tmp_path / "llama.gguf"
    write_tiny_gguf(file, "llama", Packing.Q4_1)
    return str(file)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_packed_model_is_the_dequantized_one(path, dtype):
    packed, tokenizer = packed_loading.load_packed(Path(path), resolve_dtype(dtype))
    plain, plain_tokenizer = load_gguf(Path(path), resolve_dtype(dtype))
    assert not compiled_cpu.unsupported_reason(packed)
    assert not packed.training
    assert packed.config.to_dict() == plain.config.to_dict()
    assert packed.generation_config.to_dict() == plain.generation_config.to_dict()
    for name, parameter in plain.named_parameters():
        module, _, kind = name.rpartition(".")
        assert torch.equal(getattr(packed.get_submodule(module), kind), parameter), name
    inputs = tokenizer(PROMPT, return_tensors="pt")
    assert torch.equal(inputs["input_ids"], plain_tokenizer(PROMPT, return_tensors="pt")["input_ids"])
    with torch.no_grad():
        logits, expected = (model(**inputs).logits.float() for model in (packed, plain))
    # torch's products may depend on where a matrix lies in memory; the compiled decoder's do not
    tolerance = (1e-5 if dtype == "float32" else 0.02) * float(expected.std())
    assert torch.allclose(logits, expected, rtol=0, atol=tolerance)
    assert expected.std() > 0


@pytest.mark.parametrize("dtype", [*DTYPES, "float16"])
def test_an_unpacked_model_is_the_one_that_transformers_makes(path, dtype, monkeypatch):
    expected, its_tokenizer = load_gguf(Path(path), resolve_dtype(dtype))
    monkeypatch.setattr(packed_loading, "load_gguf", None)  # read here, not converted
    model, tokenizer = packed_loading.load_unpacked(Path(path), resolve_dtype(dtype))
    assert not model.training
    assert model.config.to_dict() == expected.config.to_dict()
    assert model.generation_config.to_dict() == expected.generation_config.to_dict()
    mine, its = model.state_dict(), expected.state_dict()
    assert list(mine) == list(its)
    for name, numbers in its.items():
        assert mine[name].dtype == numbers.dtype, name
        assert torch.equal(mine[name], numbers), name
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == model.config.tie_word_embeddings
    assert type(tokenizer) is type(its_tokenizer)
    assert tokenizer.backend_tokenizer.to_str() == its_tokenizer.backend_tokenizer.to_str()
    assert tokenizer.special_tokens_map == its_tokenizer.special_tokens_map


def test_the_tokenizer_is_the_one_that_transformers_reads_in_the_whole_file(path):
    source = {"gguf_file": Path(path).name, "local_files_only": True}
    expected = AutoTokenizer.from_pretrained(str(Path(path).parent), **source)
    tokenizer = load_gguf_tokenizer(Path(path))
    assert type(tokenizer) is type(expected)
    assert tokenizer.backend_tokenizer.to_str() == expected.backend_tokenizer.to_str()
    assert tokenizer.init_kwargs == expected.init_kwargs


def test_a_file_that_only_transformers_reads_is_converted_by_it(llama, monkeypatch):
    monkeypatch.setattr(packed_loading, "READ_BY_US", ())
    model, _ = load_model(llama, "float32", "cpu")
    expected, _ = load_gguf(Path(llama), torch.float32)
    assert torch.equal(model.lm_head.weight, expected.lm_head.weight)


@pytest.mark.parametrize("length", [1, 8, 40])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_compiled_decoder_gives_the_same_text(path, dtype, length, fused_steps):
    texts = []
    for is_packed in (True, False):
        model, tokenizer = load_model(path, dtype, "cpu", packed=is_packed)
        assert isinstance(model.model.embed_tokens, PackedEmbedding) == is_packed
        inputs = tokenizer(PROMPT, return_tensors="pt")
        la = Lookahead(LookaheadConfig(decoding_length=length, branch_length=12))
        answer = la.generate(
            model, **inputs, max_new_tokens=24, return_dict_in_generate=True, output_logits=True
        )
        assert fused_steps.taken()
        texts.append((answer.sequences, torch.cat(list(answer.logits))))
    assert torch.equal(texts[0][0], texts[1][0])
    assert torch.equal(texts[0][1], texts[1][1])


def test_the_tokenizer_is_converted_once_per_file(llama, monkeypatch):
    load_model(llama, "float32", "cpu", packed=True)
    monkeypatch.setattr(packed_loading, "load_gguf_tokenizer", None)
    _, tokenizer = load_model(llama, "bfloat16", "cpu", packed=True)
    assert tokenizer.decode(tokenizer("thing")["input_ids"]) == "thing"


def test_every_load_gives_the_same_tokenizer(path):
    """Some tokenizers of transformers, Qwen2's for one, do not read what they have written as it was."""
    first, second = (load_model(path, "bfloat16", "cpu", packed=True)[1] for _ in range(2))
    assert type(first) is type(second)
    assert first.backend_tokenizer.to_str() == second.backend_tokenizer.to_str()
    assert first.backend_tokenizer.to_str() == load_gguf_tokenizer(Path(path)).backend_tokenizer.to_str()


def test_weights_are_mapped_and_shared_by_tied_modules(llama):
    model, _ = load_model(llama, "bfloat16", "cpu", packed=True)
    assert isinstance(model.lm_head, PackedLinear)
    assert model.lm_head.blocks.data_ptr() == model.model.embed_tokens.blocks.data_ptr()
    assert sum(parameter.numel() for parameter in model.parameters()) == 5 * WIDTH


def test_weights_that_are_replaced_are_used(llama):
    model, tokenizer = load_model(llama, "bfloat16", "cpu", packed=True)
    inputs = tokenizer(PROMPT, return_tensors="pt")
    la = Lookahead(LookaheadConfig(decoding_length=8))
    before = la.generate(model, **inputs, max_new_tokens=16)
    model.lm_head.blocks = model.lm_head.blocks.flip(0)
    replaced = la.generate(model, **inputs, max_new_tokens=16)
    expected = model.generate(**inputs, max_new_tokens=16, do_sample=False)
    assert torch.equal(replaced, expected)
    assert not torch.equal(replaced, before)
    model.model.layers[0].mlp.gate_proj.blocks.zero_()  # in place, seen at once; the file stays as it is
    assert torch.equal(
        la.generate(model, **inputs, max_new_tokens=16),
        model.generate(**inputs, max_new_tokens=16, do_sample=False),
    )
    assert torch.equal(
        la.generate(load_model(llama, "bfloat16", "cpu", packed=True)[0], **inputs, max_new_tokens=16), before
    )


def test_saving_packed_weights_is_refused(llama, tmp_path):
    model, _ = load_model(llama, "bfloat16", "cpu", packed=True)
    with pytest.raises(UnsupportedModelError, match="copy that file"):
        model.save_pretrained(tmp_path / "saved")


def test_another_dtype_needs_another_load(llama):
    model, tokenizer = load_model(llama, "bfloat16", "cpu", packed=True)
    inputs = tokenizer(PROMPT, return_tensors="pt")
    with pytest.raises(UnsupportedModelError, match=r"dtype=torch\.float32"):
        model.to(torch.float32)(**inputs)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_dtypes_are_refused(llama, dtype):
    with pytest.raises(UnsupportedModelError, match=f"{dtype}; choose bfloat16 or float32"):
        load_model(llama, dtype, "cpu", packed=True)


def test_what_is_no_gguf_file_is_refused(folder):
    with pytest.raises(ConfigError, match="packed=True is not allowed for"):
        load_model(folder, "float32", "cpu", packed=True)


def test_other_devices_are_refused(llama, monkeypatch):
    monkeypatch.setattr(loading, "resolve_device", torch.device)
    with pytest.raises(ConfigError, match="packed=True is not allowed on cuda"):
        load_model(llama, "float32", "cuda", packed=True)


def test_other_formats_and_families_are_refused_by_name(tmp_path):
    file = tmp_path / "other.gguf"
    write_tiny_gguf(file, "llama", Packing.Q4_1)
    content = file.read_bytes()
    file.write_bytes(content.replace(b"llama", b"bloom"))
    with pytest.raises(UnsupportedModelError, match=r"architecture 'bloom'.*llama, qwen2, qwen3 can"):
        load_model(str(file), "float32", "cpu", packed=True)
    at = content.index(b"blk.0.attn_q.weight") + len(b"blk.0.attn_q.weight") + 4 + 16
    assert content[at] == Packing.Q4_1
    file.write_bytes(content[:at] + bytes([11]) + content[at + 1 :])
    with pytest.raises(UnsupportedModelError, match=r"blk\.0\.attn_q\.weight is in format Q3_K"):
        load_model(str(file), "float32", "cpu", packed=True)


def test_tensors_that_no_supported_family_has_are_refused(tmp_path):
    file = tmp_path / "more.gguf"
    write_tiny_gguf(file, "llama", Packing.Q4_1, extra={"blk.0.new.weight": np.zeros(4, np.float32)})
    with pytest.raises(UnsupportedModelError, match=r"blk\.0\.new\.weight, which no supported family has"):
        load_model(str(file), "float32", "cpu", packed=True)
    write_tiny_gguf(file, "llama", Packing.Q4_1, extra={"rope_freqs.weight": np.zeros(4, np.float32)})
    load_model(str(file), "float32", "cpu", packed=True)


@pytest.mark.parametrize("kept", [0, 3, 20, 400, -1])
def test_a_file_that_is_cut_off_is_refused(llama, tmp_path, kept):
    file = tmp_path / "cut.gguf"
    file.write_bytes(Path(llama).read_bytes()[:kept])
    with pytest.raises(UnsupportedModelError, match=r"cut\.gguf"):
        load_model(str(file), "float32", "cpu", packed=True)


def test_packed_if_possible(llama, folder, caplog):
    assert isinstance(load_packed_if_possible(llama, "float32", "cpu")[0].lm_head, PackedLinear)
    assert isinstance(load_packed_if_possible(folder, "float32", "cpu")[0].lm_head, torch.nn.Linear)
    assert not caplog.records
    assert isinstance(load_packed_if_possible(llama, "float16", "cpu")[0].lm_head, torch.nn.Linear)
    assert "choose bfloat16 or float32" in caplog.text
    assert len(TOKENS) == 98


@pytest.mark.matrix
@pytest.mark.model
@pytest.mark.skipif(not IS_WHOLE, reason="its tokenizer takes half a minute to convert: make verify")
def test_the_embedded_model_packed(embedded_bfloat16):
    plain, tokenizer = embedded_bfloat16
    model, _ = load_model("embedded", "bfloat16", "cpu", packed=True)
    prompt = tokenizer("Explain how rain forms, in two sentences.", return_tensors="pt")
    la = Lookahead(LookaheadConfig(decoding_length=8))
    found = [la.generate(one, **prompt, max_new_tokens=48) for one in (model, plain)]
    assert torch.equal(*found)
