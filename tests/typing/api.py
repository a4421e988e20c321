"""A program as a user writes it, which every strict type checker must accept, with the types it must find.

`wrong.py` beside it holds what they must refuse. Nothing here is collected by pytest; the checkers are the test.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, assert_type

import anyio
from typing_extensions import override

import asyncmachine as am
from asyncmachine import states

logger = logging.getLogger("client")

# Declaring states.


class BasicStates(am.States):
    """States that many machines share."""

    Start: str = am.state()
    Ready: str = am.state(auto=True, require=[Start])
    ErrNetwork: str = am.state(require=[am.EXCEPTION])


class ClientStates(BasicStates):
    """A client of some server."""

    Connecting: str = am.state(require=[BasicStates.Start], remove=["Connected"])
    Connected: str = am.state(require=[BasicStates.Start], remove=[Connecting])
    Message: str = am.state(multi=True, after=(Connected,), tags=["net"])
    Ready: str = am.state(extend=True, require=[Connected])
    Linked = am.group(Connecting, Connected)
    ErrSlow: str = am.state(require=[am.EXCEPTION])
    Handshake: str = am.state(timeout=2.5, on_timeout=ErrSlow, remove=[Connected])
    Idle: str = am.state(timeout=60)


assert_type(ClientStates.Connected, str)
assert_type(ClientStates.Linked, tuple[str, ...])
assert_type(ClientStates.schema(), am.Schema)
assert_type(ClientStates.states(), dict[str, am.State])
assert_type(ClientStates.groups(), dict[str, tuple[str, ...]])


def schemas() -> None:
    by_value = am.Schema({"Foo": am.State(auto=True), "Bar": am.State(require=["Foo"])}, groups={"All": ["Foo", "Bar"]})
    by_mapping = am.Schema({"Foo": {"auto": True}, "Bar": {"require": ["Foo"], "remove": ("Baz",)}, "Baz": {}})
    states: dict[str, am.StateDict] = {"Foo": {"multi": True}}
    like: am.SchemaLike = states
    assert_type(by_value["Foo"], am.State)
    assert_type(by_value["Foo"].require, tuple[str, ...])
    assert_type(by_value.names, tuple[str, ...])
    assert_type(by_value.groups, Mapping[str, tuple[str, ...]])
    assert_type(by_value.merge(by_mapping, ClientStates, {"Qux": {}}), am.Schema)
    assert_type(am.Schema.of(like), am.Schema)
    assert_type(am.Schema.from_json(by_value.to_json()), am.Schema)
    assert_type(am.State(auto=True).extend(am.State()), am.State)
    timed: am.StateDict = {"timeout": 2.5, "on_timeout": "Bar"}
    assert_type(am.State(timeout=2, on_timeout="Foo").timeout, float | None)
    assert_type(am.Schema({"Foo": timed, "Bar": {"timeout": None}})["Foo"].on_timeout, str | None)
    am.Machine(ClientStates)
    am.Machine(by_value)
    am.Machine(states)
    am.Machine({"Foo": am.State(), "Bar": {"require": ["Foo"]}})
    am.Machine({})


# Handlers.


@dataclass
class Conn:
    """Typed args."""

    addr: str
    retries: int = 3


class ClientHandlers:
    """Handlers of every kind."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def ConnectingEnter(self, e: am.Event) -> bool:
        assert_type(e.machine, am.Machine)
        assert_type(e.arg(Conn), Conn)
        assert_type(e.arg(Conn).retries, int)
        assert_type(e.args, Mapping[str, Any])
        assert_type(e.mutation, am.Mutation)
        assert_type(e.name, str)
        assert_type(e.state, str)
        return e.machine.not1(ClientStates.Connected) and e.arg(Conn).retries > 0

    async def ConnectingState(self, e: am.Event) -> None:
        conn = e.arg(Conn)
        await anyio.sleep(0.1)
        assert_type(e.is_valid, bool)
        assert_type(e.machine.add1(ClientStates.Connected, {"addr": conn.addr}), am.Result)

    def ConnectedEnd(self, e: am.Event) -> None:
        added, removed = e.transition.time_index_diff()
        assert_type(added, am.TimeIndex)
        if removed.is1(ClientStates.Connected):
            self.log.append(e.name)

    def ExceptionState(self, e: am.Event) -> None:
        args = e.arg(am.ExceptionArgs)
        assert_type(args.err, BaseException)
        assert_type(args.handler, str | None)
        assert_type(args.called, tuple[str, ...])
        self.log.append(args.traceback)

    def ErrSlowState(self, e: am.Event) -> None:
        late = e.arg(am.TimeoutArgs)
        assert_type(late.state, str)
        assert_type(late.timeout, float)
        assert_type(late.tick, int)
        assert_type(late.since, float)
        if isinstance(e.machine.err, am.StateTimeoutError):
            assert_type(e.machine.err.state, str)
            assert_type(e.machine.err.timeout, float)

    @am.on.state(ClientStates.Message, limit=4)
    async def on_message(self, e: am.Event) -> None:
        await asyncio.sleep(0)

    @am.on.enter("Ready", "Message")
    def may(self, e: am.Event) -> bool | None:
        return None

    @am.on.both("Connecting", "Connected")
    @am.on.exit("Start")
    def passes(self, e: am.Event) -> bool:
        return True

    @staticmethod
    def AnyState(e: am.Event) -> None:
        assert_type(e.machine.active_states(), tuple[str, ...])


