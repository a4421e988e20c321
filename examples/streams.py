"""A desk that takes orders, with two who read along: an audit that must see everything, and a display that need not.

- The audit reads all transitions, canceled ones too, and ends when the desk is disposed, after the last one. It would
  rather end with an error than have a gap.
- The display reads the activations of one state, shows each for a while, and has only the latest three wait.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import anyio

import asyncmachine as am


class DeskStates(am.States):
    """A desk that takes orders while it is open."""

    Start: str = am.state()
    """The desk is open."""

    Order: str = am.state(multi=True, require=[Start])
    """An order came in."""


@dataclass
class Item:
    """The args of Order."""

    name: str
    count: int = 1


class Desk:
    """Refuses what it has not got."""

    def __init__(self, stock: int) -> None:
        self.stock = stock

    def OrderEnter(self, e: am.Event) -> bool:
        return e.arg(Item).count <= self.stock

    def OrderState(self, e: am.Event) -> None:
        self.stock -= e.arg(Item).count


async def audit(done: am.Stream[am.Transition[am.Machine]], say: Callable[[str], object]) -> None:
    """Write down whatever was asked, and whether it was done."""
    async for tx in done:
        asked = f"{tx.type} {' '.join(tx.called_states)} {' '.join(map(str, tx.args.values()))}".strip()
        say(f"audit: {asked}: {'done' if tx.is_accepted else 'refused'}")


async def display(orders: am.Stream[int], say: Callable[[str], object]) -> None:
    """Show which order is the latest, for a while each."""
    async for tick in orders:
        say(f"display: order {(tick + 1) // 2}")
        await anyio.sleep(0.2)
    say(f"display: {orders.dropped} orders were not shown")


async def main(say: Callable[[str], object] = print) -> None:
    """Take some orders, and close the desk."""
    desk = am.Machine(DeskStates, id="desk", handlers=Desk(stock=10))
    # Made before anything happens, and before the tasks that read them run: nothing is missed.
    everything = desk.transitions(overflow="error")
    orders = desk.activations(DeskStates.Order, maxsize=3)
    async with anyio.create_task_group() as readers:
        readers.start_soon(audit, everything, say)
        readers.start_soon(display, orders, say)
        async with desk:
            desk.add1(DeskStates.Start)
            for number in range(1, 6):
                desk.add1(DeskStates.Order, Item("tea", number))
            desk.add1(DeskStates.Order, Item("cake"))


if __name__ == "__main__":
    am.run(main)
