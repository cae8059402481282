"""Where results go: what may be written, and how it appears under its name atomically.

A job writes into a folder of its own beside the target, `.NAME.fpsgan`, which is locked, and removed when it is done.
The result is renamed from there; finished segments of an interrupted job stay in it. Nothing is ever removed that this
program did not make.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from PIL import PngImagePlugin

from fpsgan.errors import OutputError

__all__ = [
    "check_target", "claimed", "discard", "is_claimed", "make_folder", "publish", "remove", "sync", "whole",
    "write_whole",
]  # fmt: skip

LONGEST_NAME = 255  # bytes, on all usual file systems
PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
PART = "part"  # prefix of the names of what a job is writing
TARGET = "target.json"  # names the output that segments belong to
SEGMENTS = "segments"  # prefix of the names of folders with finished segments


def check_target(source: Path, target: Path, *, overwrite: bool, suffixes: tuple[str, ...]) -> Path:
    """The path to write to, with symbolic links resolved; to be called before any work is done.

    Raises OutputError if it must not or cannot be written: it is the source, exists and ``overwrite`` is False, has
    none of the ``suffixes`` ("" stands for a folder of pictures), or is a folder with anything in it that this program
    did not write.
    """
    if str(target) == "-":
        raise OutputError(
            "-: a result is checked and then renamed, so it goes to a file; `fpsgan stream` writes to pipes"
        )
    if len(os.fsencode(target.name)) > LONGEST_NAME:
        raise OutputError(f"{target}: the name is longer than {LONGEST_NAME} bytes; choose a shorter one")
    if target.exists() and not target.is_file() and not target.is_dir():
        raise OutputError(f"{target}: is a device or a pipe; name a file")
    if target.is_symlink():
        try:
            target = target.resolve()
        except (OSError, RuntimeError) as error:  # RuntimeError until Python 3.12
            raise OutputError(f"{target}: a symbolic link that leads back to itself; choose another name") from error
    there, folder_there = target.exists(), target.is_dir()
    if there and source.exists() and target.samefile(source):
        raise OutputError(f"{target}: is the input itself; the input is never overwritten, choose another name")
    if target.suffix.lower() not in suffixes and not folder_there:
        known = " ".join(suffix for suffix in suffixes if suffix)
        folder = ", or a folder for pictures" if "" in suffixes else ""
        raise OutputError(f"{target}: unknown kind {target.suffix!r}; known are {known}{folder}")
    if folder_there:
        _check_folder(target, source, overwrite, wanted="" in suffixes and target.suffix == "")
    elif there and target.suffix == "":
        raise OutputError(f"{target}: a file of that name is in the way; a folder for pictures needs another")
    elif there and not overwrite:
        raise OutputError(f"{target}: exists already; -y overwrites it")
    parent = target.absolute().parent
    if not parent.is_dir():
        raise OutputError(f"{target}: there is no folder {parent}; make it first")
    if not os.access(parent, os.W_OK):
        raise OutputError(f"{target}: no permission to write in {parent}")
    return target


def _check_folder(target: Path, source: Path, overwrite: bool, *, wanted: bool) -> None:
    others = _not_ours(target)
    if others or not wanted:
        named = f"holds {others[0]}{f' and {len(others) - 1} more' if others[1:] else ''}, which fpsgan did not write"
        raise OutputError(
            f"{target}: is a folder{f' that {named}' if others else ''}; "
            f"name a file in it, as {target / source.stem}.mp4, or a new folder for pictures"
        )
    if any(target.iterdir()) and not overwrite:
        raise OutputError(f"{target}: exists already; -y overwrites it")


def _not_ours(folder: Path) -> list[str]:
    """Names of everything in a folder that is not a picture signed by this program."""
    return sorted(path.name for path in folder.iterdir() if not path.is_file() or not _is_signed(path))


def _signature() -> bytes:
    """A PNG chunk that names the software, as is common, and the end of the file."""
    chunk = io.BytesIO()
    PngImagePlugin.putchunk(chunk, b"tEXt", b"Software\0fpsGAN")
    return chunk.getvalue() + PNG_END


def _is_signed(picture: Path) -> bool:
    with picture.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - len(_signature())))
        return file.read() == _signature()


def _sign(picture: Path) -> None:
    if _is_signed(picture):
        return
    with picture.open("rb+") as file:
        file.seek(-len(PNG_END), os.SEEK_END)
        if file.read() == PNG_END:
            file.seek(-len(PNG_END), os.SEEK_END)
            file.write(_signature())


@contextmanager
def claimed(target: Path) -> Iterator[Path]:
    """A job's own folder beside ``target``, for temporary files; at the end only finished segments stay in it.

    Raises OutputError if another job has claimed the same target, or if the folder cannot be made.
    """
    place = _place(target)
    lock = FileLock(place / "lock")
    try:
        place.mkdir(exist_ok=True)
        lock.acquire(timeout=0)
    except (Timeout, FileNotFoundError) as error:
        raise OutputError(f"{target}: is being written by another fpsgan just now; choose another name") from error
    except OSError as error:
        raise OutputError(f"{target}: cannot be written ({error.strerror or error})") from error
    try:
        _clear(place)  # what a killed job has left
        yield place
    finally:
        _clear(place)
        with suppress(OSError):  # on Windows a file that is open cannot be removed
            (place / "lock").unlink()
        lock.release()
        with suppress(OSError):  # segments are in it, or something that is not ours: it stays
            (place / "lock").unlink(missing_ok=True)
            place.rmdir()


def _place(target: Path) -> Path:
    name = f".{target.name}.fpsgan"
    if len(os.fsencode(name)) > LONGEST_NAME:
        name = f".{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:32]}.fpsgan"
    return target.absolute().with_name(name)


def publish(part: Path, target: Path) -> int:
    """Sync a finished file, or folder of pictures, and rename it to ``target``, as `check_target` allowed it.

    Returns its size in bytes. Raises OutputError if it cannot be renamed.
    """
    if part.is_dir():
        for picture in part.iterdir():
            _sign(picture)
    size = sync(part)
    try:
        if target.is_dir():
            _remove_pictures(target)
        part.replace(target)
        if os.name == "posix":
            folder = os.open(target.absolute().parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
    except OSError as error:
        raise OutputError(f"{target}: finished, but cannot be given its name ({error.strerror})") from error
    return size


def sync(part: Path) -> int:
    """fsync a file, or the files in a folder; returns their size in bytes."""
    size = 0
    for file in sorted(part.iterdir()) if part.is_dir() else [part]:
        with file.open("rb+") as handle:
            os.fsync(handle.fileno())
            size += os.fstat(handle.fileno()).st_size
    return size


@contextmanager
def whole(target: Path) -> Iterator[Path]:
    """A path to write a file to, which is renamed to ``target`` at the end, unless there is an error.

    Makes the parent folder. Raises OutputError like `claimed` and `publish`, and for any OSError in the block.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with claimed(target) as place:
            part = place / f"{PART}{target.suffix}"
            yield part
            publish(part, target)
    except OSError as error:
        raise OutputError(f"{target}: cannot be written ({error.strerror or error})") from error


