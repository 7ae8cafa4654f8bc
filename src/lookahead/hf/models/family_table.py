"""What the probe decides for each family: the rows of `lookahead check --families`."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from lookahead.config import LookaheadConfig
from lookahead.hf.models.families import FAMILIES, family_model, is_installed
from lookahead.hf.steps.compiled_cpu import unsupported_reason
from lookahead.hf.steps.verification import VerificationMode
from lookahead.hf.support.probe import ProbeResult, probe
from lookahead.hf.support.reproducibility import ReproducibleMethod, reproducible_method_of


@dataclass(frozen=True)
class FamilyRow:
    """One family.

    Attributes:
        family: its name here.
        model_type: the library's name of the architecture.
        result: what the probe decided; None where it could not be asked.
        skipped: why it could not be asked; empty where it was.
        reproducible: how text is had that depends on no draft.
        why_plain: why that is in plain steps where drafts could be verified; empty elsewhere.
    """

    family: str
    model_type: str
    result: ProbeResult | None = None
    skipped: str = ""
    reproducible: ReproducibleMethod = ReproducibleMethod.PLAIN
    why_plain: str = ""

    def as_dict(self) -> dict[str, str | float | None]:
        """Return it as JSON can hold it."""
        if self.result is None:
            return {"family": self.family, "model_type": self.model_type, "reason": self.skipped}
        return {
            "family": self.family,
            "model_type": self.model_type,
            "mode": self.result.mode.value,
            "reproducible": self.reproducible.value,
            "worst_logit_difference": self.result.difference,
            "logit_spread": self.result.spread,
            "reason": self.result.reason,
        }


def family_rows(dtype: torch.dtype = torch.float32) -> Iterator[FamilyRow]:
    """Ask the probe about each family's tiny model, one after the other by name."""
    for family in sorted(FAMILIES):
        model_type = FAMILIES[family].model_type
        if not is_installed(family):
            yield FamilyRow(family, model_type, skipped="the installed transformers does not know it")
            continue
        try:
            model = family_model(family, dtype)
        except Exception as problem:  # noqa: BLE001  # other versions know some by other settings
            first_line = next(iter(str(problem).strip().splitlines()), "")
            yield FamilyRow(family, model_type, skipped=f"{type(problem).__name__}: {first_line}")
            continue
        result = probe(model)
        exact = probe(
            model,
            tries_compiled=not unsupported_reason(model),
            fixed_width=LookaheadConfig(reproducible=True).fixed_width,
        )
        only_plain = exact.mode is VerificationMode.PLAIN and result.mode is not VerificationMode.PLAIN
        reason = exact.reason if only_plain else ""
        yield FamilyRow(family, model_type, result, "", reproducible_method_of(exact.verification), reason)
