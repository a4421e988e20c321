"""The pytest plugin, run by pytest on small test files of the kind users write."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

import asyncmachine.testing
from asyncmachine import pytest_plugin, recording, rules, testbench

pytest_plugins = ["pytester"]

# Runs within this one take modules anew that were not imported before, and leave none behind.
LOADED = (asyncmachine.testing, testbench, pytest_plugin, recording, rules)
PLUGIN = "asyncmachine.pytest_plugin"
ROOT = Path(__file__).parent.parent

SERVICE = """
    import asyncio
    import anyio
    import pytest
    import asyncmachine as am

    SCHEMA = {"Start": {}, "Ready": {"require": ["Start"]}, "Broken": {}}
    told = []

    class Service:
        def StartState(self, e):
            e.machine.add1("Ready")

        def StartEnd(self, e):
            try:
                told.append(f"{type(asyncio.get_running_loop()).__module__} says goodbye")
            except RuntimeError:
                told.append("goodbye without a loop")

        async def ReadyState(self, e):
            try:
                await anyio.sleep_forever()
            finally:
                told.append("work ends")

        async def BrokenState(self, e):
            raise OSError("cable cut")
"""

Run = Callable[..., pytest.RunResult]


@pytest.fixture
def run(pytester: pytest.Pytester) -> Run:
    """Run pytest, with the plugin, on a file of tests; all of them are to end as said."""

    def run(*tests: str, mode: str = "auto", args: tuple[str, ...] = (), **ends: int) -> pytest.RunResult:
        of_asyncio = f"asyncio_mode = {mode}\nasyncio_default_fixture_loop_scope = function\n"
        pytester.makeini(f"[pytest]\nfilterwarnings = error\n{'' if mode == 'none' else of_asyncio}")
        pytester.makepyfile("\n".join(map(_dedented, (SERVICE, *tests))))
        result = pytester.runpytest_inprocess("-p", PLUGIN, "-p", "no:cacheprovider", *_without(mode, args), *args)
        result.assert_outcomes(**ends)
        return result

    return run


def _without(mode: str, args: tuple[str, ...]) -> tuple[str, ...]:
    plugins = ["looptime_plugin"] * ("--looptime" not in args) + ["asyncio"] * (mode == "none")
    return tuple(arg for plugin in plugins for arg in ("-p", f"no:{plugin}"))


def _dedented(text: str) -> str:
    lines = text.strip("\n").splitlines()
    margin = len(lines[0]) - len(lines[0].lstrip())
    return "\n".join(line[margin:] for line in lines) + "\n"


def section(result: pytest.RunResult) -> list[str]:
    """Give the lines of the first section about machines."""
    lines = result.outlines
    begin = next(i for i, line in enumerate(lines) if " machines -" in line) + 1
    end = next(i for i in range(begin, len(lines)) if lines[i][:3] in {"---", "===", "___"})
    return lines[begin:end]


# Building and disposing.


def test_the_fixture_builds_machines_with_all_arguments_of_the_class(run: Run) -> None:
    run(
        """
        def test_it(machine):
            first, second = machine(SCHEMA), machine(SCHEMA)
            named = machine(SCHEMA, id="door", handlers=Service(), tags=["t"], parent=first, queue_limit=3)
            assert [mach.id for mach in machine.machines] == ["machine", "machine2", "door"]
            assert isinstance(named, am.Machine) and type(named).__name__ == "Machine"
            assert named.handlers == ("Service",) and named.tags == ("t",) and first.children == (named,)
            assert repr(first) == "<Machine machine ()>"

        def test_bad_arguments_are_refused_as_ever(machine):
            with pytest.raises(am.SchemaError):
                machine({"Foo": {"require": ["Bar"]}})
            assert machine.machines == ()
        """,
        passed=2,
    )


GOODBYE = """
    def test_before_was_disposed_in_order():
        assert told == ["work ends", "asyncio.unix_events says goodbye"]
        assert all(mach.is_disposed for mach in made)
