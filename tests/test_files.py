"""Files are written atomically."""

import json

import pytest

from lookahead.files import atomic_write, write_json


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "report.json"
    write_json(path, {"figure": 1.5})
    assert json.loads(path.read_text()) == {"figure": 1.5}
    before = path.read_text()
    for content, error in (({"unwritable": object()}, TypeError), ({"figure": float("nan")}, ValueError)):
        with pytest.raises(error):
            write_json(path, content)
        assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_moved_as_a_whole(tmp_path):
    with atomic_write(tmp_path / "model") as partial:
        partial.mkdir()
        (partial / "config.json").write_text("{}")
        assert not (tmp_path / "model").exists()
    assert (tmp_path / "model" / "config.json").read_text() == "{}"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_missing_folder_is_an_os_error(tmp_path):
    with pytest.raises(OSError, match="nowhere"), atomic_write(tmp_path / "nowhere" / "file"):
        pass
