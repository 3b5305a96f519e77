"""A process that is warm and forks: children run builds in which the machine fails at a given step.

`python -m tests.faulty` reads jobs from its standard input, one JSON object a line. It never
touches the threads of polars itself, so that what it forks can have its own.
"""

from __future__ import annotations

import ctypes
import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_NEW_MOUNTS, _NEW_USERS = 0x20000, 0x10000000
_READ_ONLY, _REMOUNT, _BIND, _PRIVATE = 1, 32, 4096, 1 << 18 | 16384


class Steps:
    """Counts what a build asks of the file system under a directory, and fails it at one step.

    A step is a call that makes, renames, removes, opens for writing, writes or syncs. At step `at`
    the process is killed, or with an `error` number this call and those after it are refused, as a
    disk that is full stays full. A step that is `torn` has done half of its work before. With
    `stop`, the process only stops there, until it is told to go on.
    """

    def __init__(
        self, root: Path, at: int = -1, *, torn: bool = False, error: int = 0, stop: bool = False
    ) -> None:
        self.root, self.at, self.torn, self.error, self.stop = str(root), at, torn, error, stop
        self.seen: list[tuple[str, str]] = []
        self._pwrite, self._fsync = os.pwrite, os.fsync

    def watch(self) -> None:
        """From here on; an audit hook sees the calls of every module, and cannot be taken off."""
        sys.addaudithook(self._hook)
        os.pwrite, os.fsync = self._write, self._sync  # type: ignore[assignment]

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and args[2] & WRITES:
            self._step("open", _named(args[0]))
        elif event in ("os.mkdir", "os.rmdir", "os.remove", "os.rename"):
            path = _named(args[0])
            if event in ("os.rmdir", "os.remove") and args[1] >= 0:
                path = os.path.join(os.readlink(f"/proc/self/fd/{args[1]}"), path)
            self._step(event[3:], path)

    def _write(self, descriptor: int, content: Any, at: int) -> int:  # noqa: ANN401  # a buffer
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        half = memoryview(content).cast("B")[: len(content) // 2]
        self._step("pwrite", path, lambda: self._pwrite(descriptor, half, at))
        return self._pwrite(descriptor, content, at)

    def _sync(self, descriptor: int) -> None:
        self._step("fsync", os.readlink(f"/proc/self/fd/{descriptor}"))
        self._fsync(descriptor)

    def _step(self, what: str, path: str, half: Callable[[], object] | None = None) -> None:
        if not (path + "/").startswith(self.root + "/"):
            return
        number = len(self.seen)
        self.seen.append((what, os.path.relpath(path, self.root)))
        if number < self.at or self.at < 0:
            return
        if self.stop:
            self.at = -1
            os.kill(os.getpid(), signal.SIGSTOP)
            return
        if self.error:
            if self.error == errno.ENOSPC and what in ("remove", "rmdir"):
                return
            raise OSError(self.error, os.strerror(self.error), path)
        if self.torn and what == "open":
            self.at = 1 << 60  # the next call is this hook's own
            Path(path).touch()
        elif self.torn and half is not None:
            half()
        os.kill(os.getpid(), signal.SIGKILL)


def _named(path: object) -> str:
    return os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else ""


# --- jobs: what a child can be told to do --------------------------------------------------------


def build(pipeline: str, out: str, **options: Any) -> dict[str, Any]:  # noqa: ANN401  # passed on
    """What a build says of itself, or its problems."""
    import featurekit as fk
    from featurekit.build import build as real
    from featurekit.errors import FeaturekitError

    try:
        built = real(fk.Pipeline.from_yaml(Path(pipeline)), out=out, **options)
    except FeaturekitError as error:
        return {"error": str(error)}
    return {
        "notes": built.notes,
        "generation": built.dataset.generation.name,
        "data_digest": built.dataset.manifest.data_digest,
        "up_to_date": built.up_to_date,
    }


def cli(*args: str, shard_bytes: int | None = None) -> dict[str, Any]:
    """Exit code and output of a command line; builds write shards of this size."""
    from featurekit.build import build as real
    from featurekit.cli import main

    if shard_bytes is not None:
        assert real.__kwdefaults__ is not None
        real.__kwdefaults__["shard_bytes"] = shard_bytes
    out, err, code = io.StringIO(), io.StringIO(), 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main(list(args), standalone_mode=True)
        except SystemExit as ended:
            code = int(ended.code or 0)
        except BaseException:  # what a user would see
            traceback.print_exc()
            code = 1
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()}


def reads(out: str, until: str) -> dict[str, Any]:
    """Opens and reads a dataset again and again, until a file is there and once more after it."""
    import featurekit as fk

    seen: dict[str, str] = {}
    opened, last = 0, False
    while not last:
        last = os.path.exists(until)
        dataset = fk.open_dataset(out)
        dataset.read(0, dataset.rows)
        if dataset.generation.name not in seen:
            dataset.verify(full=True)
            seen[dataset.generation.name] = dataset.manifest.data_digest
        opened += 1
    return {"seen": seen, "opened": opened}


def full_disk(pipeline: str, before: str | None, disk: str, share: float) -> dict[str, Any]:
    """Builds on a disk that has room for a share of what comes, and again when it has been freed.

    Of the first build what it said, and whether the dataset before it can still be verified.
    """
    out, filler = Path(disk) / "out", Path(disk) / "filler"
    Path(disk).mkdir()
    _mount("tmpfs", disk, "tmpfs", 0, "size=8m")
    if before is not None:
        shutil.copytree(before, out)
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    filler.write_bytes(bytes(max(free - int(share), 0)))
    told = cli("build", pipeline, "--out", str(out), shard_bytes=1)
    verified = cli("verify", str(out), "--full")
    filler.unlink()
    again = cli("build", pipeline, "--out", str(out), shard_bytes=1)
    shutil.copytree(out, Path(disk + "-copy"))
    return {"told": told, "verified": verified, "again": again}


