"""Micro-batches: what has arrived while the model computed is computed together."""

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from numpy.typing import NDArray

from lockstep.answers.predictor import BLOCK
from lockstep.serving.limits import Limits, busy

Row = NDArray[Any]
_MOMENT = 0.003  # seconds during which nothing else is read


class Asked:
    """The inputs of one request, and its answers as far as they are there."""

    def __init__(self, count: int, done: asyncio.Future[list[bytes]]):
        self.answers: list[bytes] = [b""] * count
        self.missing, self.done = count, done

    def give(self, number: int, answer: bytes | Exception) -> None:
        """One answer; with the last one, or with what went wrong, the request is done."""
        self.missing -= 1
        if self.done.done():  # its caller went away
            return
        if isinstance(answer, Exception):
            self.done.set_exception(answer)
            return
        self.answers[number] = answer
        if not self.missing:
            self.done.set_result(self.answers)


class Batching:
    """Answers rows by a function of many, in blocks of those that wait, one block at a time.

    Nothing waits for company: while a block is computed, in a thread of its own, others gather.
    """

    def __init__(
        self,
        answers: Callable[[Sequence[Row]], list[Any]],
        limits: Limits,
        note: Callable[[int], None],
    ):
        self._answers, self._limits, self._note = answers, limits, note
        self._waiting: deque[tuple[Asked, int, Row]] = deque()
        # Predictions one after the other, as torch computes on one thread.
        self._computing = ThreadPoolExecutor(1, "computing")
        self._busy = False
        # Whether the last one came alone and took a moment: to hand the next one to the other
        # thread and back would take a good part of that.
        self._lone = False

    def __len__(self) -> int:
        return len(self._waiting)

    async def ask(self, rows: Sequence[Row]) -> list[bytes]:
        """The answers to raw examples as JSON, in their order. Raises Refused if it is full."""
        if not rows:
            return []
        if len(self._waiting) + len(rows) > self._limits.waiting:
            raise busy()
        loop = asyncio.get_running_loop()
        asked = Asked(len(rows), loop.create_future())
        self._waiting.extend((asked, number, row) for number, row in enumerate(rows))
        if not self._busy:
            self._busy = True
            loop.call_soon(self._next, loop)  # those that arrived together come along
        return await asked.done

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        block: list[tuple[Asked, int, Row]] = []
        while self._waiting and len(block) < BLOCK:
            entry = self._waiting.popleft()
            if not entry[0].done.done():
                block.append(entry)
        self._busy = bool(block)
        if not block:
            return
        self._note(len(block))
        rows = [row for _, _, row in block]
        if len(block) == 1 and self._lone:
            self._give(loop, block, self._compute(rows))
        else:
            computed = self._computing.submit(self._compute, rows)
            computed.add_done_callback(lambda found: self._bring(loop, block, found.result()))

    def _bring(
        self,
        loop: asyncio.AbstractEventLoop,
        block: list[tuple[Asked, int, Row]],
        found: list[bytes | Exception],
    ) -> None:
        with suppress(RuntimeError):  # the server has ended in the meantime
            loop.call_soon_threadsafe(self._give, loop, block, found)

    def _give(
        self,
        loop: asyncio.AbstractEventLoop,
        block: list[tuple[Asked, int, Row]],
        found: list[bytes | Exception],
    ) -> None:
        self._next(loop)  # first of all, so that it computes while these are sent
        for (asked, number, _), answer in zip(block, found, strict=True):
            asked.give(number, answer)

    def _compute(self, rows: Sequence[Row]) -> list[bytes | Exception]:
        began = time.perf_counter()
        try:
            found: list[bytes | Exception] = [_as_json(answer) for answer in self._answers(rows)]
            self._lone = len(rows) == 1 and time.perf_counter() - began < _MOMENT
            return found
        except Exception as error:
            if len(rows) == 1:
                return [error]
            # Whose fault it is must not matter to the others.
            return [answer for row in rows for answer in self._compute([row])]


def _as_json(answer: Any) -> bytes:
    return json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode()