"""

MARKS = {
    "auto": "import pytest_asyncio\nfixture, mark = pytest.fixture, lambda test: test",
    "strict": "import pytest_asyncio\nfixture, mark = pytest_asyncio.fixture, pytest.mark.asyncio",
    "anyio": "fixture = pytest.fixture\n"
    "def mark(test): return pytest.mark.anyio(pytest.mark.parametrize('anyio_backend', ['asyncio'])(test))",
}
MODES = {"auto": "auto", "strict": "strict", "anyio": "none"}
plugins = pytest.mark.parametrize("plugin", MARKS)


@plugins
@pytest.mark.parametrize(
    "test",
    [
        """
        made = []

        @mark
        async def test_one_that_builds_it(machine):
            mach = machine(SCHEMA, handlers=Service())
            mach.add1("Start")
            await mach.expect("Ready")
            await anyio.sleep(0)
            made.append(mach)
        """,
        """
        made = []

        @fixture
        async def service(machine):
            mach = machine(SCHEMA, handlers=Service())
            mach.add1("Start")
            await mach.expect("Ready")
            yield mach
            assert mach.is1("Ready") and not told     # what came later ends first
            made.append(mach)

        @mark
        async def test_one_with_an_async_fixture(service):
            assert service.is1("Ready")
            await anyio.sleep(0)
        """,
        """
        made = []

        @pytest.fixture
        def service(machine):
            mach = machine(SCHEMA, handlers=Service())
            made.append(mach)
            return mach

        @mark
        async def test_one_with_a_plain_fixture(service):
            service.add1("Start")
            await anyio.sleep(0)
        """,
        """
        made = []

        class Tests:
            @mark
            async def test_one_in_a_class(self, machine):
                made.append(machine(SCHEMA, handlers=Service()))
                made[0].fork(anyio.sleep_forever)     # binds it without a mutation
                made[0].add1("Start")
                await anyio.sleep(0)
        """,
    ],
    ids=["test", "async fixture", "plain fixture", "class"],
)
def test_machines_are_disposed_on_the_loop_they_live_on(run: Run, plugin: str, test: str) -> None:
    run(MARKS[plugin], test, GOODBYE, mode=MODES[plugin], passed=2)


@pytest.mark.parametrize("scope", ["class", "module", "package", "session"])
def test_machines_are_disposed_on_loops_that_last_longer_than_the_test(run: Run, scope: str) -> None:
    run(
        f"""
        import pytest_asyncio
        made = []
        pytestmark = pytest.mark.asyncio(loop_scope="{scope}")

        @pytest_asyncio.fixture(loop_scope="{scope}")
        async def service(machine):
            mach = machine(SCHEMA, handlers=Service())
            mach.add1("Start")
            await mach.expect("Ready")
            yield mach
            assert mach.is1("Ready") and not told
            made.append(mach)

        class Tests:
            async def test_one(self, service):
                await service.expect("Ready")

            async def test_before_was_disposed_in_order(self):
                assert told == ["asyncio.unix_events says goodbye", "work ends"]
                assert made[0].is_disposed
        """,
        passed=2,
    )


def test_machines_are_disposed_on_uvloop_and_with_eager_tasks(run: Run, pytester: pytest.Pytester) -> None:
    eager = sys.version_info >= (3, 12)
    pytester.makeconftest(
        f"""
        import asyncio, uvloop

        def eager():
            loop = asyncio.new_event_loop()
            loop.set_task_factory(asyncio.eager_task_factory)
            return loop

        def pytest_asyncio_loop_factories(config, item):
            factories = {{"uvloop": uvloop.new_event_loop}}
            return factories | {{"eager": eager}} if {eager} else factories
        """
    )
    run(
        """
        made = []

        async def test_one(machine):
            mach = machine(SCHEMA, handlers=Service())
            mach.add1("Start")
            await anyio.sleep(0)
            made.append(mach)

        def test_both_were_disposed():
            assert told[:2] == ["work ends", "uvloop says goodbye"] and len(told) == 2 * len(made)
            assert all(mach.is_disposed for mach in made)
        """,
        passed=3 if eager else 2,
    )


def test_machines_need_no_loop(run: Run) -> None:
    run(
        """
        made = []

        def test_one(machine):
            made.append(machine(SCHEMA, handlers={"StartEnd": Service().StartEnd}))
            made[0].add1("Start")

        def test_it_was_disposed():
            assert told == ["goodbye without a loop"] and made[0].is_disposed
        """,
        passed=2,
    )


def test_a_plain_test_may_run_loops_of_its_own(run: Run) -> None:
    run(
        """
        made = []

        def test_one(machine):
            async def main():
                mach = machine(SCHEMA, handlers=Service())
                mach.add1("Start")
                await anyio.sleep(0)
                made.append(mach)

            anyio.run(main)
            assert told == ["work ends", "asyncio.unix_events says goodbye"]
            asyncio.run(main())
            assert len(told) == 4 and all(mach.is_disposed for mach in made)
        """,
        passed=1,
    )


def test_a_loop_in_another_thread_disposes_its_machines_itself(run: Run) -> None:
    run(
        """
        import threading

        @pytest.fixture
        def loop():
            loop = asyncio.new_event_loop()
            thread = threading.Thread(target=loop.run_forever)
            thread.start()
            yield loop
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

        def test_one(loop, machine):
            mach = machine(SCHEMA, handlers=Service())

            async def start():
                mach.add1("Start")
                await anyio.sleep(0)

            asyncio.run_coroutine_threadsafe(start(), loop).result()

        def test_it_was_disposed_there():
            assert told == ["asyncio.unix_events says goodbye", "work ends"]
        """,
        passed=2,
    )


def test_a_loop_that_is_closed_without_more_ado_leaves_its_machines_to_the_fixture(run: Run) -> None:
    run(
        """
        made = []

        def test_one(machine):
            loop = asyncio.new_event_loop()

            async def main():
                mach = machine(SCHEMA, handlers={"StartEnd": Service().StartEnd})
                mach.add1("Start")
                mach.when1("Ready")
                made.append(mach)

            loop.run_until_complete(main())
            loop.close()
            assert not made[0].is_disposed

        def test_it_was_disposed():
            assert told == ["goodbye without a loop"] and made[0].is_disposed
        """,
        passed=2,
    )


def test_fixtures_of_wider_scope_make_machines_that_last_longer(run: Run) -> None:
    run(
        """
        pytestmark = pytest.mark.asyncio(loop_scope="module")

        @pytest.fixture(scope="module")
        def service(module_machine):
            return module_machine(SCHEMA, handlers=Service())

        async def test_one(service):
            service.add1("Start")
            await service.expect("Ready")

        async def test_two(service, session_machine):
            await service.expect("Ready")
            assert told == []
            assert service.id == "module_machine"
            assert session_machine(SCHEMA).id == "session_machine"
        """,
        passed=2,
    )


def test_a_machine_that_others_built_is_watched(run: Run) -> None:
    result = run(
        """
        class Door(am.Machine):
            def open(self):
                return self.add1("Start")

        made = []

        async def test_one(machine):
            door = machine.watch(Door(SCHEMA, id="door", handlers=Service()))
            assert machine.watch(door) is door and machine.machines == (door,)
            assert type(door).__name__ == "Door" and isinstance(door, Door)
            door.open()
            await anyio.sleep(0)
            made.append(door)

        def test_it_was_disposed():
            assert told == ["work ends", "asyncio.unix_events says goodbye"] and made[0].is_disposed

        async def test_two(machine):
            machine.watch(Door(SCHEMA, id="door")).open()
            assert False
        """,
        passed=2,
        failed=1,
    )
    assert section(result)[0] == "door: (Start:1) [Ready:0 Broken:0 Exception:0]"


def test_submachines_are_watched_with_their_parent(run: Run) -> None:
    result = run(
        """
        class Pool:
            def StartState(self, e):
                am.Machine(SCHEMA, id="worker", parent=e.machine).add1("Broken")

        def test_one(machine):
            machine(SCHEMA, id="pool", handlers=Pool()).add1("Start")
            assert False
        """,
        failed=1,
    )
    assert section(result) == [
        "pool: (Start:1) [Ready:0 Broken:0 Exception:0]",
        "  its last transitions:",
        "    add Start: +Start",
        "worker: (Broken:1) [Start:0 Ready:0 Exception:0]",
        "  its last transitions:",
        "    add Broken: +Broken",
    ]


def test_a_fixture_of_the_users_own_takes_its_place(run: Run) -> None:
    run(
        """
        @pytest.fixture
        def machine():
            return "mine"

        def test_one(machine):
            assert machine == "mine"
        """,
        passed=1,
    )


def test_a_fixture_may_build_on_it(run: Run) -> None:
    run(
        """
        @pytest.fixture
        def machine(machine):
            return machine(SCHEMA)

        def test_one(machine):
            assert machine.add1("Start")
        """,
        passed=1,
    )


# What is used too late.


def test_a_machine_that_has_outlived_its_loop_says_so(run: Run) -> None:
    result = run(
        """
        @pytest.fixture(scope="module")
        def service(module_machine):
            return module_machine(SCHEMA, id="service", handlers=Service())

        async def test_one(service):
            service.add1("Start")
            await service.expect("Ready")

        @pytest.mark.parametrize("use", [
            lambda mach: mach.add1("Start"),
            lambda mach: mach.when1("Ready"),
            lambda mach: mach.fork(print),
            lambda mach: mach.state_ctx("Ready"),
        ])
        async def test_two(service, use):
            use(service)

        def test_without_a_loop_it_is_a_disposed_machine(service):
            assert service.add1("Start").reason == "disposed"
        """,
        passed=2,
        failed=4,
    )
    told = "*MachineLoopError: the machine service was disposed when the event loop it lived on was closed, *"
    result.stdout.fnmatch_lines([f"{told}; build a machine for each test, or *, as with loop_scope=*module*"])


def test_a_fixture_that_has_ended_makes_no_more_machines(run: Run) -> None:
    run(
        """
        kept = []

        def test_one(machine):
            kept.append(machine)

        @pytest.mark.parametrize("use", [lambda late: late(SCHEMA), lambda late: late.watch(am.Machine(SCHEMA))])
        def test_two(use):
            with pytest.raises(am.MachineDisposedError, match="the fixture `machine` has ended.*`module_machine`"):
                use(kept[0])
        """,
        passed=3,
    )


# Reports.


def test_the_report_of_a_failed_test_tells_of_its_machines(run: Run) -> None:
    result = run(
        """
        class Door:
            def StartEnter(self, e):
                return e.args.get("key") == "valid"

        async def test_one(machine):
            door = machine({"Start": {}, "Ready": {"auto": True, "require": ["Start"]}}, id="door", handlers=Door())
            idle = machine(SCHEMA, id="idle")
            door.add1("Start")
            door.add1("Start", {"key": "valid"})
            door.add_err(OSError("cable cut"))
            door.when_not1("Ready")
            door.fork(anyio.sleep_forever)
            assert door.not1("Ready")
        """,
        failed=1,
    )
    assert section(result) == [
        "door: (Start:1 Ready:1 Exception:1) []",
        "  its error: OSError('cable cut')",
        "  pending: waits 1, work 1",
        "  its last transitions:",
        "    add Start: canceled (vetoed by StartEnter of Door)",
        "    add Start: +Start",
        "    auto: +Ready",
        "    add Exception: +Exception (OSError('cable cut'))",
        "idle: () [Start:0 Ready:0 Broken:0 Exception:0]",
        "  it did nothing",
    ]


def test_only_the_last_of_many_transitions_are_shown(run: Run) -> None:
    result = run(
        """
        def test_one(machine):
            mach = machine(SCHEMA)
            for _ in range(150):
                mach.toggle1("Start")
            assert False
        """,
        failed=1,
    )
    lines = section(result)
    assert lines[1] == "  its last transitions (of 150):"
    assert lines[2:] == ["    add Start: +Start", "    remove Start: -Start"] * 5


def test_what_passes_has_no_section(run: Run) -> None:
    result = run(
        """
        def test_one(machine):
            machine(SCHEMA)
        """,
        args=("-rA",),
        passed=1,
    )
    result.stdout.no_fnmatch_line("*- machines -*")


def test_what_fails_without_machines_has_no_section(run: Run) -> None:
    result = run(
        """
        def test_one(machine):
            assert False
        """,
        failed=1,
    )
    result.stdout.no_fnmatch_line("*- machines -*")


@plugins
def test_the_report_tells_of_the_machine_as_it_was_before_it_was_disposed(run: Run, plugin: str) -> None:
    result = run(
        MARKS[plugin],
        """
        @mark
        async def test_one(machine):
            mach = machine(SCHEMA, handlers=Service())
            mach.add1("Start")
            await mach.expect("Ready")
            assert False
        """,
        mode=MODES[plugin],
        failed=1,
    )
    assert section(result)[0] == "machine: (Start:1 Ready:1) [Broken:0 Exception:0]"


def test_failures_of_fixtures_have_the_section_too(run: Run) -> None:
    result = run(
        """
        @pytest.fixture
        def early(machine):
            machine(SCHEMA, id="early")
            raise OSError

        @pytest.fixture
        def late(machine):
            machine(SCHEMA, id="late")
            yield
            raise OSError

        def test_one(early):
            pass

        def test_two(late):
            pass
        """,
        passed=1,
        errors=2,
    )
    result.stdout.fnmatch_lines(["early: () [[]Start:0 *", "late: () [[]Start:0 *"])


def test_a_report_is_no_concern_of_the_next_test(run: Run) -> None:
    result = run(
        """
        def test_one(machine):
            machine(SCHEMA, id="first")

        def test_two():
            assert False
        """,
        passed=1,
        failed=1,
    )
    result.stdout.no_fnmatch_line("*- machines -*")


def test_a_wait_in_vain_shows_the_line_of_the_test_and_not_those_of_the_package(run: Run) -> None:
    result = run(
        """
        async def test_one(machine):
            await machine(SCHEMA).expect("Start", timeout=0)
        """,
        failed=1,
    )
    result.stdout.fnmatch_lines(
        [">*await machine(SCHEMA).expect(*", "E *Start not active within 0 s*", "*test_*.py:*: TimeoutError"]
    )
    result.stdout.no_fnmatch_line("*Wait until all of the states are active*")


def test_a_recording_that_differs_is_shown_as_a_diff(run: Run) -> None:
    result = run(
        """
        from asyncmachine.testing import record

        def test_one(machine):
            mach = machine(SCHEMA)
            rec = record(mach)
            mach.add1("Start")
            assert rec == ["add Start: +Start", "add Ready: +Ready"]

        def test_others_compare_as_ever(machine):
            assert record(machine(SCHEMA)) != []

        def test_others_too():
            assert [1] == [2]
        """,
        failed=3,
    )
    result.stdout.fnmatch_lines(
        [
            "E       assert machine did not do what was expected (- expected, + happened):",
            "E             add Start: +Start",
            "E           - add Ready: +Ready",
        ]
    )


# Errors nobody looked at.


BROKEN = """
    @pytest.fixture
    def mach(machine):
        return machine(SCHEMA, id="radio", handlers=Service())

    async def broken(mach):
        mach.add1("Broken")
        for _ in range(5):
            await asyncio.sleep(0)
