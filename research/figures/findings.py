"""The figures of docs/findings.md: the paper's findings measured again. See `documents`."""

from collections.abc import Sequence
from functools import partial

from research.figures.records import Figures, Read, Report, figure_of, markdown_table, replayed_figure

SETS = {
    "Spec-Bench": "spec-bench-72-bfloat16-cpu.json",
    "HumanEval": "humaneval-16-bfloat16-cpu.json",
    "GSM8K": "gsm8k-12-cold-bfloat16-cpu.json",
    "enterprise RAG": "bank-rag-24-cold-bfloat16-cpu.json",
    "enterprise RAG, warm": "bank-rag-24-warm-bfloat16-cpu.json",
}
PROFILES = {
    "bfloat16": "profile-embedded-bfloat16-cpu.json",
    "float32": "profile-embedded-float32-cpu.json",
    "bfloat16, not fused": "profile-embedded-unfused-bfloat16-cpu.json",
}
REPLAYED = {"all": None, "rag": "rag", "translation": "translation", "MT-bench": "mt_bench"}
"""Columns of the experiments by replay: heading and category, None for all categories."""
REPRODUCIBLE = (
    "reproducible-200-bfloat16-cpu.json",
    "reproducible-sampling-200-bfloat16-cpu.json",
    "reproducible-qwen2-bfloat16-cpu.json",
    "reproducible-one-shape-bfloat16-cpu.json",
    "reproducible-one-shape-sampling-bfloat16-cpu.json",
    "reproducible-one-shape-float16-cpu.json",
)
GRID = "grid-12-bfloat16-cpu.json"
SECOND_MODEL = "spec-bench-18-qwen2.5-coder-0.5b-bfloat16-cpu.json"
NOT_REPRODUCIBLE = "not-reproducible-100-bfloat16-cpu.json"
COSTS = {
    "fused steps": "reproducible-cost-18-bfloat16-cpu.json",
    "one shape of 16 tokens": "reproducible-cost-18-unfused-bfloat16-cpu.json",
}


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}x"


def _by_set(read: Read) -> str:
    heading = (
        "prompts",
        "end to end",
        "decoding",
        "its step without drafts",
        "drafts' share",
        "prompt lookup",
        "tokens per forward pass",
    )
    lines = []
    for name, record in SETS.items():
        report = read(record)

        decoding = {name: found["overall"] for name, found in report["decode_speedup"].items()}
        plain = decoding.get("lookahead-plain")
        lines.append(
            (
                f"{name}, {report['prompts']['overall']}",
                _times(figure_of(report, "speedup", "lookahead")),
                _times(decoding["lookahead"]),
                _times(plain),
                _times(plain and decoding["lookahead"] / plain),
                _times(decoding.get("prompt-lookup")),
                f"{figure_of(report, 'mean_acceptance_length', 'lookahead'):.2f}",
            )
        )
    return markdown_table(heading, lines)


def _methods(read: Read, *, record: str, methods: Sequence[str]) -> str:
    """Return speedup end to end, speedup in decoding and acceptance of some methods in one run."""
    report = read(record)
    names = ("speedup", "decode_speedup", "mean_acceptance_length")
    lines = []
    for method in methods:
        speedups = [_times(figure_of(report, name, method)) for name in names[:2]]
        lines.append((f"`{method}`", *speedups, f"{figure_of(report, names[2], method):.2f}"))
    count = report["prompts"]["overall"]
    return markdown_table((f"{count} prompts", "end to end", "decoding", "tokens per forward pass"), lines)


def _replayed(read: Read, *, record: str, variants: Sequence[str]) -> str:
    """Return the acceptance of some variants, over all requests and by category."""
    report = read(record)
    lines = [
        (variant, *(f"{replayed_figure(report, variant, category):.2f}" for category in REPLAYED.values()))
        for variant in variants
    ]
    return markdown_table((f"{report['traces']} requests, tokens per forward pass", *REPLAYED), lines)


def _grid_of_acceptance(read: Read) -> str:
    report = read("replay-grid.json")
    cells = {tuple(map(int, row["store"].split(" by "))): row for row in report["results"]}
    depths = sorted({depth for _, depth in cells})
    lines = [
        (str(length), *(f"{cells[length, depth]['mean_acceptance_length']:.2f}" for depth in depths))
        for length in sorted({length for length, _ in cells})
    ]
    return markdown_table(("tokens verified", *(f"{depth} deep" for depth in depths)), lines)


def _grid_of_speed(read: Read) -> str:
    report = read(GRID)
    cells = {
        tuple(map(int, method.removeprefix("lookahead-").split("x"))): _times(of_method["overall"])
        for method, of_method in report["decode_speedup"].items()
        if method.startswith("lookahead-")
    }
    depths = sorted({depth for _, depth in cells})
    lines = [
        (str(length), *(cells.get((length, depth), "-") for depth in depths))
        for length in sorted({length for length, _ in cells})
    ]
    return markdown_table(("tokens verified", *(f"{depth} deep" for depth in depths)), lines)


