"""`am.run`: a program on an event loop of its own, on uvloop where there is one."""

from __future__ import annotations

import asyncio
import sys

import anyio
import pytest
import uvloop

import asyncmachine as am


async def loop_of() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


@pytest.mark.parametrize(("use_uvloop", "on_uvloop"), [(None, True), (True, True), (False, False)])
def test_the_loop_is_that_of_uvloop_unless_told_otherwise(*, use_uvloop: bool | None, on_uvloop: bool) -> None:
    loop = am.run(loop_of, use_uvloop=use_uvloop)
    assert isinstance(loop, uvloop.Loop) is on_uvloop
    assert loop.is_closed()


def test_where_uvloop_is_not_installed_the_loop_is_that_of_asyncio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert isinstance(am.run(loop_of), asyncio.BaseEventLoop)


@pytest.mark.parametrize("use_uvloop", [True, False])
@pytest.mark.parametrize("debug", [True, False])
def test_debug_is_that_of_the_loop(*, use_uvloop: bool, debug: bool) -> None:
    assert am.run(loop_of, use_uvloop=use_uvloop, debug=debug).get_debug() is debug


def test_debug_is_off_unless_asked_for() -> None:
    assert am.run(loop_of).get_debug() is False


def test_args_are_passed_on_and_the_result_is_given_back() -> None:
    async def main(*args: object) -> tuple[object, ...]:
        await asyncio.sleep(0)
        return args

    assert am.run(main, 1, "two", None) == (1, "two", None)


def test_what_main_raises_is_raised() -> None:
    async def main() -> None:
        raise ValueError("no fuel")

    with pytest.raises(ValueError, match=r"^no fuel$"):
        am.run(main)


@pytest.mark.parametrize("use_uvloop", [True, False])
def test_a_machine_lives_on_it_and_what_it_left_undone_ends_with_it(*, use_uvloop: bool) -> None:
    ends: list[str] = []

    async def work() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ends.append("work")

    async def main() -> am.Time:
        mach = am.Machine({"Foo": {}})
        mach.on.state("Foo")(lambda e: e.fork(work) and None)
        mach.add1("Foo")
        await asyncio.sleep(0)
        return await mach.expect("Foo")

    assert am.run(main, use_uvloop=use_uvloop) == am.Time([1])
    assert ends == ["work"]


def test_a_coroutine_in_place_of_the_function_is_refused() -> None:
    # The coroutine is closed, or there would be a warning that it was never awaited.
    for called in (loop_of(), None):
        with pytest.raises(TypeError, match=r"a function and what it is called with, am\.run\(main, \*args\), not "):
            am.run(called)  # type: ignore[arg-type]
