"""Files are written atomically."""

import json
import os

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


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("elsewhere/report.json")
    for figure in (1, 2):  # the first time it leads nowhere
        write_json(tmp_path / "link", {"figure": figure})
        assert (tmp_path / "link").is_symlink()
        assert json.loads((tmp_path / "elsewhere" / "report.json").read_text()) == {"figure": figure}


def test_a_device_a_pipe_and_a_loop_are_never_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "device").symlink_to("/dev/null")
    for name in ("pipe", "loop", "device"):
        with pytest.raises(OSError, match=name):
            write_json(tmp_path / name, {})
    assert len(list(tmp_path.iterdir())) == 3
    assert (tmp_path / "pipe").is_fifo()


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "report.json"
    path.write_text("old")

    def interrupted():
        with atomic_write(path) as partial:
            partial.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_that_is_no_text_is_escaped(tmp_path):
    write_json(tmp_path / "report.json", {"data": "\udcff.jsonl", "text": "é"})
    assert json.loads((tmp_path / "report.json").read_bytes()) == {"data": "\udcff.jsonl", "text": "é"}
