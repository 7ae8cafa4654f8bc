"""The settings that are measured: a system, its file, its drafts."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Setting:
    """One line of the table.

    Attributes:
        name: Its name there.
        system: `ours`, or a system of `environments`.
        file: `source` for the GGUF file as it is, `folder` for transformers' folder, or a format of `files`.
        options: What the worker's job has besides.
    """

    name: str
    system: str
    file: str
    options: tuple[tuple[str, Any], ...] = ()


def _ours(name: str, way: str, *, packed: bool) -> Setting:
    return Setting(name, "ours", "source", (("way", way), ("packed", packed)))


SETTINGS = (
    _ours("transformers", "generate", packed=False),
    _ours("lookahead plain", "1", packed=False),
    _ours("lookahead", "auto", packed=False),
    _ours("lookahead packed plain", "1", packed=True),
    _ours("lookahead packed", "auto", packed=True),
    _ours("lookahead packed 8", "8", packed=True),
    _ours("lookahead packed again", "auto", packed=True),  # says what the machine's noise is
    Setting("llama.cpp as it is", "llama_cpp", "source"),
    Setting("llama.cpp BF16", "llama_cpp", "BF16"),
    Setting("llama.cpp Q8_0", "llama_cpp", "Q8_0"),
    Setting("OpenVINO F16, prompt lookup", "openvino", "F16", (("drafts", True),)),
    Setting("OpenVINO Q8_0, prompt lookup", "openvino", "Q8_0", (("drafts", True),)),
    Setting("vLLM BF16", "vllm", "folder", (("drafts", None),)),
    Setting("vLLM BF16, suffix", "vllm", "folder", (("drafts", "suffix"),)),
)
