"""How long a model's forwards take: measured once behind a real prompt, kept in the user's cache folder."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from transformers import PreTrainedModel

from lookahead.drafting.budget.step_times import StepTimes, context_bucket, rows_bucket
from lookahead.drafting.tree import DraftTree
from lookahead.hf.compat.attention import attention_name
from lookahead.hf.machine.cache_folder import atomic_cache_write, user_cache_folder
from lookahead.hf.machine.devices import device_name
from lookahead.hf.machine.dtypes import dtype_name
from lookahead.hf.steps.step_model import TransformersStepModel

_FORMAT = 2
"""Number of the cache files' layout; files of another are measured anew."""
_PASSES = 3
_LIMIT_SECONDS = 1.5


@dataclass(frozen=True)
class StepTimesKey:
    """What the seconds of a forward depend on.

    Attributes:
        model: the model's class.
        architecture: a digest of the sizes in its configuration and of its weights' bytes.
        dtype: what it computes in.
        device: the name of the processor.
        threads: threads that torch computes with; 0 where the processor is not the CPU.
        attention: the library's name of the attention in use, and a word more where steps are fused, captured
            or of one shape.
        torch: its version.
        context_tokens: the context's bucket.
        rows: the bucket of the rows of a batch.
    """

    model: str
    architecture: str
    dtype: str
    device: str
    threads: int
    attention: str
    torch: str
    context_tokens: int
    rows: int

    @classmethod
    def of(
        cls, model: PreTrainedModel, context_tokens: int, rows: int = 1, *, runner_name: str = ""
    ) -> "StepTimesKey":
        """Return the key of a model behind so many tokens, in each of so many rows."""
        return cls(
            model=type(model).__name__,
            architecture=_architecture_digest(model),
            dtype=dtype_name(model.dtype),
            device=device_name(model.device),
            threads=torch.get_num_threads() if model.device.type == "cpu" else 0,
            attention=", ".join(filter(None, (attention_name(model), runner_name))),
            torch=str(torch.__version__),
            context_tokens=context_bucket(context_tokens),
            rows=rows_bucket(rows),
        )


@dataclass(frozen=True)
class StepTimesCache:
    """Step times on disk, a small file for each key; what cannot be read or written is done without.

    Args:
        folder: where they are kept; None keeps nothing.
    """

    folder: Path | None

    @classmethod
    def of_user(cls) -> "StepTimesCache":
        """Return the cache in the user's cache folder."""
        base = user_cache_folder()
        return cls(base / "step-times" if base is not None else None)

    def load(self, key: StepTimesKey) -> StepTimes | None:
        """Return what is kept for a key; None where that is nothing, damaged or another key's."""
        if self.folder is None:
            return None
        try:
            entry = json.loads(self._path(self.folder, key).read_text(encoding="utf-8"))
            if (
                not isinstance(entry, dict)
                or entry.get("format") != _FORMAT
                or entry.get("key") != asdict(key)
            ):
                return None
            return StepTimes.from_dict(entry.get("times"))
        except (OSError, ValueError, RecursionError):  # whatever the file is, measuring is still right
            return None

    def store(self, key: StepTimesKey, times: StepTimes) -> None:
        """Keep the times of a key, instead of what was kept for it before."""
        if self.folder is None:
            return
        entry = {"format": _FORMAT, "key": asdict(key), "times": times.as_dict()}
        with contextlib.suppress(OSError), atomic_cache_write(self._path(self.folder, key)) as partial_file:
            partial_file.write_text(json.dumps(entry, indent=1), encoding="utf-8")

    @staticmethod
    def _path(folder: Path, key: StepTimesKey) -> Path:
        return folder / f"{_digest(asdict(key))}.json"


