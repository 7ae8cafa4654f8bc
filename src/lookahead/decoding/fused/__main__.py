"""`python -m lookahead.decoding.fused` compiles the fused step for both dtypes, so that nobody waits later."""

from lookahead.decoding.fused.step import step_address

if __name__ == "__main__":
    for halves in (False, True):
        step_address(halves=halves)
