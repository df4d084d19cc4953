"""Files that appear whole under their name or not at all, and folders that one process at a time writes to."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pathlib
import secrets
import shutil
import stat
import tempfile
import weakref
from collections.abc import Iterator

from im3d_jax.errors import InputError


PARTIAL = ".partial-"  # prefix of unfinished files
LOCK_FILE = ".lock"


_KINDS = (
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
)


def check_replaceable(path: str | os.PathLike) -> None:
    """Refuses names whose file a new one must not take the place of: devices, FIFOs, sockets, and streams in /dev.

    Links are followed: /dev/stdout is a link to whatever the standard output is. `splat.io.files` has the same rule.

    Args:
        path: Of a file or folder to write.

    Raises:
        FileExistsError: It is one; `strerror` says which.
    """
    folder = os.path.realpath(os.path.dirname(path) or ".")
    found = "a name of the system" if folder == "/dev" or (folder + "/").startswith("/proc/") else None
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        pass  # nothing there, or a name that no file can have
    else:
        found = next((kind for matches, kind in _KINDS if matches(mode)), found)
    if found is not None:
        raise FileExistsError(errno.EEXIST, f"it is {found}, and results are regular files", os.fspath(path))


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """A new, empty file beside `path`; when the block ends well, it takes the place of `path`.

    Its name is unique, so that several processes may write to one folder, and has the suffix of `path`, because numpy
    and others append their own to a name that lacks it. A symbolic link at `path` is replaced, not followed.

    Args:
        path: The file to write; its folder must exist.

    Raises:
        OSError: The file cannot be written, or `path` is a device, FIFO or socket; see `check_replaceable`.
    """
    path = pathlib.Path(path)
    check_replaceable(path)
    partial, mode = _new_file(path.parent, path.suffix)
    try:
        yield partial
        # Writers that use a private temporary file of their own leave it unreadable to everybody else.
        partial.chmod(mode)
        check_replaceable(path)  # a block may take long
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def check_writable(folder: str | os.PathLike) -> None:
    """Makes a file in a folder and removes it.

    Raises:
        OSError: Nothing can be written there.
    """
    _new_file(pathlib.Path(folder))[0].unlink(missing_ok=True)


def _new_file(folder: pathlib.Path, suffix: str = "") -> tuple[pathlib.Path, int]:
    """An empty file of a unique name, and its permissions."""
    path = folder / f"{PARTIAL}{os.getpid()}-{secrets.token_hex(4)}{suffix}"
    # O_EXCL opens neither another process's file nor what a symbolic link points at.
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        return path, os.fstat(handle).st_mode & 0o777
    finally:
        os.close(handle)


def write_whole(path: str | os.PathLike, content: bytes | str) -> None:
    """Writes a file that is there in full or not at all; text in UTF-8.

    Raises:
        OSError: The file cannot be written.
    """
    with replacing(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def replacing_folder(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """A path for a new folder; when the block ends well, the folder takes the place of `path`.

    Nothing is there at first: the block makes the folder. It has the name of `path` and lies in a private folder beside
    it. What was at `path` is removed only after the new folder has its name.

    Args:
        path: The folder to write; its parent must exist.

    Raises:
        OSError: The folder cannot be written, or `path` is a device, FIFO or socket; see `check_replaceable`.
    """
    path = pathlib.Path(path)
    check_replaceable(path)
    private = pathlib.Path(tempfile.mkdtemp(prefix=PARTIAL, dir=path.parent))
    partial, old = private / "new" / path.name, private / "old"
    try:
        partial.parent.mkdir()
        yield partial
        if os.path.lexists(path):
            os.replace(path, old)
        try:
            os.replace(partial, path)
        except BaseException:
            if os.path.lexists(old):
                os.replace(old, path)
            raise
    finally:
        shutil.rmtree(private, ignore_errors=True)


class Held(InputError):
    """Another process holds a folder; `holder` is its number, as far as it is known."""

    def __init__(self, holder: str):
        super().__init__(f"process {holder} works there")
        self.holder = holder


class Hold:
    """A folder that this process holds, as a context manager; see `hold`."""

    def __init__(self, handle: int | None, path: pathlib.Path):
        self._release = weakref.finalize(self, _release, handle, path)

    def close(self) -> None:
        """Lets others hold the folder."""
        self._release()

    def __enter__(self) -> Hold:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _release(handle: int | None, path: pathlib.Path) -> None:
    if handle is not None:
        # First the file: whoever gets the lock must not find it at a name that goes.
        path.unlink(missing_ok=True)
        os.close(handle)


def hold(folder: str | os.PathLike, name: str = LOCK_FILE) -> Hold:
    """Holds a folder for this process until the result is closed or collected; the lock file goes then.

    The operating system frees the lock of a process that dies. On file systems without locks nothing is held.

    Args:
        folder: Must exist.
        name: Of the lock file in it.

    Raises:
        Held: Another process, or another caller in this one, holds it.
        OSError: The lock file cannot be made.
    """
    path = pathlib.Path(folder) / name
    while True:
        handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(handle, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(handle)
            raise Held(holder) from None
        except OSError:
            os.close(handle)
            path.unlink(missing_ok=True)
            return Hold(None, path)
        if _is_at(handle, path):
            break
        os.close(handle)  # the holder before removed the file after it was opened here
    os.ftruncate(handle, 0)
    os.write(handle, str(os.getpid()).encode())
    return Hold(handle, path)


def _is_at(handle: int, path: pathlib.Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.lstat(path))
    except FileNotFoundError:
        return False
