"""`RecordingProposer`: notes each call that vLLM makes; vLLM imports it by name."""

from typing import Any

from lookahead.integrations.vllm.proposer import Proposer

CALLS: list[dict[str, Any]] = []
_LENGTHS: dict[str, int] = {}


class RecordingProposer(Proposer):
    """Notes each call before it is answered."""

    def propose(
        self, sampled_token_ids: Any, num_tokens_no_spec: Any, token_ids_cpu: Any, **others: Any
    ) -> list[list[int]]:
        """Note a call: of each row only the tokens that are new since the request's last one."""
        view = self._runner._view if self._runner else None  # noqa: SLF001  what the proposer itself is about to take
        assert view is not None  # noqa: S101  a runner that is not known cannot be recorded
        rows = []
        for row, sampled in enumerate(sampled_token_ids):
            name, length = view.request_ids[row], int(num_tokens_no_spec[row])
            known = min(_LENGTHS.get(name, 0), length)
            _LENGTHS[name] = length
            new = token_ids_cpu[row, known:length].tolist()
            rows.append({"id": name, "sampled": sampled, "length": length, "known": known, "new": new})
        CALLS.append(
            {
                "rows": rows,
                "alive": sorted(view.requests),
                "scheduled": view.scheduled_tokens,
                "drafts": view.draft_tokens,
            }
        )
        return super().propose(sampled_token_ids, num_tokens_no_spec, token_ids_cpu, **others)