def _remove_pictures(folder: Path) -> None:
    """Remove a folder that held nothing but pictures of ours (`_check_folder`), if that is still so."""
    others = _not_ours(folder)
    if others:
        raise OutputError(f"{folder}: holds {others[0]} now, which fpsgan did not write; the result is not kept")
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


def _clear(place: Path) -> None:
    """Remove what a job was writing in its own folder, and nothing else."""
    for path in place.iterdir():
        if path.name.startswith(PART):
            remove(path)


def discard(place: Path) -> None:
    """Remove the segments that a job keeps in its own folder, and the folder if nothing else is in it."""
    for path in place.iterdir():
        if path.name.startswith(SEGMENTS) or path.name == TARGET:
            remove(path)
    with suppress(OSError):  # a job is running, or something in it is not ours
        place.rmdir()


def remove(path: Path) -> None:
    """Remove a file, or a folder of files, that this program wrote."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def is_claimed(place: Path) -> bool:
    """Whether a job is using its folder now."""
    try:
        with FileLock(place / "lock", timeout=0):
            pass
    except Timeout:
        return True
    (place / "lock").unlink(missing_ok=True)
    return False


def make_folder(folder: Path) -> None:
    """With its parents, unless it exists. Raises OutputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made ({error.strerror or error})") from error


def write_whole(path: Path, text: str) -> None:
    """Write a file in a job's own folder atomically: a crash leaves all of it, or what was there before."""
    part = path.with_name(f"{PART}-{path.name}")
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
