"""The bodies of requests: OpenAI's fields, those that vLLM adds, and ours."""
