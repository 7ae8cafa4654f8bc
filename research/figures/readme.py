"""The figures of README.md. See `documents`."""

from research.figures.records import Figures, Read, Report, figure_of, markdown_table

SPEC_BENCH = "spec-bench-72-bfloat16-cpu.json"
_OTHERS = (
    ("enterprise RAG, {prompts} prompts, memory empty", "bank-rag-24-cold-bfloat16-cpu.json"),
    ("… memory warm with the answers to {warm_rows} others", "bank-rag-24-warm-bfloat16-cpu.json"),
    ("GSM8K, {prompts} prompts", "gsm8k-12-cold-bfloat16-cpu.json"),
    ("HumanEval, {prompts} prompts", "humaneval-16-bfloat16-cpu.json"),
    (
        "Spec-Bench, {prompts} prompts, Qwen2.5-Coder-0.5B",
        "spec-bench-18-qwen2.5-coder-0.5b-bfloat16-cpu.json",
    ),
)
_NOT_FUSED = "reproducible-cost-18-unfused-bfloat16-cpu.json"
_REPRODUCIBLE = "reproducible-200-bfloat16-cpu.json"
_CATEGORY_NAMES = {"mt_bench": "MT-bench"}


def _spec_bench_table(read: Read) -> str:
    report = read(SPEC_BENCH)
    where = f"{report['environment']['threads']} CPU cores ({report['environment']['cpu']})"
    heading = (
        f"Spec-Bench, SmolLM2-135M, {report['environment']['dtype']}, {where}",
        "speedup, end to end",
        "decoding alone",
        "prompt lookup, end to end",
        "tokens a forward: Lookahead / prompt lookup",
    )
    lines = [_spec_bench_line(report, None)]
    lines += [_spec_bench_line(report, category) for category in report["prompts"]["by_category"]]
    return markdown_table(heading, lines)


def _spec_bench_line(report: Report, category: str | None) -> tuple[str, ...]:
    def figure(name: str, method: str) -> float:
        return figure_of(report, name, method, category)

    bold = "**" if category is None else ""
    name = f"all {report['prompts']['overall']} prompts"
    if category is not None:
        name = _CATEGORY_NAMES.get(category, category.replace("_", " "))
    acceptance = [figure("mean_acceptance_length", method) for method in ("lookahead", "prompt-lookup")]
    return (
        f"{bold}{name}{bold}",
        f"{bold}{figure('speedup', 'lookahead'):.2f}x{bold}",
        f"{figure('decode_speedup', 'lookahead'):.2f}x",
        f"{figure('speedup', 'prompt-lookup'):.2f}x",
        f"{acceptance[0]:.2f} / {acceptance[1]:.2f}",
    )


def _others_table(read: Read) -> str:
    heading = ("other prompts", "speedup, end to end", "decoding alone", "tokens a forward")
    lines = []
    for words, record in _OTHERS:
        report = read(record)
        settings = report["settings"]
        name = words.format(
            prompts=report["prompts"]["overall"], warm_rows=(settings["warmed_with"] or {}).get("rows")
        )
        figures = [figure_of(report, name, "lookahead") for name in ("speedup", "decode_speedup")]
        acceptance = figure_of(report, "mean_acceptance_length", "lookahead")
        lines.append((name, *(f"{figure:.2f}x" for figure in figures), f"{acceptance:.2f}"))
    return markdown_table(heading, lines)


def _identical(read: Read) -> str:
    report = read(SPEC_BENCH)
    ours, theirs = (int(figure_of(report, "identical", name)) for name in ("lookahead", "prompt-lookup"))
    prompts = report["prompts"]["overall"]
    return f"{ours} of {prompts} (prompt lookup: {theirs} of {prompts})"


def _fixed_sizes(read: Read) -> str:
    """Return the range of speeds of fixed sizes relative to the automatic one, over all records with both."""
    shares = []
    for record in (SPEC_BENCH, *(name for _, name in _OTHERS)):
        speeds = read(record)["speedup"]
        fixed = [speeds[name]["overall"] for name in ("lookahead-8", "lookahead-16") if name in speeds]
        shares += [speed / speeds["lookahead"]["overall"] for speed in fixed]
    return f"between {min(shares):.2f} and {max(shares):.2f}"


def _plain(read: Read) -> str:
    return f"{figure_of(read(SPEC_BENCH), 'speedup', 'lookahead-plain'):.2f}x"


def _not_fused(read: Read) -> str:
    return f"{figure_of(read(_NOT_FUSED), 'speedup', 'lookahead'):.2f}x"


def _reproducible(read: Read) -> str:
    report = read(_REPRODUCIBLE)
    return f"{max(case.get('differ', 0) for case in report['results'])} of {report['prompts']}"


FIGURES: Figures = {
    "spec-bench": _spec_bench_table,
    "other-prompts": _others_table,
    "identical": _identical,
    "fixed-sizes": _fixed_sizes,
    "plain": _plain,
    "not-fused": _not_fused,
    "reproducible": _reproducible,
}
