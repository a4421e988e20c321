"""How questions are measured: contestants side by side, round by round.

A `Question` builds its `Case`s. Each round takes one sample of every case, one after the other and beginning with
another one each time, so that noise hits all alike. A case that is compared with another one is divided by that one's
sample *of the same round*; the median of these ratios is the answer, the quartiles are its spread. The garbage
collector runs before each sample and not during it, for all alike.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.util
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles
from time import perf_counter
from types import TracebackType
from typing import NamedTuple, Self, TypeAlias

Sample: TypeAlias = Callable[[int], float]
"""Does something so many times, and gives what that took in all: seconds, or bytes."""

FLOOR_PLAIN = 1.5e-6
"""Seconds a toggle of the floor took on the computer on which goals were set. Those set as times are ratios to it."""


@dataclass(frozen=True)
class Goal:
    """What a comparison has to show.

    Args:
        must: the ratio that must be met; a value of its own for a case that is compared with none.
        aim: the ratio that is aimed for.
        at_least: the ratio is to be that high, as that of a rival is; else that low.
    """

    must: float
    aim: float
    at_least: bool = False

    def verdict(self, value: float) -> str:
        """Say how a value stands to the goal: "aim", "must" or "missed"."""
        if self.at_least:
            return "aim" if value >= self.aim else "must" if value >= self.must else "missed"
        return "aim" if value <= self.aim else "must" if value <= self.must else "missed"


class Mark(NamedTuple):
    """Where the picture shows a case.

    Args:
        row: what is done.
        series: who does it; one of `_picture.SERIES`.
    """

    row: str
    series: str


def mark(row: str, series: str, loop: str) -> Mark | None:
    """Give the mark of a case that runs on a loop: the picture shows asyncio alone."""
    return Mark(row, series) if loop == "asyncio" else None


@dataclass(frozen=True)
class Case:
    """One contestant.

    Args:
        name: who does what.
        sample: measures it.
        against: the name of the case of the same question it is compared with.
        goal: what the comparison has to show.
        step: counts given to `sample` are multiples of this.
        count: how many each sample does; found out if it is not given.
        mark: where the picture shows it, if it does.
    """

    name: str
    sample: Sample
    against: str = ""
    goal: Goal | None = None
    step: int = 2
    count: int = 0
    mark: Mark | None = None


@dataclass(frozen=True)
class Effort:
    """How much is spent on a question.

    Args:
        sample: seconds a sample takes at least.
        budget: seconds for all rounds of a question, as far as `rounds` allows.
        rounds: at least and at most so many.
        largest: no question builds more than so many of anything.
    """

    sample: float
    budget: float
    rounds: tuple[int, int]
    largest: int


FULL = Effort(sample=0.015, budget=9.0, rounds=(7, 31), largest=100_000)
QUICK = Effort(sample=0.002, budget=0.6, rounds=(3, 5), largest=1_000)
SMOKE = Effort(sample=0.0, budget=0.0, rounds=(1, 1), largest=10)


class Lab:
    """What questions are built with: event loops that live as long as the question, and sizes within reason.

    Args:
        effort: how much may be spent.
    """

    def __init__(self, effort: Effort) -> None:
        self.effort = effort
        self._runners: dict[str, asyncio.Runner] = {}

    def __enter__(self) -> Self:
        self._runners["asyncio"] = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        if is_installed("uvloop"):
            import uvloop  # noqa: PLC0415 - not on Windows

            self._runners["uvloop"] = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for runner in self._runners.values():
            runner.close()

    @property
    def loops(self) -> tuple[str, ...]:
        """The kinds of loops there are."""
        return tuple(self._runners)

    def size(self, wanted: int) -> int:
        """Give a number of things to build, not larger than this run can bear."""
        return min(wanted, self.effort.largest)

    def on(self, loop: str, run: Callable[[int], Awaitable[float | None]]) -> Sample:
        """Give a sample that runs on a loop. Its time is what `run` returns, or else what `run` takes."""

        async def sample(count: int) -> float:
            start = perf_counter()
            own = await run(count)
            took = perf_counter() - start
            return took if own is None else own

        return lambda count: self._runners[loop].run(sample(count))


@dataclass(frozen=True)
class Question:
    """What is asked, and who is asked.

    Args:
        text: the question.
        build: makes the cases, in the order in which they are shown.
        unit: what samples are in: "s" for seconds, "B" for bytes.
    """

    text: str
    build: Callable[[Lab], Sequence[Case]]
    unit: str = "s"


@dataclass
class Answer:
    """What came out for one case.

    Args:
        case: the case.
        values: seconds or bytes for one, in each round.
        ratios: how many times as long, or as large, as the case it is compared with, in each round.
    """

    case: Case
    values: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)

    @property
    def value(self) -> float:
        """The median for one."""
        return median(self.values)

    @property
    def ratio(self) -> float | None:
        """The median of the ratios, if the case is compared with another one."""
        return median(self.ratios) if self.ratios else None

    @property
    def verdict(self) -> str:
        """How it stands to its goal, or nothing."""
        if self.case.goal is None:
            return ""
        return self.case.goal.verdict(self.value if self.ratio is None else self.ratio)


def timed(run: Callable[[int], object]) -> Sample:
    """Give a sample that takes the time of a function."""

    def sample(count: int) -> float:
        start = perf_counter()
        run(count)
        return perf_counter() - start

    return sample


def is_installed(module: str) -> bool:
    """Tell whether a rival can be measured."""
    return importlib.util.find_spec(module) is not None


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Give the lower and the upper quartile."""
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = quantiles(values, n=4, method="inclusive")
    return low, high


def measure(question: Question, effort: Effort) -> list[Answer]:
    """Answer a question."""
    with Lab(effort) as lab:
        answers = [Answer(case) for case in question.build(lab)]
        # What was there before is none of the garbage of samples: it is not looked through again before each.
        gc.collect()
        gc.freeze()
        try:
            _run_rounds(answers, effort)
        finally:
            gc.unfreeze()
    by_name = {answer.case.name: answer for answer in answers}
    for answer in answers:
        if answer.case.against:
            pairs = zip(answer.values, by_name[answer.case.against].values, strict=True)
            answer.ratios.extend(value / other for value, other in pairs)
    return answers


def _run_rounds(answers: Sequence[Answer], effort: Effort) -> None:
    """Take samples of all cases, for as many rounds as there is time for."""
    counts = [answer.case.count or _calibrated(answer.case, effort.sample) for answer in answers]
    least, most = effort.rounds
    began, rounds, done = perf_counter(), least, 0
    while done < rounds:
        for i in range(len(answers)):
            at = (i + done) % len(answers)
            answers[at].values.append(_one(answers[at].case, counts[at]) / counts[at])
        done += 1
        rounds = max(least, min(most, int(effort.budget / (perf_counter() - began) * done)))


def _one(case: Case, count: int) -> float:
    gc.collect()
    gc.disable()
    try:
        return case.sample(count)
    finally:
        gc.enable()


def _calibrated(case: Case, seconds: float) -> int:
    """Find how many make a sample long enough, once the case is warm."""
    _one(case, count := case.step)
    while (took := _one(case, count)) < seconds:
        longer = seconds / took if took else 16.0
        count = case.step * -(-int(count * min(16.0, longer * 1.1) + 1) // case.step)
    return count
