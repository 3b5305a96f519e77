"""A thread that makes what will be asked for next."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch

from featurekit.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

T = TypeVar("T")

_RUNNING: weakref.WeakSet[Prefetch[Any]] = weakref.WeakSet()


class Prefetch(Generic[T]):
    """Items of an iterator, of which a thread makes up to `depth` before they are asked for.

    What the iterator raises is raised where its item would have come. Leaving the `with` ends the
    thread; so does the end of the program.

    Example:
        >>> with Prefetch(iter("abc"), depth=2) as ready:
        ...     print(*ready)
        a b c
    """

    def __init__(self, items: Iterator[T], depth: int) -> None:
        self._made: SimpleQueue[tuple[T] | BaseException | None] = SimpleQueue()
        self._room, self._stopped = threading.Semaphore(depth), threading.Event()
        self._process = os.getpid()
        self._thread = threading.Thread(
            target=_make,
            args=(items, self._made, self._room, self._stopped),
            name="featurekit-prefetch",
            daemon=True,
        )

    def __enter__(self) -> Iterator[T]:
        _RUNNING.add(self)
        self._thread.start()
        return self._items()

    def _items(self) -> Iterator[T]:
        while True:
            if os.getpid() != self._process:
                raise _forked()
            made = self._made.get()
            if made is None:
                return
            if isinstance(made, BaseException):
                try:
                    raise made
                finally:
                    del made  # it holds this frame, and so would keep the batches that it holds
            self._room.release()
            yield made[0]

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends the thread, after the item that it is making."""
        if os.getpid() == self._process:  # a fork has the locks of a thread that it has not
            self._stopped.set()
            self._room.release()
            self._thread.join()


def _make(
    items: Iterator[T],
    made: SimpleQueue[tuple[T] | BaseException | None],
    room: threading.Semaphore,
    stopped: threading.Event,
) -> None:
    try:
        one_thread()
        while room.acquire() and not stopped.is_set():
            made.put((next(items),))
    except StopIteration:
        made.put(None)
    except BaseException as error:  # it is the caller's
        made.put(error)


def one_thread() -> None:
    """What this thread asks of torch runs on it alone, and takes no core from the training.

    torch counts threads for each thread and for those to come; the latter number is put back, by
    a thread that ends with that.
    """
    threads = torch.get_num_threads()
    if threads > 1:
        torch.set_num_threads(1)
        restoring = threading.Thread(target=torch.set_num_threads, args=(threads,))
        restoring.start()
        restoring.join()


def _forked() -> ConfigError:
    return ConfigError(
        Problem(
            "this iterator belongs to the process that a fork copied it from",
            where=f"process {os.getpid()}",
            fix="iter(loader) in the process that reads it",
        )
    )


@atexit.register
def _stop_all() -> None:
    """A thread that runs torch while the interpreter goes away may crash it."""
    for each in list(_RUNNING):
        each.stop()
