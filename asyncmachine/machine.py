"""`Machine`: the public face of a machine. What a mutation does is decided in its parts; see `core`."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from threading import get_ident
from types import TracebackType
from typing import Any, NoReturn, Self, SupportsIndex, TypeVar, TypeVarTuple, cast

import anyio
from typing_extensions import override

from asyncmachine.api import MachineApi, Tracer
from asyncmachine.args import Args, check_args
from asyncmachine.breakpoints import Breakpoint
from asyncmachine.clock import Time
from asyncmachine.contexts import MACHINE
from asyncmachine.core import DISPOSED, Core
from asyncmachine.errors import HandlerError, MachineDisposedError, MachineLoopError
from asyncmachine.events import EventOf
from asyncmachine.logs import LogArgs, LogLevel
from asyncmachine.marks import Mark, Marked, On
from asyncmachine.mutation import ExceptionArgs, Mutation, Result, Source
from asyncmachine.relations import Resolver
from asyncmachine.requests import ADD, MutationType
from asyncmachine.schema import Schema, SchemaLike
from asyncmachine.snapshot import Snapshot, Statistics
from asyncmachine.streams import Host as StreamHost
from asyncmachine.streams import StreamApi, TransitionTap
from asyncmachine.threadsafe import Threadsafe
from asyncmachine.transition import Transition
from asyncmachine.work import Work, as_coroutine_function, limit_key, name_of

__all__ = ["Event", "Machine"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Event(EventOf["Machine"]):
    """What a handler is given: which handler it is, on which machine, in which transition, with which args."""

    __slots__ = ()

    @override
    def fork(self, fn: Callable[[*Ts], object], *args: *Ts, delay: float = 0, limit: int | None = None) -> Work:
        """Start work under the context of the handler's own state; see `Machine.fork`.

        Work that asks for more when its state was left already gets a handle of work that has ended.
        """
        if self.transition.is_completed and self._is_over():
            as_coroutine_function(fn)  # what is no function is refused here as well
            return Work.ended(name_of(fn))
        work: Work = super().fork(fn, *args, delay=delay, limit=limit)
        return work

    def _is_over(self) -> bool:
        """Tell whether the handler's own state was active after the transition, and was left since then."""
        after = self.transition.time_index_after.tick(self.state)
        now = self.machine.tick(self.state) if after % 2 else after
        return now != after and (now % 2 == 0 or not self.machine.schema[self.state].multi)


