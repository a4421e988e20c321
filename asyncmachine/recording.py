"""What a machine did, as lines to be read and compared: `add Open: +Open -Closed`.

A line says what was asked for, and behind the colon what came of it. Transitions are kept as they are, and made into
lines when somebody reads: recording costs a machine under test no more than a list.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self, cast, overload

from typing_extensions import override

from asyncmachine.api import MachineApi, Tracer
from asyncmachine.errors import UnknownStateError
from asyncmachine.transition import Transition

__all__ = ["Line", "Recording", "describe", "last_lines", "line_of", "record"]

_LINE = re.compile(
    r"(?P<type>auto|(?:add|remove|set)(?=\s))\s*(?P<called>[\w\s]*?)\s*:\s*"
    r"(?P<outcome>[^(]*?)\s*(?:\((?P<detail>.*)\))?\s*",
    re.DOTALL,
)
_CONTEXT = 3
"""How many lines that agree are shown around those that do not."""
_LAST = 10
"""How many transitions are shown with an error."""


class Line(NamedTuple):
    """One transition, in the notation of recordings.

    Args:
        type: add, remove, set, or auto.
        called: the states that were asked for; none for auto.
        changes: `+Foo` for each state that was activated, or activated anew, `-Foo` for each that was deactivated.
        canceled: whether it was canceled.
        detail: why it was canceled, or which error it brought; what is expected may leave that out.
    """

    type: str
    called: tuple[str, ...]
    changes: tuple[str, ...]
    canceled: bool
    detail: str = ""

    @classmethod
    def parse(cls, text: str, known: Iterable[str]) -> Line:
        """Read a line.

        Args:
            text: the line, such as "add Open: +Open -Closed".
            known: the states there are.

        Raises:
            ValueError: this is not the notation.
            UnknownStateError: there is no such state.

        >>> from asyncmachine.recording import Line
        >>> Line.parse("add Open Lit: +Open -Closed", ["Open", "Lit", "Closed"]).changes
        ('+Open', '-Closed')
        """
        found = _LINE.fullmatch(text.strip())
        words = found["outcome"].split() if found else []
        called = found["called"].split() if found else []
        changes = [word for word in words if word not in {"canceled", "unchanged"}]
        is_said = words == ["unchanged"] or (bool(words) and "unchanged" not in words)
        if (
            found is None
            or (found["type"] == "auto") != (not called)
            or not is_said
            or any(word[0] not in "+-" or not word[1:] for word in changes)
        ):
            raise ValueError(
                f"{text!r} is no line of a recording; write what was asked for, a colon, and what came of it: "
                "'add Foo: +Foo -Bar', 'remove Foo: -Foo', 'auto: +Baz', 'add Foo: unchanged', 'add Foo: canceled'"
            )
        known = tuple(known)
        for state in (*called, *(word[1:] for word in changes)):
            if state not in known:
                raise UnknownStateError(state, known)
        return cls(found["type"], tuple(called), tuple(changes), "canceled" in words, found["detail"] or "")

    def matches(self, expected: Line) -> bool:
        """Tell whether this is what was expected. The order of states does not count, nor a detail that was left out.

        >>> from asyncmachine.recording import Line
        >>> got = Line("add", ("Foo",), (), True, "Foo requires Bar")
        >>> got.matches(Line("add", ("Foo",), (), True)), got.matches(Line("add", ("Foo",), ("+Foo",), False))
        (True, False)
        """
        return (
            (self.type, set(self.called), set(self.changes), self.canceled)
            == (expected.type, set(expected.called), set(expected.changes), expected.canceled)
        ) and expected.detail in {"", self.detail}

    @override
    def __str__(self) -> str:
        outcome = [*self.changes, *(["canceled"] if self.canceled else [])] or ["unchanged"]
        detail = f" ({self.detail})" if self.detail else ""
        return f"{' '.join([self.type, *self.called])}: {' '.join(outcome)}{detail}"


def line_of(transition: Transition[Any]) -> Line:
    """Give the line of a transition."""
    added, removed = transition.time_index_diff()
    changes = [f"+{name}" for name in added.active_states()] + [f"-{name}" for name in removed.active_states()]
    mutation = transition.mutation
    detail = ""
    if not transition.is_accepted:
        outcome = mutation.outcome
        detail = (outcome.reason or "" if outcome is not None else "") or "under way"
    elif mutation.error is not None:
        detail = repr(mutation.error.err) + (f" in {mutation.error.handler}" if mutation.error.handler else "")
    called = () if transition.is_auto else transition.called_states
    type_ = "auto" if transition.is_auto else str(transition.type)
    return Line(type_, called, tuple(changes), not transition.is_accepted, detail)


class Recorder(Tracer):
    """Keeps transitions; not checks, and not auto mutations that came to nothing.

    Args:
        recording: who reads them.
        limit: how many of the last are kept; None keeps all.
    """

    def __init__(self, recording: Recording | None = None, limit: int | None = None) -> None:
        self.recording: Recording | None = recording
        self.kept: deque[Transition[Any]] = deque(maxlen=limit)
        self.count: int = 0
        """How many there were."""

    @override
    def transition_end(self, transition: Transition[Any]) -> None:
        changed = transition.time_after != transition.time_before
        if not transition.mutation.is_check and (changed or not transition.is_auto):
            self.kept.append(transition)
            self.count += 1


class Recording(Sequence[str]):  # noqa: PLW1641 - it grows, so it has no hash
    """The transitions of a machine since `record`, as a list of lines, oldest first; see `record` for the notation.

    It compares with a list of lines by `==`, where details in parentheses may be left out; so does `in`. As a context
    manager, it stops when it is left.
    """

    def __init__(self, mach: MachineApi) -> None:
        self.machine: MachineApi = mach
        self._recorder: Recorder = Recorder(self)
        mach.bind_tracer(self._recorder)

    @property
    def lines(self) -> list[str]:
        """The lines, as a plain list."""
        return [str(line_of(transition)) for transition in self._recorder.kept]

    @property
    def transitions(self) -> list[Transition[Any]]:
        """The transitions themselves."""
        return list(self._recorder.kept)

    def clear(self) -> None:
        """Forget what was recorded so far.

        >>> from asyncmachine.testing import record
        >>> rec = record(mach)
        >>> mach.add1("Foo"), rec.clear(), len(rec)
        (Result.EXECUTED, None, 0)
        """
        self._recorder.kept.clear()
        self._recorder.count = 0

    def stop(self) -> None:
        """Record no more; what there is stays.

        >>> from asyncmachine.testing import record
        >>> rec = record(mach)
        >>> rec.stop(), mach.add1("Foo"), list(rec)
        (None, Result.EXECUTED, [])
        """
        self.machine.detach_tracer(self._recorder)

    def assert_equal(self, expected: Iterable[str]) -> None:
        """Fail unless just these transitions were recorded, in this order.

        Raises:
            AssertionError: others were; the text is a diff.
            ValueError: a line is not in the notation.
            UnknownStateError: a line names a state the machine does not have.

        >>> from asyncmachine.testing import record
        >>> rec = record(mach)
        >>> mach.add1("Foo"), mach.remove1("Foo")
        (Result.EXECUTED, Result.EXECUTED)
        >>> rec.assert_equal(["add Foo: +Foo", "remove Foo: -Foo"])
        """
        __tracebackhide__ = True
        different = self.diff(expected)
        if different:
            title = f"{self.machine.id} did not do what was expected (- expected, + happened):"
            raise AssertionError("\n".join([title, *different, *describe(self.machine, lines=False)]))

    def diff(self, expected: Iterable[str]) -> list[str]:
        """Give the lines of a diff against the transitions expected; none if there is no difference.

        >>> from asyncmachine.testing import record
        >>> rec = record(mach)
        >>> mach.add1("Foo"), rec.diff(["add Foo: +Foo", "add Bar: +Bar"])
        (Result.EXECUTED, ['    add Foo: +Foo', '  - add Bar: +Bar'])
        """
        wanted = self._parse(expected)
        marked = list(_diff(wanted, [line_of(transition) for transition in self._recorder.kept]))
        return [] if all(mark == " " for mark, _ in marked) else _shortened(marked)

    def _parse(self, lines: Iterable[str]) -> list[Line]:
        if isinstance(lines, str):
            raise TypeError(f"what is expected is a list of lines, not the text {lines!r}; write [{lines!r}]")
        return [Line.parse(line, self.machine.state_names) for line in lines]

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    @override
    def __getitem__(self, index: int | slice) -> str | list[str]:
        return self.lines[index]

    @override
    def __len__(self) -> int:
        return len(self._recorder.kept)

    @override
    def __contains__(self, line: object) -> bool:
        if not isinstance(line, str):
            return False
        (wanted,) = self._parse([line])
        return any(line_of(transition).matches(wanted) for transition in self._recorder.kept)

    @override
    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return not self.diff(cast("Sequence[str]", other))

    @override
    def __repr__(self) -> str:
        return f"<Recording of {self.machine.id} {self.lines}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


def record(mach: MachineApi) -> Recording:
    r"""Record the transitions of a machine from now on, as lines that are easy to read and to expect.

    A line says what was asked for, and behind a colon what came of it:

    - `add Open: +Open -Closed`: Open was activated (or activated anew, if it is multi), Closed was deactivated;
    - `add Open: unchanged`;
    - `add Open: canceled (vetoed by OpenEnter of Door)`; after a failure, with what changed all the same;
    - `auto: +Lit`: auto states came by themselves. Those that did not come are not recorded, nor are checks;
    - `add Exception: +Exception (OSError('cable cut') in OpenState)`.

    What stands in parentheses need not be expected.

    >>> from asyncmachine.testing import record
    >>> door = am.Machine({"Open": {"remove": ["Closed"]}, "Closed": {}, "Locked": {"require": ["Closed"]}})
    >>> rec = record(door)
    >>> for state in ("Closed", "Open", "Locked"):
    ...     _ = door.add1(state)
    >>> print(*rec, sep="\n")
    add Closed: +Closed
    add Open: +Open -Closed
    add Locked: canceled (Locked requires Closed)
    """
    return Recording(mach)


def describe(mach: MachineApi, *, lines: bool = True) -> list[str]:
    """Give the lines that tell where a machine is: its states, its error, and what it did last, where recorded."""
    told = [f"  the machine: {mach.string_all()}"]
    if mach.err is not None:
        told.append(f"  its error: {mach.err!r}")
    recorders = [tracer for tracer in mach.tracers if isinstance(tracer, Recorder) and tracer.kept]
    if lines and recorders:
        told += last_lines(max(recorders, key=lambda recorder: recorder.count))
    return told


def last_lines(recorder: Recorder) -> list[str]:
    """Give the last transitions that were recorded, under a heading."""
    last = list(recorder.kept)[-_LAST:]
    of = f" (of {recorder.count})" if recorder.count > len(last) else ""
    return [f"  its last transitions{of}:", *(f"    {line_of(transition)}" for transition in last)]


def _diff(expected: Sequence[Line], got: Sequence[Line]) -> Iterator[tuple[str, str]]:
    """Give the lines of both, marked `-` if only expected, `+` if only got: the longest common part is kept."""
    common = [[0] * (len(got) + 1) for _ in range(len(expected) + 1)]
    for i in reversed(range(len(expected))):
        for j in reversed(range(len(got))):
            longest = max(common[i + 1][j], common[i][j + 1])
            common[i][j] = common[i + 1][j + 1] + 1 if got[j].matches(expected[i]) else longest
    i = j = 0
    while i < len(expected) or j < len(got):
        if i < len(expected) and j < len(got) and got[j].matches(expected[i]):
            yield " ", str(got[j])
            i, j = i + 1, j + 1
        elif i < len(expected) and (j == len(got) or common[i + 1][j] >= common[i][j + 1]):
            yield "-", str(expected[i])
            i += 1
        else:
            yield "+", str(got[j])
            j += 1


def _shortened(marked: Sequence[tuple[str, str]]) -> list[str]:
    """Give the lines of a diff, without those far from any difference."""
    near = {at for i, (mark, _) in enumerate(marked) if mark != " " for at in range(i - _CONTEXT, i + _CONTEXT + 1)}
    lines: list[str] = []
    left_out = 0
    for i, (mark, text) in enumerate([*marked, ("", "")]):
        if i < len(marked) and i not in near:
            left_out += 1
            continue
        if left_out:
            lines.append(f"    ... {left_out} as expected")
            left_out = 0
        if mark:
            lines.append(f"  {mark} {text}")
    return lines
