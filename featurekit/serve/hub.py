"""Hub: the one line that every message stands in, and what is on disk before it is answered."""

from __future__ import annotations

import asyncio
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from featurekit.errors import FeaturekitError, Problem
from featurekit.serve.messages import RefusedError
from featurekit.serve.service import BrokenError

if TYPE_CHECKING:
    from collections.abc import Callable

    from featurekit.serve.journal import Journal
    from featurekit.serve.messages import Message
    from featurekit.serve.service import Service

T = TypeVar("T")
State = Literal["ok", "stopping", "failed"]

ROOM = 10_000  # messages that may wait
TURN = 0.003  # seconds of messages that share one write to disk
REPORT = "tell us, with what the server wrote: it goes on without this message"
JOURNAL = 16 << 20  # bytes that a restart has to go through at most


class Hub:
    """Messages in order: taken together for a short while, written to disk, and then answered.

    What is read stands in the same line, so that nobody sees what might still be lost.

    Args:
        clock: UTC ns now, to hold bars against; None for bars of the past.
    """

    def __init__(
        self, service: Service, journal: Journal, *, clock: Callable[[], int] | None = None
    ) -> None:
        self.service, self.journal, self.clock = service, journal, clock
        self.state: State = "ok"
        self.taken = 0  # bars since the start
        self.saved = False  # at the stop
        self._line: asyncio.Queue[tuple[Callable[[], Any], asyncio.Future[Any]]]
        self._line = asyncio.Queue(ROOM)
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._records: list[bytes] = []
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begins to answer, in the running event loop."""
        self._tasks = [asyncio.create_task(self._work())]
        if self.clock is not None:
            self._tasks.append(asyncio.create_task(self._tick(self.clock)))

    async def take(self, message: Message) -> dict[str, Any]:
        """The answer to a message that is on disk.

        Raises:
            FeaturekitError: when it is refused; nothing of it was taken.
            RefusedError: with 503, when the server is stopping, has failed or has no room.
        """
        return await self._ask(lambda: self._take(message))

    async def read(self, what: Callable[[], T]) -> T:
        """Something that the service knows, when all that it rests on is on disk.

        Raises:
            FeaturekitError: when `what` raises it.
            RefusedError: as `take`.
        """
        return await self._ask(what)

    async def stop(self) -> None:
        """Answers what stands in line, saves everything and lets the state directory go."""
        if self.state == "ok":
            self.state = "stopping"
            await self._line.join()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            if self.state == "stopping":
                await self._to_disk(self.journal.rotate, self.service.snapshot())
                self.saved = True
        except OSError as error:
            sys.stderr.write(
                f"featurekit: the state was not saved: {error}\n"
                f"  Fix: start it again: it goes through what is in {self.journal.folder}\n"
            )
        finally:
            self._disk.shutdown()
            self.journal.close()

    # --- its parts -----------------------------------------------------------------------------

    def _take(self, message: Message) -> dict[str, Any]:
        taken = self.service.take(message)
        if taken.record is not None:
            self._records.append(taken.record)
            self.taken += sum(not row["repeated"] for row in taken.answer["rows"])
        return taken.answer

    async def _ask(self, what: Callable[[], T]) -> T:
        if self.state != "ok":
            raise _unavailable(self.state)
        asked: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        try:
            self._line.put_nowait((what, asked))
        except asyncio.QueueFull:
            raise _unavailable("full") from None
        return await asked

    async def _work(self) -> None:
        while True:
            turn = [await self._line.get()]
            answers: list[Any] = []
            until = time.perf_counter() + TURN
            while True:
                answers.append(self._answer(turn[-1][0]))
                if time.perf_counter() > until or self._line.empty():
                    break
                turn.append(self._line.get_nowait())
            if self._records and self.state != "failed":
                await self._commit()
            for (_, asked), answer in zip(turn, answers, strict=True):
                if not asked.done():  # whoever asked may be gone
                    if self.state == "failed":
                        asked.set_exception(_unavailable("failed"))
                    elif isinstance(answer, FeaturekitError):
                        asked.set_exception(answer)
                    else:
                        asked.set_result(answer)
                self._line.task_done()

    def _answer(self, what: Callable[[], Any]) -> Any:  # noqa: ANN401  # whatever was asked
        if self.state == "failed":
            return None
        try:
            return what()
        except FeaturekitError as error:
            return error
        except BrokenError as error:  # memory may hold what the disk does not: a restart mends it
            self._fail(error.__cause__ or error)
            return None
        except Exception as error:  # a fault of ours, before anything was taken
            sys.stderr.write(_told(error))
            return RefusedError(500, Problem("the server could not do this", fix=REPORT))

    async def _commit(self) -> None:
        records, self._records = self._records, []
        try:
            await self._to_disk(self.journal.append, b"[" + b",".join(records) + b"]")
            if self.journal.size > JOURNAL:
                await self._to_disk(self.journal.rotate, self.service.snapshot())
        except Exception as error:  # a disk that is full, most of all
            self._fail(error)

    async def _to_disk(self, write: Callable[[bytes], None], data: bytes) -> None:
        await asyncio.get_running_loop().run_in_executor(self._disk, write, data)

    async def _tick(self, clock: Callable[[], int]) -> None:
        while True:
            await asyncio.sleep(1.0)
            self._answer(lambda: self.service.now(clock()))

    def _fail(self, error: BaseException) -> None:
        self.state = "failed"
        self._records.clear()
        sys.stderr.write(
            f"featurekit: the server takes no more messages: {error}\n"
            f"  Fix: start it again: it goes on from what is on disk\n{_told(error)}"
        )


def _told(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def _unavailable(why: str) -> RefusedError:
    told = {
        "stopping": "the server is stopping",
        "failed": "the server has failed and takes no more messages",
        "full": "too many messages wait for an answer",
    }
    fix = "send it again after Retry-After seconds: nothing of it was taken"
    if why == "failed":
        fix = "start the server again and send it again: what was taken is not taken twice"
    return RefusedError(503, Problem(told[why], fix=fix))
