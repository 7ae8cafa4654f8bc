"""Lookahead inside other systems: vLLM, SGLang, Ray."""
