"""The calls of a benchmark: a prompt that every method answers."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lookahead.bench.data.datasets import Row
from lookahead.bench.run.results import RowId
from lookahead.hf.models.loading import encode_prompt


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """One call of every method.

    Attributes:
        row_id: Id of the row.
        category: Category of the row.
        inputs: `input_ids` and `attention_mask`, int64 [B, L] each; B is 1 for a row.
    """

    row_id: RowId
    category: str
    inputs: dict[str, torch.Tensor]

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts, without padding."""
        return int(self.inputs["attention_mask"].sum())

    @property
    def width(self) -> int:
        """Tokens of the longest prompt."""
        return self.inputs["input_ids"].shape[1]

    def prompts(self) -> list[list[int]]:
        """Return the tokens of each prompt, without padding."""
        rows = zip(self.inputs["input_ids"], self.inputs["attention_mask"], strict=True)
        return [row[mask.bool()].tolist() for row, mask in rows]


def cases_of(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> list[Case]:
    """Return a case for each row."""
    return [
        Case(row_id=row.row_id, category=row.category, inputs=encode_prompt(tokenizer, row.prompt, model))
        for row in rows
    ]