def full_scratch(pipeline: str, disk: str, out: str, size: int) -> dict[str, Any]:
    """Builds where the directory for scratch files is what is too small."""
    Path(disk).mkdir()
    _mount("tmpfs", disk, "tmpfs", 0, f"size={size}k")
    tempfile.tempdir = disk
    return cli("build", pipeline, "--out", out, shard_bytes=1)


def read_only(pipeline: str, out: str) -> dict[str, Any]:
    """Reads a dataset, and builds it, in a directory that is mounted read-only."""
    _mount(out, out, None, _BIND, None)
    _mount(None, out, None, _REMOUNT | _BIND | _READ_ONLY, None)
    return {"read": cli("verify", out, "--full"), "told": cli("build", pipeline, "--out", out)}


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    given = [None if each is None else each.encode() for each in (source, target, kind)]
    if libc.mount(*given, ctypes.c_ulong(flags), None if data is None else data.encode()):
        raise OSError(ctypes.get_errno(), "mount")


JOBS: dict[str, Callable[..., dict[str, Any]]] = {
    job.__name__: job for job in (build, cli, reads, full_disk, full_scratch, read_only)
}


# --- the process that forks ----------------------------------------------------------------------


def _run(
    job: str,
    args: list[Any],
    options: dict[str, Any],
    faults: dict[str, Any],
    result: str,
    *,
    mounts: bool = False,
    user: int | None = None,
    clock: int = 0,
) -> NoReturn:
    """A child: does the job with the faults, writes what it gives, and ends."""
    answer: dict[str, Any]
    try:
        if mounts and ctypes.CDLL(None).unshare(_NEW_MOUNTS | (_NEW_USERS if os.getuid() else 0)):
            raise PermissionError("no mounts of its own")
        if mounts:
            _mount(None, "/", None, _PRIVATE, None)
        if user is not None:
            os.setgid(user)
            os.setuid(user)
        if clock:
            real, real_ns = time.time, time.time_ns
            time.time, time.time_ns = lambda: real() + clock, lambda: real_ns() + clock * 10**9
        steps = Steps(Path(faults.pop("root")), **faults) if faults else None
        if steps is not None:
            steps.watch()
        answer = JOBS[job](*args, **options)
        if steps is not None:
            answer["steps"] = steps.seen
    except BaseException as error:  # the test is told
        answer = {"raised": traceback.format_exc(), "type": type(error).__name__}
    Path(result).write_text(json.dumps(answer), encoding="utf-8")
    os._exit(0)


def _warm() -> None:
    """Everything that a build imports and compiles, none of which starts a thread of polars."""
    import numpy as np

    import featurekit.audit.html
    import featurekit.build
    import featurekit.cli.build
    import featurekit.cli.verify  # noqa: F401
    from featurekit.cells import ProfileGrid
    from featurekit.column import Col
    from featurekit.engine.program import Program

    program = Program.compile([Col.input("close").mean(2)])
    program.run_rows(program.new_state(), np.ones((1, 9)), np.empty((9, 1), np.float32))
    grid = ProfileGrid(["x"], ["train"], [], (0,))
    zeros = np.zeros(9, np.int64)
    grid.update(np.ones((9, 1), np.float32), zeros, zeros, zeros, zeros.astype(np.uint64), zeros)
    grid.cells().profile("train")


def _answer(value: object) -> None:
    sys.stdout.write(f"{value}\n")
    sys.stdout.flush()


def main() -> None:
    """Answers each line: `{"run": ...}` with a pid, `{"wait": pid}` with how it ended."""
    _warm()
    _answer("warm")
    for line in sys.stdin:
        asked = json.loads(line)
        if "wait" in asked:
            _answer(os.waitpid(asked["wait"], os.WUNTRACED)[1])
            continue
        pid = os.fork()
        if not pid:
            os.close(0)
            os.dup2(2, 1)  # answers are the parent's
            _run(**asked["run"])
        _answer(pid)


class Forks:
    """The process that forks, as tests see it, within `with`."""

    def __enter__(self) -> Forks:
        # A build that is killed cannot remove its scratch files.
        self._scratch = tempfile.TemporaryDirectory()
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.faulty"],
            cwd=Path(__file__).parents[1],
            env={**os.environ, "TMPDIR": self._scratch.name},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._read() == "warm"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.communicate()
        self._scratch.cleanup()

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def _ask(self, **asked: object) -> int:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return int(self._read())

    def start(
        self,
        result: Path,
        job: str,
        *args: object,
        faults: dict[str, Any] | None = None,
        how: dict[str, Any] | None = None,
        **options: object,
    ) -> int:
        """Starts a job, and gives the process's id."""
        run = {"job": job, "args": args, "options": options, "faults": faults or {}}
        return self._ask(run={**run, "result": str(result), **(how or {})})

    def wait(self, pid: int) -> int:
        """Until it ends or stops: its wait status."""
        return self._ask(wait=pid)

    def run(
        self,
        result: Path,
        job: str,
        *args: object,
        faults: dict[str, Any] | None = None,
        how: dict[str, Any] | None = None,
        **options: object,
    ) -> dict[str, Any]:
        """Does a job: what it gave, or `{"killed": signal}`."""
        result.unlink(missing_ok=True)
        ended = self.wait(self.start(result, job, *args, faults=faults, how=how, **options))
        if ended:
            return {"killed": os.WTERMSIG(ended)}
        answer: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
        assert "raised" not in answer or answer["type"] == "PermissionError", answer["raised"]
        return answer


if __name__ == "__main__":
    main()
