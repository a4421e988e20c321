"""The text log: the lines of each level, as users of asyncmachine know them, and the args that are shown in them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

import asyncmachine as am

LEVELS = list(am.LogLevel)


@pytest.fixture(autouse=True)
def _everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "asyncmachine")


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Give the lines since the last call."""
    found = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return found


def nothing(e: am.Event) -> None:
    """Do nothing."""


# Levels.


def test_levels_are_those_of_the_manual_each_with_all_before_it() -> None:
    assert [level.name.lower() for level in LEVELS] == [
        "nothing",
        "external",
        "changes",
        "ops",
        "decisions",
        "everything",
    ]
    assert sorted(LEVELS) == LEVELS
    assert [int(level) for level in LEVELS] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("given", ["ops", "OPS", 3, am.LogLevel.OPS])
def test_a_level_may_be_given_by_name_number_or_itself(given: str | int | am.LogLevel) -> None:
    assert am.Machine({"Foo": {}}, log_level=given).log_level is am.LogLevel.OPS


def test_no_level_is_nothing() -> None:
    assert am.Machine({"Foo": {}}).log_level is am.LogLevel.NOTHING
    assert am.LogLevel.of(None) is am.LogLevel.NOTHING


def test_an_unknown_level_is_refused_with_those_there_are() -> None:
    text = "'loud' is no log level; use one of nothing, external, changes, ops, decisions, everything"
    with pytest.raises(ValueError, match=text):
        am.Machine({"Foo": {}}, log_level="loud")
    with pytest.raises(ValueError, match="9 is not a valid LogLevel"):
        am.LogLevel.of(9)


def test_the_level_may_be_changed_at_any_time(caplog: pytest.LogCaptureFixture) -> None:
    mach = am.Machine({"Foo": {}})
    mach.add1("Foo")
    assert lines(caplog) == []
    mach.log_level = "changes"  # type: ignore[assignment]
    mach.remove1("Foo")
    assert lines(caplog) == ["[state] -Foo"]
    mach.log_level = am.LogLevel.NOTHING
    mach.add1("Foo")
    assert lines(caplog) == []
    assert mach.log_level is am.LogLevel.NOTHING


def test_changing_the_level_keeps_the_args_that_are_shown_and_the_tracers(caplog: pytest.LogCaptureFixture) -> None:
    tracer = am.Tracer()
    mach = am.Machine({"Foo": {}}, log_args=["id"], tracers=[tracer])
    mach.log_level = am.LogLevel.CHANGES
    mach.log_level = am.LogLevel.OPS
    mach.add1("Foo", {"id": 1})
    assert lines(caplog) == ["[add] Foo (id=1)", "[state] +Foo (id=1)"]
    assert mach.tracers == (tracer,)


def test_lines_go_to_the_machines_own_logger(caplog: pytest.LogCaptureFixture) -> None:
    mach = am.Machine({"Foo": {}}, id="door", log_level="ops")
    assert mach.logger is logging.getLogger("asyncmachine.door")
    mach.log("hello")
    mach.add1("Foo")
    assert [(record.name, record.levelname, record.getMessage()) for record in caplog.records] == [
        ("asyncmachine.door", "INFO", "[extern] hello"),
        ("asyncmachine.door", "DEBUG", "[add] Foo"),
        ("asyncmachine.door", "INFO", "[state] +Foo"),
    ]


def test_errors_are_logged_at_every_level(caplog: pytest.LogCaptureFixture) -> None:
    for level in LEVELS:
        mach = am.Machine({"Foo": {}}, log_level=level)
        mach.add_err(ValueError("no fuel"))
        errors = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert [record.getMessage() for record in errors] == ["[error] ValueError('no fuel')"]
        caplog.clear()


