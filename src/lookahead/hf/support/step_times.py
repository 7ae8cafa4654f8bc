"""How long a model's forward passes take, measured once after a real prompt and kept on disk."""

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
"""Version of the cache files; with another version, times are measured again."""
_PASSES = 3
_LIMIT_SECONDS = 1.5


@dataclass(frozen=True)
class StepTimesKey:
    """What the seconds of a forward pass depend on.

    Attributes:
        model: The model's class.
        architecture: Digest of its configuration and of its weights' size in bytes.
        dtype: Dtype of its weights.
        device: Name of the processor.
        threads: Threads of torch; 0 if the processor is not the CPU.
        attention: Transformers' name of the attention, followed by the step model's `runner_name`.
        torch: Version of torch.
        context_tokens: Bucket of the context.
        rows: Bucket of the batch's rows.
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
        """Return the key of a model with this many context tokens in each of this many rows."""
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
    """Step times on disk, a small file per key; files that cannot be read or written are ignored.

    Args:
        folder: The folder of the files; None keeps nothing.
    """

    folder: Path | None

    @classmethod
    def of_user(cls) -> "StepTimesCache":
        """Return the cache in the user's cache folder."""
        base = user_cache_folder()
        return cls(base / "step-times" if base is not None else None)

    def load(self, key: StepTimesKey) -> StepTimes | None:
        """Return the times of a key; None if its file is missing, damaged or another key's."""
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
        except (OSError, ValueError, RecursionError):  # measuring works, whatever the file contains
            return None

    def store(self, key: StepTimesKey, times: StepTimes) -> None:
        """Write the times of a key, replacing earlier ones."""
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
    """Return how long forward passes after the prompts take: from the cache, or measured now.

    With forward passes of 50 ms, measuring takes at most about 1.5 seconds. It draws no random numbers and
    leaves the step model's cache as it was.

    Args:
        model: The model.
        step_model: Its step model, after the prefill.
        prompts: Each row's tokens, without padding.
        max_nodes: Upper bound on the tokens per row that are timed.
        cache: The step times on disk.

    Returns:
        The times; None if the model has no positions left for any draft.
    """
    largest = min(max_nodes, *(step_model.max_draft_depth(row) + 1 for row in step_model.rows))
    if largest < 2:
        return None
    context = step_model.cache.get_seq_length()
    key = StepTimesKey.of(model, context, len(prompts), runner_name=step_model.runner_name)
    times = cache.load(key)
    if times is None or times.sizes[-1] < largest:
        sizes = sizes_to_measure(largest)
        for size in sizes * (2 if step_model.is_captured else 0):  # each shape is captured at its second use
            _forward_and_forget(step_model, prompts, size)
        times = measure_step_times(partial(_forward_and_forget, step_model, prompts), sizes)
        if largest == max_nodes:  # near the end of a model's positions, only part of the curve is measured
            cache.store(key, times)
    return times


def sizes_to_measure(largest: int) -> tuple[int, ...]:
    """Return the largest size and the powers of two below it; both ends first, in case time runs out."""
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
    """Time forward passes of several sizes, in rounds over all sizes, so that drift affects all alike.

    The fastest time of each size counts. Any disturbance makes a forward pass slower: warm-up (memory,
    kernels loaded for a shape) or other processes. A median of two or three would keep much of that.

    Args:
        forward: Does a forward pass of that many tokens per row, and returns when it is done.
        sizes: Sizes in order of importance; the first two are always measured.
        passes: Maximum number of rounds. If the first round completes, a second always follows, since the
            first may be all warm-up.
        limit_seconds: The first round stops at this time. A third round is not begun if it would end after
            this limit.
        clock: Returns the time in seconds.
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
    """Verify a chain of each prompt's last tokens, wait until it is done, and keep none of its nodes."""
    rows = step_model.rows
    chains = {  # a short prompt is repeated
        row: DraftTree.chain(np.resize(np.array(prompts[row][-size:], np.int32), size)) for row in rows
    }
    logits = step_model.forward(chains)
    # Reading a logit waits for the device, as choosing a token does in a real step.
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
