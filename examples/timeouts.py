"""A feed of news that must come about in time, and must be heard of now and then.

All limits of time are said where the states are declared. No task waits for any of them, and no code cancels anything:
- Connecting has 0.3 s. Then ErrSlow is added, as an error; it brings Backoff, which removes Connecting.
- Backoff lasts 0.2 s and is removed. Connecting is an auto state, so it is tried again.
- Each piece of news gives the next one 0.5 s. Then the feed is Stale, and the program ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import anyio

import asyncmachine as am


class FeedStates(am.States):
    """One feed."""

    Start: str = am.state()
    """The feed is wanted."""

    Backoff: str = am.state(require=[Start], remove=["Connecting"], timeout=0.2)
    """Connecting is left alone for a while."""

    ErrSlow: str = am.state(require=[am.EXCEPTION], add=[Backoff])
    """Connecting took too long."""

    Connecting: str = am.state(
        auto=True, require=[Start], remove=[ErrSlow, am.EXCEPTION], timeout=0.3, on_timeout=ErrSlow
    )
    """The server was asked, and has not answered yet."""

    Connected: str = am.state(require=[Start], remove=[Connecting])
    """News may come."""

    News: str = am.state(multi=True, require=[Connected], timeout=0.5, on_timeout="Stale")
    """Something was heard a short while ago."""

    Stale: str = am.state(require=[Connected], remove=[News])
    """Nothing was heard for too long."""


@dataclass
class Headline:
    """The args of News."""

    text: str


@dataclass
class Server:
    """Stands for a server: how long it takes to answer each time it is asked, and what it tells at which intervals."""

    answers: list[float]
    headlines: Iterable[tuple[float, str]]

    async def connect(self) -> None:
        """Answer, sooner or later."""
        await anyio.sleep(self.answers.pop(0))


class Feed:
    """Connects, listens, and says what happens."""

    def __init__(self, server: Server, say: Callable[[str], object]) -> None:
        self.server = server
        self.say = say

    async def ConnectingState(self, e: am.Event) -> None:
        self.say("connecting")
        await self.server.connect()
        e.machine.add1(FeedStates.Connected)

    def ErrSlowState(self, e: am.Event) -> None:
        late = e.arg(am.TimeoutArgs)
        self.say(f"{late.state} had {late.timeout} s: {e.machine.err!r}")

    def ExceptionState(self, e: am.Event) -> None:
        """Errors are handled: ErrSlow says what is to be said."""

    async def ConnectedState(self, e: am.Event) -> None:
        self.say("connected")
        for pause, text in self.server.headlines:
            await anyio.sleep(pause)
            e.machine.add1(FeedStates.News, Headline(text))
        await anyio.sleep_forever()

    def NewsState(self, e: am.Event) -> None:
        self.say(f"news: {e.arg(Headline).text}")

    def StaleState(self, e: am.Event) -> None:
        self.say(f"nothing new for {e.arg(am.TimeoutArgs).timeout} s")
        e.machine.remove1(FeedStates.Start)


async def main(say: Callable[[str], object] = print) -> str:
    """Follow a feed until it is stale, and give the machine as it was then."""
    server = Server(answers=[60, 0.1], headlines=[(0.1, "rain"), (0.4, "more rain"), (0.4, "sun")])
    async with am.Machine(FeedStates, handlers=Feed(server, say)) as mach:
        mach.add1(FeedStates.Start)
        await mach.when_not1(FeedStates.Start)
        return mach.string_all()


if __name__ == "__main__":
    print(am.run(main))
