"""The rivals: the same machine of two states in each library, written as its documentation recommends.

The machine goes from A to B and back. With callbacks, four are called each time: one that may refuse, one before, one
when a state is left, one when a state is entered. Without, none is declared. A rival that is not installed is left out.

Automat comes twice. Its documentation recommends `TypeMachineBuilder`, which has neither guards nor lists of callbacks:
a transition is one function, which here calls the four by hand. That is hardly more than a method call.
`MethodicalMachine`, which the library keeps, declares outputs as others declare callbacks; so it does the same work,
and it is the one a goal is set for.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Protocol, TypeAlias

from _harness import is_installed

Run: TypeAlias = Callable[[int], None]
RunAsync: TypeAlias = Callable[[int], Coroutine[Any, Any, None]]
Callback: TypeAlias = Callable[..., Any]


class Callbacks:
    """The user's four, which do nothing; a test counts their calls."""

    def guard(self) -> bool:
        return True

    def act(self) -> None:
        """Stand for all that is called and not asked."""


class AsyncCallbacks:
    """The same as coroutine functions."""

    async def guard(self) -> bool:
        return True

    async def act(self) -> None:
        """Stand for all that is called and not asked."""


class Bare:
    """A model without callbacks."""


ON_BOTH = {"on_enter": "act", "on_exit": "act"}


@dataclass(frozen=True)
class Rival:
    """A library, and how to make the machine in it.

    Args:
        name: of the library, and of the variant if there are several.
        module: what is imported; it is left out if that is not installed.
        make: makes the machine, with the given callbacks or none, and gives what toggles it so many times.
    """

    name: str
    module: str
    make: Callable[[Any], Any]

    @property
    def package(self) -> str:
        """The name of the package, whatever the variant."""
        return self.name.partition(",")[0]

    @property
    def series(self) -> str:
        """What the picture shows it as."""
        return self.name.removesuffix(", methodical")


def transitions_options(callbacks: Callbacks | AsyncCallbacks | None) -> dict[str, Any]:
    """Give the states and transitions, as transitions wants them; callbacks are found on the model by name."""
    each, more = ({}, {}) if callbacks is None else (ON_BOTH, {"conditions": "guard", "before": "act"})
    return {
        "model": callbacks or Bare(),
        "states": [{"name": "A", **each}, {"name": "B", **each}],
        "initial": "A",
        "transitions": [
            {"trigger": "toggle", "source": "A", "dest": "B", **more},
            {"trigger": "toggle", "source": "B", "dest": "A", **more},
        ],
    }


def transitions_sync(callbacks: Callbacks | None) -> Run:
    from transitions import Machine  # noqa: PLC0415 - rivals may be missing

    model: Any = Machine(**transitions_options(callbacks)).models[0]
    return calling(model.toggle)


def transitions_async(callbacks: AsyncCallbacks | None) -> RunAsync:
    from transitions.extensions.asyncio import AsyncMachine  # noqa: PLC0415 - rivals may be missing

    model: Any = AsyncMachine(**transitions_options(callbacks)).models[0]
    return awaiting(model.toggle)


def statemachine_sync(callbacks: Callbacks | None) -> Run:
    from statemachine import State, StateChart  # noqa: PLC0415 - rivals may be missing

    if callbacks is None:

        class Plain(StateChart[Any]):
            A = State(initial=True)
            B = State()
            toggle = A.to(B) | B.to(A)

        return calling(Plain().toggle)

    guard, act = callbacks.guard, callbacks.act

    class WithCallbacks(StateChart[Any]):
        A = State(initial=True)
        B = State()
        toggle = A.to(B, cond="may", before="first") | B.to(A, cond="may", before="first")

        def may(self) -> bool:
            return guard()

        def first(self) -> None:
            act()

        def on_exit_A(self) -> None:
            act()

        def on_exit_B(self) -> None:
            act()

        def on_enter_A(self) -> None:
            act()

        def on_enter_B(self) -> None:
            act()

    machine = WithCallbacks()
    return calling(machine.toggle)


def statemachine_async(callbacks: AsyncCallbacks | None) -> RunAsync:
    # A machine is asynchronous if one of its callbacks is: there has to be one, at least.
    kind = statemachine_one_callback(AsyncCallbacks()) if callbacks is None else statemachine_callbacks(callbacks)
    machines: list[Any] = []

    async def run(count: int) -> None:
        if not machines:
            machines.append(kind())
            await machines[0].activate_initial_state()
        toggle = machines[0].toggle
        for _ in repeat(None, count):
            await toggle()

    return run


