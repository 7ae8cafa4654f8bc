"""Many requests at once: what an engine is asked and answers, without HTTP, torch and transformers."""
