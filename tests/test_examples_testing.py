"""What the page and the example about testing show, run by pytest as users would run it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

import asyncmachine.testing
from asyncmachine import rules

pytest_plugins = ["pytester"]

# Runs within this one take modules anew that were not imported before, and leave none behind.
LOADED = (asyncmachine.testing, rules)
ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "testing.md").read_text()
OPTIONS = ("-p", "asyncmachine.pytest_plugin", "-p", "no:cacheprovider")
INI = "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\nfilterwarnings = error\n"


def files() -> dict[str, str]:
    """Give the files of tests that the page shows; a block begins with the name of its file."""
    found: dict[str, str] = {}
    for block in re.findall(r"^```python\n(# test_\w+\.py.*?)^```", PAGE, re.DOTALL | re.MULTILINE):
        name = re.match(r"# (\w+)\.py", block)[1]
        found[name] = found.get(name, "") + block
    return found


ENDS = {
    "test_boiler": {"passed": 2},
    "test_service": {"passed": 1},
    "test_pump": {"passed": 1, "failed": 1},
    "test_shared": {"passed": 2},
    "test_night": {"passed": 1},
    "test_explored": {"passed": 1},
}


def test_all_files_of_the_page_are_run() -> None:
    assert set(files()) == set(ENDS)


@pytest.mark.parametrize("name", ENDS)
def test_the_tests_of_the_page_end_as_it_says(pytester: pytest.Pytester, name: str) -> None:
    pytester.makeini(INI)
    pytester.makepyfile(**{name: files()[name]})
    # For plain tests looptime makes loops that it does not close.
    without = () if name == "test_night" else ("-p", "no:looptime_plugin")
    pytester.runpytest_inprocess(*OPTIONS, *without).assert_outcomes(**ENDS[name])


def test_the_report_of_the_page_is_what_pytest_says(pytester: pytest.Pytester) -> None:
    pytester.makeini(INI)
    pytester.makepyfile(test_pump=files()["test_pump"])
    (told,) = re.findall(r"^```text\n(E .*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    shown = [line for line in told.splitlines() if line]
    result = pytester.runpytest_inprocess(*OPTIONS)
    result.stdout.fnmatch_lines([re.sub(r"([\[\]])", r"[\1]", line) for line in shown])


def test_the_example_passes(pytester: pytest.Pytester) -> None:
    pytester.makeini(INI)
    pytester.makepyfile(test_service=(ROOT / "examples" / "testing_a_service.py").read_text())
    pytester.runpytest_inprocess(*OPTIONS).assert_outcomes(passed=6)


def test_the_example_fails_if_the_service_is_broken(pytester: pytest.Pytester) -> None:
    source = (ROOT / "examples" / "testing_a_service.py").read_text()
    pytester.makeini(INI)
    pytester.makepyfile(test_service=source.replace("range(1, ATTEMPTS + 1)", "range(1, ATTEMPTS)"))
    result = pytester.runpytest_inprocess(*OPTIONS)
    result.assert_outcomes(passed=4, failed=2)
    result.stdout.fnmatch_lines(["*- machines -*", "uploads: (Start:1 Online:1 Uploaded:1) *"])


def test_the_example_is_a_program_that_leaves_the_settings_around_it_alone(
    monkeypatch: pytest.MonkeyPatch, pytester: pytest.Pytester
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(asyncmachine.__file__).parent.parent))
    pytester.makeini("[pytest]\naddopts = --strict-config\noption_of_a_plugin_that_is_not_installed = 1\n")
    script = pytester.makepyfile(testing_a_service=(ROOT / "examples" / "testing_a_service.py").read_text())
    result = pytester.run(sys.executable, script, "-q", "-p", "no:cacheprovider", "-k", "sent")
    result.assert_outcomes(passed=2)
    assert result.ret == 0