def scene(level: am.LogLevel) -> am.Machine:
    """Give a machine in which something happens that each level has lines for."""
    schema = {
        "Foo": {"add": ["Bar"], "remove": ["Old"]},
        "Bar": {},
        "Old": {},
        "Needy": {"require": ["Base"]},
        "Base": {},
        "Auto": {"auto": True, "require": ["Foo"]},
        "Stay": {},
    }
    mach = am.Machine(schema, handlers={"FooState": nothing, "OldExit": nothing})
    mach.add(["Old", "Stay"])
    mach.log_level = level
    mach.log("a line of %s", "mine")
    mach.can_add1("Needy")
    mach.add1("Needy")
    mach.add1("Foo")
    return mach


# The lowest level at which each line is written, in the order they come.
SCENE = [
    (1, "[extern] a line of mine"),
    (5, "[check:add] Needy"),
    (5, "[reject] Needy(-Base)"),
    (5, "[cancel:reject] Needy"),
    (3, "[add] Needy"),
    (4, "[reject] Needy(-Base)"),
    (3, "[cancel:reject] Needy"),
    (3, "[add] Foo"),
    (4, "[rel:add] Bar by Foo"),
    (4, "[rel:remove] Old by Foo"),
    (3, "[handler] OldExit"),
    (5, "[handler:end] OldExit of dict"),
    (2, "[state] +Bar +Foo -Old"),
    (3, "[handler] FooState"),
    (5, "[handler:end] FooState of dict"),
    (3, "[prepend:add] Auto"),
    (3, "[auto] Auto"),
    (3, "[source] <id>/1.5/2"),
    (2, "[auto_] +Auto"),
]


@pytest.mark.parametrize("level", LEVELS)
def test_each_level_has_its_lines(level: am.LogLevel, caplog: pytest.LogCaptureFixture) -> None:
    mach = scene(level)
    expected = [line.replace("<id>", mach.id) for needed, line in SCENE if level >= needed]
    if level == am.LogLevel.EVERYTHING:  # which says, too, what stays
        expected[expected.index("[state] +Bar +Foo -Old")] = "[state] +Bar +Foo -Old Stay"
        expected[expected.index("[auto_] +Auto")] = "[auto_] +Auto Stay Bar Foo"
    assert lines(caplog) == expected


# Lines.


@pytest.mark.parametrize(
    ("kind", "line"), [("add", "[add] Foo Bar"), ("remove", "[remove] Foo Bar"), ("set", "[set] Foo Bar")]
)
def test_a_mutation_is_written_with_its_type(kind: str, line: str, caplog: pytest.LogCaptureFixture) -> None:
    mach = am.Machine({"Foo": {}, "Bar": {}}, log_level="ops")
    getattr(mach, kind)(["Foo", "Bar"])
    assert lines(caplog)[0] == line


def test_a_multi_state_that_enters_anew_is_written_as_entering(caplog: pytest.LogCaptureFixture) -> None:
    mach = am.Machine({"Multi": {"multi": True}}, log_level="changes")
    mach.add1("Multi")
    mach.add1("Multi")
    assert lines(caplog) == ["[state] +Multi", "[state] +Multi"]


def test_a_mutation_that_changes_nothing_writes_no_change(caplog: pytest.LogCaptureFixture) -> None:
    mach = am.Machine({"Foo": {}})
    mach.add1("Foo")
    mach.log_level = am.LogLevel.DECISIONS
    mach.add1("Foo")
    assert lines(caplog) == ["[add] Foo"]
    mach.log_level = am.LogLevel.EVERYTHING
    mach.add1("Foo")
    assert lines(caplog) == ["[add] Foo", "[state] Foo"]


def test_a_reject_names_all_called_states_that_are_kept_out(caplog: pytest.LogCaptureFixture) -> None:
    schema = {"Foo": {}, "Bar": {"require": ["Base"]}, "Baz": {"require": ["Base"]}, "Base": {}}
    mach = am.Machine(schema, log_level="ops")
    mach.add(["Baz", "Foo", "Bar"])
    assert lines(caplog) == ["[add] Baz Foo Bar", "[cancel:reject] Baz Bar"]