def statemachine_one_callback(callbacks: AsyncCallbacks) -> Callback:
    from statemachine import State, StateChart  # noqa: PLC0415 - rivals may be missing

    class AsyncWithOne(StateChart[Any]):
        A = State(initial=True)
        B = State()
        toggle = A.to(B, before="first") | B.to(A, before="first")

        async def first(self) -> None:
            await callbacks.act()

    return AsyncWithOne


def statemachine_callbacks(callbacks: AsyncCallbacks) -> Callback:
    from statemachine import State, StateChart  # noqa: PLC0415 - rivals may be missing

    guard, act = callbacks.guard, callbacks.act

    class AsyncWithCallbacks(StateChart[Any]):
        A = State(initial=True)
        B = State()
        toggle = A.to(B, cond="may", before="first") | B.to(A, cond="may", before="first")

        async def may(self) -> bool:
            return await guard()

        async def first(self) -> None:
            await act()

        async def on_exit_A(self) -> None:
            await act()

        async def on_exit_B(self) -> None:
            await act()

        async def on_enter_A(self) -> None:
            await act()

        async def on_enter_B(self) -> None:
            await act()

    return AsyncWithCallbacks


def automat_methodical(callbacks: Callbacks | None) -> Run:
    from automat import MethodicalMachine  # noqa: PLC0415 - rivals may be missing

    class Model:
        machine = MethodicalMachine()

        @machine.state(initial=True)
        def A(self) -> None:
            """Be in A."""

        @machine.state()
        def B(self) -> None:
            """Be in B."""

        @machine.input()
        def toggle(self) -> None:
            """Go to the other one."""

        if callbacks is None:
            outputs: list[Any] = []
        else:

            @machine.output()
            def may(self) -> bool:
                return callbacks.guard()

            @machine.output()
            def first(self) -> None:
                callbacks.act()

            @machine.output()
            def leave(self) -> None:
                callbacks.act()

            @machine.output()
            def enter(self) -> None:
                callbacks.act()

            outputs = [may, first, leave, enter]

        A.upon(toggle, enter=B, outputs=outputs)
        B.upon(toggle, enter=A, outputs=outputs)

    return calling(Model().toggle)


class Toggles(Protocol):
    """The inputs of the machine, as Automat wants them."""

    def toggle(self) -> None:
        """Go to the other state."""


def automat_typed(callbacks: Callbacks | None) -> Run:
    from automat import TypeMachineBuilder  # noqa: PLC0415 - rivals may be missing

    builder = TypeMachineBuilder(Toggles, Callbacks)
    a, b = builder.state("A"), builder.state("B")

    def act(toggles: Toggles, core: Callbacks) -> None:
        if core.guard():
            core.act()
            core.act()
            core.act()

    for here, there in ((a, b), (b, a)):
        transition = here.upon(Toggles.toggle).to(there)
        if callbacks is None:
            transition.returns(None)
        else:
            transition(act)
    return calling(builder.build()(callbacks or Callbacks()).toggle)


def calling(toggle: Callback) -> Run:
    """Give what calls so many times."""

    def run(count: int) -> None:
        for _ in repeat(None, count):
            toggle()

    return run


def awaiting(toggle: Callback) -> RunAsync:
    """Give what awaits so many times."""

    async def run(count: int) -> None:
        for _ in repeat(None, count):
            await toggle()

    return run


SYNC = [
    Rival("transitions", "transitions", transitions_sync),
    Rival("python-statemachine", "statemachine", statemachine_sync),
    Rival("Automat, methodical", "automat", automat_methodical),
    Rival("Automat, typed", "automat", automat_typed),
]
ASYNC = [
    Rival("transitions", "transitions", transitions_async),
    Rival("python-statemachine", "statemachine", statemachine_async),
]


def installed(rivals: list[Rival]) -> Iterator[Rival]:
    """Give those that can be measured."""
    return (rival for rival in rivals if is_installed(rival.module))


def missing() -> list[str]:
    """Give the names of the libraries that cannot be measured."""
    names = {rival.package: rival.module for rival in (*SYNC, *ASYNC)} | {"uvloop": "uvloop"}
    return [name for name, module in names.items() if not is_installed(module)]
