"""`python -m research.profile`: the picture of a profile."""

import json

import pytest

from research import profile
from research.plotting.profile import plot_profile


def context(tokens, critical, *, is_at_least):
    return {
        "context_tokens": tokens,
        "steps": [{"nodes": 1, "over_generate": 0.8}, {"nodes": 16, "over_generate": 1.2}],
        "critical_decoding_length": {"tokens": critical, "is_at_least": is_at_least},
    }


REPORT = {
    "contexts": [context(200, 16, is_at_least=True), context(1000, 4, is_at_least=False)],
    "environment": {"model": "tiny", "dtype": "float32", "device": "cpu", "threads": 1},
}


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        profile.main([str(argument) for argument in arguments])
    return ended.value.code


def test_the_picture_has_a_line_for_each_context_and_its_critical_length(tmp_path):
    path = tmp_path / "profile.svg"
    plot_profile(REPORT, path)
    drawn = path.read_text()
    for words in ("200 tokens, CDL ≥ 16", "1,000 tokens, CDL 4", "tiny, float32, cpu, 1 threads"):
        assert f"<!-- {words}" in drawn


def test_a_report_becomes_a_picture(tmp_path):
    report, picture = tmp_path / "profile.json", tmp_path / "profile.svg"
    report.write_text(json.dumps(REPORT))
    assert run(report, picture) == 0
    assert "<!-- 200 tokens, CDL" in picture.read_text()


@pytest.mark.parametrize("content", ["{oops", "[]", '{"settings": {}}'])
def test_what_is_no_report_is_refused(tmp_path, capsys, content):
    report = tmp_path / "profile.json"
    report.write_text(content)
    assert run(report, tmp_path / "profile.svg") == 2
    assert "no report of lookahead profile" in " ".join(capsys.readouterr().err.split())


def test_an_unknown_format_is_refused(tmp_path, capsys):
    report = tmp_path / "profile.json"
    report.write_text(json.dumps(REPORT))
    assert run(report, tmp_path / "profile.bmp") == 2
    assert "'.bmp'" in capsys.readouterr().err
