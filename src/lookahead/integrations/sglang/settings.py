"""Where the settings of the plugin come from: SGLang's own configuration has no room for them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from lookahead.errors import ConfigError
from lookahead.integrations.options import IntegrationOptions

VARIABLE = "LOOKAHEAD_CONFIG"
"""The environment variable that holds a JSON object, or the path of a file with one."""


def options_in(environment: Mapping[str, str]) -> IntegrationOptions:
    """Return the options that `LOOKAHEAD_CONFIG` gives; the defaults if it is not set or empty.

    Raises:
        ConfigError: There is no such file, it holds no JSON object, or a value is not allowed.
    """
    given = environment.get(VARIABLE, "").strip()
    if not given:
        return IntegrationOptions()
    text, origin = (given, "it") if given.startswith("{") else (_content(given), "the file")
    try:
        content = json.loads(text)
    except ValueError as error:
        _refuse(given, f"{origin} is no JSON: {error}")
    if not isinstance(content, dict):
        _refuse(given, f"{origin} holds no JSON object")
    return IntegrationOptions.of(content)


def _content(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        _refuse(path, f"the file cannot be read: {error}")


def _refuse(given: str, fault: str) -> NoReturn:
    message = (
        f"{VARIABLE}={given!r:.80} is not allowed: {fault}; give a JSON object such as "
        '{"memory_file": "answers.lookahead"}, or the path of a file with one'
    )
    raise ConfigError(message)