def marks_keep_types(mach: am.Machine) -> None:
    """A decorated function is what it was."""

    @mach.on.state("Message")
    def count(e: am.Event) -> int:
        return len(e.args)

    @mach.on.end("Message")
    async def tell(e: am.Event) -> str:
        return e.name

    give: Callable[[am.Event], int] = count
    give_later: Callable[[am.Event], Awaitable[str]] = tell
    method: Callable[[am.Event], bool] = ClientHandlers().passes
    logger.debug("%s %s %s", give, give_later, method)


# Mutations and their results.


def mutations(mach: am.Machine) -> str | None:
    source = am.Source("other", "1.1", 7)
    for result in (
        mach.add("Connecting", "Message"),
        mach.add(["Connecting"], Conn(":5555")),
        mach.add(ClientStates.Linked, {"id": 1}, source=source),
        mach.add1(ClientStates.Start),
        mach.add1("Connecting", Conn(":5555"), source=source),
        mach.remove(("Connecting", "Message")),
        mach.remove1("Start", {"why": "done"}),
        mach.set({"Start"}),
        mach.toggle("Start", "Message"),
        mach.toggle1("Start", args=Conn("")),
        mach.add_err(OSError(), {"id": 1}),
        mach.add_err(None),
        mach.add_err_state(ClientStates.ErrNetwork, OSError(), Conn("")),
        mach.can_add(["Start"]),
        mach.can_add1("Start"),
        mach.can_remove("Start", "Message"),
        mach.can_remove1("Start"),
    ):
        assert_type(result, am.Result)
    result = mach.add1("Start")
    assert_type(result.executed, bool)
    assert_type(result.reason, str | None)
    assert_type(result.tick, int)
    assert_type(result.mutation, am.Mutation | None)
    assert_type(int(result), int)
    match result:
        case am.Result.EXECUTED:
            return None
        case am.Result.CANCELED:
            return result.reason
        case _:
            return f"runs at {result.tick}"


def kinds(mutation: am.Mutation) -> str:
    """The type of a mutation can be matched, and checkers see that nothing is left out."""
    match mutation.type:
        case am.MutationType.ADD:
            return "added"
        case am.MutationType.REMOVE:
            return "removed"
        case am.MutationType.SET:
            return "set"


# Reading.


