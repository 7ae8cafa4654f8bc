"""One request's view of the memory: its prompt comes with it and goes with it."""

from lookahead.config import LookaheadConfig
from lookahead.drafting.drafter import NoDrafter, RequestDrafter
from lookahead.drafting.token_trie import TokenTrie


def test_drafts_from_the_prompt_and_from_what_was_learned():
    drafter = RequestDrafter(TokenTrie(), LookaheadConfig(decoding_length=8))
    drafter.read([1, 2, 3])
    drafter.learn([4, 1])
    assert drafter.propose(most_levels=3).token_ids.tolist() == [1, 2, 3, 4]
    assert len(drafter.propose(most_levels=0)) == 1


def test_drafts_keep_to_the_settings():
    config = LookaheadConfig(decoding_length=4, branch_length=2)
    drafter = RequestDrafter(TokenTrie(), config)
    drafter.read([1, 2, 3, 1, 4, 5, 1])
    draft = drafter.propose(most_levels=100)
    assert len(draft) == 4
    assert draft.depths.max() <= 2


def test_closing_forgets_the_prompt_and_keeps_the_answer():
    memory = TokenTrie()
    drafter = RequestDrafter(memory, LookaheadConfig())
    drafter.read([50, 51])
    drafter.learn([1, 2, 3])
    drafter.close()
    assert sorted(set(memory.snapshot()["token"].tolist())) == [-1, 1, 2, 3]
    assert memory._requests == {}


def test_without_a_memory_every_step_is_plain():
    drafter = NoDrafter()
    drafter.read([1, 2])
    drafter.learn([3, 4])
    assert drafter.propose(most_levels=5).token_ids.tolist() == [4]
    drafter.close()
