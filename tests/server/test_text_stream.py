"""`TextStream`: pieces of text are whole characters, and together what the tokenizer decodes at once."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookahead.hf.models.embedded import load_embedded_tokenizer
from lookahead.server.answers.text import TextStream

pytestmark = pytest.mark.model
TOKENIZER = load_embedded_tokenizer()
TEXTS = st.text(st.sampled_from("ab .\n\téß漢字🙂👩‍👧🇩🇪<|>im_end"), min_size=0, max_size=40)


def pieces_of(stream, tokens, sizes, stop=None):
    pieces, at = [], 0
    for size in sizes:
        pieces.append(stream.push(tokens[at : at + size]))
        at += size
    return [*pieces, stream.push(tokens[at:]), stream.end(stop)]


@given(TEXTS, st.lists(st.integers(1, 4), max_size=8), st.booleans())
@settings(max_examples=300, deadline=None)
def test_pieces_are_the_whole_text_however_tokens_come(text, sizes, skips_special):
    tokens = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    pieces = pieces_of(TextStream(TOKENIZER, skips_special=skips_special), tokens, sizes)
    assert "".join(pieces) == TOKENIZER.decode(tokens, skip_special_tokens=skips_special)
    assert all("�" not in piece for piece in pieces)


@given(st.lists(st.integers(0, 49151), max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_tokens_give_what_the_tokenizer_gives(tokens):
    stream = TextStream(TOKENIZER)
    pieces = [stream.push([token]) for token in tokens]
    assert "".join([*pieces, stream.end(None)]) == TOKENIZER.decode(tokens, skip_special_tokens=True)


@given(TEXTS, st.lists(st.text("ab .漢", min_size=1, max_size=4), min_size=1, max_size=3), st.booleans())
@settings(max_examples=300, deadline=None)
def test_a_stop_string_is_cut_and_no_part_of_it_is_sent(text, stops, keeps):
    tokens = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    whole = TOKENIZER.decode(tokens, skip_special_tokens=True)
    found = [(whole.index(stop), stop) for stop in stops if stop in whole]
    stream = TextStream(TOKENIZER, stop=stops, keeps_stop=keeps)
    pieces, expected = [], whole
    for index, token in enumerate(tokens):
        pieces.append(stream.push([token]))
        decoded = TOKENIZER.decode(tokens[: index + 1], skip_special_tokens=True)
        if any(stop in decoded for stop in stops):
            break
    if found:
        # the engine stops at the token that completes the first stop string
        places = [decoded.index(stop) + len(stop) * keeps for stop in stops if stop in decoded]
        expected = decoded[: min(places)]
    ended = "".join([*pieces, stream.end(stops[0] if found else None)])
    assert ended == expected
    if found and not keeps:
        assert not any(stop in "".join(pieces) for stop in stops)


def test_the_token_that_ends_an_answer_has_no_text():
    end = TOKENIZER.eos_token_id
    tokens = TOKENIZER("Yes.", add_special_tokens=False)["input_ids"]
    stream = TextStream(TOKENIZER, skips_special=False)
    assert stream.push([*tokens, end], ends=True) + stream.end(end) == "Yes."
    kept = TextStream(TOKENIZER, skips_special=False, keeps_stop=True)
    assert kept.push([*tokens, end], ends=True) + kept.end(end) == "Yes.<|im_end|>"
