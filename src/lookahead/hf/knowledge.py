"""What is known of the models that were used: whether they may branch, and the pace of decoding with them."""

import warnings
from weakref import WeakKeyDictionary

from torch import Tensor
from transformers import PreTrainedModel

from lookahead.config import LookaheadConfig
from lookahead.drafting.budget import BudgetPolicy
from lookahead.drafting.pace import Pace
from lookahead.hf.compat import AttentionLayout, attention_name
from lookahead.hf.probe import ProbeResult, probe
from lookahead.hf.step_times import context_bucket, rows_bucket


class ModelKnowledge:
    """Remembers, as long as a model lives, what its first uses have shown.

    Args:
        config: the settings.
    """

    def __init__(self, config: LookaheadConfig) -> None:
        self._config = config
        self._paces: WeakKeyDictionary[PreTrainedModel, dict[object, Pace]] = WeakKeyDictionary()
        self._probes: WeakKeyDictionary[PreTrainedModel, dict[object, ProbeResult]] = WeakKeyDictionary()

    def pace(self, model: PreTrainedModel, input_ids: Tensor) -> Pace:
        """Return what is known about drafting for a model and batches [B, L] of about this size."""
        paces = self._paces.setdefault(model, {})
        rows, length = input_ids.shape
        setting = (_setting(model), context_bucket(length), rows_bucket(rows))
        if setting not in paces:
            most = self._config.most_nodes(rows_bucket(rows))
            is_auto = self._config.decoding_length == "auto"
            paces[setting] = Pace(most, BudgetPolicy(most) if is_auto else None)
        return paces[setting]

    def may_branch(self, model: PreTrainedModel, layout: AttentionLayout) -> bool:
        """Return whether drafts are worth making; on a model's first use this asks the probe."""
        if self._config.decoding_length == 1 or model.training:  # dropout draws for each forward it sees
            return False
        results = self._probes.setdefault(model, {})
        setting = _setting(model)
        if setting not in results:
            results[setting] = probe(model, layout)
            if not results[setting].branches:
                reason = results[setting].reason
                message = f"{type(model).__name__} is decoded in plain steps, without drafts: {reason}"
                warnings.warn(message, stacklevel=2)
        return results[setting].branches


def _setting(model: PreTrainedModel) -> tuple[object, ...]:
    """Return what a model's results and times depend on, beside its weights."""
    return (model.dtype, model.device, attention_name(model))
