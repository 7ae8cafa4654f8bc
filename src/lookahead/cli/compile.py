"""`lookahead compile`: compile every kernel now, so that no user waits for it later."""


def compile_kernels() -> None:
    """Compile all kernels: drafting, top-k and the CPU decoder. Once per installation, about a minute."""
    from lookahead.backends.cpu.kernels.blocks import BLOCK
    from lookahead.backends.cpu.step import attention_address, step_address
    from lookahead.decoding.attention.slots import slot_table
    from lookahead.drafting.memory.draft_memory import compile_kernels as compile_draft_kernels
    from lookahead.drafting.tree import DraftTree

    compile_draft_kernels()
    for halves in (False, True):
        step_address(halves=halves)
        attention_address(halves=halves)
    slot_table([DraftTree.root_only(0)], [0], 0, 1, BLOCK)
