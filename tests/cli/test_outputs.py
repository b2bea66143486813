"""Outputs of commands: refusals before any work, whole files, locks, full disks."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from electret import InputError, OutputError
from electret.support.outputs import (
    LOCK_FILE,
    atomic_write,
    check_file_name,
    check_not_in_use,
    check_outputs,
    claimed,
    holds_run,
    set_aside,
)


def test_an_input_is_never_an_output(tmp_path: Path) -> None:
    """By the file itself: through a link, a hard link and another spelling of its path, even with --force."""
    data = tmp_path / "data.xyz"
    data.write_text("mine")
    (tmp_path / "link.xyz").symlink_to(data)
    os.link(data, tmp_path / "hard.xyz")
    for output in (
        data,
        tmp_path / "link.xyz",
        tmp_path / "hard.xyz",
        tmp_path / ".." / tmp_path.name / "data.xyz",
    ):
        with pytest.raises(
            OutputError, match=r"would replace '.*data.xyz', which is read; give another name"
        ):
            check_outputs([output], [data], replace=True)
    assert data.read_text() == "mine"


def test_existing_files_are_refused_unless_forced(tmp_path: Path) -> None:
    (tmp_path / "out.xyz").write_text("mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    for name in ("out.xyz", "dangling"):
        with pytest.raises(OutputError, match=f"'.*{name}' exists already; .* --force"):
            check_outputs([tmp_path / name])
        check_outputs([tmp_path / name], replace=True)
    check_outputs([tmp_path / "new" / "deep" / "out.xyz", tmp_path / "empty", Path("/dev/null")])
    with pytest.raises(OutputError, match="given for two outputs"):
        check_outputs([tmp_path / "a", tmp_path / "a"])
    with pytest.raises(OutputError, match=r"out.xyz' is no folder"):
        check_outputs([tmp_path / "out.xyz" / "below"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "empty", "out.xyz"]


def test_whole_files_and_devices(tmp_path: Path) -> None:
    atomic_write(tmp_path / "new" / "file", b"1")
    atomic_write(tmp_path / "new" / "file", b"22")
    assert (tmp_path / "new" / "file").read_bytes() == b"22"
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    atomic_write(tmp_path / "pipe", b"through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EACCES])
def test_a_file_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """The file before stays, no temporary is left, and the message names the file and the remedy."""
    atomic_write(tmp_path / "file", b"before")

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("os.fsync", fail)
    remedy = "another place" if code == errno.EACCES else "free some space"
    with pytest.raises(
        OutputError, match=f"file' cannot be written: {os.strerror(code)}; .*{remedy}.*--resume"
    ):
        atomic_write(tmp_path / "file", b"after")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"before"


@pytest.mark.parametrize("name", ["../x", "a/b", "..", "", "a\\b", "/etc/x"])
def test_names_stay_in_their_folder(name: str) -> None:
    with pytest.raises(InputError, match="becomes the name of a file"):
        check_file_name(name, "model")
    check_file_name("short range (2)..", "model")


def test_runs_are_recognised_and_set_aside(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    assert not holds_run(folder)
    for name in ("model.electret", "metrics.csv", "checkpoints/last.safetensors"):
        (folder / name).write_text(name)
        assert holds_run(folder)
        assert set_aside(folder, ["model.electret", "metrics.csv", "checkpoints"]).name.startswith("run.")
        assert not holds_run(folder)
        (folder / "checkpoints").mkdir(exist_ok=True)
    assert (tmp_path / "run.1" / "model.electret").read_text() == "model.electret"
    assert (tmp_path / "run.3" / "checkpoints" / "last.safetensors").exists()


HOLDER = """
import sys, time
from pathlib import Path
from electret.support.outputs import claimed
with claimed(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_lock_is_that_of_a_living_process(tmp_path: Path) -> None:
    """Refused while its process lives, taken over with its temporaries once it was killed."""
    folder = tmp_path / "run"
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        for attempt in (lambda: check_not_in_use(folder), lambda: claimed(folder).__enter__()):
            with pytest.raises(OutputError) as caught:
                attempt()
            for text in (
                str(folder),
                f"process {holder.pid} on {os.uname().nodename}",
                LOCK_FILE,
                "wait for it",
            ):
                assert text in str(caught.value)
        holder.send_signal(signal.SIGKILL)
    assert (folder / LOCK_FILE).exists()
    (folder / "checkpoints").mkdir()
    for name in (
        ".metrics.csv.123.tmp",
        "checkpoints/.last.safetensors.9.tmp",
        ".mine.tmp",
        "checkpoints/mine.tmp",
    ):
        (folder / name).write_text("half")
    check_not_in_use(folder)
    with claimed(folder):
        assert json.loads((folder / LOCK_FILE).read_text())["process"] == os.getpid()
        left = sorted(str(path.relative_to(folder)) for path in folder.rglob("*mp"))
        assert left == [".mine.tmp", "checkpoints/mine.tmp"]
        with pytest.raises(OutputError, match=f"process {os.getpid()} "), claimed(folder):
            pass
    assert not (folder / LOCK_FILE).exists()


def test_a_lock_of_another_host_is_left_alone(tmp_path: Path) -> None:
    text = json.dumps({"process": 1, "host": "node7", "since": "2026-01-01 00:00:00"})
    (tmp_path / LOCK_FILE).write_text(text)
    for attempt in (lambda: check_not_in_use(tmp_path), lambda: claimed(tmp_path).__enter__()):
        with pytest.raises(
            OutputError, match=r"process 1 on node7 since 2026.*electret.lock.*remove the file"
        ):
            attempt()
    assert (tmp_path / LOCK_FILE).read_text() == text
    (tmp_path / LOCK_FILE).write_text("")  # killed between making the file and writing to it
    with claimed(tmp_path):
        pass


@pytest.mark.parametrize("alive", [True, False])
def test_file_systems_without_locks_go_by_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alive: bool
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOSYS, "no locks here")

    monkeypatch.setattr("fcntl.flock", unsupported)
    process = os.getpid()
    if not alive:
        process = os.fork()
        if process == 0:
            os._exit(0)
        os.waitpid(process, 0)
    holder = {"process": process, "host": os.uname().nodename, "since": "2026-01-01 00:00:00"}
    (tmp_path / LOCK_FILE).write_text(json.dumps(holder))
    if alive:
        with pytest.raises(OutputError, match=f"process {process} on"):
            check_not_in_use(tmp_path)
    else:
        with claimed(tmp_path):
            pass
