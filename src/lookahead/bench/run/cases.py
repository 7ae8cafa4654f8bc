"""What is measured in one call: a row's prompt, or several rows' as a batch."""

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
        row_id: the row's id; of a batch all of them, joined.
        category: the row's category; of a batch its size.
        inputs: `input_ids` and `attention_mask`, both [B, L].
        begins_anew: memories are emptied before it: it is the first of a batch size, and the rows that follow
            were answered before in batches of another one.
    """

    row_id: RowId
    category: str
    inputs: Inputs
    begins_anew: bool = False

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts, padding not counted."""
        return int(self.inputs["attention_mask"].sum())

    @property
    def width(self) -> int:
        """How long the longest prompt is."""
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
    """Return a case for each row; or, where batch sizes are given, the rows in batches of each size.

    A batch that would not be full is left out, so that each size is measured as what it is.
    """
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
