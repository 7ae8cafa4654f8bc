"""Unusual and wrong arguments: the text and type of `generate`, its error, or one that says what to do."""

import pytest
import torch
from transformers import LlamaModel

from helpers.recorder import Recorder
from helpers.tiny_models import prompt, tiny_model
from lookahead import Lookahead, LookaheadConfig
from lookahead.errors import ConfigError, LookaheadError, UnsupportedGenerationError, UnsupportedModelError
from lookahead.hf.lookahead import NamespaceView

PROMPT = prompt(0)
BATCH = torch.cat([prompt(0), prompt(1)])
GREEDY = {"max_new_tokens": 24, "do_sample": False}
MASK = torch.ones(2, 12, dtype=torch.int64)
MASK[1, :3] = 0
HOLES = MASK.clone()
HOLES[0, [2, 5, 6]] = 0
CAUSAL = torch.ones(2, 1, 12, 12).tril()
SEEN, UNSEEN = MASK != 0, MASK == 0

CALLS = {
    "int32": {"inputs": PROMPT.int()},
    "int32 batch": {
        "inputs": BATCH.int(),
        "attention_mask": MASK,
        "eos_token_id": [5, 7, 9],
        "pad_token_id": 0,
    },
    "int32 processors": {"inputs": PROMPT.int(), "repetition_penalty": 1.3},
    "int32 output": {"inputs": PROMPT.int(), "return_dict_in_generate": True},
    "int16": {"inputs": PROMPT.short()},
    "uint8": {"inputs": PROMPT.to(torch.uint8)},
    "float": {"inputs": PROMPT.float()},
    "bool": {"inputs": PROMPT.bool()},
    "no prompt": {},
    "empty prompt": {"inputs": torch.zeros(1, 0, dtype=torch.int64)},
    "empty batch": {"inputs": torch.zeros(0, 5, dtype=torch.int64)},
    "empty prompts": {"inputs": torch.zeros(2, 0, dtype=torch.int64)},
    "empty embeddings": {"inputs_embeds": torch.zeros(1, 0, 32)},
    "scalar": {"inputs": torch.tensor(3)},
    "one axis": {"inputs": PROMPT[0]},
    "three axes": {"inputs": PROMPT[None]},
    "list": {"inputs": PROMPT.tolist()},
    "empty list": {"inputs": []},
    "dict": {"inputs": {"input_ids": PROMPT}},
    "array": {"input_ids": PROMPT.numpy()},
    "beyond the vocabulary": {"inputs": PROMPT + 1000},
    "below the vocabulary": {"inputs": PROMPT - 1000},
    "beams and streamer": {"inputs": PROMPT, "num_beams": 2, "streamer": Recorder()},
    "no streamer": {"inputs": PROMPT, "streamer": 5},
    "synced": {"inputs": PROMPT, "synced_gpus": True},
    "no settings": {"inputs": PROMPT, "generation_config": "greedy"},
    "mask of twos": {"attention_mask": 2 * MASK},
    "mask of ones and twos": {"attention_mask": MASK + (torch.arange(12) == 5)},
    "mask of minus ones": {"attention_mask": -MASK},
    "mask of float": {"attention_mask": MASK.float()},
    "mask of halves": {"attention_mask": 0.5 * MASK},
    "mask of float16": {"attention_mask": MASK.half()},
    "mask of bool": {"attention_mask": SEEN},
    "mask of int8": {"attention_mask": MASK.to(torch.int8)},
    "additive mask": {"attention_mask": torch.zeros(2, 12).masked_fill(UNSEEN, float("-inf"))},
    "mask of nan": {"attention_mask": torch.ones(2, 12).masked_fill(UNSEEN, float("nan"))},
    "mask with holes": {"attention_mask": HOLES},
    "mask of zeros": {"attention_mask": 0 * MASK},
    "mask of a row of zeros": {"attention_mask": torch.tensor([[1] * 12, [0] * 12])},
    "mask of one row": {"attention_mask": MASK[1:]},
    "mask of three rows": {"attention_mask": torch.cat([MASK, MASK[1:]])},
    "short mask": {"attention_mask": MASK[:, 2:]},
    "long mask": {"attention_mask": torch.cat([MASK, MASK[:, :3]], dim=1)},
    "mask of no columns": {"attention_mask": MASK[:, :0]},
    "long mask of ones": {"attention_mask": torch.ones(2, 15, dtype=torch.int64)},
    "mask of ones for three rows": {"attention_mask": torch.ones(3, 12, dtype=torch.int64)},
    "mask of one axis": {"attention_mask": MASK[1]},
    "mask of three axes": {"attention_mask": CAUSAL[:, 0].long()},
    "additive mask of four axes": {"attention_mask": torch.where(CAUSAL == 1, 0.0, float("-inf"))},
    "bool mask of four axes": {"attention_mask": CAUSAL.bool()},
    "mask of lists": {"attention_mask": MASK.tolist()},
}
REFUSED = ("long mask",)
"""Calls for which `generate` returns a text and Lookahead cannot."""


def outcome(generate, call):
    """The text and its type, or the type of the error."""
    given = {**({"inputs": BATCH} if "attention_mask" in call else {}), **call, **GREEDY}
    torch.manual_seed(0)
    try:
        answer = generate(**given)
    except Exception as error:  # noqa: BLE001  # whatever `generate` raises
        return error
    answer = answer if isinstance(answer, torch.Tensor) else answer.sequences
    return answer.dtype, answer.tolist()


