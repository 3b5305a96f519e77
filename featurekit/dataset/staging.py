"""From a directory nobody reads to the generation everybody reads, in one step.

1. A generation is written and synced in `.staging-FINGERPRINT/`, under a lock.
2. Its shards are renamed into `shards/`; their names begin with the generation's number, so that
   none is ever written over. Then its directory is renamed to its place.
3. `CURRENT` is replaced. It is a file and not a link, as a file can be replaced atomically on every
   file system and in every object store. Readers follow nothing else.

A build that ends before 3 leaves the old generation as it was. Whenever some of its shards are
finished it notes how far it is, in `checkpoint-N-DIGEST/`: if it is then killed, or the disk is
full, the next build of the same fingerprint goes on from there. Whatever else it wrote is removed,
by itself or by the next build. Older generations stay until they are pruned: somebody may be
reading them.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from featurekit.dataset.manifest import (
    GENERATION,
    MANIFEST,
    SHARD_FILE,
    STORED_NAME,
    StoredFile,
    content_digest,
    file_digest,
)
from featurekit.errors import ConfigError, DataError, DatasetError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

KINDS = ("shards", "state")  # what is shared by generations: files that begin with their number
CHECKPOINT = "checkpoint-"
_FINGERPRINT = re.compile(r"[0-9A-Za-z_-]{1,80}")


class Staging:
    """The next generation of a dataset while it is written, within `with`.

    Raises:
        DatasetError: when the directory holds something else, or another build is writing it.
    """

    def __init__(self, root: Path, fingerprint: str) -> None:
        if not _FINGERPRINT.fullmatch(fingerprint):
            raise DatasetError(
                Problem(
                    "a fingerprint is letters and digits",
                    expected="at most 80 of them",
                    got=repr(fingerprint[:80]),
                    fix="fingerprint=pipeline.fingerprint",
                )
            )
        self.root, self.fingerprint = root, fingerprint
        self.path = root / f".staging-{fingerprint}"
        self._locked = ExitStack()
        self._made_root = False

    def __enter__(self) -> Staging:
        with disk(self.root), ExitStack() as opened:
            if not (self.root / ".lock").is_file():
                _refuse_foreign(self.root)  # in it, not even a lock is made
            self._made_root = not self.root.exists()
            self.root.mkdir(parents=True, exist_ok=True)
            opened.enter_context(lock(self.root))
            _refuse_foreign(self.root)  # now nobody else is renaming what is in it
            opened.push(self._clean)
            _remove_leftovers(self.root, keep=self.path)
            self.number = last_number(self.root) + 1
            self.shards = self.path / "shards"
            self.generation = self.path / f"gen-{self.number:06d}"
            self.shards.mkdir(parents=True, exist_ok=True)
            self.generation.mkdir()
            write_synced(self.path / "CURRENT", f"{self.generation.name}\n".encode())
            self._locked = opened.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._locked.__exit__(kind, error, trace)

    def _clean(self, kind: type[BaseException] | None, *_: object) -> None:
        """Removes what this build has written and nobody reads; none of it if it was published.

        Where what was wrong lies in the input, no later build goes on from here.
        """
        refused = kind is not None and issubclass(kind, (DataError, ConfigError))
        with suppress(OSError):  # what cannot be removed is left to the next build
            _remove_leftovers(self.root, keep=None if refused else self.path)
            if not (self.root / "CURRENT").exists() and not self.path.exists():
                for kept in KINDS:
                    if (self.root / kept).exists():
                        (self.root / kept).rmdir()
                (self.root / ".lock").unlink()
                if self._made_root:
                    self.root.rmdir()

    @property
    def checkpoint(self) -> Path | None:
        """How far a build of this fingerprint came that did not end, if its note is whole."""
        found = sorted(self.path.glob(f"{CHECKPOINT}*"))
        if not found:
            return None
        held = {path.name: file_digest(path) for path in found[-1].iterdir()}
        return found[-1] if found[-1].name.endswith(content_digest(held)) else None

    def note(self, finished: int, files: Mapping[str, bytes | Path]) -> None:
        """Notes how far this build is, with so many shards finished, in place of before."""
        new, before = self.path / "noting", list(self.path.glob(f"{CHECKPOINT}*"))
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        held = {name: _put(new / name, content).xxh3_128 for name, content in files.items()}
        sync(new)
        sync(self.shards)
        new.rename(self.path / f"{CHECKPOINT}{finished:05d}-{content_digest(held)}")
        sync(self.path)
        for path in before:
            shutil.rmtree(path)

    def forget(self) -> None:
        """Removes what was noted: this build begins anew."""
        for path in self.path.glob(f"{CHECKPOINT}*"):
            shutil.rmtree(path)

    def store(self, name: str, content: bytes | Path) -> StoredFile:
        """Puts bytes, or a copy of a file, beside the manifest.

        Raises:
            DatasetError: when the name leads elsewhere.
        """
        if name == MANIFEST or not STORED_NAME.fullmatch(name):
            raise DatasetError(
                Problem(
                    "a file cannot have this name",
                    expected="letters, digits, _, - and ., and no way out of the dataset",
                    got=repr(name),
                    fix='files={"audit.json": ...}',
                )
            )
        return _put(self.generation / name, content)

    def store_state(self, content: Path) -> StoredFile:
        """Puts a copy of a file beside those that earlier generations left for a later build."""
        return _put(self.path / "state" / f"{self.number:06d}.safetensors", content)

    def publish(self) -> Path:
        """Makes the generation current, and returns its directory."""
        for directory, _, _ in os.walk(self.path):
            sync(Path(directory))
        for kind in KINDS:
            files = sorted((self.path / kind).glob("*"))
            if files or kind == "shards":
                (self.root / kind).mkdir(exist_ok=True)
                for file in files:
                    file.rename(self.root / kind / file.name)
                sync(self.root / kind)
        published = self.generation.rename(self.root / self.generation.name)
        sync(self.root)
        (self.path / "CURRENT").replace(self.root / "CURRENT")
        sync(self.root)
        shutil.rmtree(self.path)
        return published


def _put(path: Path, content: bytes | Path) -> StoredFile:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        write_synced(path, content)
    else:
        shutil.copyfile(content, path)
        sync(path)
    return StoredFile(path.stat().st_size, file_digest(path))


@contextmanager
def disk(path: Path, what: str = "the dataset") -> Iterator[None]:
    """Turns what the file system refuses into an error that says where.

    Raises:
        DatasetError: when the disk is full, read-only or not ours.
    """
    try:
        yield
    except OSError as error:
        raise DatasetError(
            Problem(
                f"{what} cannot be written",
                where=str(error.filename or path),
                got=error.strerror or str(error),
                fix="free the disk, or write elsewhere: --out DIR",
            )
        ) from error


def write_synced(path: Path, content: bytes) -> None:
    """Writes a file and waits until it is on disk."""
    path.write_bytes(content)
    sync(path)


def sync(path: Path) -> None:
    """Waits until a file, or the list of a directory's files, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refuse_foreign(root: Path) -> None:
    """Refuses a directory that something else than a build of ours has filled."""
    if not root.exists():
        return
    names = {path.name for path in root.iterdir()} if root.is_dir() else {root.name}
    begun = ".lock" in names and all(_is_ours(root / name) for name in names)
    if "CURRENT" in names:
        text = (root / "CURRENT").read_bytes() if (root / "CURRENT").is_file() else b""
        begun = GENERATION.fullmatch(text.decode(errors="replace").strip()) is not None
        # Damaged, it names none; what lies beside it is then what no other program has.
        begun |= {".lock", "shards"} < names and any(root.glob(f"gen-*/{MANIFEST}"))
    if not begun and names - {".lock"}:
        raise DatasetError(
            Problem(
                "this is not a dataset, and nothing in it will be overwritten",
                where=str(root),
                expected="an empty or new directory, or a dataset with its file CURRENT",
                got=", ".join(sorted(names)[:10]),
                fix="another directory: --out DIR",
            )
        )


