"""What is taken of a machine to look at it or to restore it: frozen, and apart from the machine."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from asyncmachine.errors import SnapshotError

__all__ = ["Snapshot", "Statistics"]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A machine's state, ready for JSON. `Machine.export` makes one, `Machine.restore` takes it.

    Args:
        id: the machine's id.
        states: the names of all states, in order.
        ticks: their ticks.
        active: the names of the active states, in the machine's order.
        queue_tick: the queue's clock.
        machine_tick: how many times the machine had been started.

    >>> am.Machine({"Foo": {}}, id="door").export().to_json()[:42]
    '{"id": "door", "states": ["Foo", "Exceptio'
    """

    id: str
    states: tuple[str, ...]
    ticks: tuple[int, ...]
    active: tuple[str, ...]
    queue_tick: int
    machine_tick: int

    def to_dict(self) -> dict[str, Any]:
        """Give the snapshot as a plain mapping, for `json.dumps`.

        >>> mach.add1("Bar"), mach.export().to_dict()["active"]
        (Result.EXECUTED, ['Bar'])
        """
        values: dict[str, str | int | tuple[str | int, ...]] = asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def to_json(self) -> str:
        """Give the snapshot as JSON.

        >>> am.Machine({"Foo": {}}, id="door").export().to_json().startswith('{"id": "door"')
        True
        """
        return json.dumps(self.to_dict())

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Snapshot:
        """Read a snapshot from a plain mapping.

        Raises:
            SnapshotError: something is missing or of another kind.

        >>> saved = mach.export()
        >>> am.Snapshot.from_dict(saved.to_dict()) == saved
        True
        """
        try:
            states, ticks, active = (tuple(data[name]) for name in ("states", "ticks", "active"))
            for name in (*states, *active):
                if not isinstance(name, str):
                    raise TypeError(f"{name!r} is no name of a state")
            return cls(str(data["id"]), states, ticks, active, int(data["queue_tick"]), int(data["machine_tick"]))
        except (KeyError, TypeError, ValueError, OverflowError) as err:
            raise SnapshotError(f"this is no snapshot of a machine ({err!r}); make one with mach.export()") from None

    @classmethod
    def from_json(cls, text: str | bytes) -> Snapshot:
        """Read a snapshot that `to_json` wrote.

        Raises:
            SnapshotError: the text is no snapshot.

        >>> saved = mach.export()
        >>> am.Snapshot.from_json(saved.to_json()) == saved
        True
        """
        try:
            data = json.loads(text)
        except ValueError as err:
            raise SnapshotError(f"the text is not JSON: {err}") from None
        return cls.from_dict(data)

    def problems(self, id: str, names: Iterable[str]) -> list[str]:
        """Say what keeps the snapshot from being restored into a machine with this id and these states.

        >>> am.Machine({"Foo": {}}, id="door").export().problems("gate", ["Foo", "Exception"])
        ["it is of the machine 'door', not 'gate'; build the machine with id='door'"]
        """
        names = tuple(names)
        if self.id != id:
            return [f"it is of the machine {self.id!r}, not {id!r}; build the machine with id={self.id!r}"]
        if self.states != names:
            return [f"its states are {' '.join(self.states)}, not {' '.join(names)}; use the schema it was made with"]
        if len(self.ticks) != len(names) or not all(isinstance(tick, int) and tick >= 0 for tick in self.ticks):
            return ["its ticks are not one number of 0 or more for each state"]
        if self.queue_tick < 1 or self.machine_tick < 1:
            return [f"its queue tick is {self.queue_tick} and its machine tick {self.machine_tick}; both start at 1"]
        odd = {name for name, tick in zip(names, self.ticks, strict=True) if tick % 2}
        if odd != set(self.active) or len(odd) != len(self.active):
            return [f"its active states are {' '.join(self.active)}, but its ticks say {' '.join(sorted(odd))}"]
        return []


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a machine holds and has done. `Machine.statistics` makes one.

    Args:
        queued: mutations that wait in the queue.
        waiters: pending futures of `when_…`.
        contexts: open state contexts, those of work included.
        work: pieces of work that have not ended.
        children: machines built with this one as their parent.
        transitions: how many transitions there have been, checks and canceled ones included.
        canceled: how many of those were canceled.
        errors: how many errors there have been.
        timeouts: active states that have a timeout.
    """

    queued: int
    waiters: int
    contexts: int
    work: int
    children: int
    transitions: int
    canceled: int
    errors: int
    timeouts: int = 0