def reading(mach: am.Machine) -> None:
    assert_type(mach.is_("Start", "Ready"), bool)
    assert_type(mach.is_(ClientStates.Linked), bool)
    assert_type(mach.any(["Start"], "Ready"), bool)
    assert_type(mach.not_(name for name in ("Start",)), bool)
    assert_type(mach.time(), am.Time)
    assert_type(mach.time(["Start"]).sum(), int)
    assert_type(mach.time()[0], int)
    assert_type(mach.clock(), am.Clock)
    assert_type(mach.clock()["Start"], int)
    assert_type(mach.switch(ClientStates.Linked), str | None)
    assert_type(mach.index("Start"), tuple[int, ...])
    assert_type(mach.is_time((1, 2)), bool)
    assert_type(mach.was_clock({"Start": 1}), bool)
    assert_type(mach.is_queued("add", "Start", position="first"), am.Mutation | None)
    assert_type(mach.is_queued(am.MutationType.SET, ["Start"]), am.Mutation | None)
    assert_type(mach.err, BaseException | None)
    assert_type(mach.schema, am.Schema)
    assert_type(mach.parent, am.Machine | None)
    assert_type(mach.children, tuple[am.Machine, ...])
    assert_type(mach.transition, am.Transition[am.Machine] | None)
    assert_type(mach.statistics(), am.Statistics)
    assert_type(mach.log_level, am.LogLevel)
    mach.log_level = "ops"
    mach.log_level = 2
    mach.log_level = am.LogLevel.CHANGES
    assert_type(am.TimeIndex(["Start"], [1]).active_states(), tuple[str, ...])
    assert_type(am.Time([1]).to_index(["Start"]), am.TimeIndex)
    assert_type(am.broken_relations(mach.schema, ["Start"]), list[str])


# Waiting.


async def waiting(mach: am.Machine) -> None:
    assert_type(mach.when1("Start"), "asyncio.Future[int]")
    assert_type(await mach.when("Start", "Ready"), am.Time)
    assert_type(await mach.when1("Start"), int)
    assert_type(await mach.when_not(["Start"]), am.Time)
    assert_type(await mach.when_not1("Start"), int)
    assert_type(await mach.when_args("Message", {"id": 1}), Mapping[str, Any])
    assert_type(await mach.when_args("Message", lambda args: bool(args["id"])), Mapping[str, Any])
    assert_type(await mach.when_time(["Start"], [1]), am.Time)
    assert_type(await mach.when_time1("Start", 1), int)
    assert_type(await mach.when_ticks("Start", 2), int)
    assert_type(await mach.when_next_active("Start"), int)
    assert_type(await mach.when_query(lambda clock: clock["Start"] > 1), am.Clock)
    assert_type(await mach.when_err(), BaseException)
    assert_type(await mach.when_queue(7), int)
    assert_type(await mach.when_queue(mach.add1("Start")), int)
    await mach.when_queue_ends()
    await mach.when_disposed()
    assert_type(await mach.add1("Start"), am.Result)
    assert_type(await mach.expect("Start", timeout=1), am.Time)
    assert_type(await am.expect(mach, ["Start"]), am.Time)
    assert_type(await am.wait_all(mach.when1("Start"), mach.when1("Ready"), timeout=1), list[int])
    assert_type(await am.wait_any(mach.when1("Start"), mach.when_queue_ends(), asyncio.sleep(1)), int)
    assert_type(await mach.wait_all(mach.when("Start"), timeout=None), list[am.Time])
    assert_type(await mach.wait_any(mach.when1("Start"), mach.when_err()), int)
    done, _ = await asyncio.wait({mach.when1("Start"), mach.when1("Ready")}, return_when=asyncio.FIRST_COMPLETED)
    assert_type(done.pop().result(), int)


# Streams.


