"""Two reports: what changed, and whether it is beyond noise."""

import json

import pytest
from typer.testing import CliRunner

from lookahead.bench.report.compare import Change, compare_reports, different_settings
from lookahead.cli import app, main
from lookahead.errors import ConfigError, DataFormatError


def report(speedups, *, prompts=12, noise=1.0, machine=1.0, wobble=0.02, **settings):
    """A report with these speedups; every other prompt lies a little above, the others below."""
    rows = []
    for place in range(prompts):
        base_s = machine * (1 + place / 7)
        sign = 1 + wobble * (1 if place % 2 else -1)
        seconds = {"transformers": base_s, "transformers-again": base_s / noise}
        seconds |= {name: base_s / speedup * sign for name, speedup in speedups.items()}
        runs = {
            name: {
                "tokens": 50,
                "total_s": total_s,
                "decode_tokens": 49,
                "steps": 49 if name[0] == "t" else 20,
            }
            for name, total_s in seconds.items()
        }
        rows.append({"id": place, "category": "qa", "prompt_tokens": 9, "runs": runs})
    return {"per_prompt": rows, "settings": {"seed": 0, **settings}, "environment": {"threads": 2}}


def changes(first, second):
    return {one.method: one.change for one in compare_reports(first, second)}


def test_a_change_beyond_its_interval_and_beyond_the_noise_counts():
    first = report({"lookahead": 2.0, "lookahead-8": 1.5, "prompt-lookup": 1.4})
    second = report({"lookahead": 2.2, "lookahead-8": 1.3, "prompt-lookup": 1.4}, machine=3.0)
    assert changes(first, second) == {
        "transformers-again": Change.NOISE,
        "lookahead": Change.FASTER,
        "lookahead-8": Change.SLOWER,
        "prompt-lookup": Change.NOISE,
    }


def test_a_change_no_larger_than_the_noise_is_noise():
    first, second = report({"lookahead": 2.0}), report({"lookahead": 2.2}, noise=1.15)
    assert changes(first, second)["lookahead"] is Change.NOISE
    assert changes(first, report({"lookahead": 1.8}, noise=0.85))["lookahead"] is Change.NOISE


def test_figures_are_of_the_prompts_that_both_have():
    first, second = report({"lookahead": 2.0}, prompts=8), report({"lookahead": 2.0}, prompts=2)
    (compared,) = [one for one in compare_reports(first, second) if one.method == "lookahead"]
    assert compared.change is Change.UNKNOWN
    assert compared.bounds is None
    assert compared.ratio == pytest.approx(1.0)
    assert compared.acceptance == (49 / 20, 49 / 20)


def test_reports_that_share_nothing_are_refused():
    first, other = report({"lookahead": 2.0}), report({"lookahead": 2.0})
    for row in other["per_prompt"]:
        row["prompt_tokens"] += 1
    with pytest.raises(ConfigError, match="no prompt in common"):
        compare_reports(first, other)
    for row in (bare := report({}))["per_prompt"]:
        del row["runs"]["transformers-again"]
    with pytest.raises(ConfigError, match="no method in common"):
        compare_reports(first, bare)
    with pytest.raises(DataFormatError, match="no 'per_prompt'"):
        compare_reports(first, {"settings": {}})


def test_what_else_differs_is_listed():
    table = different_settings(report({}), report({}, seed=7, limit="x" * 99))
    assert [row[:2] for row in table.rows] == [("seed", "0"), ("limit", "-")]
    assert len(table.rows[1][2]) < 40


def test_the_command_shows_it(tmp_path):
    paths = []
    for name, speedup in (("a", 2.0), ("b", 2.5)):
        paths.append(str(tmp_path / f"{name}.json"))
        (tmp_path / f"{name}.json").write_text(json.dumps(report({"lookahead": speedup}, name=name)))
    result = CliRunner().invoke(app, ["compare", *paths])
    assert result.exit_code == 0
    assert "faster" in result.stdout
    assert "1.25" in result.stdout
    assert "What else differs" in result.stdout


@pytest.mark.parametrize("content", [None, "{oops", "[1]"])
def test_what_is_no_report_is_one_line_and_exit_code_2(tmp_path, capsys, content):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SystemExit) as ended:
        main(["compare", str(path), str(path)])
    assert ended.value.code == 2
    assert "a.json" in capsys.readouterr().err


def _spoiled(**changes):
    spoiled = report({"lookahead": 2.0}, prompts=2)
    spoiled["per_prompt"][1] = {**spoiled["per_prompt"][1], **changes}
    return spoiled


RUN = {"tokens": 1, "total_s": 1.0, "decode_tokens": 1, "steps": 1}


@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000,
        "null",
        "5",
        json.dumps({"per_prompt": 5, "settings": {}, "environment": {}}),
        json.dumps({"per_prompt": [], "settings": [], "environment": None}),
        json.dumps({"per_prompt": [5], "settings": {}, "environment": {}}),
        json.dumps(_spoiled(category=["qa"])),
        json.dumps(_spoiled(id={})),
        json.dumps(_spoiled(runs={})),
        json.dumps(_spoiled(runs={"transformers": RUN})),
        json.dumps(_spoiled(runs={"transformers": RUN, "transformers-again": RUN, "lookahead": 5})),
        json.dumps(_spoiled(runs={"transformers": RUN, "transformers-again": RUN, "lookahead": {}})),
        json.dumps(_spoiled()).replace('"tokens": 50', '"tokens": NaN'),
        json.dumps(_spoiled()).replace('"tokens": 50', '"tokens": 1e999'),
        json.dumps(_spoiled()).replace('"tokens": 50', f'"tokens": {10**400}'),
        json.dumps(_spoiled()).replace('"tokens": 50', '"tokens": -1'),
        json.dumps(_spoiled()).replace('"tokens": 50', '"tokens": "50"'),
    ],
)
def test_a_report_of_another_shape_is_refused_by_its_path(content, tmp_path, capsys):
    path, whole = tmp_path / "A.json", tmp_path / "B.json"
    path.write_text(content)
    whole.write_text(json.dumps(report({"lookahead": 2.0})))
    for paths in ((path, whole), (whole, path)):
        with pytest.raises(SystemExit) as ended:
            main(["compare", *map(str, paths)])
        stderr = capsys.readouterr().err
        assert ended.value.code == 2
        assert stderr.startswith("error: ")
        assert str(path) in stderr
