"""Verification: tree attention, acceptance, cache and the loop. torch, and no transformers."""
