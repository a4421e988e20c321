"""Random schemas, operations and handlers, for the laws of several tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hypothesis import strategies as st

import asyncmachine as am


class Boom(Exception):  # noqa: N818 - what a handler raises here
    """Raised by handlers on purpose."""


NAMES = ["A", "B", "C", "D"]
state = st.fixed_dictionaries(
    {
        "require": st.lists(st.sampled_from(NAMES), max_size=1),
        "add": st.lists(st.sampled_from(NAMES), max_size=2),
        "remove": st.lists(st.sampled_from(NAMES), max_size=2),
        "after": st.lists(st.sampled_from(NAMES), max_size=1),
        "multi": st.booleans(),
        "auto": st.booleans(),
    }
)
schemas = st.fixed_dictionaries(dict.fromkeys(NAMES, state)).map(
    lambda states: {
        name: am.State(**{**of, "require": [other for other in of["require"] if other not in of["remove"]]})
        for name, of in states.items()
    }
)
HANDLERS = [f"{name}{suffix}" for name in NAMES for suffix in ("Enter", "Exit", "State", "End", *NAMES)]
HANDLERS += ["AnyEnter", "AnyState", "ExceptionState"]
operations = st.lists(
    st.tuples(
        st.sampled_from(["add", "remove", "set", "toggle", "can_add", "can_remove"]),
        st.lists(st.sampled_from(NAMES), min_size=1, max_size=3),
    ),
    max_size=12,
)
behaviours = st.dictionaries(st.sampled_from(HANDLERS), st.sampled_from(["pass", "veto", "raise"]), max_size=8)


def behaving(behaviour: Mapping[str, str], calls: list[str]) -> dict[str, Callable[[am.Event], object]]:
    """Give handlers that note their call and then pass, veto or raise; a few times, then they pass."""

    def make(name: str, what: str) -> Callable[[am.Event], object]:
        left = 3

        def handler(e: am.Event) -> object:
            nonlocal left
            calls.append(name)
            left -= 1
            if left < 0 or what == "pass":
                return None
            if what == "raise":
                raise Boom(name)
            return False

        return handler

    return {name: make(name, what) for name, what in behaviour.items()}