def test_a_veto_is_written_with_the_target_and_the_handler(caplog: pytest.LogCaptureFixture) -> None:
    mach = am.Machine({"Foo": {}, "Old": {}}, handlers={"FooEnter": lambda e: False})
    mach.add1("Old")
    mach.log_level = am.LogLevel.OPS
    mach.add1("Foo")
    assert lines(caplog) == ["[add] Foo", "[handler] FooEnter", "[cancel] (Foo Old) by FooEnter"]


def test_a_check_that_is_vetoed_writes_so_only_where_checks_are_written(caplog: pytest.LogCaptureFixture) -> None:
    mach = am.Machine({"Foo": {}}, handlers={"FooEnter": lambda e: False}, log_level="ops")
    mach.can_add1("Foo")
    assert lines(caplog) == ["[handler] FooEnter"]
    mach.log_level = am.LogLevel.EVERYTHING
    mach.can_add1("Foo")
    assert lines(caplog) == [
        "[check:add] Foo",
        "[handler] FooEnter",
        "[handler:end] FooEnter of dict",
        "[cancel] (Foo) by FooEnter",
    ]


def test_a_failed_final_phase_writes_what_was_undone(caplog: pytest.LogCaptureFixture) -> None:
    def fail(e: am.Event) -> None:
        raise ValueError("no fuel")

    mach = am.Machine({"Foo": {}, "Old": {}}, handlers={"FooState": fail})
    mach.add1("Old")
    mach.log_level = am.LogLevel.OPS
    mach.set(["Foo"])
    assert lines(caplog) == [
        "[set] Foo",
        "[state] +Foo -Old",
        "[handler] FooState",
        "[prepend:add] Exception",
        "[cancel] (Foo) by FooState",
        "[state] -Foo",
        "[add] Exception",
        f"[source] {mach.id}/1.2/1",
        "[state] +Exception",
        "[error] ValueError('no fuel') in FooState",
    ]


def test_what_handlers_ask_for_is_written_when_queued_and_when_it_runs(caplog: pytest.LogCaptureFixture) -> None:
    mach = am.Machine({"Foo": {}, "Bar": {}, "Baz": {}}, id="mach", log_level="everything")

    def foo_state(e: am.Event) -> None:
        e.machine.add1("Bar", {"id": 1})
        e.machine.add1("Baz")
        e.machine.add1("Baz")
        e.machine.can_remove1("Foo")

    mach.bind_handlers({"FooState": foo_state})
    mach.add1("Foo")
    assert lines(caplog) == [
        "[add] Foo",
        "[state] +Foo",
        "[handler] FooState",
        "[queue:add] Bar",
        "[queue:add] Baz",
        "[queue:skipped] add is queued already: Baz",
        "[prepend:remove] Foo",
        "[handler:end] FooState of dict",
        "[check:remove] Foo",
        "[source] mach/1.1/0",
        "[add] Bar",
        "[source] mach/1.1/0",
        "[state] +Bar Foo",
        "[add] Baz",
        "[source] mach/1.1/0",
        "[state] +Baz Bar Foo",
    ]


def test_the_lines_of_a_check_made_by_a_handler_come_with_everything_alone(caplog: pytest.LogCaptureFixture) -> None:
    mach = am.Machine({"Foo": {}}, handlers={"FooState": lambda e: e.machine.can_remove1("Foo")}, log_level="decisions")
    mach.add1("Foo")
    assert lines(caplog) == ["[add] Foo", "[state] +Foo", "[handler] FooState"]


def test_a_mutation_made_by_another_machine_names_it_as_its_source(caplog: pytest.LogCaptureFixture) -> None:
    inner = am.Machine({"Far": {}}, id="inner", log_level="ops")
    outer = am.Machine({"Go": {}}, id="outer", handlers={"GoState": lambda e: inner.add1("Far")})
    outer.add1("Go")
    assert lines(caplog) == ["[add] Far", "[source] outer/1.1/0", "[state] +Far"]


