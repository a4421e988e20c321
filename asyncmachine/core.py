"""`Core`: the parts of a local machine, wired together. `Machine` is its public face, and all that users see of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from asyncmachine.actor import Actor
from asyncmachine.api import MachineApi, Tracer
from asyncmachine.breakpoints import Breakpoint
from asyncmachine.clock import Time
from asyncmachine.contexts import MACHINE, Contexts
from asyncmachine.disposal import Disposal
from asyncmachine.errors import MachineBusyError, SchemaError, SnapshotError
from asyncmachine.executor import Executor
from asyncmachine.faults import Faults
from asyncmachine.handlers import EventOf, Handler, HandlerRegistry
from asyncmachine.home import Home
from asyncmachine.logs import LogArgs, LogLevel, TextLog
from asyncmachine.mutation import EXECUTED, REMOVE, Mutation, Result, current
from asyncmachine.plans import Live, Planner
from asyncmachine.queue import Queue
from asyncmachine.relations import Resolver, broken_relations
from asyncmachine.schema import Schema
from asyncmachine.snapshot import Snapshot
from asyncmachine.subscriptions import Subscriptions
from asyncmachine.tracing import Tracers
from asyncmachine.work import Works

__all__ = ["DISPOSED", "Core"]

DISPOSED = Result(1, "disposed")


class Core:
    """What a machine is made of.

    Args:
        machine: the public face, which callbacks, tracers and transitions are given.
        id: its id.
        schema: its states and relations.
        event: makes the event of a handler.
        make_resolver: makes the resolver of a schema.
        queue_limit: how many mutations may wait.
    """

    def __init__(
        self,
        machine: MachineApi,
        id: str,
        schema: Schema,
        *,
        event: type[EventOf[Any]],
        make_resolver: Callable[[Schema], Resolver],
        queue_limit: int,
    ) -> None:
        self.machine = machine
        self.id = id
        self.machine_tick: int = 1
        self.children: dict[MachineApi, None] = {}
        self.breakpoints: list[Breakpoint] = []
        self.dispose_callbacks: list[Callable[[Any], object]] = []
        self.on_gone: Callable[[], object] | None = None
        self.text_log: TextLog | None = None
        self.handler_timeout: float | None = None
        self.dispose_timeout: float = 1.0
        self.raise_errors = False
        self._make_resolver = make_resolver

        self.home: Home = Home(id)
        self.queue: Queue = Queue(queue_limit)
        self.registry: HandlerRegistry = HandlerRegistry(schema.names)
        self.planner: Planner = Planner(schema, make_resolver(schema), self.registry)
        self.live: Live = Live(schema, self.planner.active_set(()))
        self.subscriptions: Subscriptions = Subscriptions(self, self.live, self.queue)
        self.contexts: Contexts = Contexts()
        self.faults: Faults = Faults(self)
        self.works: Works = Works(self, self.contexts)
        parts = (self.live, self.planner, self.subscriptions, self.contexts, self.faults)
        self.executor: Executor = Executor(self, *parts, event)
        self.actor: Actor = Actor(self, self.queue, self.executor, self.subscriptions, self.faults)
        self.disposal: Disposal = Disposal(self, self.subscriptions, self.contexts, self.works)

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
        return self.registry.lookup(handler) is not None

    def tell(self, event: str, *details: Any) -> None:
        """Tell the tracers, if there are any."""
        if self.executor.tracers is not None:
            self.executor.tracers.tell(event, *details)

    # Mutations, from the request to the result.

    def ask(self, mutation: Mutation) -> Result:
        """Submit a mutation from outside, unless it need not or cannot be queued."""
        for breakpoint_ in self.breakpoints:
            if breakpoint_.is_hit(mutation.request, self.live):
                breakpoint_.hit(mutation.request, self.logger)
                if self.live.closed:
                    return DISPOSED
        if self.actor.busy or self.queue.items:
            if not mutation.is_check and self._is_needless(mutation):
                return EXECUTED
            if self.queue.is_full(mutation.request):
                return Result(1, partial("queue full ({})".format, self.queue.limit))
        if mutation.source is None:
            cause = current.get()
            if cause is not None:
                mutation.source = cause.as_source()
        return self.actor.submit(mutation, prepend=mutation.is_check)

    def _is_needless(self, mutation: Mutation) -> bool:
        request, queue = mutation.request, self.queue
        if request.type is REMOVE and not queue.items and not self.live.standing.mask & request.mask:
            return True
        bare = mutation.payload is None and mutation.error is None and not request.multi
        if bare and queue.has_equal(request):
            if self.text_log is not None:
                self.text_log.skipped(request)
            return True
        return False

    def submit(self, mutation: Mutation, *, prepend: bool = False) -> Result:
        """Queue a mutation, and have the queue drained."""
        return self.actor.submit(mutation, prepend=prepend)

    def start_work(self, handler: Handler, event: EventOf[Any], context: int) -> None:
        if self.text_log is not None:
            self.text_log.write(LogLevel.OPS, "[handler] %s", handler.name)
        self.works.start(
            handler.name,
            context,
            partial(handler.fn, event),
            limit=handler.limit,
            key=handler,
            to_the_end=context == MACHINE,
        )

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
        self.executor.tracers = Tracers(self.faults.report, bound) if bound else None

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
        before = Time(live.ticks)
        ticked = [i for i, tick in enumerate(snapshot.ticks) if tick != before[i]]
        live.ticks[:] = snapshot.ticks
        live.total = sum(snapshot.ticks)
        live.standing = self.planner.active_set(tuple(live.index[name] for name in snapshot.active))
        self.queue.tick = snapshot.queue_tick
        self.machine_tick = snapshot.machine_tick + 1
        self.contexts.cancel([i for i in ticked if (before[i] - snapshot.ticks[i]) % 2])
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
        self.registry.rebind(grown.names)
        self.planner = self.executor.planner = Planner(grown, self._make_resolver(grown), self.registry)
        live.schema, live.index = grown, grown.index
        live.ticks += [0] * (len(grown) - len(old))
        live.standing = self.planner.active_set(live.standing.states)
        self.tell("schema_change", self.machine, old)

    # The end.

    def stop(self) -> None:
        if self.machine.has1("Start"):
            self.machine.remove1("Start")

    def close(self) -> None:
        """Take no mutation any more, and cancel those that wait."""
        self.live.closed = True
        self.actor.cancel_all(DISPOSED)

    def say_goodbye(self) -> None:
        for callback in self.dispose_callbacks:
            try:
                callback(self.machine)
            except Exception as err:  # noqa: BLE001 - reported; the others are called all the same
                self.faults.report("an on_dispose callback raised", err)
        self.tell("machine_dispose", self.machine)
        if self.on_gone is not None:
            self.on_gone()
