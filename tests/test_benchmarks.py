"""The benchmarks stay alive: every question is answered, once and small; how fast anything is, no test asks."""

from __future__ import annotations

import asyncio
import functools
import gc
import importlib.metadata
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import _picture
import _questions
import _report
import _rivals
import pytest
from _floor import Floor
from _harness import SMOKE, Answer, Case, Effort, Goal, Lab, Mark, Question, measure, spread, timed

import asyncmachine as am

BENCHMARKS = Path(_questions.__file__).parent
QUESTIONS = _questions.questions()


@functools.cache
def answers_to(question: Question) -> list[Answer]:
    """Answer a question, once for all tests."""
    return measure(question, SMOKE)


@pytest.fixture
def answered() -> list[tuple[Question, list[Answer]]]:
    """Give all questions with their answers."""
    return [(question, answers_to(question)) for question in QUESTIONS]


# Questions.


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.text)
def test_a_question_is_answered_by_all_its_cases(question: Question) -> None:
    answers = answers_to(question)
    assert len({answer.case.name for answer in answers}) == len(answers)
    for answer in answers:
        assert answer.value > 0
        assert (answer.ratio is None) == (not answer.case.against)


def test_every_file_asks_a_question_and_says_so_first() -> None:
    files = {path.stem: path for path in BENCHMARKS.glob("[a-z]*.py")}
    assert set(files) == set(_questions.MODULES)
    for path in files.values():
        assert re.match(r'"""[A-Z][^.!"]+\?\n', path.read_text()), path.name


