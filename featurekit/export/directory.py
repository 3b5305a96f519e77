"""The directory of an export: written aside, and put in place when all of it is there."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurekit.dataset.manifest import file_digest
from featurekit.dataset.staging import disk, sync, write_synced
from featurekit.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MARK = "export.json"  # makes a directory ours: it names every file that is there


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """A directory to write into, which takes the place of `out` when all went well.

    Raises:
        ConfigError: when `out` holds something else than an earlier export, or another export is
            writing it.
        DatasetError: when the disk is full or read-only.
    """
    out = out.resolve()
    _refuse_foreign(out)
    staging = out.parent / f".{out.name[:40]}.export"
    with disk(out, "the export"):
        staging.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(staging, os.O_RDONLY)
        try:
            _lock(descriptor, staging, out)
            try:
                for left in ("new", "old"):  # by an export that was killed
                    shutil.rmtree(staging / left, ignore_errors=True)
                (staging / "new").mkdir()
                yield staging / "new"
                _publish(staging, out)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
        finally:
            os.close(descriptor)


def seal(directory: Path, facts: Mapping[str, Any]) -> dict[str, int]:
    """Writes the mark with the size and hash of every file, which are on disk then.

    Returns the bytes of each file by its name.
    """
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    sizes, files = {}, {}
    for path in paths:
        sync(path)
        name = path.relative_to(directory).as_posix()
        sizes[name] = path.stat().st_size
        files[name] = {"bytes": sizes[name], "xxh3_128": file_digest(path)}
    text = json.dumps({"export": 1, **facts, "files": files}, indent=1, ensure_ascii=False)
    mark = f"{text}\n".encode()
    write_synced(directory / MARK, mark)
    return {**sizes, MARK: len(mark)}


def _publish(staging: Path, out: Path) -> None:
    for directory, _, _ in os.walk(staging / "new"):
        sync(Path(directory))
    _refuse_foreign(out)  # again: somebody may have put something there since
    if out.exists():
        out.rename(staging / "old")
    try:
        (staging / "new").rename(out)
    except OSError:
        if (staging / "old").exists():
            (staging / "old").rename(out)
        raise
    sync(out.parent)


def _refuse_foreign(out: Path) -> None:
    """Refuses a directory with anything in it that no export of ours wrote."""
    if not out.exists():
        return
    foreign = _files(out) - _marked(out) if out.is_dir() else {out.name}
    if foreign:
        raise ConfigError(
            Problem(
                "this is no export, and nothing in it will be overwritten",
                where=str(out),
                expected="an empty or new directory, or an earlier export and nothing else",
                got=", ".join(sorted(foreign)[:10]),
                fix="another directory: --out DIR",
            )
        )
    if out.is_mount():
        raise ConfigError(
            Problem(
                "an export is put in place by a rename, and this is a mount",
                where=str(out),
                expected="a directory within it",
                fix=f"--out {out / 'export'}",
            )
        )


def _files(directory: Path) -> set[str]:
    """Names of all that is no directory, within a directory."""
    return {
        path.relative_to(directory).as_posix()
        for path in directory.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }


def _marked(directory: Path) -> set[str]:
    """Names of the files that an earlier export wrote."""
    try:
        mark = json.loads((directory / MARK).read_bytes())
        return {*mark["files"], MARK} if "export" in mark else set()
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return set()


def _lock(descriptor: int, staging: Path, out: Path) -> None:
    """Keeps other exports out; the kernel gives the lock back however this process ends."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # One that ended may have removed the directory between its opening and its locking.
        if not os.path.samestat(os.fstat(descriptor), staging.stat()):
            raise BlockingIOError
    except (BlockingIOError, FileNotFoundError) as error:
        raise ConfigError(
            Problem(
                "another export is writing this directory",
                where=str(out),
                expected="one export at a time",
                got=f"{staging} is locked",
                fix="wait until it ends, or write elsewhere: --out DIR",
            )
        ) from error