def _step_times(read: Read) -> str:
    lines = []
    for name, record in PROFILES.items():
        for context in read(record)["contexts"]:
            steps = {step["nodes"]: step["over_generate"] for step in context["steps"]}
            critical = context["critical_decoding_length"]
            lines.append(
                (
                    f"{name}, {context['context_tokens']:,}",
                    *(f"{steps[nodes]:.2f}" for nodes in (1, 8, 16, 64)),
                    f"{critical['tokens']}{' or more' if critical['is_at_least'] else ''}",
                    f"{context['memory']['over_generate'] - 1:+.1%}",
                )
            )
    heading = ("tokens before", "T(1)", "T(8)", "T(16)", "T(64)", "critical decoding length", "peak memory")
    return markdown_table(heading, lines)


def _batches(read: Read) -> str:
    report = read("batch-16-bfloat16-cpu.json")
    lines = [
        (
            size,
            f"{figure_of(report, 'tokens_per_second', 'transformers', size):.0f}",
            f"{figure_of(report, 'tokens_per_second', 'lookahead', size):.0f}",
            _times(figure_of(report, "speedup", "lookahead", size)),
        )
        for size in report["prompts"]["by_category"]
    ]
    return markdown_table(("", "generate, tokens/s", "Lookahead, tokens/s", "end to end"), lines)


def _peak_memory(read: Read) -> str:
    peaks = read("peak-memory-12-bfloat16-cpu.json")["peak_memory"]["mebibytes"]
    lines = [
        (f"`{method}`", f"{peak:,.0f}", f"{peak / peaks['transformers'] - 1:+.1%}")
        for method, peak in peaks.items()
    ]
    return markdown_table(("", "MiB", "beside `transformers`"), lines)


def _reproducible(read: Read) -> str:
    lines = []
    for record in REPRODUCIBLE:
        report = read(record)
        for kind in ("greedy", "sampling"):
            cases = [case for case in report["results"] if f", {kind}, " in case["case"]]
            if cases:
                lines.append(_of_one_model(report, kind, cases))
    heading = ("model", "steps", "text", "prompts x tokens", "decoding lengths and memories", "differ")
    return markdown_table(heading, lines)


def _of_one_model(report: Report, kind: str, cases: Sequence[Report]) -> tuple[str, ...]:
    name = {"embedded": "SmolLM2-135M"}.get(report["model"], report["model"].rsplit("/", 1)[-1])
    if report["random_weights"]:
        name += f", random weights, {report['layers']} layers"
    return (
        f"{name}, {report['dtype']}",
        "fused" if report["fused_step"] and report["dtype"] != "float16" else "one shape",
        kind,
        f"{report['prompts']} x {report['new_tokens']}",
        str(len(cases)),
        f"**{max(case.get('differ', 0) for case in cases)}**",
    )


def _not_reproducible(read: Read) -> str:
    compared = [case for case in read(NOT_REPRODUCIBLE)["results"] if "differ" in case]
    names = list(compared[0]["margins_where_they_part"])
    lines = [
        (
            case["case"].removeprefix("reproducible=False, greedy, "),
            f"{case['differ']} of {case['of']}",
            *(str(case["margins_where_they_part"][name]) for name in names),
        )
        for case in compared
    ]
    return markdown_table(("", "differ", *(f"margin {name}" for name in names)), lines)


def _cost_of_reproducible(read: Read) -> str:
    lines = []
    for steps, record in COSTS.items():
        report = read(record)
        speeds = {
            name: figure_of(report, "decode_tokens_per_second", name)
            for name in ("transformers", "lookahead", "lookahead-reproducible")
        }
        share = speeds["lookahead-reproducible"] / speeds["lookahead"]
        lines.append((steps, *(f"{speed:.0f}" for speed in speeds.values()), f"{share:.2f}"))
    return markdown_table(("decoding, tokens/s", "generate", "off", "on", "on ÷ off"), lines)


_MODES = ("trie", "trie, parallel", "trie, single", "log", "log, parallel", "log, single")
_ABLATED = (
    *("trie", "trie without prompts", "trie without earlier answers", "trie without answers"),
    *("trie without elimination", "trie pruned to 20,000 nodes", "log", "log without prompts"),
    *("log without earlier answers", "log without answers", "log without recycling"),
)
_CAPACITIES = (
    *("log, 128 KiB", "log, 512 KiB", "log, 2048 KiB", "log, 8192 KiB"),
    *("trie, 512 KiB", "trie, 2048 KiB", "trie, 8192 KiB"),
)
_LIVE_MODES = (
    *("prompt-lookup", "llma", "lookahead-parallel", "lookahead-trie", "lookahead-log", "lookahead"),
)
_USUAL = ("prompt-lookup", "lookahead", "lookahead-plain")

FIGURES: Figures = {
    "by-set": _by_set,
    "modes": partial(_replayed, record="replay-ablation.json", variants=_MODES),
    "modes-live": partial(_methods, record="methods-24-bfloat16-cpu.json", methods=_LIVE_MODES),
    "grid": _grid_of_acceptance,
    "grid-live": _grid_of_speed,
    "step-times": _step_times,
    "ablation": partial(_replayed, record="replay-ablation.json", variants=_ABLATED),
    "capacity": partial(_replayed, record="replay-capacity.json", variants=_CAPACITIES),
    "warm-up": partial(_replayed, record="replay-warm-up.json", variants=("memory grows", "memory emptied")),
    "batches": _batches,
    "peak-memory": _peak_memory,
    "second-model": partial(_methods, record=SECOND_MODEL, methods=_USUAL),
    "reproducible": _reproducible,
    "not-reproducible": _not_reproducible,
    "cost-of-reproducible": _cost_of_reproducible,
}
