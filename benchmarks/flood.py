"""How long does a mutation take in a flood from eight threads?

Eight threads toggle a state through `threadsafe`, as fast as they can, and each waits for its last result. Beside it,
the floor: each call takes a `concurrent.futures.Future` and `call_soon_threadsafe`, and toggles the bare loop. Threads
share one interpreter, so much of the time is theirs, and the spread is wide.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from functools import partial
from itertools import repeat
from typing import Any

from _floor import Floor
from _harness import Case, Lab, Question, mark
from _report import main

import asyncmachine as am

THREADS = 8
Post = Callable[[], Future[Any]]


def flooding(post: Callable[[asyncio.AbstractEventLoop], Post]) -> Callable[[int], Awaitable[None]]:
    """Give what has eight threads make so many calls in all."""

    async def run(count: int) -> None:
        loop = asyncio.get_running_loop()
        all_ended, ended = loop.create_future(), 0
        call = post(loop)

        def end() -> None:
            nonlocal ended
            ended += 1
            if ended == THREADS:
                all_ended.set_result(None)

        def thread() -> None:
            try:
                futures = [call() for _ in repeat(None, count // THREADS)]
                for future in futures:
                    future.result()
            finally:
                loop.call_soon_threadsafe(end)

        threads = [threading.Thread(target=thread) for _ in range(THREADS)]
        for each in threads:
            each.start()
        await all_ended
        for each in threads:
            each.join()

    return run


def through_threadsafe(loop: asyncio.AbstractEventLoop) -> Post:
    mach = am.Machine({"A": {}})
    # Binds the machine to the loop that runs.
    mach.when1("A").cancel()
    return partial(mach.threadsafe.toggle1, "A")


def through_the_loop(loop: asyncio.AbstractEventLoop) -> Post:
    floor = Floor()

    def toggle(future: Future[str]) -> None:
        future.set_result(floor.toggle1("A", "B"))

    def post() -> Future[str]:
        future: Future[str] = Future()
        loop.call_soon_threadsafe(toggle, future)
        return future

    return post


def flood(lab: Lab) -> list[Case]:
    row, count, cases = "flood from eight threads", THREADS * lab.size(2_000), list[Case]()
    for loop in lab.loops:
        ours, floor = f"asyncmachine on {loop}", f"the floor on {loop}"
        sample = lab.on(loop, flooding(through_threadsafe))
        cases.append(Case(ours, sample, floor, count=count, mark=mark(row, "asyncmachine", loop)))
        sample = lab.on(loop, flooding(through_the_loop))
        cases.append(Case(floor, sample, count=count, mark=mark(row, "the floor", loop)))
    return cases


QUESTIONS = [Question("How long does a mutation take in a flood from eight threads?", flood)]

if __name__ == "__main__":
    main(QUESTIONS)