def test_a_mutation_on_an_idle_machine_is_not_written_as_queued(caplog: pytest.LogCaptureFixture) -> None:
    mach = am.Machine({"Foo": {}}, log_level="everything")
    mach.add1("Foo")
    assert lines(caplog) == ["[add] Foo", "[state] +Foo"]


# Lines of one's own.


def test_a_line_of_ones_own_is_merged_as_logging_does(caplog: pytest.LogCaptureFixture) -> None:
    mach = am.Machine({"Foo": {}}, log_level="external")
    mach.log("fetched %s in %d s", "README.md", 3)
    mach.log("100 %")
    assert lines(caplog) == ["[extern] fetched README.md in 3 s", "[extern] 100 %"]


def test_a_line_of_ones_own_is_not_written_by_a_machine_that_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    am.Machine({"Foo": {}}).log("unheard")
    assert lines(caplog) == []


# Args.


@dataclass
class Conn:
    addr: str
    port: int


@pytest.mark.parametrize(
    ("log_args", "args", "shown"),
    [
        (None, {"id": 1}, ""),
        (["id"], {"id": 1, "name": "foo"}, " (id=1)"),
        (["name", "id"], {"id": 1, "name": "foo"}, " (name=foo id=1)"),
        (("id", "missing"), {"id": 1}, " (id=1)"),
        ("name", {"name": "foo", "n": 1}, " (name=foo)"),
        (["missing"], {"id": 1}, ""),
        (["id"], None, ""),
        (["addr"], Conn("localhost", 80), " (addr=localhost)"),
        (["id"], {"id": None}, " (id=None)"),
        (lambda args: {"sum": args["a"] + args["b"]}, {"a": 1, "b": 2}, " (sum=3)"),
        (lambda args: {}, {"a": 1}, ""),
    ],
)
def test_the_args_that_are_shown_are_chosen_by_names_or_by_a_function(
    log_args: Any, args: Mapping[str, Any] | Conn | None, shown: str, caplog: pytest.LogCaptureFixture
) -> None:
    mach = am.Machine({"Foo": {}}, log_level="ops", log_args=log_args)
    mach.add1("Foo", args)
    assert lines(caplog) == [f"[add] Foo{shown}", f"[state] +Foo{shown}"]


def test_args_are_shown_of_checks_and_of_what_is_queued(caplog: pytest.LogCaptureFixture) -> None:
    mach = am.Machine({"Foo": {}, "Bar": {}}, log_level="everything", log_args=["id"])
    mach.can_add1("Foo", {"id": 1})
    mach.bind_handlers({"FooState": lambda e: e.machine.add1("Bar", {"id": 2})})
    mach.add1("Foo")
    written = lines(caplog)
    assert written[0] == "[check:add] Foo (id=1)"
    assert "[queue:add] Bar (id=2)" in written
    assert "[add] Bar (id=2)" in written


def test_the_error_may_be_shown_as_an_arg(caplog: pytest.LogCaptureFixture) -> None:
    mach = am.Machine({"Foo": {}}, log_level="changes", log_args=["err"], handlers={"ExceptionState": nothing})
    mach.add_err(ValueError("no fuel"))
    assert lines(caplog) == ["[state] +Exception (err=no fuel)"]


def test_long_values_are_cut(caplog: pytest.LogCaptureFixture) -> None:
    mach = am.Machine({"Foo": {}}, log_level="changes", log_args=["text", "more"])
    mach.add1("Foo", {"text": "x" * 20, "more": "y" * 21})
    assert lines(caplog) == [f"[state] +Foo (text={'x' * 20} more={'y' * 19}…)"]


def test_a_function_for_args_that_raises_is_not_the_machines_problem(caplog: pytest.LogCaptureFixture) -> None:
    mach = am.Machine({"Foo": {}}, log_level="ops", log_args=lambda args: {"id": args["id"]})
    assert mach.add1("Foo", {"name": "foo"}).executed
    (record,) = caplog.records
    assert "raised in transition_init and was detached" in record.getMessage()
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], KeyError)
    assert mach.err is None