"""


def test_an_error_nobody_looked_at_fails_the_test(run: Run) -> None:
    result = run(
        BROKEN,
        """
        async def test_one(mach):
            await broken(mach)
            assert mach.is1("Broken")
        """,
        failed=1,
    )
    result.stdout.fnmatch_lines(
        [
            "radio has an error nobody looked at: OSError('cable cut') in BrokenState",
            "Look at it in the test: read mach.err, *",
            "Traceback (most recent call last):",
            '*raise OSError("cable cut")',
            "OSError: cable cut",
            "*- machines -*",
            "radio: (Broken:1 Exception:1) [[]Start:0 Ready:0]",
        ]
    )


def test_the_last_of_several_is_told(run: Run) -> None:
    result = run(
        BROKEN,
        """
        def test_one(mach):
            mach.add_err(OSError("first"))
            mach.add_err(OSError("second"))
        """,
        failed=1,
    )
    result.stdout.fnmatch_lines(["radio has an error nobody looked at: OSError('second') (the last of 2)"])


@pytest.mark.parametrize(
    "look",
    [
        "assert isinstance(mach.err, OSError)",
        "assert mach.is_err",
        "from asyncmachine.testing import assert_states; assert_states(mach, 'Broken', 'Exception')",
        "mach.remove1('Exception')",
        "assert str(await mach.when_err()) == 'cable cut'",
        "with pytest.raises(OSError): await mach.expect('Ready')",
        "with pytest.raises(OSError): await mach.wait_all(mach.when1('Ready'))",
        "with pytest.raises(OSError): await mach.wait_any(mach.when1('Ready'))",
    ],
)
def test_an_error_is_looked_at_by_whoever_asks_for_it(run: Run, look: str) -> None:
    run(
        BROKEN,
        f"""
        async def test_one(mach):
            await broken(mach)
            {look}
        """,
        passed=1,
    )


@pytest.mark.parametrize(
    "handler",
    [
        "mach.bind_handlers({'ExceptionState': lambda e: None})",
        "mach.on_error(lambda mach, err: None)",
        "mach.bind_handlers({'ExceptionState': handle})",
    ],
)
def test_an_error_is_looked_at_by_whoever_handles_it(run: Run, handler: str) -> None:
    run(
        BROKEN,
        f"""
        async def handle(e):
            pass

        async def test_one(mach):
            {handler}
            await broken(mach)
        """,
        passed=1,
    )


@pytest.mark.parametrize(
    "miss",
    [
        "mach.is1('Broken'), str(mach), mach.can_remove1('Exception')",
        "mach.on_error(lambda mach, err: None), mach.on_error(None), mach.add_err(OSError('again'))",
        "await mach.expect('Broken')",
        "await mach.wait_all(mach.when1('Broken'))",
        "with pytest.raises(TimeoutError): await mach.expect('Exception', 'Ready', timeout=0)",
        "_ = mach.err; mach.add_err(OSError('another'))",
        "mach.bind_handlers({'ExceptionState': lambda e: 1 / 0}); mach.add_err(OSError('another'))",
    ],
)
def test_nobody_has_looked_at_it_who_asks_for_something_else(run: Run, miss: str) -> None:
    result = run(
        BROKEN,
        f"""
        async def test_one(mach):
            await broken(mach)
            {miss}
        """,
        failed=1,
    )
    result.stdout.fnmatch_lines(["radio has an error nobody looked at: *"])


def test_nobody_has_looked_at_it_who_gave_up_waiting_for_it(run: Run) -> None:
    run(
        BROKEN,
        """
        async def test_one(mach):
            mach.when_err().cancel()
            await broken(mach)
        """,
        failed=1,
    )


def test_a_test_that_fails_by_itself_fails_once(run: Run) -> None:
    result = run(
        BROKEN,
        """
        async def test_one(mach):
            await broken(mach)
            assert False

        async def test_two(mach):
            await broken(mach)
            pytest.skip("not today")
        """,
        failed=1,
        skipped=1,
    )
    assert "  its error: OSError('cable cut')" in section(result)


def test_an_error_on_the_way_out_is_one_of_the_teardown(run: Run) -> None:
    result = run(
        """
        def test_one(machine):
            machine(SCHEMA, handlers={"StartEnd": lambda e: 1 / 0}).add1("Start")
        """,
        passed=1,
        errors=1,
    )
    result.stdout.fnmatch_lines(["machine has an error nobody looked at: ZeroDivisionError*) in StartEnd"])


def test_an_error_of_a_longer_life_fails_the_test_it_came_in(run: Run) -> None:
    result = run(
        """
        @pytest.fixture(scope="module")
        def mach(module_machine):
            return module_machine(SCHEMA)

        def test_one(mach):
            pass

        def test_two(mach):
            mach.add_err(OSError("cable cut"))

        def test_three(mach):
            pass
        """,
        passed=2,
        failed=1,
    )
    result.stdout.fnmatch_lines(["FAILED *::test_two*"])


# Registration.


def test_it_is_registered_under_the_name_it_is_loaded_by() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {PLUGIN: PLUGIN}


def test_it_may_be_loaded_in_any_number_of_ways(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    package = pytester.mkdir("site") / "installed-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: installed\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text(f"[pytest11]\n{PLUGIN} = {PLUGIN}\n")
    monkeypatch.setenv("PYTHONPATH", f"{package.parent}:{Path(asyncmachine.__file__).parent.parent}")
    pytester.makeini("[pytest]")  # or pytest takes that of whatever project the temporary folder lies in
    pytester.makepyfile("def test_one(machine): machine({'Foo': {}})")
    options = ("-p", "no:cacheprovider", "-p", "no:looptime_plugin", "-p", "no:asyncio")
    pytester.runpytest_subprocess(*options).assert_outcomes(passed=1)
    pytester.runpytest_subprocess("-p", PLUGIN, *options).assert_outcomes(passed=1)
    pytester.makeconftest(f"pytest_plugins = ['{PLUGIN}']")
    pytester.runpytest_subprocess("-p", PLUGIN, *options).assert_outcomes(passed=1)


def test_loading_it_loads_nothing_that_is_not_used_yet() -> None:
    code = f"""