async def following(mach: am.Machine) -> int:
    async for transition in mach.transitions():
        assert_type(transition, am.Transition[am.Machine])
        assert_type(transition.machine, am.Machine)
        assert_type(transition.called_states, tuple[str, ...])
        assert_type(transition.mutation.arg(Conn).addr, str)
    async with mach.activations(ClientStates.Message, maxsize=16, overflow="error") as ticks:
        assert_type(ticks, am.Stream[int])
        assert_type(await anext(ticks), int)
        assert_type([tick async for tick in ticks], list[int])
    refused = mach.transitions("Start", ClientStates.Linked, accepted=False, overflow="drop_newest")
    assert_type(refused, am.Stream[am.Transition[am.Machine]])
    assert_type(refused.dropped, int)
    assert_type(refused.buffered, int)
    assert_type(refused.is_ended, bool)
    refused.close()
    await refused.aclose()
    iterator: AsyncIterator[int] = mach.activations("Start")
    try:
        return await anext(iterator)
    except (am.StreamOverflowError, am.StreamBusyError):
        return mach.statistics().timeouts


# Contexts and work.


async def fetch(mach: am.Machine, path: str, *, strict: bool = True) -> bytes:
    return await anyio.Path(path).read_bytes() if strict and mach.is1("Start") else b""


def count_lines(path: str) -> int:
    return len(path)


async def working(mach: am.Machine) -> None:
    with mach.state_ctx("Start") as scope:
        assert_type(scope, anyio.CancelScope)
    work = mach.fork(fetch, mach, "README.md", state="Connected", delay=0.1, limit=2)
    assert_type(work, am.Work)
    assert_type(work.done(), bool)
    assert_type(mach.fork(count_lines, "README.md"), am.Work)
    work.cancel()
    shared: am.MachineApi = mach
    with shared.state_ctx("Start"):
        pass


def from_a_handler(e: am.Event) -> None:
    work = e.fork(fetch, e.machine, "README.md", limit=1)
    assert_type(work, am.Work)
    work.cancel()


def from_another_thread(mach: am.Machine) -> int:
    threadsafe = mach.threadsafe
    assert_type(threadsafe, am.Threadsafe)
    assert_type(threadsafe.add("Start", "Ready"), concurrent.futures.Future[am.Result])
    assert_type(threadsafe.add1("Connecting", Conn("")), concurrent.futures.Future[am.Result])
    assert_type(threadsafe.can_remove1("Start").result(timeout=1).executed, bool)
    assert_type(threadsafe.add_err(OSError()), concurrent.futures.Future[am.Result])
    assert_type(threadsafe.eval(lambda: mach.tick("Start")).result(), int)
    return threadsafe.eval(lambda: mach.tick("Start")).result()


# Watching.


class Recorder(am.Tracer):
    """A tracer that overrides some methods, with their types."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    @override
    def transition_end(self, transition: am.Transition[Any]) -> None:
        assert_type(transition.time_after, am.Time)
        assert_type(transition.called_states, tuple[str, ...])
        assert_type(transition.steps, list[am.Step])
        assert_type(transition.type, am.MutationType)
        self.seen += transition.exits

    @override
    def mutation_queued(self, machine: am.MachineApi, mutation: am.Mutation) -> None:
        assert_type(mutation.source, am.Source | None)
        self.seen.append(machine.id)

    @override
    def schema_change(self, machine: am.MachineApi, old: am.Schema) -> None:
        self.seen += old.names

    @override
    def inheritable(self) -> bool:
        return True


class Resolver:
    """A resolver of one's own, by its structure alone."""

    def __init__(self, schema: am.Schema) -> None:
        self.inner = am.RelationsResolver(schema)

    def resolve(
        self,
        type_: am.MutationType,
        called: tuple[int, ...] | list[int] | Any,
        active: Any,
        *,
        admitted: int | None = None,
        steps: list[am.RelationStep] | None = None,
    ) -> tuple[int, ...]:
        return self.inner.resolve(type_, called, active, admitted=admitted, steps=steps)

    def order(self, states: Any) -> tuple[int, ...]:
        return self.inner.order(states)

    def auto(self, active: Any) -> tuple[int, ...]:
        return self.inner.auto(active)


