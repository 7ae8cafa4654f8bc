"""Verification: tree attention, acceptance, cache and the loop; uses torch, not transformers."""