def step_times_for(
    model: PreTrainedModel,
    step_model: TransformersStepModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_nodes: int,
    cache: StepTimesCache,
) -> StepTimes | None:
    """Return how long forwards behind prompts take: from the cache, or measured there and then.

    Measuring takes about a second and a half at most for a model of 50 ms a forward, draws no random number
    and leaves the step model's cache as it was.

    Args:
        model: the model.
        step_model: its view of a batch, the prompts just read.
        prompts: each row's tokens, without padding.
        max_nodes: the most tokens of a row that are of interest.
        cache: where times are kept.

    Returns:
        The times, or None where the model has no positions left for a draft, however small.
    """
    largest = min(max_nodes, *(step_model.max_draft_depth(row) + 1 for row in step_model.rows))
    if largest < 2:
        return None
    context = step_model.cache.get_seq_length()
    key = StepTimesKey.of(model, context, len(prompts), runner_name=step_model.runner_name)
    times = cache.load(key)
    if times is None or times.sizes[-1] < largest:
        sizes = sizes_to_measure(largest)
        for size in sizes * (2 if step_model.is_captured else 0):  # a shape is captured in its second step
            _forward_and_forget(step_model, prompts, size)
        times = measure_step_times(partial(_forward_and_forget, step_model, prompts), sizes)
        if largest == max_nodes:  # near the end of its positions a model shows only part of the curve
            cache.store(key, times)
    return times


def sizes_to_measure(largest: int) -> tuple[int, ...]:
    """Return the powers of two below the largest size, and it; both ends first, should time run out."""
    powers = [1 << exponent for exponent in range(largest.bit_length()) if 1 << exponent < largest]
    return (*powers[:1], largest, *powers[:0:-1])


def measure_step_times(
    forward: Callable[[int], None],
    sizes: Sequence[int],
    *,
    passes: int = _PASSES,
    limit_seconds: float = _LIMIT_SECONDS,
    clock: Callable[[], float] = perf_counter,
) -> StepTimes:
    """Time forwards of several sizes, in passes over all of them so that what drifts touches all alike.

    For each size the fastest counts, since whatever disturbs a forward makes it slower: warming up (memory,
    kernels loaded for a shape) as well as other processes. Of two or three the median would keep much of it.

    Args:
        forward: does a forward of so many tokens, and returns when it is done.
        sizes: in the order of their importance; the first two are measured however long they take.
        passes: how many there are at most; the first one's seconds may be all warming up, so that wherever
            it is completed a second follows.
        limit_seconds: the first pass is cut short there, and no third is begun that would end later.
        clock: seconds, from anywhere.
    """
    began = clock()
    fastest: dict[int, float] = {}
    for size in sizes:
        if len(fastest) >= 2 and clock() - began > limit_seconds:
            return _as_times(fastest)
        fastest[size] = _seconds_of(forward, size, clock)
    for done in range(1, passes):
        if done >= 2 and clock() - began + sum(fastest.values()) > limit_seconds:
            break
        for size in sizes:
            fastest[size] = min(fastest[size], _seconds_of(forward, size, clock))
    return _as_times(fastest)


def _as_times(seconds: dict[int, float]) -> StepTimes:
    sizes = tuple(sorted(seconds))
    return StepTimes(sizes, tuple(seconds[size] for size in sizes))


def _seconds_of(forward: Callable[[int], None], size: int, clock: Callable[[], float]) -> float:
    began = clock()
    forward(size)
    return clock() - began


@torch.no_grad()
def _forward_and_forget(
    step_model: TransformersStepModel, prompts: Sequence[Sequence[int]], size: int
) -> None:
    """Verify a chain of each prompt's last tokens, wait until that is done, and keep nothing of it."""
    rows = step_model.rows
    chains = {  # a short prompt again and again
        row: DraftTree.chain(np.resize(np.array(prompts[row][-size:], np.int32), size)) for row in rows
    }
    logits = step_model.forward(chains)
    # Reading a logit waits for whatever devices computed it, as choosing a token from it does in a real step.
    logits[rows[-1]][-1, 0].item()
    step_model.keep({row: [] for row in rows})


_NO_ARCHITECTURE = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")


def _architecture_digest(model: PreTrainedModel) -> str:
    fields = {
        name: value
        for name, value in model.config.to_dict().items()
        if name not in _NO_ARCHITECTURE and not name.endswith("_token_id")
    }
    # The bytes tell adapters and quantised weights apart, which the configuration may not mention.
    return _digest({"config": fields, "bytes": model.get_memory_footprint()})


def _digest(values: dict[str, object]) -> str:
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
