"""Random calls of `generate`, each drawn from a seed: which model, prompts, settings and memory."""

from dataclasses import dataclass
from random import Random
from typing import Any

from helpers.tiny_models import COMPILED
from lookahead import DraftMode
from research.families.families import FAMILIES, VOCABULARY, is_installed

_OFTEN = {
    **dict.fromkeys(("llama", "gemma3", "llama4_text", "bloom", "gpt2", "opt", "mistral", "qwen2_moe"), 6),
    **dict.fromkeys(("mpt", "falcon-alibi", "gpt_neo", "gpt_oss", "deepseek_v3", "llama-dynamic-rope"), 3),
    **dict.fromkeys(("phi3-longrope", "llama-longrope", "jamba", "qwen3_next", "gptj", "falcon"), 2),
    **dict.fromkeys(COMPILED, 3),
}
"""How often those are drawn that differ most, besides the once of each other family."""


@dataclass(frozen=True)
class Case:
    """A call, in plain values: its `repr` says all of it.

    Attributes:
        seed: what it was drawn from; also torch's seed for the call.
        family: of the tiny models, those whose steps are fused among them.
        dtype: "float32" or "float64".
        attention: "eager", or "own" for what the model has anyway.
        prompts: a row of tokens each.
        longest: the length that all rows are padded to on the left.
        mask: "int", "bool" or "none" for the attention mask's type.
        holes: columns that the mask leaves out in all rows, besides the padding.
        first_position: of positions that the caller gives; None where `generate` counts them itself.
        inputs: "tokens" or "embeddings".
        config: for `LookaheadConfig`.
        memory: what drafts are made of: "empty", "warm", "junk", "prompts", "trie" or "warm trie".
        namespaces: for `namespace=` and `reads=`.
        generation: for `generate`.
        set_by: "arguments", "config" or "model" for where the settings are.
        callbacks: of the caller's own: "processor", "criterion", "streamer", "prefix".
        stop_strings: ends of answers in characters.
        way: "custom_generate", "generate" or "attach".
    """

    seed: int
    family: str
    dtype: str
    attention: str
    prompts: tuple[tuple[int, ...], ...]
    longest: int
    mask: str
    holes: tuple[int, ...]
    first_position: int | None
    inputs: str
    config: dict[str, Any]
    memory: str
    namespaces: dict[str, Any]
    generation: dict[str, Any]
    set_by: str
    callbacks: tuple[str, ...]
    stop_strings: tuple[str, ...]
    way: str


def drawn_case(seed: int) -> Case:
    """Draw a call. The same seed gives the same call, where the same families are installed."""
    random = Random(seed)
    family = _family(random)
    prompts = _prompts(random)
    longest = max(map(len, prompts)) + random.choice([0, 0, 0, 1, 4])
    is_padded = any(len(prompt) < longest for prompt in prompts)
    mask = random.choice(["int", "int", "bool"] if is_padded else ["int", "none"])
    dtype = random.choice(["float32", "float64"])
    # In float64 the library's own eager attention fails behind padding.
    may_be_eager = dtype == "float32" or mask == "none"
    memory = random.choice(["empty", "warm", "warm", "junk", "prompts", "trie", "warm trie"])
    generation = _generation(random, longest, family)
    callbacks = tuple(
        name for name in ("processor", "criterion", "streamer", "prefix") if random.random() < 0.08
    )
    stop_strings = _stop_strings(random)
    needs_ours = stop_strings or "streamer" in callbacks  # the library does not hand them to a callable
    return Case(
        seed=seed,
        family=family,
        dtype=dtype,
        attention="eager" if may_be_eager and random.random() < 0.2 else "own",
        prompts=prompts,
        longest=longest,
        mask=mask,
        holes=_holes(random, longest) if mask == "int" and is_padded else (),
        first_position=random.choice([0, 3]) if random.random() < 0.06 else None,
        inputs="embeddings" if random.random() < 0.04 else "tokens",
        config=_config(random, len(prompts)),
        memory=memory,
        namespaces=_namespaces(random, len(prompts)) if "trie" not in memory else {},
        generation=generation,
        set_by=random.choice(["arguments", "arguments", "config", "model"]),
        callbacks=callbacks,
        stop_strings=stop_strings,
        way=random.choice(
            ["generate", "attach"] if needs_ours else ["custom_generate", "generate", "attach"]
        ),
    )


def _family(random: Random) -> str:
    names = [*sorted(FAMILIES), *COMPILED]
    name = random.choices(names, [1 + 2 * _OFTEN.get(name, 0) for name in names])[0]
    return name if name in COMPILED or is_installed(name) else "llama"


def _tokens(random: Random, most: int) -> list[int]:
    return random.sample(range(1, VOCABULARY), random.randint(1, most))


def _prompts(random: Random) -> tuple[tuple[int, ...], ...]:
    """Draw prompts that repeat themselves, so that there is something to draft; some rows share one."""
    prompts: list[tuple[int, ...]] = []
    for _ in range(random.choice([1, 1, 1, 2, 2, 3, 4, 5])):
        if prompts and random.random() < 0.2:
            prompts.append(prompts[0])
            continue
        piece = [random.randrange(1, VOCABULARY) for _ in range(random.randint(1, 12))]
        prompts.append(tuple((piece * 3)[: random.randint(1, 20)]))
    return tuple(prompts)


def _holes(random: Random, longest: int) -> tuple[int, ...]:
    if longest < 6 or random.random() > 0.1:
        return ()
    return tuple(sorted(random.sample(range(1, longest - 1), 2)))


