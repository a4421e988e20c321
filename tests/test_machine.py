"""The machine as its users see it: how it is built, what it says of itself, and what it does when asked."""

from __future__ import annotations

import asyncio
import copy
import gc
import logging
import pickle
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import anyio
import pytest
from conftest import turns
from typing_extensions import override

import asyncmachine as am

SCHEMA: dict[str, am.State] = {"Foo": am.State(), "Bar": am.State(require=["Foo"]), "Log": am.State(multi=True)}


@pytest.fixture
def machine() -> am.Machine:
    return am.Machine(SCHEMA, id="machine")


# How it is built.


class Declared(am.States):
    Foo: str = am.state()
    Bar: str = am.state(require=[Foo])
    Both = am.group(Foo, Bar)


@pytest.mark.parametrize(
    "schema",
    [
        Declared,
        Declared.schema(),
        {"Foo": {}, "Bar": {"require": ["Foo"]}},
        {"Foo": am.State(), "Bar": am.State(require=["Foo"])},
    ],
    ids=["class", "schema", "mapping", "states"],
)
def test_a_schema_comes_in_any_notation(schema: Any) -> None:
    machine = am.Machine(schema)
    assert machine.state_names == ("Foo", "Bar", "Exception")
    assert machine.add1("Bar").reason == "Bar requires Foo"


def test_a_schema_that_cannot_work_is_refused() -> None:
    with pytest.raises(am.SchemaError, match="Foo requires 'Baz', which is no state of the schema"):
        am.Machine({"Foo": {"require": ["Baz"]}})


def test_a_machine_without_an_id_draws_one() -> None:
    ids = {am.Machine(SCHEMA).id for _ in range(10)}
    assert len(ids) == 10
    assert all(len(id) == 16 and int(id, 16) >= 0 for id in ids)


def test_a_machine_keeps_the_id_it_is_given() -> None:
    assert am.Machine(SCHEMA, id="").id == ""
    machine = am.Machine(SCHEMA, id="mine")
    assert machine.id == "mine"
    assert machine.logger is logging.getLogger("asyncmachine.mine")


def test_tags_are_kept_in_order() -> None:
    assert am.Machine(SCHEMA).tags == ()
    assert am.Machine(SCHEMA, tags=(tag for tag in ("rpc", "db:1"))).tags == ("rpc", "db:1")


