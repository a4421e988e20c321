"""The machines of a test: watched while it runs, told about when it fails, disposed when it is over.

What makes this more than a list is the loop. The fixture that holds a bench is a plain one, for tests of every kind: it
owns no loop, and by its turn to clean up, the loop of the test may be closed already (anyio's plugin closes it with the
test function) or stand open (a loop for the whole module). So a bench leaves an async generator, suspended, on each
loop its machines meet. It is no task, takes no turn of the loop, and is finished by `loop.shutdown_asyncgens()`, which
every runner calls before it closes a loop: there the machines of that loop are disposed, on it. Where the loop is still
open when the fixture ends, the bench runs it for that itself.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from typing import Any, Concatenate, ParamSpec, TypeVar, TypeVarTuple, cast

import anyio
from typing_extensions import override

from asyncmachine.api import MachineApi
from asyncmachine.args import Args
from asyncmachine.clock import Time
from asyncmachine.errors import MachineDisposedError, MachineLoopError
from asyncmachine.machine import Machine
from asyncmachine.mutation import ExceptionArgs, Result, Source
from asyncmachine.recording import Recorder, last_lines
from asyncmachine.requests import MutationType
from asyncmachine.schema import EXCEPTION
from asyncmachine.transition import Transition
from asyncmachine.waiting import Waiters
from asyncmachine.work import Work

__all__ = ["Bench"]

M = TypeVar("M", bound=Machine)
P = ParamSpec("P")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Loop = asyncio.AbstractEventLoop

KEPT = 100
"""How many transitions of each machine are kept."""

PATIENCE = 10
"""Seconds that another thread may take to dispose a machine of its own."""

_HOW = (
    "Look at it in the test: read mach.err, or name Exception in assert_states; have mach.expect raise it; "
    "or handle it: bind ExceptionState, or remove Exception."
)

_within: ContextVar[bool] = ContextVar("_within", default=False)
"""True while the machine itself waits for its error, in `expect`, which says nothing about the test."""


def _made_like(of: Callable[P, M]) -> Callable[[Callable[..., M]], Callable[Concatenate[Any, P], M]]:
    """Give a method the parameters of something else."""
    del of
    return lambda method: method


class Bench:
    """Makes machines, and looks after them: called with the arguments of `Machine`, it builds one.

    Args:
        name: what the fixture is called.
    """

    def __init__(self, name: str = "machine") -> None:
        self.name: str = name
        self.is_closed: bool = False
        self._watches: list[Watch] = []
        self._keepers: dict[Loop, AsyncGenerator[None, None]] = {}

    @_made_like(Machine)
    def __call__(self, *args: Any, **options: Any) -> Machine:
        """Build a machine, as `Machine` does; one without an id is called after the fixture."""
        if options.get("id") is None:
            number = len(self._watches) + 1
            options["id"] = self.name if number == 1 else f"{self.name}{number}"
        self._refuse_if_closed()
        return self.watch(Machine(*args, **options))

    def watch(self, mach: M) -> M:
        """Look after a machine that was built elsewhere, such as that of the service under test; gives it back.

        The submachines it builds from now on are looked after, too.
        """
        self._refuse_if_closed()
        if not isinstance(mach, Watched):
            self._watches.append(Watch(self, mach))
        return mach

    @property
    def machines(self) -> tuple[Machine, ...]:
        """The machines made or watched, in that order."""
        return tuple(watch.machine for watch in self._watches)

    @override
    def __repr__(self) -> str:
        return f"<Bench {self.name} [{', '.join(mach.id for mach in self.machines)}]>"

    def _refuse_if_closed(self) -> None:
        if self.is_closed:
            raise MachineDisposedError(
                f"the fixture `{self.name}` has ended, and its machines with it; make machines while the test runs, or "
                "use `module_machine` or `session_machine`, which last longer"
            )

    def take_unseen(self) -> list[str]:
        """Give what there is to say about errors nobody looked at, once."""
        return [text for watch in self._watches if (text := watch.take_unseen())]

    def report(self) -> str:
        """Tell where each machine is, and what it did last."""
        return "\n".join(line for watch in self._watches for line in watch.report())

    def keep(self) -> None:
        """See to it that the machines of the running loop, if one runs, are disposed before it is closed."""
        loop = _running_loop()
        if loop is None or loop in self._keepers or self.is_closed:
            return
        keeper = self._keepers[loop] = self._until_shutdown(loop)
        with suppress(StopIteration):
            keeper.asend(None).send(None)  # up to its `yield`, without a task; that makes the loop know it

    async def _until_shutdown(self, loop: Loop) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            for watch in reversed(self._watches):
                if watch.loop is loop:
                    watch.settle_report()
                    await watch.machine.dispose()

    def close(self) -> None:
        """Dispose the machines, each on its loop."""
        self.is_closed = True
        for watch in self._watches:
            watch.settle_report()
        with ExitStack() as stack:
            for watch in self._watches:  # the stack begins with the last
                stack.callback(_dispose, watch)
            for loop, keeper in self._keepers.items():
                if not loop.is_closed():
                    stack.callback(_run, loop, keeper.aclose)


class Watch:
    """What is known about one machine of a bench.

    Args:
        bench: looks after it.
        mach: the machine. Its class becomes a subclass that notes which errors are looked at.
    """

    def __init__(self, bench: Bench, mach: Machine) -> None:
        self.bench: Bench = bench
        self.machine: Machine = mach
        self.recorder: WatchRecorder = WatchRecorder(self)
        self._seen = 0
        """How many errors there had been when somebody looked last."""
        self._report: list[str] | None = None
        mach.__class__ = _watched(type(mach))
        cast("Watched", mach).begin(self)
        mach.bind_tracer(self.recorder)
        bench.keep()

    @property
    def loop(self) -> Loop | None:
        """The loop the machine is bound to, if any."""
        loop: Loop | None = cast("Any", self.machine)._core.home.loop
        return loop

    @property
    def err(self) -> BaseException | None:
        """The machine's last error; asking here is not looking at it."""
        err: BaseException | None = cast("Any", self.machine)._core.faults.err
        return err

    def look(self) -> None:
        """Note that the errors so far have been looked at."""
        self._seen = self.machine.statistics().errors

    def take_unseen(self) -> str:
        """Give what there is to say about an error nobody looked at; then it counts as looked at."""
        unseen, err = self.machine.statistics().errors - self._seen, self.err
        if not unseen or err is None:
            return ""
        self.look()
        told = self.recorder.errors.get(id(err))
        where = f" in {told.handler}" if told is not None and told.handler else ""
        more = f" (the last of {unseen})" if unseen > 1 else ""
        lines = traceback.format_exception(err)
        return f"{self.machine.id} has an error nobody looked at: {err!r}{where}{more}\n{_HOW}\n\n{''.join(lines)}"

    def report(self) -> list[str]:
        """Tell where the machine is, and what it did last; after `settle_report`, where it was then."""
        if self._report is not None:
            return self._report
        mach, counts = self.machine, self.machine.statistics()
        lines = [f"{mach.id}: {mach.string_all()}{' disposed' if mach.is_disposed else ''}"]
        if self.err is not None:
            lines.append(f"  its error: {self.err!r}")
        waiting = {"queued": counts.queued, "waits": counts.waiters, "work": counts.work}
        if any(waiting.values()):
            lines.append(f"  pending: {', '.join(f'{what} {count}' for what, count in waiting.items() if count)}")
        return [*lines, *last_lines(self.recorder)] if self.recorder.kept else [*lines, "  it did nothing"]

    def settle_report(self) -> None:
        """Keep the report as it is now, before the machine is disposed."""
        self._report = self.report()


