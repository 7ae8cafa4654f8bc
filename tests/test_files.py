"""Files are written atomically."""

import contextlib
import json
import os
import subprocess
import sys
import time

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


def test_a_symbolic_link_stays_and_its_target_is_written(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    target, link, link_to_link = tmp_path / "elsewhere" / "real", tmp_path / "link", tmp_path / "second"
    link.symlink_to(target)
    link_to_link.symlink_to(link)
    for turn, path in enumerate((link, link_to_link)):  # the target is missing at first
        write_json(path, {"turn": turn})
        assert link.is_symlink()
        assert link_to_link.is_symlink()
        assert json.loads(target.read_text()) == {"turn": turn}
    with pytest.raises(TypeError):
        write_json(link, {"unwritable": object()})
    assert json.loads(target.read_text()) == {"turn": 1}
    assert list(target.parent.iterdir()) == [target]


def test_a_link_to_itself_or_to_nowhere_is_an_os_error(tmp_path):
    loop, lost = tmp_path / "loop", tmp_path / "lost"
    loop.symlink_to(loop)
    lost.symlink_to(tmp_path / "nowhere" / "file")
    for link in (loop, lost):
        with pytest.raises(OSError, match=r"loop|nowhere|symbolic"):
            write_json(link, {})
        assert link.is_symlink()


WRITES_FOR_EVER = """
import sys, time
from pathlib import Path
from lookahead.files import atomic_write
with atomic_write(Path(sys.argv[1])) as partial:
    partial.write_text("half")
    print("writing", flush=True)
    time.sleep(600)
"""


@contextlib.contextmanager
def writing(path):
    """A process that is writing a file at `path`, killed afterwards."""
    command = [sys.executable, "-c", WRITES_FOR_EVER, str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603
    try:
        assert process.stdout.readline() == "writing\n"
        yield
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.skipif(os.name != "posix", reason="there are no locks")
def test_what_a_killed_process_was_writing_goes_with_the_next_write_and_not_before(tmp_path):
    path = tmp_path / "file"
    with writing(path):
        write_json(path, {})
        (partial,) = (entry for entry in tmp_path.iterdir() if entry != path)
        age(partial, days=9)
        write_json(path, {})
        assert [part.read_text() for part in partial.rglob("file")] == ["half"]
    write_json(path, {})
    assert list(tmp_path.iterdir()) == [path]


def age(folder, days):
    for part in (*folder.rglob("*"), folder):
        os.utime(part, (time.time() - days * 86400,) * 2)


def folder_with_file(path):
    path.mkdir()
    (path / "memory").write_text("half")
    return path


@pytest.mark.parametrize("name", [".partial-ab3_x9qz", ".partial-00000000-ab3_x9qz"])
def test_without_a_lock_of_this_host_age_decides(tmp_path, name):
    # Earlier releases had no lock; other hosts' locks do not always reach here.
    partial = folder_with_file(tmp_path / name)
    if "00000000" in name:
        (partial / "lock").touch()
    age(partial, days=9)
    os.utime(partial / "memory")
    write_json(tmp_path / "file", {})
    assert partial.exists()  # something in it is new
    age(partial, days=2)
    write_json(tmp_path / "file", {})
    assert not partial.exists()


def test_what_is_not_ours_stays(tmp_path, monkeypatch):
    kept = [
        folder_with_file(tmp_path / name) for name in (".partial-", ".partial-results", "partial-ab3_x9qz")
    ]
    real = folder_with_file(tmp_path / "real")
    (tmp_path / ".partial-ab3_x9qa").symlink_to(real)
    (tmp_path / ".partial-ab3_x9qb").write_text("a file")
    for folder in (*kept, real):
        age(folder, days=9)
    write_json(tmp_path / "file", {})
    assert len(list(tmp_path.iterdir())) == len(kept) + 4
    another_users = folder_with_file(tmp_path / ".partial-ab3_x9qz")
    age(another_users, days=9)
    if os.name == "posix":
        monkeypatch.setattr(os, "getuid", lambda: another_users.stat().st_uid + 1)
        write_json(tmp_path / "file", {})
        assert another_users.exists()


def test_without_locks_files_are_written_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr("lookahead.files.try_lock", lambda *_args, **_kwargs: None)
    with atomic_write(tmp_path / "file") as partial:
        partial.write_text("whole")
        write_json(tmp_path / "other", {})
    assert {path.name for path in tmp_path.iterdir()} == {"file", "other"}


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
