"""An OpenAI-compatible server around an engine; it needs the extra `serve`."""