def told(mach: am.Machine) -> None:
    def on_error(machine: am.Machine, err: BaseException) -> None:
        logger.error("%s %s", machine.id, err)

    def on_change(machine: am.Machine, before: am.Time, after: am.Time) -> None:
        logger.info("%s %s", machine.id, after.diff_since(before))

    mach.on_error(on_error)
    mach.on_change(on_change)
    mach.on_change(None)
    mach.on_dispose(lambda machine: logger.info("%s", machine.id))
    mach.bind_tracer(Recorder())
    mach.add_breakpoint(["Start"], ["Ready"], strict=True, action=lambda: None)
    mach.add_breakpoint1("Start")
    assert_type(mach.bind_handlers(ClientHandlers(), prefix=""), str)
    assert_type(mach.bind_handlers({"StartState": from_a_handler}, id="start"), str)
    assert_type(mach.tracers, tuple[am.Tracer, ...])


# Whole machines.


def snapshots(mach: am.Machine) -> None:
    saved = mach.export()
    assert_type(saved, am.Snapshot)
    mach.restore(saved)
    mach.restore(saved.to_dict())
    mach.restore(am.Snapshot.from_json(saved.to_json()))
    mach.set_schema(ClientStates)


def through_the_shared_surface(mach: am.MachineApi, scope: AbstractContextManager[Any]) -> am.Result:
    """Code that does not care whether a machine is local."""
    with scope:
        return mach.add1("Start") if mach.not1("Start") else mach.remove1("Start")


async def main(path: str) -> str:
    parent = am.Machine({"Start": {}}, id="parent", tags=["demo"])
    async with am.Machine(
        ClientStates,
        id="client",
        handlers=[ClientHandlers(), {"StartState": from_a_handler}],
        parent=parent,
        tracers=[Recorder(), am.Watchdog(timeout=0.5)],
        log_level="changes",
        log_args=["id"],
        handler_timeout=None,
        resolver=Resolver,
    ) as mach:
        assert_type(mach, am.Machine)
        mach.add1(ClientStates.Start)
    await parent.dispose()
    return path


def script() -> None:
    with am.Machine({"Foo": {}}) as mach:
        assert_type(mach, am.Machine)
        mach.add1("Foo")
    assert_type(am.run(main, "README.md"), str)
    assert_type(am.run(main, "README.md", use_uvloop=False, debug=True), str)


def errors(mach: am.Machine) -> None:
    try:
        mach.add1("Fooo")
    except am.UnknownStateError as err:
        assert_type(err.state, str)
    except am.SchemaError as err:
        assert_type(err.problems, tuple[str, ...])
    except am.AsyncMachineError:
        pass


def piped(one: am.Machine, two: am.Machine) -> None:
    assert_type(am.pipe(one, "Ready", two), am.Pipe)
    assert_type(am.pipe_many(one, two, {"Ready": "OneReady"}, flat=True), am.Pipe)
    assert_type(am.pipe_many(one, two, ["Ready", "Start"]), am.Pipe)
    with am.pipe_err(one, two, "ErrOne") as errors_of_one:
        assert_type(errors_of_one, am.Pipe)
        assert_type(errors_of_one.is_closed, bool)
    forget = two.on_dispose(lambda machine: None)
    forget()


class ServiceStates(states.BasicStates, states.ConnectedStates, states.DisposedStates):
    """A service made of states that are there already."""

    Ready: str = am.state(extend=True, auto=True, require=[states.ConnectedStates.Connected])


assert_type(ServiceStates.Connecting, str)
assert_type(ServiceStates.Connection, tuple[str, ...])


async def connected() -> None:
    async def connect() -> bytes:
        return b""

    async def disconnect(connection: bytes) -> None: ...

    connector = states.Connector(connect, disconnect, on=(OSError, KeyError), attempts=None)
    assert_type(connector, states.Connector[bytes])
    assert_type(connector.connection, bytes | None)
    async with am.Machine(ServiceStates, handlers=[connector, states.Disposer()]) as mach:
        mach.add1("Connected", states.ConnectedArgs(b""))
        mach.add1("RegisterDisposal", states.DisposalArgs(mach.active_states))
        mach.add1("RegisterDisposal", states.DisposalArgs(connect))
