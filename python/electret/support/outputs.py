"""Files that commands write: refused before any work, written whole or not at all, one process in a folder.

Imports the standard library and `electret.errors` only.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from electret.errors import OutputError

try:
    import fcntl
except ImportError:  # no such locks on Windows: a lock file there is always taken as held
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "CSV_FILE",
    "LOCK_FILE",
    "MODEL_FILE",
    "atomic_write",
    "check_ending",
    "check_file_name",
    "check_not_in_use",
    "check_outputs",
    "claimed",
    "holds_run",
    "set_aside",
    "writing",
]

MODEL_FILE = "model.electret"
CSV_FILE = "metrics.csv"
LOCK_FILE = "electret.lock"

_TEMPORARY = re.compile(r"\..+\.\d+\.tmp")
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Errors of the file system inside the context as an `OutputError` that names `path` and the remedy."""
    try:
        yield
    except (OutputError, BrokenPipeError):
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        remedy = "free some space there" if error.errno in _DISK_FULL else "give another place"
        raise OutputError(
            f"'{path}' cannot be written: {reason}; {remedy} (a training goes on with --resume)"
        ) from error


def atomic_write(path: Path, content: bytes) -> None:
    """Write to a temporary file, sync it, and rename: a crash leaves the old file or the new one, whole.

    Pipes and devices, as /dev/stdout, are written directly.

    Raises:
        OutputError: the file cannot be written; names it and the remedy.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():
            path.write_bytes(content)
            return
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        if hasattr(os, "O_DIRECTORY"):
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)  # the rename itself reaches the disk
            finally:
                os.close(folder)


def check_outputs(
    outputs: Iterable[Path],
    inputs: Iterable[Path] = (),
    *,
    replace: bool = False,
    remedy: str = "give another name, or --force to replace it",
) -> None:
    """Refuse, before any work, to write files or folders that would destroy something.

    Args:
        outputs: files, or folders that a command fills.
        inputs: files that are read.
        replace: existing files may be replaced (`--force`, or they are the command's own); inputs never.
        remedy: for outputs that exist.

    Raises:
        OutputError: an output that is an input (through links, too), that exists, that is given twice, or
            whose folder cannot be made or written.
    """
    sources, seen = list(inputs), set()
    for output in outputs:
        for source in sources:
            if _same_file(output, source):
                raise OutputError(f"'{output}' would replace '{source}', which is read; give another name")
        if output.resolve() in seen:
            raise OutputError(f"'{output}' is given for two outputs; give different names")
        seen.add(output.resolve())
        if _is_occupied(output) and not replace:
            raise OutputError(f"'{output}' exists already; {remedy}")
        _check_folder(output.parent)


def check_ending(path: Path, endings: Iterable[str]) -> None:
    """Raise `OutputError` for a file whose ending names none of the formats that can be written."""
    if path.suffix.lower() not in endings:
        raise OutputError(
            f"'{path}' names no format that can be written; give it an ending of {', '.join(endings)}"
        )


def _is_occupied(path: Path) -> bool:
    """True for files, links and folders with something in them; not for pipes and devices, as /dev/stdout."""
    if path.is_dir():
        return any(_TEMPORARY.fullmatch(entry.name) is None for entry in path.iterdir())
    return path.is_symlink() or path.is_file()


def _same_file(one: Path, other: Path) -> bool:
    if one.exists() and other.exists():
        return os.path.samefile(one, other)
    return one.resolve() == other.resolve()


def _check_folder(folder: Path) -> None:
    existing = next(place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))
    if not existing.is_dir():
        raise OutputError(
            f"output folder '{folder}' cannot be made: '{existing}' is no folder; set another output"
        )
    if not os.access(existing, os.W_OK | os.X_OK):
        raise OutputError(f"output folder '{existing}' is not writable; set another output")


def holds_run(folder: Path) -> bool:
    """True if a folder has the model, the metrics or a checkpoint of a training."""
    names = (folder / MODEL_FILE, folder / CSV_FILE)
    return any(map(os.path.lexists, names)) or any(folder.glob("checkpoints/*.safetensors"))


def check_file_name(name: str, what: str) -> None:
    """Raise `OutputError` for a name of the user that is part of file names but would leave their folder."""
    if name in ("", ".", "..") or any(character in name for character in "/\\\0"):
        raise OutputError(f"{what} '{name}' becomes the name of a file; give it without '/', '\\' and '..'")


def set_aside(folder: Path, names: Iterable[str]) -> Path:
    """Move entries of a folder into a new folder beside it, `<folder>.1` or the next free number.

    Raises:
        OutputError: the folder beside cannot be made.
    """
    folder = folder.resolve()
    places = (folder.with_name(f"{folder.name}.{number}") for number in itertools.count(1))
    beside = next(place for place in places if not os.path.lexists(place))
    with writing(beside):
        beside.mkdir()
        for name in names:
            if os.path.lexists(folder / name):
                os.rename(folder / name, beside / name)
    return beside


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Make a folder and hold its lock, so that no second process writes there.

    The lock is the file `electret.lock` with process, host and time. A process that was killed holds it no
    longer, and the temporary files that it left are removed. The lock of another host is never taken over, as
    its process is not visible from here.

    Raises:
        OutputError: another process holds the lock (names process, host and remedy), or the folder cannot be
            written.
    """
    path = folder / LOCK_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"output folder '{folder}' cannot be made: {error.strerror}; set another output"
        ) from error
    with writing(path):
        lock = _lock(path, os.O_CREAT)
        holder = {
            "process": os.getpid(),
            "host": socket.gethostname(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        os.ftruncate(lock, 0)
        os.pwrite(lock, json.dumps(holder).encode(), 0)
    try:
        for file in (*folder.glob(".*.tmp"), *folder.glob("*/.*.tmp")):
            if _TEMPORARY.fullmatch(file.name):
                file.unlink(missing_ok=True)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(lock)


def check_not_in_use(folder: Path) -> None:
    """Raise `OutputError` if another process holds the lock of a folder; writes nothing."""
    with suppress(FileNotFoundError):
        os.close(_lock(folder / LOCK_FILE, 0))


def _lock(path: Path, flags: int) -> int:
    """Descriptor of the lock file, locked until it is closed or the process ends."""
    while True:
        lock = os.open(path, os.O_RDWR | flags, 0o644)
        try:
            _refuse_holder(path, lock)
            try:
                if os.path.samestat(os.fstat(lock), os.stat(path)):
                    return lock
            except FileNotFoundError:
                pass  # removed by its holder in the meantime: once more, with a new file
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)


def _refuse_holder(path: Path, lock: int) -> None:
    """Lock the file, or raise the error that names the process in it."""
    free, certain = True, fcntl is not None
    try:
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        free = False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        certain = False
    try:
        holder = json.loads(os.pread(lock, 10_000, 0))
        process, host, since = (holder[name] for name in ("process", "host", "since"))
    except (ValueError, KeyError, TypeError):
        process, host, since = (
            "unknown",
            socket.gethostname(),
            "a moment ago",
        )  # not written yet, or cut short
    here = host == socket.gethostname()
    if free and here and (certain or process == "unknown" or not _is_alive(process)):
        return
    remedy = (
        "wait for it, stop it, or set another output"
        if here
        else f"if that process has ended, which cannot be seen from {socket.gethostname()}, remove the file"
    )
    raise OutputError(
        f"'{path.parent}' is in use by process {process} on {host} since {since} ('{path}'); {remedy}"
    )


def _is_alive(process: int) -> bool:
    """True if a process of this host may be running; for file systems without locks."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