class Machine(MachineApi, StreamApi["Machine"]):
    """A state machine: many states active at once, relations between them, handlers, subscriptions, contexts.

    Args:
        schema: a `States` class, a `Schema`, or a mapping.
        id: a name of your own; drawn at random if None.
        handlers: an object with handlers, a mapping of them, or a list of such.
        parent: a machine this one is a part of, and is disposed with.
        tags: words of your own.
        tracers: watch the machine.
        queue_limit: how many mutations may wait before more are canceled.
        handler_timeout: seconds a handler may block the loop before it is reported; None reports none.
        dispose_timeout: seconds that disposal waits for the queue, and again for work to end.
        raise_errors: raise errors of handlers in the caller instead of adding `Exception`; for tests.
        log_level: how much is logged; see `LogLevel`.
        log_args: which args are logged: their names, or a function from args to what is to be shown.
        resolver: makes another `Resolver` from a `Schema`.

    Raises:
        SchemaError: the schema cannot work; with all of its problems.
        HandlerError: a handler could never be called.
        MachineDisposedError: `parent` was disposed.

    >>> door = am.Machine({"Open": {"remove": ["Closed"]}, "Closed": {"remove": ["Open"]}})
    >>> door.add1("Open"), door.add1("Closed"), str(door)
    (Result.EXECUTED, Result.EXECUTED, '(Closed:1)')
    """

    def __init__(
        self,
        schema: SchemaLike,
        *,
        id: str | None = None,
        handlers: object | None = None,
        parent: Machine | None = None,
        tags: Iterable[str] = (),
        tracers: Iterable[Tracer] = (),
        queue_limit: int = 1000,
        handler_timeout: float | None = 0.1,
        dispose_timeout: float = 1.0,
        raise_errors: bool = False,
        log_level: LogLevel | int | str | None = None,
        log_args: LogArgs | None = None,
        resolver: Callable[[Schema], Resolver] | None = None,
    ) -> None:
        if parent is not None and parent._live.closed:
            raise MachineDisposedError(f"the machine {parent.id} was disposed, and can be no parent any more")
        core = Core(
            self,
            id,
            Schema.of(schema),
            event=Event,
            make_resolver=resolver,
            queue_limit=queue_limit,
        )
        core.executor.calls.limit = handler_timeout
        core.dispose_timeout = dispose_timeout
        core.raise_errors = raise_errors
        self._core, self._live, self._queue, self._waiters = core, core.live, core.queue, core.subscriptions
        self._parent = parent
        self._tags = tuple(tags)
        self._log_args = log_args
        if log_level is not None:
            self.log_level = LogLevel.of(log_level)
        several = isinstance(handlers, list | tuple)
        for target in cast("Sequence[object]", handlers) if several else () if handlers is None else (handlers,):
            self.bind_handlers(target)
        watching = None if parent is None else parent._core.executor.tracers
        for tracer in dict.fromkeys([*(() if watching is None else watching.inheritable()), *tracers]):
            self.bind_tracer(tracer)
        core.tell("machine_init", self)
        if parent is not None:
            core.on_gone = parent._adopt(self)

    @override
    def __reduce_ex__(self, protocol: SupportsIndex, /) -> NoReturn:
        raise TypeError(
            f"the machine {self.id} can be neither pickled nor copied: handlers, waiters and work are its own; "
            "mach.export() gives a snapshot, which another machine can restore"
        )

    def _adopt(self, child: Machine) -> Callable[[], object]:
        """Take a machine in, and give what lets it go again."""
        self._core.children[child] = None
        self._core.tell("new_submachine", self, child)
        return partial(self._core.children.pop, child, None)

    def _drain_later(self, actor: Any) -> None:
        self._core.actor.drain_later(actor)

    # What the machine is.

    @property
    @override
    def id(self) -> str:
        return self._core.id

    @property
    @override
    def parent_id(self) -> str | None:
        return None if self._parent is None else self._parent.id

    @property
    def parent(self) -> Machine | None:
        """The machine this one is a part of, or None."""
        return self._parent

    @property
    def children(self) -> tuple[Machine, ...]:
        """The machines built with this one as their parent and not disposed yet."""
        return cast("tuple[Machine, ...]", tuple(self._core.children))

    @property
    @override
    def tags(self) -> tuple[str, ...]:
        return self._tags

    @property
    @override
    def machine_tick(self) -> int:
        return self._live.machine_tick

    @property
    @override
    def transition(self) -> Transition[Machine] | None:
        return self._core.executor.transition

    @property
    @override
    def err(self) -> BaseException | None:
        """The last error, also after `Exception` was removed; None if there was none."""
        return self._core.faults.err

    @property
    @override
    def is_disposed(self) -> bool:
        return self._live.closed

    @property
    def is_idle(self) -> bool:
        """True if no transition runs and no mutation waits."""
        return self._core.actor.is_idle

    @property
    def logger(self) -> logging.Logger:
        """The logger the machine writes to, `asyncmachine.<id>`."""
        return self._core.logger

    def statistics(self) -> Statistics:
        """Count what the machine holds and has done.

        >>> am.Machine({"Foo": {}}).statistics().transitions
        0
        """
        core = self._core
        work = len(core.works)  # which finds out what has ended
        return Statistics(
            queued=len(core.queue),
            waiters=len(core.subscriptions),
            contexts=len(core.contexts),
            work=work,
            children=len(core.children),
            transitions=core.executor.count,
            canceled=core.executor.canceled,
            errors=core.faults.count,
            timeouts=0 if core.timeouts is None else len(core.timeouts),
        )

    @override
    def __repr__(self) -> str:
        return f"<Machine {self.id} {self}{' disposed' if self.is_disposed else ''}>"

    # Mutations.

    @override
    def _mutate(
        self,
        type_: MutationType,
        states: str | Iterable[str],
        args: Args | None,
        source: Source | None,
        check: bool = False,
        /,
    ) -> Result:
        core = self._core
        if get_ident() != core.home.thread:
            core.home.check_thread()
        if self._live.closed:
            return DISPOSED
        mutation = Mutation()
        try:
            mutation.request = core.planner.requests.known[type_][states]
        except (KeyError, TypeError):  # asked for the first time; or a list, say, which is no key
            mutation.request = core.planner.requests.of(type_, states)
        mutation.payload = None if args is None else check_args(args)
        mutation.source = source
        mutation.is_auto = False
        mutation.is_check = check
        mutation.queue_tick = 0
        mutation.error = mutation.context = mutation.outcome = mutation.on_done = None
        return core.ask(mutation) if core.breakpoints else core.actor.ask(mutation)

    @override
    def _add_error(
        self, states: tuple[str, ...], err: BaseException, args: Args | None, source: Source | None
    ) -> Result:
        core = self._core
        core.home.check_thread()
        if self._live.closed:
            core.faults.report("an error was added after the machine was disposed", err)
            return DISPOSED
        request = core.planner.requests.of(ADD, states)
        mutation = core.faults.mutation(request, ExceptionArgs(err), check_args(args), source)
        core.faults.note(err)
        # The callback for errors may have disposed the machine.
        result = DISPOSED if self._live.closed else core.ask(mutation)
        if mutation.outcome is None and result.canceled:
            mutation.finish(result)
        return result

    def eval(self, fn: Callable[[], T]) -> T:
        """Call a function between two transitions, or within the one that runs, and give what it returns.

        On the machine's own thread that is a plain call; `mach.threadsafe.eval` makes it from any other.

        >>> mach.eval(lambda: mach.is1("Foo"))
        False
        """
        self._core.home.check_thread()
        return fn()

    @property
    def threadsafe(self) -> Threadsafe:
        """The same mutations for other threads, returning concurrent futures."""
        core = self._core
        return Threadsafe(self, partial(core.actor.post, core.home.loop_for_threads()), self.index)

    # Handlers and tracers.

    @override
    def bind_handlers(self, handlers: object, *, id: str | None = None, prefix: str = "", strict: bool = True) -> str:
        """Bind an object's handlers, found by name or by the marks of `am.on`, or a mapping of name to function.

        Args:
            handlers: any object, or a mapping.
            id: what the binding is called; the name of the object's class, made unique, if None.
            prefix: what the names of handlers begin with on this object.
            strict: refuse names that look like handlers but fit no state.

        Returns:
            The id, to detach the handlers with. Within a transition they count from the next one on.

        Raises:
            HandlerError: a handler could never be called as meant; nothing is bound.

        >>> class Handlers:
        ...     def FooEnter(self, e: am.Event) -> bool:
        ...         return e.args.get("ticket") == "valid"
        >>> mach.bind_handlers(Handlers()), mach.add1("Foo").reason
        ('Handlers', 'vetoed by FooEnter of Handlers')
        """
        self._core.home.check_thread()
        bound = self._core.registry.bind(handlers, id, prefix, strict=strict)
        self._core.plan_with(self._core.planner)
        return bound

    @property
    def on(self) -> On:
        """Binds functions as handlers: `@mach.on.state("Foo")`."""
        return On(self._bind_marked)

    def _bind_marked(self, mark: Mark, fn: Callable[..., object]) -> None:
        target = Marked(tuple(mark.handler_names()), fn, mark.limit)
        self.bind_handlers(target)

    @override
    def detach_handlers(self, id: str) -> None:
        """Detach the handlers bound under an id.

        Raises:
            HandlerError: nothing is bound under it.

        >>> id = mach.bind_handlers({"FooState": print})
        >>> mach.detach_handlers(id)
        >>> mach.handlers
        ()
        """
        self._core.home.check_thread()
        self._core.registry.detach(id)
        self._core.plan_with(self._core.planner)

    @property
    @override
    def handlers(self) -> tuple[str, ...]:
        return self._core.registry.ids

    @override
    def bind_tracer(self, tracer: Tracer) -> None:
        """Have a tracer watch the machine, from now on.

        >>> watcher = am.Tracer()
        >>> mach.bind_tracer(watcher)
        >>> mach.tracers == (watcher,)
        True
        """
        self._core.set_tracers([*self._core.tracers, tracer])

    @override
    def detach_tracer(self, tracer: Tracer) -> None:
        """Have a tracer watch the machine no longer. One that does not watch it is no error.

        >>> watcher = am.Tracer()
        >>> mach.bind_tracer(watcher)
        >>> mach.detach_tracer(watcher)
        >>> mach.tracers
        ()
        """
        self._core.set_tracers([bound for bound in self._core.tracers if bound is not tracer])

    @property
    @override
    def tracers(self) -> tuple[Tracer, ...]:
        own = self._core.text_log
        return tuple(t for t in self._core.tracers if t is not own and not isinstance(t, TransitionTap))

    @property
    def log_level(self) -> LogLevel:
        """How much the machine logs. May be set at any time, by name or number, too."""
        text_log = self._core.text_log
        return LogLevel.NOTHING if text_log is None else text_log.level

    @log_level.setter
    def log_level(self, level: LogLevel | int | str | None) -> None:
        self._core.set_log(LogLevel.of(level), self._log_args)

    @override
    def log(self, message: str, *args: object) -> None:
        """Log a line of your own, from level "external" on; `args` are merged into it as `logging` does.

        >>> mach.log("fetched %s", "README.md")
        """
        if self._core.text_log is not None:
            self._core.text_log.write(LogLevel.EXTERNAL, f"[extern] {message}", *args)

    @override
    def on_error(self, callback: Callable[[Machine, BaseException], object] | None) -> None:
        """Have `callback(mach, err)` called at each error, before `Exception` is added.

        There is one such callback: it takes the place of the one before, and None of any.

        >>> mach.on_error(lambda machine, err: print(err))
        >>> mach.add_err(ValueError("no fuel"))
        no fuel
        Result.EXECUTED
        """
        self._core.faults.callback = callback

    @override
    def on_change(self, callback: Callable[[Machine, Time, Time], object] | None) -> None:
        """Have `callback(mach, before, after)` called whenever the clock changed.

        There is one such callback: it takes the place of the one before, and None of any.

        >>> mach.on_change(lambda machine, before, after: print(after.diff_since(before)))
        >>> mach.add1("Bar")
        0 1 0 0
        Result.EXECUTED
        """
        self._core.executor.call_back(callback)

    @override
    def on_dispose(self, callback: Callable[[Machine], object]) -> Callable[[], object]:
        """Have `callback(mach)` called when the machine is disposed, after its work has ended.

        Returns:
            A function that takes this back, for those who are done before the machine is.

        >>> with am.Machine({"Foo": {}}, id="door") as door:
        ...     forget = door.on_dispose(lambda machine: print(f"{machine.id} is gone"))
        door is gone
        """
        key = object()  # the same callback may be given twice
        self._core.dispose_callbacks[key] = callback
        return partial(self._core.dispose_callbacks.pop, key, None)

    @override
    def add_breakpoint(
        self,
        added: str | Iterable[str] = (),
        removed: str | Iterable[str] = (),
        *,
        strict: bool = False,
        action: Callable[[], object] | None = None,
    ) -> None:
        """Log the stack of whoever asks for these states, as a warning. Any number may be added, none removed.

        Args:
            added: states that a mutation adds or sets.
            removed: states that a mutation removes.
            strict: pass over mutations that ask for what is so already.
            action: called, too; `breakpoint`, say.

        >>> mach.add_breakpoint(["Foo"], action=lambda: print("who was it?"))
        >>> mach.add1("Foo")
        who was it?
        Result.EXECUTED
        """
        breakpoint_ = Breakpoint(self._mask(added), self._mask(removed), strict=strict, action=action)
        self._core.breakpoints.append(breakpoint_)

    def add_breakpoint1(
        self, added: str = "", removed: str = "", *, strict: bool = False, action: Callable[[], object] | None = None
    ) -> None:
        """Log the stack of whoever asks for one state; see `add_breakpoint`.

        >>> mach.add_breakpoint1("Foo", action=lambda: print("who was it?"))
        >>> mach.add1("Foo")
        who was it?
        Result.EXECUTED
        """
        self.add_breakpoint(added or (), removed or (), strict=strict, action=action)

    # Waiting, contexts, work.

    @override
    def _stream_host(self) -> StreamHost:
        return self._core

    @override
    def state_ctx(self, state: str) -> anyio.CancelScope:
        """Give a fresh cancel scope that is cancelled when the state flips, at once if it flipped before it is entered.

        Raises:
            MachineLoopError: no loop is running.

        >>> async def main():
        ...     mach.add1("Foo")
        ...     with mach.state_ctx("Foo") as scope:
        ...         mach.remove1("Foo")
        ...         await anyio.sleep_forever()
        ...     return scope.cancelled_caught
        >>> am.run(main)
        True
        """
        position = self.index1(state)
        self._core.home.bind_loop()
        scope = anyio.CancelScope()
        if self._live.closed:
            scope.cancel()
        else:
            self._core.contexts.lend(position, scope)
        return scope

    def fork(
        self,
        fn: Callable[[*Ts], object],
        *args: *Ts,
        state: str | None = None,
        delay: float = 0,
        limit: int | None = None,
    ) -> Work:
        """Start work beside the machine, cancelled when a state flips. Its error becomes the state `Exception`.

        Args:
            fn: a coroutine function; or a plain function, which runs in a worker thread. A thread cannot be
                cancelled: its work lasts until the function returns.
            args: what it is called with.
            state: the state whose context it runs under; the machine's own, until disposal, if None.
            delay: seconds to wait before.
            limit: how many of this function may run at once under the state; more wait their turn.

        Returns:
            A handle with `done()` and `cancel()`.

        Raises:
            HandlerError: `fn` is no function, but what one returned, as in `fork(fn())`; or `limit` is below 1.
            MachineLoopError: no loop is running.

        >>> async def main():
        ...     async with am.Machine({"Foo": {}, "Late": {}}) as machine:
        ...         async def later() -> None:
        ...             machine.add1("Late")
        ...         machine.fork(later, delay=0.001)
        ...         return await machine.expect("Late")
        >>> am.run(main)
        Time(1)
        """
        self._core.home.check_thread()
        name = name_of(fn)
        if limit is not None and limit < 1:
            raise HandlerError(f"limit is how many may run at once, 1 or more, not {limit}")
        call = partial(as_coroutine_function(fn), *args)
        position = MACHINE if state is None else self.index1(state)
        if self._live.closed:
            self._core.home.bind_loop()
            return Work.ended(name)
        return self._core.works.start(name, position, call, delay=delay, limit=limit, key=(position, limit_key(fn)))

    # Changing the machine itself.

    @override
    def export(self) -> Snapshot:
        """Give what is needed to restore the machine: its ticks, active states and counters.

        >>> am.Machine({"Foo": {}}, id="door").export().ticks
        (0, 0)
        """
        names = self.state_names
        # Unlike `active_states`, this tells the last ones of a disposed machine, which its ticks still show.
        active = tuple([names[i] for i in self._live.standing.states])
        return Snapshot(self.id, names, tuple(self._live.ticks), active, self._queue.tick, self.machine_tick)

    def restore(self, snapshot: Snapshot | Mapping[str, Any]) -> None:
        """Take on the state a machine of this id and schema had; no handler is called.

        Contexts of states that flip are cancelled, waiters are woken, and the time of states with a timeout begins
        anew. `machine_tick` goes on by one, and `MachineRestored` is added where the schema has it.

        Args:
            snapshot: what `export` gave, or the mapping that became of it in JSON.

        Raises:
            SnapshotError: the snapshot is of another machine, or its states could not be active together.
            MachineBusyError: a transition runs or mutations wait.
            MachineLoopError: no loop is running, and a state that is active in the snapshot has a timeout.

        >>> saved = am.Machine({"Foo": {}}, id="door").export()
        >>> door = am.Machine({"Foo": {}}, id="door")
        >>> door.restore(saved)
        >>> door.machine_tick
        2
        """
        self._core.refuse_if_busy("restore")
        if self._live.closed:
            return
        self._core.restore(snapshot if isinstance(snapshot, Snapshot) else Snapshot.from_dict(snapshot))
        if self.has1("MachineRestored"):
            self.add1("MachineRestored")

    def set_schema(self, schema: SchemaLike) -> None:
        """Give the machine more states, and new relations. Old states keep their order and their ticks.

        The time of an active state whose timeout is another one begins anew.

        Args:
            schema: has all states of the present one, and any number more.

        Raises:
            SchemaError: a state would go, or active states would be in conflict.
            MachineBusyError: a transition runs or mutations wait.
            MachineLoopError: no loop is running, and an active state gets a timeout.

        >>> door = am.Machine({"Open": {}})
        >>> door.set_schema({"Open": {}, "Locked": {"remove": ["Open"]}})
        >>> door.state_names
        ('Open', 'Exception', 'Locked')
        """
        self._core.refuse_if_busy("set_schema")
        self._core.grow(Schema.of(schema))

    # The end.

    @override
    def dispose(self) -> Awaitable[None]:
        """End the machine: its children, its queue, its work, its waiters, in this order. Await it for the end.

        It begins at the call, awaited or not; being cancelled while waiting does not stop it, and asking again is no
        error. It may be called by handlers and by the machine's own work, which is not waited for. Work is cancelled,
        and has `dispose_timeout` to end. Then mutations return canceled, checks False, and waiters fail.

        >>> async def main():
        ...     machine = am.Machine({"Foo": {}})
        ...     await machine.dispose()
        ...     return machine.add1("Foo").reason
        >>> am.run(main)
        'disposed'
        """
        home = self._core.home
        if home.loop is None or not home.loop.is_closed():
            home.check_thread()
        return self._core.disposal.begin()

    def __enter__(self) -> Self:
        if self._core.home.loop_to_use() is not None:
            raise MachineLoopError("a loop is running: write `async with`, so that the end can be waited for")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.dispose()

    async def __aenter__(self) -> Self:
        self._core.home.bind_loop()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, err: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._core.disposal.wait()
