"""`SupportReport`: how a model will be decoded, and why not in a better way."""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from transformers import PreTrainedModel

from lookahead.config import LookaheadConfig
from lookahead.errors import UnsupportedModelError
from lookahead.hf.compat.layout import attention_layout, fresh_cache
from lookahead.hf.compat.traits import ModelTraits
from lookahead.hf.generate.checks import check_model
from lookahead.hf.machine.dtypes import dtype_name
from lookahead.hf.steps.cuda_graphs import CaptureResult, unsupported_reason
from lookahead.hf.steps.verification import Verification, VerificationMode
from lookahead.hf.support.capture_trial import capture_trial
from lookahead.hf.support.flat_trial import why_not_flat
from lookahead.hf.support.reproducibility import Reproducibility, ReproducibleMethod, reproducibility


class Backend(StrEnum):
    """The code that runs decode steps."""

    COMPILED_CPU = "compiled CPU decoder"
    CUDA_GRAPHS = "CUDA graphs"
    MODEL = "the model's own code"


@dataclass(frozen=True, kw_only=True)
class SupportReport:
    """How a model will be decoded with given settings; `print` it.

    Attributes:
        architecture: Name of the model's class.
        dtype: Dtype of its weights.
        device: Device of its weights.
        refusal: Why Lookahead refuses the model; empty if it is supported.
        mode: How drafts are verified: as trees, as chains (one branch), or not at all (plain steps).
        why_not_tree: Why drafts are not verified as trees; empty if they are.
        backend: The code that runs decode steps.
        why_not_compiled_cpu: Why the compiled CPU decoder is not used; empty if it is.
        why_not_cuda_graphs: Why CUDA graphs are not used; empty if they are.
        replay_speedup: Time of a step by the model's own code ÷ that of a captured one; None if not measured.
        why_no_tree_kernel: Why captured steps attend by torch's attention; empty if by our kernels, or if no
            step is captured.
        why_rows_are_padded: Why each row of a batch is as wide as the largest draft; empty if it is not.
        worst_logit_difference: Largest logit difference from one-token steps; None if not measured.
        logit_spread: Standard deviation of the logits, to judge that difference by.
        dependence_on_drafts: How the last bits of the logits depend on drafts; empty if they do not.
        reproducible_method: How `reproducible=True` makes the text independent of drafts; None if refused.
        reproducible_width: Tokens per row in each forward pass then, if the width is fixed.
        why_reproducible_is_plain: Why `reproducible=True` means plain steps; empty if it does not.
        step_ratio_1: Step time then ÷ that of a usual step of 1 token; None if not measured.
        step_ratio_8: The same ÷ that of a usual step of 8 tokens.
    """

    architecture: str
    dtype: str
    device: str
    refusal: str = ""
    mode: VerificationMode = VerificationMode.PLAIN
    why_not_tree: str = ""
    backend: Backend = Backend.MODEL
    why_not_compiled_cpu: str = ""
    why_not_cuda_graphs: str = ""
    replay_speedup: float | None = None
    why_no_tree_kernel: str = ""
    why_rows_are_padded: str = ""
    worst_logit_difference: float | None = None
    logit_spread: float | None = None
    dependence_on_drafts: str = ""
    reproducible_method: ReproducibleMethod | None = None
    reproducible_width: int | None = None
    why_reproducible_is_plain: str = ""
    step_ratio_1: float | None = None
    step_ratio_8: float | None = None

    @property
    def prompts_have_same_bits(self) -> bool:
        """Whether a prompt's bits do not depend on its chunks, its batch, its padding or a prefix's reuse."""
        return self.backend is Backend.COMPILED_CPU

    @property
    def is_supported(self) -> bool:
        """Whether Lookahead decodes the model at all."""
        return not self.refusal

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON can hold it, under the keys of `lookahead check --json`."""
        return {
            "architecture": self.architecture,
            "dtype": self.dtype,
            "device": self.device,
            "refusal": self.refusal,
            "mode": self.mode.value,
            "worst_logit_difference": self.worst_logit_difference,
            "logit_spread": self.logit_spread,
            "reason": self.why_not_tree,
            "backend": self.backend.value,
            "why_not_fused": self.why_not_compiled_cpu,
            "why_not_cuda_graphs": self.why_not_cuda_graphs,
            "replay_speedup": self.replay_speedup,
            "why_no_tree_kernel": self.why_no_tree_kernel,
            "why_rows_are_padded": self.why_rows_are_padded,
            "dependence_on_drafts": self.dependence_on_drafts,
            "prompts_have_same_bits": self.prompts_have_same_bits,
            "reproducible": {
                "way": None if self.reproducible_method is None else self.reproducible_method.value,
                "tokens_a_forward": self.reproducible_width,
                "reason": self.why_reproducible_is_plain,
                "step_times_that_of_1_token": self.step_ratio_1,
                "step_times_that_of_8_tokens": self.step_ratio_8,
            },
        }

    def __str__(self) -> str:
        rows = [("model", f"{self.architecture}, {self.dtype}, {self.device}")]
        rows += self._lines() if self.is_supported else [("supported", f"no: {self.refusal}")]
        return "\n".join(f"{label:<18} {text}" for label, text in rows)

    def _lines(self) -> list[tuple[str, str]]:
        """Return label and text of each line about a supported model."""
        lines = [
            ("verification", _MODE_IN_WORDS[self.mode] + (self.why_not_tree and f": {self.why_not_tree}"))
        ]
        lines.append(("backend", self.backend.value))
        if self.backend is not Backend.COMPILED_CPU:
            lines.append(("", f"not the compiled CPU decoder: {self.why_not_compiled_cpu}"))
        if self.backend is Backend.MODEL:
            lines.append(("", f"not CUDA graphs: {self.why_not_cuda_graphs}"))
        if self.replay_speedup is not None:
            agrees = "agree" if self.backend is Backend.CUDA_GRAPHS else "were tried"
            lines.append(
                ("", f"captured steps {agrees}: {self.replay_speedup:.2f} times as fast as its code")
            )
        if self.backend is Backend.CUDA_GRAPHS:
            kernel = f"torch's ({self.why_no_tree_kernel})" if self.why_no_tree_kernel else "our kernels"
            lines.append(("", f"attention of captured steps: {kernel}"))
        if self.mode is not VerificationMode.PLAIN:
            padded = f"as wide as the largest draft: {self.why_rows_are_padded}"
            lines.append(("rows of a batch", padded if self.why_rows_are_padded else _RAGGED))
        if self.worst_logit_difference is not None and self.logit_spread is not None:
            difference = f"differ from those of one-token steps by up to {self.worst_logit_difference:.1e}"
            lines.append(("logits", f"{difference}; their standard deviation is {self.logit_spread:.1e}"))
        depends = f"yes: {self.dependence_on_drafts}" if self.dependence_on_drafts else "no"
        lines.append(("depends on drafts", depends))
        lines.append(("prompts", _SAME_BITS if self.prompts_have_same_bits else _OTHER_BITS))
        lines.append(("reproducible=True", self._reproducible_method_in_words()))
        if self.step_ratio_1 is not None and self.step_ratio_8 is not None:
            ratios = f"{self.step_ratio_1:.2f} times that of 1 token, {self.step_ratio_8:.2f} times that of 8"
            lines.append(("", f"step time: {ratios}"))
        return lines

    def _reproducible_method_in_words(self) -> str:
        if self.reproducible_method is ReproducibleMethod.COMPILED:
            return "compiled CPU decoder: no bit of a logit depends on drafts, at no cost"
        if self.reproducible_width is not None:
            return (
                f"fixed width: each forward pass has {self.reproducible_width} tokens per row, "
                "each branch in the order of the text"
            )
        return f"plain steps, without drafts: {self.why_reproducible_is_plain}"


_SAME_BITS = "the same bits in any chunks, in a batch, with padding and behind a prefix"
_OTHER_BITS = "as generate reads them: below float32, chunks, batch and padding change bits"
_RAGGED = "each has its own number of tokens in a forward pass"
_LOGITS_DIFFER = "its logits differ from those of the model's own code"
_MODE_IN_WORDS = {
    VerificationMode.TREE: "tree: one forward pass verifies a draft tree",
    VerificationMode.CHAIN: "chain: one forward pass verifies a draft of one branch",
    VerificationMode.PLAIN: "plain: one token per forward pass, without drafts",
}


def support_report(model: PreTrainedModel, config: LookaheadConfig | None = None) -> SupportReport:
    """Find out how a model will be decoded; this takes several dozen small forward passes.

    It needs no prompt, draws no random numbers and leaves the model as it was. No other thread should use the
    model meanwhile.

    Args:
        model: The model, with its weights.
        config: The settings; the defaults if None.
    """
    config = config or LookaheadConfig()
    report = SupportReport(
        architecture=type(model).__name__, dtype=dtype_name(model.dtype), device=str(model.device)
    )
    try:
        check_model(model)
    except UnsupportedModelError as refusal:
        return replace(report, refusal=str(refusal))
    if model.training:
        reason = "it is in training mode; call model.eval()"
        return replace(
            report,
            why_not_tree=reason,
            why_not_compiled_cpu=reason,
            why_not_cuda_graphs=reason,
            why_reproducible_is_plain=reason,
            reproducible_method=ReproducibleMethod.PLAIN,
        )
    found = reproducibility(model, config.reproducible_width, tries_compiled=config.compiled_cpu)
    mode, why_not_tree, is_compiled = _verification(found, config)
    is_usual = not config.reproducible or is_compiled
    why_not_graphs, captured = _why_not_cuda_graphs(model, config, mode), CaptureResult()
    if not why_not_graphs:
        captured = capture_trial(model, [1, 2, 3, 4], found.usual.verification)
        why_not_graphs = captured.reason
    backend = Backend.MODEL if why_not_graphs else Backend.CUDA_GRAPHS
    backend = Backend.COMPILED_CPU if is_compiled else backend
    return replace(
        report,
        mode=mode,
        why_not_tree=why_not_tree,
        backend=backend,
        why_not_compiled_cpu="" if is_compiled else found.why_not_compiled or _LOGITS_DIFFER,
        why_not_cuda_graphs=why_not_graphs,
        replay_speedup=captured.speedup,
        why_no_tree_kernel=captured.why_no_kernel,
        why_rows_are_padded=_why_rows_are_padded(model, config, backend, found.usual.verification),
        worst_logit_difference=found.usual.difference if is_usual else None,
        logit_spread=found.usual.spread if is_usual else None,
        dependence_on_drafts="" if config.reproducible else found.dependence,
        reproducible_method=found.method,
        reproducible_width=found.width,
        why_reproducible_is_plain=found.reason,
        step_ratio_1=found.step_ratio_1,
        step_ratio_8=found.step_ratio_8,
    )


def _verification(found: Reproducibility, config: LookaheadConfig) -> tuple[VerificationMode, str, bool]:
    """Return the mode, why it is not trees, and whether the compiled CPU decoder runs the steps."""
    if config.reproducible:
        mode = VerificationMode.PLAIN if found.method is ReproducibleMethod.PLAIN else VerificationMode.TREE
        return mode, found.reason, found.method is ReproducibleMethod.COMPILED
    is_compiled = found.usual.verification.is_compiled
    if config.decoding_length == 1 and not is_compiled:
        return VerificationMode.PLAIN, "decoding_length=1 drafts nothing", False
    return found.usual.mode, found.usual.reason, is_compiled


def _why_not_cuda_graphs(model: PreTrainedModel, config: LookaheadConfig, mode: VerificationMode) -> str:
    """Return why decode steps are not captured in CUDA graphs; empty if they are."""
    if model.device.type != "cuda":
        return f"the model is on {model.device.type}, not on a CUDA device"
    if not config.cuda_graphs:
        return "cuda_graphs=False"
    if config.reproducible:
        return "reproducible=True computes in another order"
    if mode is not VerificationMode.TREE:
        return "they capture steps that verify trees only"
    return unsupported_reason(model, ModelTraits.of(model))


def _why_rows_are_padded(
    model: PreTrainedModel, config: LookaheadConfig, backend: Backend, verification: Verification
) -> str:
    """Return why each row of a batch is as wide as the largest draft; empty if it is not."""
    if backend is Backend.COMPILED_CPU:
        return ""
    if config.reproducible:
        return "reproducible=True gives all rows one width"
    if backend is Backend.CUDA_GRAPHS:
        return "a captured step has one width"
    return why_not_flat(model, attention_layout(model, fresh_cache(model)), verification)
