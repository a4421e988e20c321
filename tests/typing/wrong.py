"""Wrong uses, each of which every type checker must refuse.

The comments name the error. A checker that does not report it reports the comment instead, so none can be lost. Nothing
here is ever run.
"""

# pyright: reportUnnecessaryTypeIgnoreComment=true
# What follows from each error is not of interest, nor is that nothing is done with what is wrong.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUntypedFunctionDecorator=false
# pyright: reportUnusedVariable=false, reportUnusedFunction=false, reportUnusedExpression=false

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from typing_extensions import override

import asyncmachine as am


@dataclass
class Conn:
    addr: str


class Doors(am.States):
    Open: str = am.state()
    Closed: str = am.state(remove=[1])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    Locked: str = am.state(removes=[Open])  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Broken: int = am.state()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    Late: str = am.state(timeout="2")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Later: str = am.state(timeout=2, on_timeout=[Open])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Latest: str = am.state(timeout=2, on_timout=Open)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    All = am.group(Open, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def declaring() -> None:
    Doors.Opened  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    am.State(auto="yes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    am.State(timeout="2")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    am.State(timeout=2, on_timeout=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    seconds: float = am.State(timeout=2).timeout  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    am.Schema({"Foo": {"timeout": "2"}})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
    am.State(["Foo"])  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]
    am.State().auto = True  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    am.Schema({"Foo": 5})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
    am.Schema({"Foo": {"reqire": []}})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
    am.Schema({"Foo": {"auto": "yes"}})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
    am.Schema({"Foo": {}})["Foo"] = am.State()  # type: ignore[index]  # pyright: ignore[reportIndexIssue]
    am.Machine(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    am.Machine(Conn)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    am.Machine(Doors, queue_limit="many")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    am.Machine(Doors, "door")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    am.Machine(Doors, parent="door")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    am.Machine(Doors, tracers=[print])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    am.Machine(Doors, resolver=Conn)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    am.MachineApi()  # type: ignore[abstract]  # pyright: ignore[reportAbstractUsage]


def asking(mach: am.Machine) -> None:
    mach.add(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    mach.add([1, 2])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    mach.add1(["Open"])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    mach.add1("Open", "Closed", "Locked")  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]
    mach.remove("Open", None, 5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    mach.add1("Open", source="other")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    mach.add1("Open", 5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    mach.add1("Open", "Closed")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    mach.add(["Open"], Conn)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    mach.add_err("broken")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    mach.add_err_state(OSError())  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]
    mach.set1("Open")  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    mach.add1("Open").value  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    mach.add1("Open").executed = True  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    mach.threadsafe.add1("Open").executed  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    mach.threadsafe.eval(mach.tick)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def reading(mach: am.Machine) -> None:
    mach.is1(["Open"])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    mach.is_(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    mach.index1(0)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    mach.is_clock({"Open": "1"})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
    mach.is_queued("add", "Open", position="middle")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    mach.time().sum("Open")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    mach.err = ValueError()  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    mach.log_level = 1.5  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]
    tick: str = mach.tick("Open")  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    name: str = mach.switch(["Open"])  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    if mach.is1:  # type: ignore[truthy-function]  # pyright: ignore[reportUnnecessaryComparison]
        pass


async def waiting(mach: am.Machine) -> None:
    time: int = await mach.when("Open")  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    tick: int = mach.when1("Open")  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    mach.when_time(["Open"], 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    mach.when_ticks("Open", "2")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    mach.when_args("Open", [1])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    mach.when_query(lambda clock: clock.tick)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownLambdaType]
    mach.when_queue("soon")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    mach.expect("Open")  # type: ignore[unused-coroutine]  # pyright: ignore[reportUnusedCoroutine]
    am.wait_any(1)  # type: ignore[arg-type, unused-coroutine]  # pyright: ignore[reportArgumentType, reportUnusedCoroutine]
    ticks: list[str] = await am.wait_all(mach.when1("Open"))  # type: ignore[arg-type]  # pyright: ignore[reportAssignmentType]
    await am.expect("Open")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with mach.when1("Open"):  # type: ignore[attr-defined]  # pyright: ignore[reportGeneralTypeIssues]
        pass
    mach.fork(waiting(mach))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    mach.fork(waiting)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    mach.fork(waiting, "door")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    mach.fork(waiting, mach, state=0)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    am.run(waiting)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def following(mach: am.Machine) -> None:
    mach.activations("Open", "Closed")  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]
    mach.activations(["Open"])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    mach.transitions(maxsize="many")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    mach.transitions(overflow="drop")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    mach.transitions(accepted="yes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    mach.transitions(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    mach.transitions().dropped = 0  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    for _ in mach.activations("Open"):  # type: ignore[attr-defined]  # pyright: ignore[reportGeneralTypeIssues]
        pass
    async for name in mach.activations("Open"):
        opened: str = name  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    with mach.transitions():  # type: ignore[attr-defined]  # pyright: ignore[reportGeneralTypeIssues]
        pass
    ticks: am.Stream[str] = mach.activations("Open")  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


def timed(e: am.Event) -> None:
    e.arg(am.TimeoutArgs).seconds  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    e.arg(am.TimeoutArgs).tick = 1  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    since: int = e.arg(am.TimeoutArgs).since  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    am.StateTimeoutError("Open")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    conn: str = e.arg(Conn)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    e.fork(following)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def handling(mach: am.Machine) -> None:
    @mach.on.state(0)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    def open_(e: am.Event) -> int:
        e.arg("Conn")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        e.arg(Conn).port  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
        e.args["id"] = 1  # type: ignore[index]  # pyright: ignore[reportIndexIssue]
        e.machine.nope  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
        return 1

    open_()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

    @mach.on.enter("Open", limit=2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    def limited(e: am.Event) -> bool:
        return True

    @mach.on.enter("Open")  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
    async def too_late(e: am.Event) -> bool:
        return True

    @mach.on.exit("Open")  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
    def no_answer(e: am.Event) -> str:
        return "no"

    @mach.on.both("Open")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    def both(e: am.Event) -> bool:
        return True

    @am.on.any("Open")  # type: ignore[attr-defined, untyped-decorator]  # pyright: ignore[reportAttributeAccessIssue]
    def unmarked(e: am.Event) -> bool:
        return True

    def told(err: BaseException) -> None:
        pass

    mach.on_error(told)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    mach.on_change(told)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    mach.on_dispose(None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    mach.bind_tracer(told)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


class Recorder(am.Tracer):
    @override
    def transition_end(self) -> None:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        pass

    @override
    def transition_ended(self, transition: am.Transition[Any]) -> None:  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]
        pass

    @override
    def inheritable(self) -> str:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        return "yes"
