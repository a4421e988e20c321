"""Exploring a machine with hypothesis; see `asyncmachine.testing.machine_rules`. Imported only when it is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, NamedTuple

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from typing_extensions import override

from asyncmachine.clock import Time
from asyncmachine.errors import HandlerError, UnknownStateError
from asyncmachine.machine import Machine
from asyncmachine.mutation import Result
from asyncmachine.recording import Recorder, describe
from asyncmachine.relations import broken_relations
from asyncmachine.schema import EXCEPTION, Schema, SchemaLike
from asyncmachine.settling import settle

__all__ = ["Explorer", "rules_of"]

MUTATIONS = ("add", "remove", "set", "toggle", "can_add", "can_remove")


class Explored(NamedTuple):
    """What is explored, and how; see `machine_rules`."""

    build: Callable[[], Machine]
    laws: tuple[Callable[[Machine], object], ...]
    errors: bool
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None


class Explorer(RuleBasedStateMachine):
    """Explores one machine; the rules and the settings are of a subclass, made by `rules_of`."""

    explored: ClassVar[Explored]

    def __init__(self) -> None:
        super().__init__()
        self.runner: asyncio.Runner = asyncio.Runner(loop_factory=self.explored.loop_factory)
        self.machine: Machine = self.runner.run(self._built())
        self.time: Time = self.machine.time()

    async def _built(self) -> Machine:
        mach = self.explored.build()
        await settle(mach)
        return mach

    def ask(self, method: str, states: list[str]) -> None:
        """Ask the machine for something, and let it settle."""
        check = method.startswith("can_")

        async def step() -> None:
            before = self.machine.time()
            result: Result = getattr(self.machine, method)(states)
            if check and self.machine.time() != before:
                self.fail(f"{method} changed something: {result!r}")
            await settle(self.machine)

        self.runner.run(step())

    def wait(self, seconds: float) -> None:
        """Let time pass, and what it brings."""

        async def step() -> None:
            await asyncio.sleep(seconds)
            await settle(self.machine)

        self.runner.run(step())

    def fail(self, what: str) -> None:
        raise AssertionError("\n".join([what, *describe(self.machine)]))

    @invariant()
    def relations_hold(self) -> None:
        """No active state lacks what it requires, none is removed by another."""
        broken = broken_relations(self.machine.schema, self.machine.active_states())
        if broken:
            self.fail(f"relations are broken: {'; '.join(broken)}")

    @invariant()
    def clocks_go_on(self) -> None:
        """No tick goes back, and odd ones are those of the active states."""
        before, self.time = self.time, self.machine.time()
        back = [name for name, a, b in zip(self.machine.state_names, before, self.time, strict=True) if b < a]
        if back:
            self.fail(f"clocks went back: {' '.join(back)}")
        odd = {name for name, tick in self.machine.clock().items() if tick % 2}
        if odd != set(self.machine.active_states()):
            self.fail(f"ticks say that {' '.join(sorted(odd))} are active")

    @invariant()
    def no_error_came_up(self) -> None:
        """Nothing raised, unless it may."""
        err = self.machine.err
        if err is not None and not self.explored.errors:
            raise AssertionError("\n".join(["an error came up", *describe(self.machine)])) from err

    @invariant()
    def laws_hold(self) -> None:
        """The user's own."""
        for law in self.explored.laws:
            if law(self.machine) is False:
                name = getattr(law, "__qualname__", repr(law))
                self.fail(f"the invariant {name} does not hold")

    @override
    def teardown(self) -> None:
        async def end() -> None:
            await self.machine.dispose()

        try:
            self.runner.run(end())
        finally:
            self.runner.close()


def rules_of(
    schema: SchemaLike,
    handlers: Callable[[], object] | None,
    laws: tuple[Callable[[Machine], object], ...],
    states: Iterable[str] | None,
    *,
    errors: bool,
    pauses: Iterable[float],
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None,
    options: Mapping[str, Any],
) -> type[Explorer]:
    """Make the class; see `machine_rules`."""
    known = Schema.of(schema)
    names = [name for name in known if name != EXCEPTION] if states is None else list(states)
    for name in names:
        if name not in known:
            raise UnknownStateError(name, known)
    if handlers is not None and not callable(handlers):
        raise HandlerError(
            f"each example has handlers of its own, so give what makes them, such as their class, not {handlers!r}"
        )

    def build() -> Machine:
        made: dict[str, Any] = {"id": "explored", "handler_timeout": None, **options}
        mach = Machine(known, handlers=None if handlers is None else handlers(), **made)
        mach.bind_tracer(Recorder())
        return mach

    lists = st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True)

    def make_rule(method: str) -> Any:
        def ask(self: Explorer, states: list[str]) -> None:
            self.ask(method, states)

        ask.__name__ = ask.__qualname__ = method
        return rule(states=lists)(ask)

    def pause(self: Explorer, seconds: float) -> None:
        self.wait(seconds)

    rules: dict[str, Any] = {name: make_rule(name) for name in MUTATIONS}
    if seconds := list(pauses):
        rules["pause"] = rule(seconds=st.sampled_from(seconds))(pause)
    return type("MachineRules", (Explorer,), {"explored": Explored(build, laws, errors, loop_factory), **rules})
