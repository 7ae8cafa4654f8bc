"""`scripts/families.py`: every family in its mode, and why some are not verified in trees."""

import json

from research.families import families, table


def test_the_script_lists_every_family(tmp_path, monkeypatch, capsys):
    chosen = {name: families.FAMILIES[name] for name in ("llama", "bloom", "jamba")}
    unknown = {
        "unheard-of": families.Family("unheard_of"),
        "broken": families.Family("llama", {"num_hidden_layers": "no"}),
    }
    monkeypatch.setattr(table, "FAMILIES", chosen | unknown)
    monkeypatch.setattr(families, "FAMILIES", chosen | unknown)
    out = tmp_path / "families.json"
    table.main(["--json", str(out)])
    printed = capsys.readouterr().out
    assert "| bloom  | tree " in printed
    assert "2 tree, 0 chain, 1 plain; reproducible: 1 one shape, 2 plain" in printed
    assert "bloom: plain where reproducible, its attention cannot be computed" in printed
    assert "jamba: plain, it has layers of type 'linear_attention'" in printed
    written = json.loads(out.read_text())
    assert {"date", "command", "transformers", "dtype", "counts"} <= set(written)
    assert [(row["family"], row["mode"]) for row in written["families"]] == [
        ("bloom", "tree"),
        ("jamba", "plain"),
        ("llama", "tree"),
    ]
    assert {row["family"] for row in written["skipped"]} == {"unheard-of", "broken"}