@pytest.fixture(scope="module", params=["llama", "fused-llama", "bloom"])
def model(request):
    return tiny_model(request.param)


@pytest.mark.filterwarnings("ignore:Lookahead steps aside")
@pytest.mark.parametrize("name", CALLS)
def test_what_generate_returns_or_an_error_that_says_what_to_do(model, name):
    lookahead = Lookahead(LookaheadConfig(decoding_length=16))
    expected = outcome(model.generate, CALLS[name])
    explicit = [outcome(lambda **call: lookahead.generate(model, **call), CALLS[name]) for _ in range(2)]
    with lookahead.attach(model):
        attached = outcome(model.generate, CALLS[name])
    if isinstance(expected, Exception):
        assert type(attached) is type(expected)
        assert all(isinstance(found, (LookaheadError, type(expected))) for found in explicit)
    elif name in REFUSED:
        assert all(isinstance(found, UnsupportedGenerationError) for found in explicit)
        assert attached == expected
    else:
        assert [*explicit, attached] == [expected] * 3
    assert lookahead.memory.store._requests == {}


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("empty prompt", r"shape \[1, 0\]; give a tensor \[prompts, tokens\] of at least one"),
        ("empty batch", r"shape \[0, 5\]; give"),
        ("one axis", r"inputs is a tensor of shape \[12\]; give a tensor \[prompts, tokens\]"),
        ("three axes", r"shape \[1, 1, 12\]; give"),
        ("list", r"inputs is a list; give a tensor"),
        ("dict", r"inputs is a dict; give .* generate\(\*\*inputs\)"),
        ("array", r"input_ids is a ndarray; give a tensor"),
        ("synced", r"synced_gpus=True"),
    ],
)
def test_prompts_that_are_refused_by_name(model, call, said):
    with pytest.raises(UnsupportedGenerationError, match=said):
        Lookahead().generate(model, **CALLS[call], **GREEDY)


BAD_OPTIONS = [
    *(
        {"namespace": name}
        for name in (5, 2.5, b"tenant", None, (), [], "", "a\0", (("a",),), ("a", 5), iter(["a"]))
    ),
    *({"reads": reads} for reads in (5, "abc", b"abc", None, ("",), (5,), (("a",),), iter(["a"]))),
    {"on_stats": 5},
    {"on_progress": 5},
]


@pytest.mark.parametrize("options", BAD_OPTIONS, ids=lambda options: repr(options).split(" object")[0])
def test_namespaces_and_callbacks_that_are_no_such_thing(model, options):
    lookahead = Lookahead()
    names = {"namespace": "tenant", **options}
    calls = [
        lambda: lookahead.generate(model, PROMPT, **options, **GREEDY),
        lambda: model.generate(PROMPT, custom_generate=lookahead, **options, **GREEDY),
        lambda: lookahead.attach(model, **options),
    ]
    if options.keys().isdisjoint({"on_stats", "on_progress"}):
        calls += [
            lambda: lookahead.for_namespace(**names),
            lambda: NamespaceView(lookahead, **names).generate(model, PROMPT, **GREEDY),
            lambda: NamespaceView(lookahead, **names).attach(model),
        ]
    for call in calls:
        with pytest.raises(ConfigError, match=r"is not allowed[;:] give|is one name; give"):
            call()
    assert "generate" not in vars(model)
    assert lookahead.memory.namespaces == {}


def test_other_collections_of_names_are_taken(model):
    lookahead = Lookahead()
    for reads in (["a"], ("a",), {"a"}, {"a": 1}.keys()):
        lookahead.generate(model, PROMPT, namespace=["tenant"], reads=reads, **GREEDY)
    assert lookahead.memory.namespaces == {"tenant": 96}


@pytest.mark.parametrize("model", ["gpt2", 5, None, torch.nn.Linear(2, 2)], ids=repr)
def test_what_is_no_model_is_refused(model):
    for call in (lambda: Lookahead().generate(model, PROMPT), lambda: Lookahead().attach(model)):
        with pytest.raises(UnsupportedModelError, match="is not a model of transformers; give"):
            call()


def test_a_model_without_a_language_head_is_refused():
    headless = LlamaModel(tiny_model("llama").config)
    for call in (lambda: Lookahead().generate(headless, PROMPT), lambda: Lookahead().attach(headless)):
        with pytest.raises(UnsupportedModelError, match="LlamaModel has no generate; give"):
            call()


def test_a_memory_that_was_replaced_by_something_else(model):
    lookahead = Lookahead()
    lookahead.memory = {}
    with pytest.raises(ConfigError, match="is not a DraftMemory; give"):
        lookahead.generate(model, PROMPT, **GREEDY)


@pytest.mark.parametrize("family", ["llama", "fused-llama", "bloom"])
def test_a_default_device_other_than_the_models(family):
    model, lookahead = tiny_model(family), Lookahead(LookaheadConfig(decoding_length=16))
    settings = [GREEDY, {"max_new_tokens": 24, "do_sample": True, "top_p": 0.9}]
    torch.set_default_device("meta")
    try:
        for given in ({"inputs": PROMPT}, {"inputs": BATCH, "attention_mask": MASK}):
            for setting in settings:
                expected, *found = [
                    outcome(generate, {**given, **setting})
                    for generate in (model.generate, *[lambda **call: lookahead.generate(model, **call)] * 2)
                ]
                if not isinstance(expected, Exception):  # Gemma's own code makes tensors there
                    assert found == [expected] * 2
    finally:
        torch.set_default_device(None)
    assert lookahead.stats.mean_acceptance_length > 1.5
