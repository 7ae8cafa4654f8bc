"""The fused step: a decoder's whole forward over draft trees in one call, for the CPU."""
