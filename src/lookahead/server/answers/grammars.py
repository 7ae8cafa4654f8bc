"""Grammars: what form an answer has, as a logits processor of xgrammar."""

import json
import re
from collections.abc import Callable
from importlib.util import find_spec
from threading import Lock
from typing import Any

from lookahead.server.http.errors import ApiError
from lookahead.server.protocol.chat import Tool
from lookahead.server.protocol.common import ResponseFormat, StructuredOutputs
from lookahead.server.served_model import ServedModel

_WHERE = re.compile(r"^\[[^\]]*\]\s*\S+:\d+:\s*", re.MULTILINE)
"""What xgrammar's messages begin with: the time, a file of its source and a line."""
_MAX_CACHE_BYTES = 256 * 2**20
_MAX_SOURCE = 2**18
"""The longest grammar or schema, in characters: compiling takes time and memory with its length."""

_MAX_WHITE = 16
"""White characters between two parts of JSON: small models write nothing else where any number is allowed."""

Processor = Callable[[Any, Any], Any]


class Grammars:
    """Compiles grammars for a model; compiled ones are kept.

    Args:
        model: The model.
    """

    def __init__(self, model: ServedModel) -> None:
        self._model = model
        self._lock = Lock()
        self._compiler: Any = None

    def json_object(self) -> Processor:
        """Return a processor that lets the model write any JSON object."""
        return self.json_schema({"type": "object"})

    def json_schema(self, schema: object) -> Processor:
        """Return a processor that lets the model write JSON that a schema allows."""
        source = schema if isinstance(schema, str) else json.dumps(schema)

        def compile_with(compiler: Any) -> Any:
            return compiler.compile_json_schema(source, max_whitespace_cnt=_MAX_WHITE)

        return self._processor(compile_with, source)

    def regex(self, pattern: str) -> Processor:
        """Return a processor that lets the model write what a regular expression matches."""
        return self._processor(lambda compiler: compiler.compile_regex(pattern), pattern)

    def choice(self, texts: list[str]) -> Processor:
        """Return a processor that lets the model write one of several texts."""
        alternatives = " | ".join(json.dumps(text) for text in texts)
        return self.grammar(f"root ::= {alternatives}")

    def grammar(self, source: str) -> Processor:
        """Return a processor that lets the model write what a grammar in GBNF allows."""
        return self._processor(lambda compiler: compiler.compile_grammar(source), source)

    def tool_calls(self, tools: list[Tool], *, is_list: bool) -> Processor:
        """Return a processor that lets the model write calls of tools: one object, or a list of them."""
        calls = [
            {
                "type": "object",
                "properties": {
                    "name": {"const": tool.function.name},
                    "arguments": arguments_schema(tool),
                },
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
            for tool in tools
        ]
        schema: dict[str, Any] = calls[0] if len(calls) == 1 else {"anyOf": calls}
        if is_list:
            schema = {"type": "array", "items": schema, "minItems": 1}
        return self.json_schema(schema)

    def of(self, form: ResponseFormat | None, structured: StructuredOutputs | None) -> Processor | None:
        """Return the processor of a body's fields; None if they ask for none.

        Raises:
            ApiError: Both are given, or a grammar is not allowed.
        """
        wants_json = form is not None and form.type != "text"
        if structured is None:
            if not wants_json or form is None:
                return None
            if form.json_schema is None or form.json_schema.schema_ is None:
                return self.json_object()
            return self.json_schema(form.json_schema.schema_)
        if wants_json:
            message = "give response_format or structured_outputs, not both"
            raise ApiError(400, message, param="structured_outputs")
        return self._structured(structured)

    def _structured(self, structured: StructuredOutputs) -> Processor:
        if structured.json_ is not None:
            return self.json_schema(structured.json_)
        if structured.regex is not None:
            return self.regex(structured.regex)
        if structured.choice is not None:
            return self.choice(structured.choice)
        return self.json_object() if structured.grammar is None else self.grammar(structured.grammar)

    def _processor(self, compile_with: Callable[[Any], Any], source: str = "") -> Processor:
        if find_spec("xgrammar") is None:
            message = "grammars need xgrammar on the server: pip install xgrammar"
            raise ApiError(400, message, param="response_format", code="grammars_not_installed")
        if len(source) > _MAX_SOURCE:
            message = f"the grammar has {len(source)} characters; at most {_MAX_SOURCE} are allowed"
            raise ApiError(400, message, param="response_format")
        from xgrammar.contrib.hf import LogitsProcessor  # noqa: PLC0415  # an extra

        with self._lock:
            compiler = self._compiler = self._compiler or self._new_compiler()
        try:
            compiled = compile_with(compiler)
        except (RuntimeError, ValueError, TypeError) as error:  # InvalidJSONError among them
            message = f"the grammar is not allowed: {_WHERE.sub('', str(error))}"[:500]
            raise ApiError(400, message, param="response_format", code="invalid_grammar") from None
        processor: Processor = LogitsProcessor(compiled)
        return processor

    def _new_compiler(self) -> Any:
        import xgrammar  # noqa: PLC0415  # an extra

        model = self._model
        info = xgrammar.TokenizerInfo.from_huggingface(
            model.tokenizer, vocab_size=model.vocabulary_size, stop_token_ids=list(model.end_tokens) or None
        )
        return xgrammar.GrammarCompiler(info, max_threads=1, cache_limit_bytes=_MAX_CACHE_BYTES)


def arguments_schema(tool: Tool) -> dict[str, Any]:
    """Return the JSON schema of a tool's arguments, an object in any case."""
    parameters = tool.function.parameters
    return {"type": "object", "properties": {}} if parameters is None else parameters