class WatchRecorder(Recorder):
    """Records, and notes errors that are handled."""

    def __init__(self, watch: Watch) -> None:
        super().__init__(limit=KEPT)
        self._watch = watch
        self.errors: dict[int, ExceptionArgs] = {}

    @override
    def transition_end(self, transition: Transition[Any]) -> None:
        super().transition_end(transition)
        error = transition.mutation.error
        if error is not None:
            self.errors[id(error.err)] = error
        if not transition.is_accepted or transition.mutation.is_check:
            return
        handled = any(call.name == f"{EXCEPTION}State" for call in transition.plan.finals)
        if handled or EXCEPTION in transition.exits:
            self._watch.look()

    @override
    def new_submachine(self, parent: MachineApi, machine: MachineApi) -> None:
        if isinstance(machine, Machine) and not self._watch.bench.is_closed:
            self._watch.bench.watch(machine)


class Watched(Machine):
    """A machine that tells its bench when its errors are looked at, and says so when it has outlived its loop."""

    watch: Watch

    def begin(self, watch: Watch) -> None:
        """Be watched, from now on."""
        self.watch = watch
        self._waiters = cast("Waiters", _Meeting(self._waiters, self._meet_loop))

    @property
    @override
    def err(self) -> BaseException | None:
        self.watch.look()
        return super().err

    @property
    @override
    def is_err(self) -> bool:
        self.watch.look()
        return super().is_err

    @override
    def on_error(self, callback: Callable[[Machine, BaseException], object] | None) -> None:
        if callback is None:
            super().on_error(None)
            return
        note = self.watch.look

        def tell(mach: Machine, err: BaseException) -> None:
            note()
            callback(mach, err)

        super().on_error(tell)

    @override
    def when_err(self) -> asyncio.Future[BaseException]:
        future = super().when_err()
        if not _within.get():
            future.add_done_callback(self._given)
        return future

    def _given(self, future: asyncio.Future[BaseException]) -> None:
        if not future.cancelled() and future.exception() is None:
            self.watch.look()

    @contextmanager
    def _raising(self) -> Generator[None]:
        token = _within.set(True)
        try:
            yield
        except BaseException as err:
            if err is self.watch.err:
                self.watch.look()
            raise
        finally:
            _within.reset(token)

    @override
    async def expect(self, *states: str | Iterable[str], timeout: float | None = None) -> Time:
        __tracebackhide__ = True
        with self._raising():
            return await super().expect(*states, timeout=timeout)

    @override
    async def wait_all(self, *whens: Awaitable[T], timeout: float | None = None) -> list[T]:
        with self._raising():
            return await super().wait_all(*whens, timeout=timeout)

    @override
    async def wait_any(self, *whens: Awaitable[Any], timeout: float | None = None) -> int:
        with self._raising():
            return await super().wait_any(*whens, timeout=timeout)

    def _meet_loop(self) -> None:
        """Refuse to be used on another loop when the machine's own is closed; look after it on the present one."""
        loop = self.watch.loop
        if self.is_disposed and loop is not None and loop.is_closed() and _running_loop() is not None:
            raise MachineLoopError(
                f"the machine {self.id} was disposed when the event loop it lived on was closed, at the end of an "
                "earlier test or fixture; build a machine for each test, or let all that use this one share a loop, as "
                'with loop_scope="module"'
            )
        self.watch.bench.keep()

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
        self._meet_loop()
        return super()._mutate(type_, states, args, source, check)

    @override
    def state_ctx(self, state: str) -> anyio.CancelScope:
        self._meet_loop()
        return super().state_ctx(state)

    @override
    def fork(
        self,
        fn: Callable[[*Ts], object],
        *args: *Ts,
        state: str | None = None,
        delay: float = 0,
        limit: int | None = None,
    ) -> Work:
        self._meet_loop()
        return super().fork(fn, *args, state=state, delay=delay, limit=limit)


