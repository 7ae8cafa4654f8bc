"""Models whose numbers overflow, and a program that compares Lookahead's text and errors with generate's."""

import sys

import torch

from helpers.tiny_models import prompt, tiny_model
from lookahead import Lookahead, LookaheadConfig

NAN_TOKEN = 7
MAX_NEW_TOKENS = 16


def scaled(factor, part=""):
    def change(model):
        for name, parameter in model.named_parameters():
            if part in name:
                parameter.mul_(factor)

    return change


def with_a_weight(value):
    def change(model):
        model.model.layers[1].mlp.up_proj.weight[3, 4] = value

    return change


def with_an_embedding(value):
    def change(model):
        model.get_input_embeddings().weight[NAN_TOKEN] = value

    return change


CHANGES = {
    "all weights times 1e20": scaled(1e20),
    "all weights times 1e10": scaled(1e10),
    "keys times 1e20": scaled(1e20, "k_proj"),
    "values times 1e38": scaled(1e38, "v_proj"),
    "gates times 1e20": scaled(1e20, "gate_proj"),
    "a weight is NaN": with_a_weight(torch.nan),
    "a weight is infinite": with_a_weight(torch.inf),
    "a token is NaN": with_an_embedding(torch.nan),
    "a token is infinite": with_an_embedding(torch.inf),
    "a token overflows": with_an_embedding(3e38),
}


def changed_model(family, change, dtype=torch.float32):
    model = tiny_model(family, dtype)
    with torch.no_grad():
        CHANGES[change](model)
    return model


def prompts():
    """Return a prompt with the NaN token and one without it, [2, 12]."""
    both = torch.cat([prompt(0), prompt(1)])
    both[both == NAN_TOKEN] = NAN_TOKEN + 1
    both[1, -3] = NAN_TOKEN
    return both


def text_of(generate, *arguments, is_sampled):
    """Return the tokens, or the error in words."""
    torch.manual_seed(3)
    settings = {"max_new_tokens": MAX_NEW_TOKENS, "do_sample": is_sampled}
    try:
        return generate(*arguments, **settings).tolist()
    except RuntimeError as problem:
        return f"{type(problem).__name__}: {problem}"


def differences(family, change, *, compiled_cpu=True):
    """Return what was asked where a float32 model's text or error is not generate's."""
    model, both = changed_model(family, change), prompts()
    found = []
    for is_sampled in (False, True):
        lookahead = Lookahead(LookaheadConfig(decoding_length=6, compiled_cpu=compiled_cpu))
        for token in both[0].tolist():  # so that the NaN token is drafted after each token
            lookahead.memory.warm([[token, NAN_TOKEN, token, NAN_TOKEN]])
        for rows in (both[:1], both[1:], both):
            expected = text_of(model.generate, rows, is_sampled=is_sampled)
            texts = [
                text_of(lookahead.generate, model, rows, is_sampled=is_sampled) for _ in ("cold", "warm")
            ]
            if texts != [expected, expected]:
                found.append(f"{family}, {change}, {len(rows)} rows, sampled: {is_sampled}")
    return found


if __name__ == "__main__":  # in a process of its own, since a fault may hang
    torch.set_num_threads(int(sys.argv[1]))
    every = [line for change in sys.argv[2:] for line in differences("fused-llama", change)]
    sys.exit("\n".join(every) or 0)