def test_each_file_runs_alone_and_so_do_all_together() -> None:
    for path in (BENCHMARKS, BENCHMARKS / "toggle.py"):
        shown = subprocess.run(  # noqa: S603 - our own program
            [sys.executable, path, "--help"],
            env={"PYTHONPATH": str(Path(am.__file__).parent.parent)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert "--quick" in shown.stdout


# Contestants.


class Counting(_rivals.Callbacks):
    def __init__(self) -> None:
        self.guards = self.acts = 0

    def guard(self) -> bool:
        self.guards += 1
        return True

    def act(self) -> None:
        self.acts += 1


class AsyncCounting(Counting):
    async def guard(self) -> bool:
        return super().guard()

    async def act(self) -> None:
        super().act()


def test_the_rivals_that_are_installed_do_the_same_work() -> None:
    for rival in _rivals.installed(_rivals.SYNC):
        callbacks = Counting()
        run = rival.make(callbacks)
        callbacks.acts = 0  # entering the first state
        run(10)
        assert (callbacks.guards, callbacks.acts) == (10, 30), rival.name


def test_the_asynchronous_rivals_that_are_installed_do_the_same_work() -> None:
    for rival in _rivals.installed(_rivals.ASYNC):
        callbacks = AsyncCounting()
        run = rival.make(callbacks)
        with asyncio.Runner() as runner:
            runner.run(run(0))
            callbacks.acts = 0
            runner.run(run(10))
        assert (callbacks.guards, callbacks.acts) == (10, 30), rival.name


class Recording:
    """Four handlers for each toggle, for our machine and for the floor."""

    def __init__(self) -> None:
        self.called: list[str] = []
        self.answer = True

    def AExit(self, e: Any) -> bool:
        self.called.append("AExit")
        return self.answer

    def BEnter(self, e: Any) -> bool:
        self.called.append("BEnter")
        return True

    def AEnd(self, e: Any) -> None:
        self.called.append("AEnd")

    def BState(self, e: Any) -> None:
        self.called.append("BState")


def toggled(handlers: object) -> am.Machine:
    return am.Machine({"A": {"remove": ["B"]}, "B": {"remove": ["A"]}}, handlers=handlers)


def floor(handlers: object) -> Floor:
    return Floor(handlers=handlers)


@pytest.mark.parametrize("make", [toggled, floor])
def test_the_floor_calls_the_handlers_that_a_machine_calls(make: Callable[[object], Any]) -> None:
    handlers = Recording()
    mach = make(handlers)
    mach.add1("A")
    mach.add1("B")
    assert handlers.called == ["AExit", "BEnter", "AEnd", "BState"]


def test_the_floor_heeds_a_veto() -> None:
    handlers = Recording()
    handlers.answer = False
    mach = floor(handlers)
    mach.add1("A")
    assert mach.add1("B") == "canceled"
    assert (mach.active, mach.clock, handlers.called) == (("A",), [1, 0], ["AExit"])


def test_the_floor_moves_its_clocks_and_tells_who_waits() -> None:
    async def main() -> int:
        mach = Floor()
        assert [mach.add1("A"), mach.toggle1("A", "B"), mach.toggle1("A", "B")] == ["executed"] * 3
        active = mach.when1("B")
        assert not active.done()
        mach.add1("B")
        assert (mach.active, mach.clock) == (("B",), [4, 3])
        return await active

    with asyncio.Runner() as runner:
        assert runner.run(main()) == 3


def test_the_floor_queues_what_its_handlers_ask_for() -> None:
    class Asking:
        result = ""

        def AState(self, e: Any) -> None:
            self.result = e.machine.add1("B")

    handlers = Asking()
    mach = floor(handlers)
    assert mach.add1("A") == "executed"
    assert (handlers.result, mach.active, mach.queue_tick) == ("queued", ("B",), 2)


# Measuring.


def series(*values: float) -> Callable[[int], float]:
    """Give a sample that takes as long as said, for each one, in each round."""
    left = list(values)
    return lambda count: left.pop(0) * count


def test_a_ratio_is_taken_in_each_round() -> None:
    def build(lab: Lab) -> list[Case]:
        return [
            Case("ours", series(2.0, 40.0, 6.0), against="theirs", count=10),
            Case("theirs", series(1.0, 10.0, 1.0), count=10),
        ]

    effort = Effort(sample=0.0, budget=0.0, rounds=(3, 3), largest=1)
    ours, theirs = measure(Question("?", build), effort)
    assert (ours.values, ours.value, ours.ratios, ours.ratio) == ([2.0, 40.0, 6.0], 6.0, [2.0, 4.0, 6.0], 4.0)
    assert (theirs.ratios, theirs.ratio) == ([], None)


def test_each_round_begins_with_another_case() -> None:
    order: list[str] = []

    def build(lab: Lab) -> list[Case]:
        return [Case(name, timed(lambda _, name=name: order.append(name)), count=1) for name in "abc"]

    measure(Question("?", build), Effort(sample=0.0, budget=0.0, rounds=(3, 3), largest=1))
    assert order == [*"abc", *"bca", *"cab"]


def test_a_count_is_found_that_makes_samples_long_enough_once_they_are_warm() -> None:
    asked: list[int] = []

    def sample(count: int) -> float:
        asked.append(count)
        return 1.0 if len(asked) == 1 else count * 1e-6

    question = Question("?", lambda lab: [Case("ours", sample, step=7)])
    measure(question, Effort(sample=0.01, budget=0.0, rounds=(1, 1), largest=1))
    assert asked[-1] * 1e-6 >= 0.01
    assert {count % 7 for count in asked} == {0}


def test_the_collector_runs_before_a_sample_and_not_during_it() -> None:
    seen: list[bool] = []
    question = Question("?", lambda lab: [Case("ours", timed(lambda _: seen.append(gc.isenabled())), count=1)])
    measure(question, SMOKE)
    assert seen == [False]
    assert gc.isenabled()


def test_the_spread_is_that_of_the_middle_half() -> None:
    assert spread([5.0]) == (5.0, 5.0)
    assert spread([5.0, 1.0, 2.0, 3.0, 4.0]) == (2.0, 4.0)


@pytest.mark.parametrize(
    ("goal", "value", "verdict"),
    [
        (Goal(2.5, 1.8), 1.8, "aim"),
        (Goal(2.5, 1.8), 2.5, "must"),
        (Goal(2.5, 1.8), 2.6, "missed"),
        (Goal(3, 5, at_least=True), 5.0, "aim"),
        (Goal(3, 5, at_least=True), 3.0, "must"),
        (Goal(3, 5, at_least=True), 2.9, "missed"),
    ],
)
def test_a_goal_has_two_bounds(goal: Goal, value: float, verdict: str) -> None:
    assert goal.verdict(value) == verdict


# What is made of the answers.


def answer(name: str, values: list[float], ratios: list[float] | None = None, **more: Any) -> Answer:
    return Answer(Case(name, series(), **more), values, ratios or [])


def test_an_answer_is_a_row_of_the_table() -> None:
    faster = Question("How fast?", lambda lab: [])
    heavier = Question("How heavy?", lambda lab: [], unit="B")
    ours = answer("ours", [2e-6], [2.0], against="theirs", goal=Goal(2.5, 1.8))
    rival = answer("rival", [1e-3, 2e-3, 3e-3], [500.0], against="ours", goal=Goal(3, 5, at_least=True))
    lines = list(_report.table([(faster, [ours, rival]), (heavier, [answer("ours", [5e3], goal=Goal(6e3, 3e3))])]))
    same = "2.00 us | 2.00 us to 2.00 us"
    assert lines[2:] == [
        f"| How fast? | **ours** | {same} | 2.00 x theirs | 2.00 to 2.00 | ≤ 2.50 x | ≤ 1.80 x | must |",
        "|  | rival | 2.00 ms | 1.50 ms to 2.50 ms | 500 x ours | 500 to 500 | ≥ 3.00 x | ≥ 5.00 x | aim |",
        "| How heavy? | **ours** | 5,000 B | 5,000 B to 5,000 B |  |  | ≤ 6,000 B | ≤ 3,000 B | must |",
    ]


def test_the_page_has_one_table_of_all_answers(answered: list[tuple[Question, list[Answer]]]) -> None:
    page = _report.page(answered, "a computer")
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + sum(len(answers) for _, answers in answered)
    assert {row.count("|") for row in rows} == {len(_report.HEAD) + 1}
    assert f"anyio {importlib.metadata.version('anyio')}" in page
    assert "\n- a computer\n" in page


def test_the_page_that_is_there_has_that_form(answered: list[tuple[Question, list[Answer]]]) -> None:
    written = (BENCHMARKS.parent / "docs" / "benchmarks.md").read_text()
    head, _, _ = _report.PAGE.partition("- {date}")
    assert written.startswith(head)
    for question, _ in answered:
        assert f"\n| {question.text} |" in written


def test_the_figures_of_all_rounds_are_kept(answered: list[tuple[Question, list[Answer]]]) -> None:
    figures = json.loads(_report.raw(answered))
    question, answers = answered[0]
    assert figures[question.text][answers[0].case.name] == {"values": answers[0].values, "ratios": answers[0].ratios}


def test_a_line_on_the_terminal_says_the_same() -> None:
    ours = answer("ours", [2e-6], [2.0], against="theirs", goal=Goal(2.5, 1.8))
    assert " ".join(_report.line(QUESTIONS[0], ours).split()) == (
        "ours 2.00 us (2.00 us to 2.00 us) 2.00 x theirs (2.00 to 2.00) must ≤ 2.50 x, aim ≤ 1.80 x: must"
    )


def test_goals_that_are_missed_are_named() -> None:
    question = Question("How fast?", lambda lab: [])
    bad, good = answer("slow", [1.0], goal=Goal(0.5, 0.1)), answer("fast", [1.0], goal=Goal(2.0, 0.1))
    (text,) = _report.missed([(question, [bad, good])])
    assert re.match(r"missed: How fast\? slow ", text)


SVG = "{http://www.w3.org/2000/svg}"


def marks(svg: str) -> list[tuple[str, float]]:
    """Give whose marks there are, and how far right; the legend left out."""
    paths = ET.fromstring(svg).findall(f"{SVG}path")  # noqa: S314 - our own picture
    places = [(path.get("class", ""), path.get("transform", "")) for path in paths]
    found = [(name, *map(float, re.findall(r"[\d.]+", place))) for name, place in places]
    return [(name, x) for name, x, y in found if y > _picture.TOP]


def test_the_picture_has_a_mark_for_each_case_that_is_to_be_drawn() -> None:
    cases = [
        answer("ours", [1e-6], mark=Mark("toggle", "asyncmachine")),
        answer("theirs", [1e-5], mark=Mark("toggle", "transitions")),
        answer("both", [1e-4], mark=Mark("another", "asyncmachine")),
        answer("not drawn", [1.0]),
    ]
    drawn = dict.fromkeys(["transitions", "asyncmachine"])
    found = marks(_picture.picture(cases))
    assert set(dict(found)) == set(drawn)
    (_, ten), (_, one), (_, hundred) = found
    # A logarithmic scale, from the fastest to the slowest.
    assert ten - one == pytest.approx(hundred - ten, abs=0.2)
    assert one < ten


def test_every_mark_of_the_questions_belongs_to_a_known_contestant(
    answered: list[tuple[Question, list[Answer]]],
) -> None:
    answers = [answer for _, answers in answered for answer in answers]
    drawn = [answer.case.mark.series for answer in answers if answer.case.mark]
    assert sorted(name for name, _ in marks(_picture.picture(answers))) == sorted(map(_picture.key, drawn))


def test_the_picture_is_readable_in_dark() -> None:
    svg = _picture.picture([answer("ours", [1e-6], mark=Mark("toggle", name)) for name in _picture.SERIES])
    coloured = {element.get("class") for element in ET.fromstring(svg).iter() if element.get("fill")}  # noqa: S314
    dark = set(re.findall(r"\.([\w-]+)\{fill:", svg.partition("prefers-color-scheme:dark")[2]))
    assert coloured == dark
    assert not coloured & {None}


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(6.31e-7, "631 ns"), (1.44e-6, "1.4 us"), (9.96e-4, "996 us"), (0.0123, "12 ms"), (1.0, "1 s")],
)
def test_times_have_the_unit_that_suits_them(seconds: float, words: str) -> None:
    assert _picture.time(seconds) == words