class _Meeting:
    """The waiters of a watched machine, which is to meet the loop before somebody waits."""

    def __init__(self, waiters: Waiters, meet: Callable[[], None]) -> None:
        self._waiters = waiters
        self._meet = meet

    def __getattr__(self, name: str) -> Any:
        self._meet()
        return getattr(self._waiters, name)


@cache
def _watched(cls: type[Machine]) -> type[Machine]:
    """Give the subclass of a machine's class that is watched; it goes by the same name."""
    bases = (Watched,) if cls is Machine else (Watched, cls)
    return type(cls.__name__, bases, {"__module__": cls.__module__, "__qualname__": cls.__qualname__})


def _dispose(watch: Watch) -> None:
    mach, loop = watch.machine, watch.loop
    if mach.is_disposed:
        return
    if loop is None or loop.is_closed():
        mach.dispose()
    else:
        _run(loop, mach.dispose)


_ending: set[asyncio.Task[None]] = set()
"""Disposals nobody waits for; a loop alone would hold them weakly."""


def _run(loop: Loop, make: Callable[[], Awaitable[None]]) -> None:
    """Await something on a loop that nobody runs, or that another thread runs."""

    async def main() -> None:
        await make()

    if _running_loop() is loop:
        # Tests run within a loop: nobody can wait here, but it ends as the loop turns.
        task = loop.create_task(main())
        _ending.add(task)
        task.add_done_callback(_ending.discard)
    elif loop.is_running():
        asyncio.run_coroutine_threadsafe(main(), loop).result(PATIENCE)
    else:
        ending = main()
        try:
            loop.run_until_complete(ending)
        finally:
            ending.close()  # never begun, if another loop runs in this thread


def _running_loop() -> Loop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
