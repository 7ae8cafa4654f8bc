"""`python -m lookahead.drafting` compiles every draft kernel, so that nobody waits for it later."""

from lookahead.drafting.log_kernels import compile_log_kernels
from lookahead.drafting.token_trie import compile_kernels

if __name__ == "__main__":
    compile_kernels()
    compile_log_kernels()
