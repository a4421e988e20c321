"""`Core`: the parts of a local machine, wired together. `Machine` is its public face, and all that users see of it."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterable
from typing import Any

from asyncmachine.actor import Actor
from asyncmachine.api import MachineApi, Tracer
from asyncmachine.breakpoints import Breakpoint
from asyncmachine.clock import Time
from asyncmachine.contexts import Contexts
from asyncmachine.disposal import Disposal
from asyncmachine.errors import MachineBusyError, SchemaError, SnapshotError
from asyncmachine.events import EventOf
from asyncmachine.executor import Executor
from asyncmachine.faults import Faults
from asyncmachine.handlers import Handler, HandlerRegistry
from asyncmachine.home import Home
from asyncmachine.logs import LogArgs, LogLevel, TextLog
from asyncmachine.mutation import Mutation, Result
from asyncmachine.plans import NO_HANDLERS, Live, Planner
from asyncmachine.queue import Queue
from asyncmachine.relations import Resolver, broken_relations
from asyncmachine.requests import Request
from asyncmachine.schema import Schema
from asyncmachine.snapshot import Snapshot
from asyncmachine.subscriptions import Subscriptions
from asyncmachine.timeouts import Timeouts, changed_timeouts
from asyncmachine.tracing import Tracers
from asyncmachine.work import Works

__all__ = ["DISPOSED", "Core"]

DISPOSED = Result(1, "disposed")


class Core:
    """What a machine is made of.

    Args:
        machine: the public face, which callbacks, tracers and transitions are given.
        id: its id; None to have one drawn.
        schema: its states and relations.
        event: makes the event of a handler.
        make_resolver: makes the resolver of a schema, if it is to be another than the usual one.
        queue_limit: how many mutations may wait.
    """

    def __init__(
        self,
        machine: MachineApi,
        id: str | None,
        schema: Schema,
        *,
        event: type[EventOf[Any]],
        make_resolver: Callable[[Schema], Resolver] | None,
        queue_limit: int,
    ) -> None:
        self.machine = machine
        self._id = id
        self.children: dict[MachineApi, None] = {}
        self.breakpoints: list[Breakpoint] = []
        self.dispose_callbacks: dict[object, Callable[[Any], object]] = {}
        self.on_gone: Callable[[], object] | None = None
        self.text_log: TextLog | None = None
        self.timeouts: Timeouts | None = None
        self.dispose_timeout: float = 1.0
        self.raise_errors = False
        self._make_resolver = make_resolver

        self.home: Home = Home(self)
        self.queue: Queue = Queue(queue_limit)
        self.planner: Planner = Planner.of(schema, make_resolver)
        self.live: Live = Live(schema, self.planner.active_set(()))
        self.subscriptions: Subscriptions = Subscriptions(self, self.live, self.queue)
        self.contexts: Contexts = Contexts()
        self.faults: Faults = Faults(self)
        self.works: Works = Works(self, self.contexts)
        parts = (self.live, self.planner, self.subscriptions, self.contexts, self.faults)
        self.executor: Executor = Executor(self, *parts, event)
        self.actor: Actor = Actor(self, self.live, self.queue, self.executor, self.subscriptions, self.faults)
        self._registry: HandlerRegistry | None = None
        self._disposal: Disposal | None = None

    # What not every machine needs is made when it is asked for: programs build machines by the thousand.

    @property
    def id(self) -> str:
        if self._id is None:
            self._id = secrets.token_hex(8)
        return self._id

    @property
    def registry(self) -> HandlerRegistry:
        if self._registry is None:
            self._registry = HandlerRegistry(self.live.schema)
        return self._registry

    @property
    def disposal(self) -> Disposal:
        if self._disposal is None:
            self._disposal = Disposal(self, self.subscriptions, self.contexts, self.works)
        return self._disposal

    # What the parts ask for.

    @property
    def is_disposed(self) -> bool:
        return self.live.closed

    @property
    def is_idle(self) -> bool:
        return self.actor.is_idle

    @property
    def err(self) -> BaseException | None:
        return self.faults.err

    @property
    def logger(self) -> logging.Logger:
        return logging.getLogger(f"asyncmachine.{self.id}")

    def new_future(self) -> asyncio.Future[Any]:
        return self.home.bind_loop().create_future()

    def is_bound(self, handler: str) -> bool:
        return self._registry is not None and handler in self._registry.table.named

    def tell(self, event: str, *details: Any) -> None:
        """Tell the tracers, if there are any."""
        if self.executor.tracers is not None:
            self.executor.tracers.tell(event, *details)

    # Mutations, from the request to the result.

    def ask(self, mutation: Mutation) -> Result:
        """Submit a mutation from outside, and stop at breakpoints before."""
        for breakpoint_ in self.breakpoints:
            if breakpoint_.is_hit(mutation.request, self.live):
                breakpoint_.hit(mutation.request, self.logger)
                if self.live.closed:
                    return DISPOSED
        return self.actor.ask(mutation)

    def skipped(self, request: Request) -> None:
        """Log that a mutation was not queued, because an equal one waits."""
        if self.text_log is not None:
            self.text_log.skipped(request)

    def submit(self, mutation: Mutation, *, prepend: bool = False) -> Result:
        """Queue a mutation, and have the queue drained."""
        return self.actor.submit(mutation, prepend=prepend)

    def start_work(self, handler: Handler, event: EventOf[Any], context: int) -> None:
        if self.text_log is not None:
            self.text_log.write(LogLevel.OPS, "[handler] %s", handler.name)
        self.works.start_handler(handler, event, context)

    def follow_timeouts(self, states: Iterable[int]) -> None:
        """Start the timeouts of those of the states that are active, and stop the others'."""
        if self.timeouts is None:
            self.timeouts = Timeouts(self)
        self.timeouts.follow(states)

    def raise_in_caller(self, err: BaseException) -> bool:
        """Have an error raised in the caller, if errors are to be raised and there is one."""
        if not self.raise_errors or not self.actor.has_caller:
            return False
        self.actor.raise_later(err)
        return True

    # Tracers and logs.

    @property
    def tracers(self) -> tuple[Tracer, ...]:
        return () if self.executor.tracers is None else self.executor.tracers.bound

    def set_tracers(self, bound: Iterable[Tracer]) -> None:
        """Bind just these tracers."""
        bound = tuple(bound)
        self.executor.watch(Tracers(self.faults.report, bound) if bound else None)

    def set_log(self, level: LogLevel, args: LogArgs | None) -> None:
        """Write the text log at a level, or none."""
        others = [tracer for tracer in self.tracers if tracer is not self.text_log]
        self.text_log = TextLog(self.logger, level, args) if level else None
        self.set_tracers([self.text_log, *others] if self.text_log is not None else others)

    # Changing the machine itself.

    def refuse_if_busy(self, method: str) -> None:
        self.home.check_thread()
        if not self.actor.is_idle:
            raise MachineBusyError(f"{method} while mutations run or wait: call it when `await mach.when_queue_ends()`")

    def restore(self, snapshot: Snapshot) -> None:
        """Take on the state of a snapshot; see `Machine.restore`."""
        live, names = self.live, self.live.schema.names
        problems = snapshot.problems(self.id, names) or broken_relations(live.schema, snapshot.active)
        if problems:
            raise SnapshotError(f"this snapshot cannot be restored: {'; '.join(problems)}")
        if any(live.schema[name].timeout is not None for name in snapshot.active):
            self.home.bind_loop()
        before = Time(live.ticks)
        ticked = [i for i, tick in enumerate(snapshot.ticks) if tick != before[i]]
        live.ticks[:] = snapshot.ticks
        live.trail = None
        live.standing = self.planner.active_set(tuple(live.index[name] for name in snapshot.active))
        self.queue.tick = snapshot.queue_tick
        live.machine_tick = snapshot.machine_tick + 1
        self.contexts.cancel([i for i in ticked if (before[i] - snapshot.ticks[i]) % 2])
        if self.planner.timed:
            # The time of a state that was active there begins anew: nobody knows how long the machine was away.
            self.follow_timeouts(range(len(names)))
        self.subscriptions.notify(ticked, None, None)
        self.subscriptions.notify_queue()
        if ticked:
            self.executor.tell_change(before, Time(live.ticks))

    def grow(self, new: Schema) -> None:
        """Take on a schema with more states; see `Machine.set_schema`."""
        old, live = self.live.schema, self.live
        gone = [f"{name} is gone, but states of a live machine stay" for name in old if name not in new]
        if gone:
            raise SchemaError(gone)
        grown = Schema({name: new[name] for name in dict.fromkeys([*old, *new])}, new.groups)
        active = [old.names[i] for i in live.standing.states]
        problems = [f"{broken}, but it is active" for broken in broken_relations(grown, active)]
        if problems:
            raise SchemaError(problems)
        retimed = changed_timeouts(live, grown)
        if any(grown[old.names[i]].timeout is not None for i in retimed):
            self.home.bind_loop()
        if self._registry is not None:
            self._registry.rebind(grown)
        live.schema, live.index = grown, grown.index
        live.ticks += [0] * (len(grown) - len(old))
        live.trail = None
        self.plan_with(Planner.of(grown, self._make_resolver))
        if retimed:
            self.follow_timeouts(retimed)
        self.tell("schema_change", self.machine, old)

    def plan_with(self, planner: Planner) -> None:
        """Take plans from this planner, or one like it with the handlers that are bound."""
        table = NO_HANDLERS if self._registry is None else self._registry.table
        self.planner = self.executor.planner = planner.with_handlers(table)
        self.live.standing = self.planner.active_set(self.live.standing.states)

    # The end.

    async def announce_end(self) -> None:
        """Add Disposing, if there is such a state, and wait until whoever handles it is done and leaves it."""
        if self.machine.has1("Disposing"):
            await self.machine.add1("Disposing")
            if self.is_bound("DisposingState"):
                await self.machine.when_not1("Disposing")

    def announce_end_now(self) -> None:
        """Add Disposing, if there is such a state, without a loop."""
        if self.machine.has1("Disposing"):
            self.machine.add1("Disposing")

    def stop(self) -> None:
        if self.machine.has1("Start"):
            self.machine.remove1("Start")

    def close(self) -> None:
        """Take no mutation any more, and cancel those that wait."""
        self.live.closed = True
        self.actor.cancel_all(DISPOSED)
        if self.timeouts is not None:
            self.timeouts.stop()

    def say_goodbye(self) -> None:
        for callback in list(self.dispose_callbacks.values()):
            try:
                callback(self.machine)
            except Exception as err:  # noqa: BLE001 - reported; the others are called all the same
                self.faults.report("an on_dispose callback raised", err)
        self.tell("machine_dispose", self.machine)
        if self.on_gone is not None:
            self.on_gone()
