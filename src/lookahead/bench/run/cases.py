"""The calls of a benchmark: the prompt of one row, or of several rows as a batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import pad
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lookahead.bench.data.datasets import Row
from lookahead.bench.run.results import RowId
from lookahead.hf.models.loading import encode_prompt

Inputs = dict[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """One call of every method.

    Attributes:
        row_id: Id of the row; the joined ids of a batch.
        category: Category of the row; the size of a batch.
        inputs: `input_ids` and `attention_mask`, int64 [B, L] each.
        begins_anew: Whether memories are emptied before it: for the first batch of each size, since the
            batches before have answered the same rows.
    """

    row_id: RowId
    category: str
    inputs: Inputs
    begins_anew: bool = False

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts, without padding."""
        return int(self.inputs["attention_mask"].sum())

    @property
    def width(self) -> int:
        """Tokens of the longest prompt."""
        return self.inputs["input_ids"].shape[1]

    def prompts(self) -> list[list[int]]:
        """Return each row's tokens, without padding."""
        rows = zip(self.inputs["input_ids"], self.inputs["attention_mask"], strict=True)
        return [row[mask.bool()].tolist() for row, mask in rows]


def cases_of(
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel,
    batch_sizes: Sequence[int] = (),
) -> list[Case]:
    """Return a case for each row or, if batch sizes are given, for each full batch of each size."""
    encoded = [(row, encode_prompt(tokenizer, row.prompt, model)) for row in rows]
    if not batch_sizes:
        return [Case(row_id=row.row_id, category=row.category, inputs=inputs) for row, inputs in encoded]
    pad_token = tokenizer.pad_token_id or 0
    return [
        _batch_case(encoded[start : start + size], pad_token, begins_anew=start == 0)
        for size in batch_sizes
        for start in range(0, len(encoded) - size + 1, size)
    ]


def _batch_case(encoded: Sequence[tuple[Row, Inputs]], pad_token: int, *, begins_anew: bool) -> Case:
    longest = max(inputs["input_ids"].shape[1] for _, inputs in encoded)
    fillers = {"input_ids": pad_token, "attention_mask": 0}
    together = {
        name: torch.cat(
            [pad(inputs[name], (longest - inputs[name].shape[1], 0), value=filler) for _, inputs in encoded]
        )
        for name, filler in fillers.items()
    }
    row_id = "+".join(str(row.row_id) for row, _ in encoded)
    category = f"batch {len(encoded)}"
    return Case(row_id=row_id, category=category, inputs=together, begins_anew=begins_anew)