import sys, {PLUGIN}
late = {{"testbench", "testing", "recording", "settling", "rules"}}
assert not late & {{name.rpartition(".")[2] for name in sys.modules if name.startswith("asyncmachine.")}}
assert "hypothesis" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)  # noqa: S603 - this very file's words


# Virtual time.


def test_hours_pass_at_once_with_looptime(run: Run) -> None:
    run(
        """
        from asyncmachine.testing import assert_states, record, settle

        class Nightly:
            async def StartState(self, e):
                await anyio.sleep(3600 * 5)
                e.machine.add1("Ready")

        async def test_work_that_sleeps(machine, looptime):
            mach = machine(SCHEMA, handlers=Nightly())
            mach.add1("Start")
            await settle(mach)                          # no time passes by settling
            assert looptime == 0
            assert_states(mach, "Start")
            await mach.expect("Ready", timeout=3600 * 6)
            assert looptime == 3600 * 5

        async def test_what_is_forked_later(machine, looptime):
            mach = machine(SCHEMA)
            mach.fork(be_ready, mach, delay=3600)
            with pytest.raises(TimeoutError, match="Ready not active within 1800 s"):
                await mach.expect("Ready", timeout=1800)
            assert looptime == 1800
            mach.add1("Start")
            await mach.expect("Ready", timeout=3600)
            assert looptime == 3600

        async def be_ready(mach):
            mach.add1("Ready")

        async def test_work_left_in_the_middle(machine, looptime):
            mach = machine(SCHEMA, handlers=Nightly())
            rec = record(mach)
            mach.add1("Start")
            await anyio.sleep(3600)
            mach.remove1("Start")
            await anyio.sleep(3600 * 24)
            assert rec == ["add Start: +Start", "remove Start: -Start"]
        """,
        args=("--looptime",),
        passed=3,
    )