def _is_ours(path: Path) -> bool:
    """Whether this is what a build that was killed before its first commit leaves."""
    known = (".lock", *KINDS)
    return path.name in known or bool(GENERATION.fullmatch(path.name)) or _is_staging(path)


def _is_staging(path: Path) -> bool:
    """Whether this is a staging directory, by its name and by all that it holds."""
    prefix, _, fingerprint = path.name.partition("-")
    if prefix != ".staging" or not _FINGERPRINT.fullmatch(fingerprint):
        return False
    return path.is_dir() and all(
        each.name in ("CURRENT", "noting", *KINDS)
        or GENERATION.fullmatch(each.name)
        or each.name.startswith(CHECKPOINT)
        for each in path.iterdir()
    )


@contextmanager
def lock(root: Path) -> Iterator[None]:
    """Keeps other builds out; the kernel gives the lock back however this process ends."""
    descriptor = os.open(root / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A build that failed may have removed the file between its opening and its locking.
            if not os.path.samestat(os.fstat(descriptor), (root / ".lock").stat()):
                raise BlockingIOError
        except (BlockingIOError, FileNotFoundError) as error:
            raise DatasetError(
                Problem(
                    "another build is writing this dataset",
                    where=str(root),
                    expected="one build at a time",
                    got=f"{root / '.lock'} is locked",
                    fix="wait until it ends, or write elsewhere: --out DIR",
                )
            ) from error
        yield
    finally:
        os.close(descriptor)


def remove_leftovers(root: Path) -> None:
    """Removes what interrupted builds left, unless another build is writing or nobody can."""
    with suppress(OSError, DatasetError):
        if any(map(_is_staging, root.iterdir())):
            with lock(root):
                _remove_leftovers(root)


def _remove_leftovers(root: Path, keep: Path | None = None) -> None:
    """Removes what interrupted builds left, but of the staging directory `keep` what is finished.

    A staging directory holds its `CURRENT` until that is published, so what one with a `CURRENT`
    has already renamed into its place was never read.
    """
    for staging in filter(_is_staging, list(root.iterdir())):
        checkpoints = list(staging.glob(f"{CHECKPOINT}*"))
        kept = staging == keep and bool(checkpoints)
        if (staging / "CURRENT").is_file():
            found = GENERATION.fullmatch((staging / "CURRENT").read_text().strip())
            if found:
                for kind in KINDS:
                    for file in (root / kind).glob(f"{found[1]}[-.]*"):
                        if kept and kind == "shards":
                            file.rename(staging / kind / file.name)
                        else:
                            file.unlink()
                shutil.rmtree(root / found[0], ignore_errors=True)
        if not kept:
            shutil.rmtree(staging)
            continue
        for path in staging.iterdir():
            if path.name == "CURRENT":
                path.unlink()
            elif path.name != "shards" and path not in checkpoints:
                shutil.rmtree(path)


def last_number(root: Path) -> int:
    """The highest number that a generation or a shard has had; 0 if none."""
    paths = [*root.glob("gen-*"), *root.glob("shards/*")]
    found = [GENERATION.fullmatch(path.name) or SHARD_FILE.fullmatch(path.name) for path in paths]
    return max((int(each[1]) for each in found if each), default=0)