def _config(random: Random, rows: int) -> dict[str, Any]:
    config: dict[str, Any] = {
        "decoding_length": random.choice(["auto", 1, 2, 5 * rows, 8 * rows, 16 * rows, 16 * rows, 64]),
        "draft_mode": random.choice(list(DraftMode)).value,
        "branch_length": random.choice([1, 3, 12, 64, 64]),
        "recycle_prompt_tokens": random.choice([1, 1, 1, 4, 100]),
    }
    if random.random() < 0.2:
        config["max_bytes"] = 2**16
    return config


def _namespaces(random: Random, rows: int) -> dict[str, Any]:
    kind = random.choice(["default", "default", "one", "each", "reads"])
    if kind == "default":
        return {}
    if kind == "one":
        return {"namespace": "a"}
    if kind == "each":
        return {"namespace": [random.choice("ab") for _ in range(rows)]}
    return {"namespace": "a", "reads": ("b", "default")}


def _stop_strings(random: Random) -> tuple[str, ...]:
    if random.random() > 0.08:
        return ()
    letters = "abcdefghijklmnopqrstuvwxyz"
    return tuple("".join(random.choices(letters, k=random.choice([1, 1, 2]))) for _ in range(2))


def _generation(random: Random, longest: int, family: str) -> dict[str, Any]:
    """Draw the settings of `generate`, now and then one that it refuses."""
    new_tokens = random.choice([random.randint(1, 40), random.randint(15, 40)])
    ends = random.choice([0, 0, 1, 3, 6])
    generation: dict[str, Any] = {
        "pad_token_id": random.choice([0, 0, 63]),
        "do_sample": random.random() < 0.6,
    }
    if random.random() < 0.8:
        generation["max_new_tokens"] = new_tokens
    else:
        generation["max_length"] = longest + new_tokens
    if ends:
        tokens = random.sample(range(1, VOCABULARY), ends)
        generation["eos_token_id"] = tokens if ends > 1 else tokens[0]
    if ends and random.random() < 0.3:
        generation["pad_token_id"] = tokens[0]
    if generation["do_sample"]:
        generation |= _chosen(random, 0.25, _warpers(random))
    generation |= _chosen(random, 0.07, _processors(random, new_tokens))
    if ends:
        generation |= _chosen(random, 0.15, _about_ends(random, new_tokens))
    generation |= _chosen(random, 0.1, _about_the_way(random, family))
    if random.random() < 0.03:
        generation |= _refused(random)
    return generation


def _chosen(random: Random, share: float, settings: dict[str, Any]) -> dict[str, Any]:
    chosen = {name: value for name, value in settings.items() if random.random() < share}
    if "output_scores" in chosen or "output_logits" in chosen:
        chosen["return_dict_in_generate"] = True
    return chosen


def _warpers(random: Random) -> dict[str, Any]:
    return {
        "temperature": round(random.uniform(0.3, 1.8), 2),
        "top_k": random.choice([0, 1, 2, 5, 20, 100]),
        "top_p": round(random.uniform(0.2, 1.0), 2),
        "min_p": round(random.uniform(0.0, 0.3), 3),
        "typical_p": round(random.uniform(0.3, 0.99), 2),
        "epsilon_cutoff": round(random.uniform(1e-4, 0.03), 4),
        "eta_cutoff": round(random.uniform(1e-4, 0.03), 4),
        "num_return_sequences": random.choice([2, 3]),
    }


def _processors(random: Random, new_tokens: int) -> dict[str, Any]:
    return {
        "repetition_penalty": round(random.uniform(0.8, 1.6), 2),
        "no_repeat_ngram_size": random.randint(1, 4),
        "bad_words_ids": [_tokens(random, 3) for _ in range(3)],
        "sequence_bias": [[_tokens(random, 2), round(random.uniform(-8, 8), 1)] for _ in range(3)],
        "suppress_tokens": _tokens(random, 10),
        "begin_suppress_tokens": _tokens(random, 30),
        "forced_bos_token_id": random.randrange(VOCABULARY),
        "renormalize_logits": True,
        "remove_invalid_values": True,
        "encoder_repetition_penalty": round(random.uniform(0.8, 1.6), 2),
        "encoder_no_repeat_ngram_size": random.randint(1, 3),
        "watermark": random.choice(["greenlist", "synthid"]),
        "guidance_scale": round(random.uniform(0.5, 2.5), 1),
        "min_length": random.randint(1, 10 + new_tokens),
    }


def _about_ends(random: Random, new_tokens: int) -> dict[str, Any]:
    return {
        "min_new_tokens": random.randint(1, new_tokens),
        "forced_eos_token_id": random.randrange(VOCABULARY),
        "exponential_decay_length_penalty": (random.randint(1, 15), round(random.uniform(1.01, 1.5), 2)),
    }


def _about_the_way(random: Random, family: str) -> dict[str, Any]:
    ways: dict[str, Any] = {
        "return_dict_in_generate": True,
        "output_scores": True,
        "output_logits": True,
        "max_time": 1e6,
        "cache_implementation": "dynamic",
    }
    if "longrope" not in family:  # refused there on purpose
        ways["prefill_chunk_size"] = random.choice([1, 3, 5, 100])
    return ways


def _refused(random: Random) -> dict[str, Any]:
    """Draw settings that `generate` commonly raises for."""
    return random.choice(
        [
            {"do_sample": True, "temperature": 0.0},
            {"do_sample": True, "top_p": 1.5},
            {"do_sample": True, "typical_p": -0.5},
            {"do_sample": True, "suppress_tokens": list(range(VOCABULARY))},
            {"do_sample": False, "num_return_sequences": 2},
            {"max_length": 1, "max_new_tokens": None},
            {"max_new_tokens": 0},
            {"bad_words_ids": []},
            {"repetition_penalty": -1.0},
            {"num_return_sequences": 0},
        ]
    )