class Handlers:
    """Notes its calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def FooState(self, e: am.Event) -> None:
        self.calls.append(e.name)


@pytest.mark.parametrize("several", [list, tuple])
def test_handlers_come_as_one_object_or_several(several: Callable[[Any], Any]) -> None:
    one, two = Handlers(), Handlers()
    machine = am.Machine(SCHEMA, handlers=one)
    assert machine.handlers == ("Handlers",)
    machine.add1("Foo")
    machine = am.Machine(SCHEMA, handlers=several([one, two, {"FooEnd": lambda e: one.calls.append(e.name)}]))
    assert machine.handlers == ("Handlers", "Handlers#2", "dict")
    machine.add1("Foo")
    machine.remove1("Foo")
    assert one.calls == ["FooState", "FooState", "FooEnd"]
    assert two.calls == ["FooState"]


def test_no_handlers_are_bound_where_none_are_given() -> None:
    assert am.Machine(SCHEMA).handlers == ()
    assert am.Machine(SCHEMA, handlers=[]).handlers == ()


def test_a_handler_that_could_never_be_called_is_refused() -> None:
    with pytest.raises(am.HandlerError, match="FoState of dict is no handler: it fits no state"):
        am.Machine(SCHEMA, handlers={"FoState": print})


class Watcher(am.Tracer):
    """Notes what it is told of machines."""

    def __init__(self, *, inherited: bool = False) -> None:
        self.inherited = inherited
        self.told: list[str] = []

    @override
    def inheritable(self) -> bool:
        return self.inherited

    @override
    def machine_init(self, machine: am.MachineApi) -> None:
        self.told.append(f"init {machine.id}")

    @override
    def machine_dispose(self, machine: am.MachineApi) -> None:
        self.told.append(f"dispose {machine.id}")

    @override
    def new_submachine(self, parent: am.MachineApi, machine: am.MachineApi) -> None:
        self.told.append(f"{parent.id} has {machine.id}")

    @override
    def transition_end(self, transition: am.Transition[Any]) -> None:
        self.told.append(f"{transition.machine.id} {transition.type} {' '.join(transition.called_states)}")


def test_tracers_are_bound_in_order_and_told_of_the_machine() -> None:
    one, two = Watcher(), Watcher()
    machine = am.Machine(SCHEMA, id="traced", tracers=[one, two, one])
    assert machine.tracers == (one, two)
    assert one.told == two.told == ["init traced"]


def test_tracers_are_bound_and_detached_at_any_time(machine: am.Machine) -> None:
    one, two = Watcher(), Watcher()
    machine.bind_tracer(one)
    machine.add1("Foo")
    machine.bind_tracer(two)
    machine.detach_tracer(one)
    machine.detach_tracer(one)
    machine.remove1("Foo")
    assert machine.tracers == (two,)
    machine.detach_tracer(two)
    machine.add1("Foo")
    assert machine.tracers == ()
    assert one.told == ["machine add Foo"]
    assert two.told == ["machine remove Foo"]


def test_a_resolver_of_ones_own_decides() -> None:
    class Stubborn(am.RelationsResolver):
        @override
        def resolve(self, type_: am.MutationType, called: Any, active: Any, **options: Any) -> tuple[int, ...]:
            return (0,)

    machine = am.Machine(SCHEMA, resolver=Stubborn)
    assert machine.add1("Log").reason == "Log is left out by the resolver"
    assert machine.add1("Foo") == am.Result.EXECUTED


# Machines that are parts of others.


def test_a_child_knows_its_parent_and_the_parent_its_children() -> None:
    parent = am.Machine(SCHEMA, id="parent")
    assert (parent.parent, parent.parent_id, parent.children) == (None, None, ())
    one = am.Machine(SCHEMA, id="one", parent=parent)
    two = am.Machine(SCHEMA, id="two", parent=parent)
    assert (one.parent, one.parent_id) == (parent, "parent")
    assert parent.children == (one, two)
    one.dispose()
    assert parent.children == (two,)
    # It still knows where it came from.
    assert one.parent_id == "parent"
    parent.dispose()
    assert two.is_disposed
    assert parent.children == ()


def test_children_inherit_the_tracers_that_are_made_for_it() -> None:
    own, inherited = Watcher(), Watcher(inherited=True)
    parent = am.Machine(SCHEMA, id="parent", tracers=[own, inherited], log_level="everything")
    mine = Watcher()
    child = am.Machine(SCHEMA, id="child", parent=parent, tracers=[mine, inherited])
    assert child.tracers == (inherited, mine)
    assert child.log_level is am.LogLevel.NOTHING
    child.add1("Foo")
    child.dispose()
    assert own.told == ["init parent", "parent has child"]
    assert inherited.told == ["init parent", "init child", "parent has child", "child add Foo", "dispose child"]
    assert mine.told == ["init child", "child add Foo", "dispose child"]


# What it says of itself.


def test_what_is_printed_of_a_machine() -> None:
    machine = am.Machine(SCHEMA, id="printed")
    machine.add1("Log")
    machine.add(["Log", "Foo"])
    assert str(machine) == "(Foo:1 Log:3)"
    assert machine.string_all() == "(Foo:1 Log:3) [Bar:0 Exception:0]"
    assert repr(machine) == "<Machine printed (Foo:1 Log:3)>"
    machine.dispose()
    assert repr(machine) == "<Machine printed (Foo:1 Log:3) disposed>"


def test_inspect_shows_ticks_properties_and_relations() -> None:
    machine = am.Machine(
        {
            "Foo": {"add": ["Bar"], "tags": ["ui", "x"]},
            "Bar": {"require": ["Foo"], "remove": ["Baz"], "auto": True},
            "Baz": {"after": ["Foo", "Bar"], "multi": True},
        }
    )
    machine.add1("Foo")
    lines = [
        "1 Foo",
        "    |Tick     1",
        "    |Add      Bar",
        "    |Tags     ui x",
        "1 Bar",
        "    |Tick     1",
        "    |Auto     true",
        "    |Require  Foo",
        "    |Remove   Baz",
        "0 Baz",
        "    |Tick     0",
        "    |Multi    true",
        "    |After    Foo Bar",
        "0 Exception",
        "    |Tick     0",
        "    |Multi    true",
    ]
    assert machine.inspect() == "\n".join(lines)
    assert machine.inspect(["Bar", "Foo"]) == "\n".join(lines[4:9] + lines[:4])
    with pytest.raises(am.UnknownStateError, match="'Foos' is no state"):
        machine.inspect(["Foos"])


async def test_statistics_count_what_there_is_and_was(machine: am.Machine) -> None:
    machine.bind_handlers({"ExceptionState": lambda e: None})
    assert machine.statistics() == am.Statistics(0, 0, 0, 0, 0, 0, 0, 0)
    machine.add1("Bar")
    machine.add1("Foo")
    machine.can_add1("Bar")
    machine.add_err(ValueError("one"))
    am.Machine(SCHEMA, parent=machine)
    work = machine.fork(asyncio.sleep, 3600)
    with machine.state_ctx("Foo"):
        waiters = [machine.when1("Bar"), machine.when_not1("Foo"), machine.when_disposed(), machine.when1("Foo")]
        expected = am.Statistics(
            queued=0, waiters=3, contexts=2, work=1, children=1, transitions=4, canceled=1, errors=1
        )
        assert machine.statistics() == expected
    for waiter in waiters:
        waiter.cancel()
    work.cancel()
    await turns()
    gc.collect()
    statistics = machine.statistics()
    assert (statistics.waiters, statistics.contexts, statistics.work) == (0, 0, 0)


def test_statistics_count_what_waits(machine: am.Machine) -> None:
    seen: list[tuple[int, bool]] = []

    def enter(e: am.Event) -> None:
        e.machine.add1("Log")
        e.machine.add1("Bar")
        seen.append((e.machine.statistics().queued, e.machine.is_idle))

    machine.bind_handlers({"FooState": enter})
    machine.add1("Foo")
    assert seen == [(2, False)]
    assert machine.statistics().queued == 0
    assert machine.is_idle


def test_the_transition_is_there_while_it_runs(machine: am.Machine) -> None:
    seen: list[object] = []
    machine.bind_handlers({"FooState": lambda e: seen.append(e.machine.transition is e.transition)})
    assert machine.transition is None
    machine.add1("Foo")
    assert seen == [True]
    assert machine.transition is None


def test_groups_and_switch() -> None:
    machine = am.Machine(Declared)
    assert machine.groups == {"Both": ("Foo", "Bar")}
    assert machine.switch(Declared.Both) is None
    machine.add(["Bar", "Foo"])
    assert machine.switch(Declared.Both) == "Foo"
    assert machine.switch(["Bar"], Declared.Both) == "Bar"
    assert machine.switch("Exception", "Bar") == "Bar"
    match machine.switch(*machine.groups.values()):
        case Declared.Foo:
            pass
        case other:
            pytest.fail(f"{other}")


# Errors.


def test_an_error_is_a_state_and_the_last_one_is_kept(machine: am.Machine) -> None:
    machine.bind_handlers({"ExceptionState": lambda e: None})
    assert machine.err is None
    one, two = ValueError("one"), OSError("two")
    assert machine.add_err(one) == am.Result.EXECUTED
    assert machine.is_err
    assert machine.err is one
    machine.add_err(two)
    assert machine.tick("Exception") == 3
    machine.remove1("Exception")
    assert not machine.is_err
    assert machine.err is two


def test_an_error_nobody_handles_is_logged_with_its_traceback(
    machine: am.Machine, caplog: pytest.LogCaptureFixture
) -> None:
    machine.add_err(ValueError("nobody's"))
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("asyncmachine.machine", logging.ERROR)
    assert record.getMessage() == """[error] ValueError("nobody's")"""
    assert record.exc_info
    machine.bind_handlers({"ExceptionState": lambda e: None})
    machine.add_err(ValueError("somebody's"))
    assert len(caplog.records) == 1


@pytest.mark.parametrize("err", [None, asyncio.CancelledError()])
def test_what_is_no_error_is_none(machine: am.Machine, err: BaseException | None) -> None:
    for result in (machine.add_err(err), machine.add_err_state("Foo", err)):
        assert result == am.Result.CANCELED
        assert result.reason == "no error was given"
    assert machine.time().sum() == 0
    assert machine.err is None
    assert machine.statistics().errors == 0


@pytest.mark.parametrize("err", ["disk full", 5])
def test_an_error_of_the_wrong_kind_is_refused(machine: am.Machine, err: Any) -> None:
    text = "an error is an instance of an exception class, not "
    with pytest.raises(am.ArgsError, match=text) as refused:
        machine.add_err(err)
    assert f"write ValueError({err!r})" in str(refused.value)
    with pytest.raises(am.ArgsError, match=text):
        machine.add_err_state("Foo", err)
    assert machine.err is None


@dataclass
class Request:
    url: str


def test_an_error_carries_typed_args_beside_its_own(machine: am.Machine) -> None:
    seen: list[Any] = []

    def handler(e: am.Event) -> None:
        seen.extend([e.arg(Request), e.arg(am.ExceptionArgs), dict(e.args)])

    machine.bind_handlers({"ExceptionState": handler})
    err, request = OSError("unreachable"), Request("http://a.b")
    machine.add_err(err, request)
    assert seen == [
        request,
        am.ExceptionArgs(err),
        {"url": "http://a.b", "err": err, "handler": None, "called": ()},
    ]


def test_an_error_state_of_ones_own_comes_along_with_exception() -> None:
    machine = am.Machine({"ErrNetwork": {"require": ["Exception"]}, "Foo": {}})
    seen: list[Any] = []
    machine.bind_handlers(
        {
            "ErrNetworkState": lambda e: seen.append((e.arg(am.ExceptionArgs).err, e.args["key"])),
            "ExceptionState": lambda e: seen.append(e.mutation.called),
        }
    )
    err = OSError("unreachable")
    assert machine.add_err_state("ErrNetwork", err, {"key": 1}) == am.Result.EXECUTED
    assert machine.is_("Exception", "ErrNetwork")
    # What is required comes first.
    assert seen == [("ErrNetwork", "Exception"), (err, 1)]
    with pytest.raises(
        am.UnknownStateError, match="'ErrNetwerk' is no state of this machine; did you mean 'ErrNetwork'"
    ):
        machine.add_err_state("ErrNetwerk", err)


def test_exception_as_the_error_state_is_called_once(machine: am.Machine) -> None:
    called: list[tuple[str, ...]] = []
    machine.bind_handlers({"ExceptionState": lambda e: called.append(e.mutation.called)})
    machine.add_err_state("Exception", ValueError("once"))
    assert called == [("Exception",)]


def test_an_error_that_is_refused_is_logged(machine: am.Machine, caplog: pytest.LogCaptureFixture) -> None:
    machine.bind_handlers({"ExceptionState": lambda e: None, "ExceptionEnter": lambda e: False})
    result = machine.add_err(ValueError("vetoed"))
    assert result.reason == "vetoed by ExceptionEnter of dict"
    assert str(machine.err) == "vetoed"
    assert caplog.messages == ["[error] ValueError('vetoed')"]


def test_an_error_that_finds_no_room_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    machine = am.Machine(SCHEMA, queue_limit=1, handlers={"ExceptionState": lambda e: None})
    results: list[am.Result] = []

    def enter(e: am.Event) -> None:
        results.append(e.machine.add1("Log"))
        results.extend(e.machine.add_err(ValueError(name)) for name in ("one", "two"))

    machine.bind_handlers({"FooState": enter})
    machine.add1("Foo")
    assert [result.reason for result in results] == [None, None, "queue full (1)"]
    assert caplog.messages == ["[error] ValueError('two')"]


def test_errors_are_told_at_once_and_until_that_is_ended(machine: am.Machine) -> None:
    told: list[tuple[am.Machine, str, bool]] = []
    machine.bind_handlers({"ExceptionState": lambda e: None})
    machine.on_error(lambda mach, err: told.append((mach, str(err), mach.is_err)))
    machine.add_err(ValueError("one"))

    def failing(e: am.Event) -> None:
        raise ValueError("two")

    machine.remove1("Exception")
    machine.bind_handlers({"FooEnter": failing})
    machine.add1("Foo")
    machine.on_error(None)
    machine.add_err(ValueError("three"))
    assert told == [(machine, "one", False), (machine, "two", False)]


def test_an_error_callback_that_raises_hides_no_error(machine: am.Machine, caplog: pytest.LogCaptureFixture) -> None:
    def callback(mach: am.Machine, err: BaseException) -> None:
        raise LookupError("in the callback")

    machine.bind_handlers({"ExceptionState": lambda e: None})
    machine.on_error(callback)
    machine.add_err(ValueError("told"))
    assert machine.is_err
    assert caplog.messages == ["the on_error callback raised"]


def test_changes_are_told_with_the_time_before_and_after(machine: am.Machine) -> None:
    changes: list[tuple[am.Machine, am.Time, am.Time]] = []
    machine.on_change(lambda mach, before, after: changes.append((mach, before, after)))
    machine.add1("Bar")
    machine.can_add1("Foo")
    machine.add(["Log"])
    machine.add(["Foo", "Bar", "Log"])
    machine.add1("Foo")
    machine.on_change(None)
    machine.remove1("Log")
    assert changes == [
        (machine, am.Time([0, 0, 0, 0]), am.Time([0, 0, 1, 0])),
        (machine, am.Time([0, 0, 1, 0]), am.Time([1, 1, 3, 0])),
    ]


# Handlers.


def test_handlers_are_bound_and_detached_at_any_time(machine: am.Machine) -> None:
    handlers = Handlers()
    machine.add1("Foo")
    machine.remove1("Foo")
    assert machine.bind_handlers(handlers, id="mine") == "mine"
    machine.add1("Foo")
    machine.detach_handlers("mine")
    machine.remove1("Foo")
    machine.add1("Foo")
    assert handlers.calls == ["FooState"]
    with pytest.raises(am.HandlerError, match="no handlers are bound under the id 'mine'"):
        machine.detach_handlers("mine")


def test_binding_in_a_handler_counts_from_the_next_transition_on(machine: am.Machine) -> None:
    handlers = Handlers()

    def enter(e: am.Event) -> None:
        if not handlers.calls and e.machine.handlers == ("dict",):
            e.machine.bind_handlers(handlers)

    machine.bind_handlers({"FooEnter": enter})
    machine.add1("Foo")
    assert handlers.calls == []
    machine.remove1("Foo")
    machine.add1("Foo")
    assert handlers.calls == ["FooState"]


def test_plain_functions_are_bound_by_marks(machine: am.Machine) -> None:
    calls: list[str] = []

    @machine.on.state("Foo", "Log")
    def state(e: am.Event) -> None:
        calls.append(e.name)

    @machine.on.enter("Bar")
    def enter(e: am.Event) -> bool:
        calls.append(e.name)
        return False

    @machine.on.exit("Foo")
    @machine.on.end("Foo")
    @machine.on.both("Foo", "Log")
    def ends(e: am.Event) -> None:
        calls.append(e.name)

    machine.add1("Foo")
    machine.add1("Bar")
    machine.add1("Log")
    machine.remove1("Foo")
    assert calls == ["FooState", "BarEnter", "FooLog", "LogState", "FooExit", "FooLog", "FooEnd"]
    machine.detach_handlers(machine.handlers[0])
    machine.add1("Foo")
    assert calls[-1] == "FooEnd"


def test_eval_calls_between_two_transitions_or_within_the_one_that_runs(machine: am.Machine) -> None:
    seen: list[str | None] = []

    def where() -> str:
        transition = machine.transition
        return "between" if transition is None else transition.id

    machine.bind_handlers({"FooState": lambda e: seen.append(machine.eval(where))})
    assert machine.eval(where) == "between"
    machine.add1("Foo")
    assert seen == ["1.1"]
    with pytest.raises(ZeroDivisionError):
        machine.eval(lambda: 1 // 0)


async def test_another_thread_is_refused(machine: am.Machine) -> None:
    with pytest.raises(am.MachineThreadError, match="the machine machine belongs to another thread"):
        await asyncio.to_thread(machine.add1, "Foo")
    assert machine.not1("Foo")


# Logging.


def test_the_log_level_may_be_set_at_any_time(machine: am.Machine, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="asyncmachine.machine")
    assert machine.log_level is am.LogLevel.NOTHING
    machine.log("unheard")
    machine.add1("Foo")
    assert caplog.messages == []
    levels: list[Any] = ["external", 2, am.LogLevel.OPS, None, 0]
    for level in levels:
        machine.log_level = level
        assert machine.log_level is am.LogLevel.of(level)
        machine.log("heard %s", level)
        machine.remove1("Foo")
        machine.add1("Log")
        machine.add1("Foo")
    assert caplog.messages == [
        "[extern] heard external",
        "[extern] heard 2",
        "[state] -Foo",
        "[state] +Log",
        "[state] +Foo",
        "[extern] heard 3",
        "[remove] Foo",
        "[state] -Foo",
        "[add] Log",
        "[state] +Log",
        "[add] Foo",
        "[state] +Foo",
    ]
    assert machine.tracers == ()


def test_an_unknown_log_level_is_refused(machine: am.Machine) -> None:
    with pytest.raises(ValueError, match="'loud' is no log level; use one of nothing, external, changes, ops"):
        machine.log_level = "loud"  # type: ignore[assignment]
    with pytest.raises(ValueError, match="'loud' is no log level"):
        am.Machine(SCHEMA, log_level="loud")
    assert machine.log_level is am.LogLevel.NOTHING


def test_the_log_stands_beside_tracers(machine: am.Machine, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="asyncmachine.machine")
    watcher = Watcher()
    machine.log_level = "changes"  # type: ignore[assignment]
    machine.bind_tracer(watcher)
    machine.add1("Foo")
    machine.detach_tracer(watcher)
    machine.remove1("Foo")
    assert watcher.told == ["machine add Foo"]
    assert caplog.messages == ["[state] +Foo", "[state] -Foo"]
    machine.log_level = None  # type: ignore[assignment]
    machine.bind_tracer(watcher)
    assert machine.tracers == (watcher,)


def test_chosen_args_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    machine = am.Machine(SCHEMA, id="args", log_level="changes", log_args=["id"])
    caplog.set_level(logging.DEBUG, logger="asyncmachine.args")
    machine.add1("Foo", {"id": 7, "secret": "hidden"})
    assert caplog.messages == ["[state] +Foo (id=7)"]


# Breakpoints.


def asks_for_foo(machine: am.Machine) -> am.Result:
    return machine.add1("Foo")


def test_a_breakpoint_logs_the_callers_stack_and_calls_the_action(
    machine: am.Machine, caplog: pytest.LogCaptureFixture
) -> None:
    stacks: list[traceback.StackSummary] = []
    machine.add_breakpoint(["Foo"], action=lambda: stacks.append(traceback.extract_stack()))
    assert asks_for_foo(machine) == am.Result.EXECUTED
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("[breakpoint] [add] Foo\n")
    assert "in asks_for_foo" in record.getMessage()
    assert "breakpoints.py" not in record.getMessage()
    assert "asks_for_foo" in [frame.name for frame in stacks[0]]


def test_breakpoints_tell_what_is_added_from_what_is_removed(machine: am.Machine) -> None:
    hits: list[str] = []
    machine.add_breakpoint("Foo", action=lambda: hits.append("added"))
    machine.add_breakpoint(removed="Foo", action=lambda: hits.append("removed"))
    machine.add_breakpoint1(removed="Log", action=lambda: hits.append("Log removed"))
    machine.add_breakpoint1("Log", strict=True, action=lambda: hits.append("Log added anew"))
    for step in (
        lambda: machine.add1("Foo"),
        lambda: machine.remove1("Foo"),
        lambda: machine.add1("Log"),
        lambda: machine.add1("Log"),
        lambda: machine.remove1("Log"),
    ):
        step()
    assert hits == ["added", "removed", "Log added anew", "Log removed"]


def test_a_breakpoint_for_an_unknown_state_is_refused(machine: am.Machine) -> None:
    with pytest.raises(am.UnknownStateError, match="'Fo' is no state of this machine; did you mean 'Foo'"):
        machine.add_breakpoint1("Fo")


# Contexts and work.


async def test_a_state_context_is_cancelled_when_the_state_flips(machine: am.Machine) -> None:
    machine.add1("Foo")
    one, two = machine.state_ctx("Foo"), machine.state_ctx("Foo")
    assert one is not two
    with one:
        machine.remove1("Foo")
        await anyio.sleep(3600)
    assert one.cancelled_caught
    with two:
        await anyio.sleep(3600)
    assert two.cancelled_caught
    with machine.state_ctx("Foo") as inactive:
        await asyncio.sleep(0)
    assert not inactive.cancel_called
    with pytest.raises(am.UnknownStateError, match="'Fo' is no state"):
        machine.state_ctx("Fo")


async def test_work_is_forked_under_a_state_or_the_machine(machine: am.Machine) -> None:
    machine.add1("Foo")
    under_foo = machine.fork(asyncio.sleep, 3600, state="Foo")
    under_the_machine = machine.fork(asyncio.sleep, 3600)
    machine.remove1("Foo")
    await turns()
    assert under_foo.done()
    assert not under_the_machine.done()
    await machine.dispose()
    assert under_the_machine.done()


async def test_a_handler_forks_under_its_own_state(machine: am.Machine) -> None:
    works: list[am.Work] = []
    machine.bind_handlers({"FooState": lambda e: works.append(e.fork(asyncio.sleep, 3600))})
    machine.add1("Foo")
    await turns()
    assert isinstance(works[0], am.Work)
    assert not works[0].done()
    machine.remove1("Foo")
    await turns()
    assert works[0].done()


async def test_work_is_forked_in_turn(machine: am.Machine) -> None:
    order: list[str] = []

    async def work(name: str) -> None:
        order.append(f"{name} begins")
        await asyncio.sleep(0)
        order.append(f"{name} ends")

    works = [machine.fork(work, name, limit=1) for name in ("one", "two")]
    while not all(work.done() for work in works):  # noqa: ASYNC110 - keeps the loop turning
        await asyncio.sleep(0)
    assert order == ["one begins", "one ends", "two begins", "two ends"]


async def test_work_is_forked_later(machine: am.Machine) -> None:
    loop = asyncio.get_running_loop()
    asked = loop.time()
    begun: asyncio.Future[float] = loop.create_future()

    async def work() -> None:
        begun.set_result(loop.time())

    machine.fork(work, delay=0.005)
    await turns()
    # Clocks of loops tick in milliseconds at worst.
    assert await begun - asked >= 0.004


@pytest.mark.parametrize("limit", [0, -1])
async def test_a_limit_of_work_is_one_or_more(machine: am.Machine, limit: int) -> None:
    with pytest.raises(am.HandlerError, match=f"limit is how many may run at once, 1 or more, not {limit}"):
        machine.fork(asyncio.sleep, 0, limit=limit)
    assert machine.statistics().work == 0


async def test_work_under_an_unknown_state_is_refused(machine: am.Machine) -> None:
    with pytest.raises(am.UnknownStateError, match="'Fo' is no state"):
        machine.fork(asyncio.sleep, 0, state="Fo")


async def test_work_without_a_name_is_called_by_its_class(
    machine: am.Machine, caplog: pytest.LogCaptureFixture
) -> None:
    class Job:
        async def __call__(self) -> None:
            raise ValueError("in the job")

    work = machine.fork(Job())
    assert repr(work) == f"<Work {Job.__qualname__}{' done' if work.done() else ''}>"
    await machine.when_err()
    assert caplog.messages == [f"[error] ValueError('in the job') in {Job.__qualname__}"]


# In and out.


async def test_a_block_binds_the_loop_and_ends_the_machine(machine: am.Machine) -> None:
    async with machine as entered:
        assert entered is machine
        assert await asyncio.to_thread(lambda: machine.threadsafe.add1("Foo").result(timeout=60)) == am.Result.EXECUTED
    assert machine.is_disposed


def test_a_plain_block_ends_the_machine(machine: am.Machine) -> None:
    with machine as entered:
        assert entered is machine
        assert machine.add1("Foo") == am.Result.EXECUTED
    assert machine.is_disposed


async def test_a_plain_block_is_refused_on_a_loop(machine: am.Machine) -> None:
    with pytest.raises(am.MachineLoopError, match="a loop is running: write `async with`"), machine:
        raise AssertionError("never entered")
    assert not machine.is_disposed


@pytest.mark.parametrize("exit", [(None, None, None), (ValueError, ValueError("in the block"), None)])
async def test_errors_of_a_block_are_not_swallowed(
    machine: am.Machine,
    exit: tuple[type[BaseException] | None, BaseException | None, TracebackType | None],
) -> None:
    await machine.__aenter__()
    assert not await machine.__aexit__(*exit)
    assert machine.is_disposed


async def test_a_disposed_machine_answers_and_does_nothing(
    machine: am.Machine, caplog: pytest.LogCaptureFixture
) -> None:
    gone: list[am.Machine] = []
    machine.on_dispose(gone.append)
    machine.add(["Foo", "Log"])
    snapshot = am.Machine(SCHEMA, id="machine").export()
    await machine.dispose()
    assert gone == [machine]
    assert machine.add1("Bar").reason == "disposed"
    assert machine.add_err(ValueError("too late")).reason == "disposed"
    assert caplog.messages == ["an error was added after the machine was disposed"]
    machine.restore(snapshot)
    assert machine.string_all() == "(Foo:1 Log:1) [Bar:0 Exception:0]"
    assert machine.is_("Foo") is machine.not_("Bar") is False
    assert machine.export().active == ("Log", "Foo")
    assert machine.state_ctx("Foo").cancel_called
    assert machine.fork(asyncio.sleep, 3600).done()
    assert isinstance(machine.when1("Foo").exception(), am.MachineDisposedError)


def test_a_machine_whose_loop_is_closed_is_disposed_from_anywhere(machine: am.Machine) -> None:
    async def bind() -> None:
        machine.when_disposed()

    asyncio.run(asyncio.to_thread(asyncio.run, bind()))
    machine.dispose()
    assert machine.is_disposed


def test_a_machine_is_exported_as_it_is(machine: am.Machine) -> None:
    machine.add(["Bar", "Foo", "Log"])
    machine.add1("Log")
    machine.add1("Foo", {"moves": "to the front"})
    snapshot = machine.export()
    assert snapshot == am.Snapshot(
        id="machine",
        states=("Foo", "Bar", "Log", "Exception"),
        ticks=(1, 1, 3, 0),
        active=machine.active_states(),
        queue_tick=4,
        machine_tick=1,
    )
    machine.remove1("Foo")
    assert snapshot.ticks == (1, 1, 3, 0)


def test_a_machine_is_restored_and_grown_by_what_core_does(machine: am.Machine) -> None:
    machine.add1("Foo")
    other = am.Machine(SCHEMA, id="machine")
    other.restore(machine.export().to_dict())
    assert other.is1("Foo")
    other.set_schema({**SCHEMA, "MachineRestored": am.State()})
    other.restore(other.export())
    assert other.is_("Foo", "MachineRestored")
    assert other.machine_tick == 3


# Whole, whatever becomes of the caller.


class Worker:
    """Handlers that use the machine in all ways at once."""

    async def FooState(self, e: am.Event) -> None:
        e.machine.add1("Log", {"entry": "work"})
        await asyncio.sleep(0)
        e.machine.add1("Done")

    def LogState(self, e: am.Event) -> None:
        if e.args.get("entry") == "again":
            e.machine.add1("Log", {"entry": "nested"})


async def use(machine: am.Machine) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(machine.expect, "Done")
        for _ in range(3):
            await machine.add1("Log", {"entry": "again"})
            await asyncio.sleep(0)
            machine.toggle1("Foo")
            with machine.state_ctx("Foo"):
                await asyncio.sleep(0)
        await machine.when_queue_ends()
        await machine.when("Foo", "Done")
        await machine.when_not1("Done")


@pytest.mark.parametrize("count", range(12))
@pytest.mark.parametrize("how", ["cancel", "scope", "timeout"])
async def test_a_caller_cancelled_at_any_point_leaves_the_machine_whole(count: int, how: str) -> None:
    machine = am.Machine({"Foo": {}, "Log": {"multi": True}, "Done": {"require": ["Foo"]}}, handlers=Worker())
    machine.bind_handlers({"ExceptionState": lambda e: pytest.fail(str(machine.err))})
    if how == "scope":
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(use, machine)
                await turns(count)
                scope.cancel()
        assert scope.cancelled_caught
    else:
        task = asyncio.ensure_future(use(machine))
        await turns(count)
        if how == "cancel":
            task.cancel()
        else:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(task, timeout=0)
        await asyncio.wait([task])
        assert task.cancelled()
    await turns()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    gc.collect()
    statistics = machine.statistics()
    assert (statistics.queued, statistics.waiters, statistics.work) == (0, 0, 0)
    assert machine.is_idle
    assert machine.transition is None
    assert am.broken_relations(machine.schema, machine.active_states()) == []
    before = machine.tick("Log")
    assert machine.add1("Log", {"entry": "again"}) == am.Result.EXECUTED
    assert machine.tick("Log") == before + 4 - (1 - before % 2)
    assert [name for name in machine.state_names if machine.tick(name) % 2] == sorted(
        machine.active_states(), key=machine.index1
    )


@pytest.mark.parametrize("use", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_machine_is_neither_pickled_nor_copied(machine: am.Machine, use: Callable[[am.Machine], object]) -> None:
    with pytest.raises(TypeError, match=r"can be neither pickled nor copied: .* mach\.export\(\) gives a snapshot"):
        use(machine)
