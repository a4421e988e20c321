"""The pytest plugin: machines that are looked after. It is registered with the package; there is nothing to switch on.

- The fixture `machine` builds machines, with the arguments of `Machine`, or watches those that others built
  (`machine.watch(service.mach)`). It disposes them when the test is over, on the loop they live on.
- A test in which a machine came to an error that nobody looked at fails.
- The report of a test that fails has a section with each machine's state and its last transitions.

`module_machine` and `session_machine` do the same for fixtures that last longer. All three are plain fixtures, for
tests of any kind: pytest-asyncio in either mode, anyio's plugin, and plain functions.

There are no assertions here for pytest to rewrite, and it should not mind that the module was imported: that is what
PYTEST_DONT_REWRITE says.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any, cast

import pytest

if TYPE_CHECKING:
    from asyncmachine.testbench import Bench

__all__ = ["machine", "module_machine", "session_machine"]

_BENCHES = pytest.StashKey["list[Bench]"]()
"""Those whose fixtures live now."""


def _benches(config: pytest.Config) -> list[Bench]:
    return config.stash.setdefault(_BENCHES, [])


def _bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    from asyncmachine.testbench import Bench  # noqa: PLC0415 - a run without machines should not pay for it

    bench = Bench(str(request.fixturename))
    _benches(request.config).append(bench)
    yield bench
    bench.close()
    _fail_if_unseen([bench])


@pytest.fixture
def machine(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """Build machines as `Machine` does; they are watched, and disposed after the test."""
    yield from _bench(request)


@pytest.fixture(scope="module")
def module_machine(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """Build machines as `Machine` does; they are watched, and disposed after the last test of the module."""
    yield from _bench(request)


@pytest.fixture(scope="session")
def session_machine(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """Build machines as `Machine` does; they are watched, and disposed after the last test of all."""
    yield from _bench(request)


def _fail_if_unseen(benches: list[Bench]) -> None:
    texts = [text for bench in benches for text in bench.take_unseen()]
    if texts:
        pytest.fail("\n".join(texts), pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Fail a test that passed over an error; one that fails anyway shows it in its report."""
    try:
        result = yield
    except BaseException:
        for bench in _benches(item.config):
            bench.take_unseen()
        raise
    _fail_if_unseen(_benches(item.config))
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the section with the machines to the report of what failed."""
    report = yield
    benches = _benches(item.config)
    if report.failed:
        told = "\n".join(text for bench in benches if (text := bench.report()))
        if told:
            report.sections.append(("machines", told))
    if call.when == "teardown":
        benches[:] = [bench for bench in benches if not bench.is_closed]
    return report


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """Show `assert recording == [...]` as a diff."""
    if op != "==" or "asyncmachine.recording" not in sys.modules:
        return None
    from asyncmachine.recording import Recording  # noqa: PLC0415 - it is there already

    if not isinstance(left, Recording) or not isinstance(right, list):
        return None
    return [
        f"{left.machine.id} did not do what was expected (- expected, + happened):",
        *left.diff(cast("list[str]", right)),
    ]
