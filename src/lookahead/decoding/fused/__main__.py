"""`python -m lookahead.decoding.fused` compiles the fused step, so that nobody waits for it later."""

from lookahead.decoding.fused.blocks import BLOCK
from lookahead.decoding.fused.step import attention_address, step_address
from lookahead.decoding.slots import slot_table
from lookahead.drafting.tree import DraftTree

if __name__ == "__main__":
    for halves in (False, True):
        step_address(halves=halves)
        attention_address(halves=halves)
    slot_table([DraftTree.root_only(0)], [0], 0, 1, BLOCK)
