"""`StepRunners`: which runner does the steps of a call, also when the model changes in its course."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor
from transformers import PreTrainedModel

from lookahead.decoding.kv_slab import Allocate
from lookahead.errors import UnsupportedModelError
from lookahead.hf.cache.arena_cache import ArenaCache
from lookahead.hf.compat.fingerprint.watch import Change, ModelWatch, other_threads_run
from lookahead.hf.compat.layout import AttentionLayout, misplaced_layers
from lookahead.hf.compat.traits import ModelTraits
from lookahead.hf.steps import compiled_cpu
from lookahead.hf.steps.branch_order import BranchOrderRunner
from lookahead.hf.steps.compiled_cpu import CpuRunner
from lookahead.hf.steps.cuda_graphs import CapturedModels
from lookahead.hf.steps.eager import EagerRunner, FlatRunner
from lookahead.hf.steps.runner import StepBatch, StepLogits, StepRunner
from lookahead.hf.steps.verification import Verification


class StepRunners:
    """The runners of a call, in the order in which they are tried.

    A model that changes between steps is followed from the next step on: by the compiled CPU decoder if it
    supports the model as it is then, else by the model's own code, without drafts, which were not tried.

    Args:
        model: A decoder-only model.
        traits: Its traits.
        layout: How its layers see the past.
        verification: How its drafts are verified.
        graphs: The captured steps of models; None captures nothing.
        watch: Notices that the model changes; None if it does not.
        is_thorough: Whether code of the caller's runs between steps, which may change anything.
        is_exclusive: Whether no other thread changes the model.

    Attributes:
        is_thorough: As given; it may be set between steps.
        eager: The model's own code.
        allows_drafts: Whether drafts are verified as `verification` says; else steps are of one token.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        traits: ModelTraits,
        layout: AttentionLayout,
        verification: Verification,
        *,
        graphs: CapturedModels | None = None,
        watch: ModelWatch | None = None,
        is_thorough: bool = True,
        is_exclusive: bool = False,
    ) -> None:
        self._model = model
        self._layout = layout
        self._dtype = traits.dtype
        self._verification = verification
        self._watch = watch
        self.is_thorough = is_thorough
        self._is_exclusive = is_exclusive
        self.eager = EagerRunner(model, traits, layout, verification)
        self.allows_drafts = True
        self._graphs = None if graphs is None else graphs.runner_for_call(self.eager)
        self._runners: list[StepRunner] = [self.eager]
        if verification.is_compiled:
            self._runners.insert(0, CpuRunner(model, layout))
        elif self._graphs is not None:
            self._runners.insert(0, self._graphs)
        elif verification.fixed_width is not None:
            self._runners = [BranchOrderRunner(model, traits, layout, verification)]
        elif verification.is_flat:
            self._runners.insert(0, FlatRunner(self.eager))

    @property
    def is_captured(self) -> bool:
        """Whether steps are captured in CUDA graphs, each shape at its second use."""
        return self._graphs is not None

    @property
    def replay_speedup(self) -> float | None:
        """How much faster captured steps are than the model's own code; None if that was not measured."""
        return None if self._graphs is None else self._graphs.speedup

    @property
    def allocate(self) -> Allocate | None:
        """What allocates the cache's memory; None for the usual."""
        return None if self._graphs is None else self._graphs.allocate

    def run(self, batch: StepBatch, slots: Sequence[int]) -> StepLogits:
        """Verify trees by the first runner that serves the batch, whose rows are in these slots."""
        for runner in self._runners:
            batch.cache.arena.set_active_rows(slots)
            found = runner.run(batch)
            if found is not None:
                return found
        message = f"no runner serves {type(self._model).__name__}'s trees"
        raise UnsupportedModelError(message)  # cannot happen: the last runner serves every batch

    def create(self, cache: ArenaCache) -> bool:
        """Create a cache's layers for the compiled CPU decoder; return whether it reads prompts."""
        first = self._runners[0]
        return isinstance(first, CpuRunner) and first.create(cache)

    @property
    def is_ragged(self) -> bool:
        """Whether each row of a forward pass has its own number of nodes, or of tokens of its prompt."""
        return isinstance(self._runners[0], CpuRunner | FlatRunner)

    def read(
        self, batch: StepBatch, slots: Sequence[int], logits_of: Sequence[int]
    ) -> Sequence[Tensor] | None:
        """Read parts of prompts by the first runner that reads the batch, whose rows are in these slots.

        Return None, with nothing appended, if the model's own code has to read them one at a time.
        """
        for runner in (*self._runners, self.eager):
            batch.cache.arena.set_active_rows(slots)
            found = runner.read(batch, logits_of)
            if found is not None:
                return found
        return None

    def has_model_changed(self) -> bool:
        """Return whether the caller's code changed the model since the last step."""
        return self.is_thorough and self._change() is not Change.NOTHING

    def _change(self, *, is_thorough: bool = False) -> Change:
        # Nothing changes a model if no code of the caller's runs between steps, in this thread or another.
        is_thorough = is_thorough or self.is_thorough
        may_change = is_thorough or (not self._is_exclusive and other_threads_run())
        if self._watch is None or not may_change:
            return Change.NOTHING
        return self._watch.change(thoroughly=is_thorough)

    def follow_model(self, *, is_thorough: bool = False) -> None:
        """Look at the model again if it changed since the last step.

        Args:
            is_thorough: Whether code of the caller's ran since then, also if none runs between other steps.

        Raises:
            UnsupportedModelError: Its layers no longer write to the cache in their order.
        """
        change = self._change(is_thorough=is_thorough)
        if change is Change.NOTHING:
            return
        self._watch = ModelWatch(self._model)  # begins before the model is looked at: nothing is missed
        if self._verification.is_compiled and self.allows_drafts and self._is_compiled_still():
            self._runners[0] = CpuRunner(self._model, self._layout)
        elif change is Change.CODE or self._verification.is_compiled:
            self._leave_drafts()
        elif self._graphs is not None and not self._graphs.is_of_model():
            self._graphs.close()
            self._runners, self._graphs = [self.eager], None

    def close(self) -> None:
        """Give back what the runners borrowed."""
        for runner in self._runners:
            runner.close()

    def _is_compiled_still(self) -> bool:
        """Return whether the compiled CPU decoder supports the model as it is now, with this cache."""
        return self._model.dtype == self._dtype and not compiled_cpu.unsupported_reason(self._model)

    def _leave_drafts(self) -> None:
        """Go on with steps of one token, by the model's own code as it is now."""
        reason = misplaced_layers(self._model)
        if reason:
            message = f"{type(self._model).__name__} changed during a call: {reason}; call again"
            raise UnsupportedModelError(message)
        self.close()
        verification = replace(
            self._verification, is_compiled=False, groups_queries=False, fixed_width=None, is_flat=False
        )
        self.eager = EagerRunner(self._model, ModelTraits.of(self._model), self._layout, verification)
        self._runners, self._graphs, self.allows_drafts = [self.eager], None, False
