"""Args: what a mutation carries for the handlers, as a mapping or as one typed instance."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Protocol, TypeAlias, cast

from asyncmachine.errors import ArgsError

__all__ = ["EMPTY", "Args", "as_mapping", "check_args", "field_names"]


class DataclassArgs(Protocol):
    """An instance of a dataclass; checkers see those of attrs and msgspec as such, too."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


class AttrsArgs(Protocol):
    """An instance of an attrs class."""

    __attrs_attrs__: ClassVar[Any]


class StructArgs(Protocol):
    """An instance of a msgspec struct."""

    __struct_fields__: ClassVar[tuple[str, ...]]


class ModelArgs(Protocol):
    """An instance of a pydantic model."""

    __pydantic_fields__: ClassVar[dict[str, Any]]


Args: TypeAlias = Mapping[str, Any] | DataclassArgs | AttrsArgs | StructArgs | ModelArgs
"""What a mutation carries: a mapping, or one instance of a dataclass, attrs, msgspec or pydantic class."""


EMPTY: Mapping[str, Any] = MappingProxyType({})


def field_names(kind: type) -> Iterable[str] | None:
    """Give the names of the fields of a dataclass, attrs, msgspec or pydantic class, or None for any other."""
    if hasattr(kind, "__dataclass_fields__"):
        # Class variables and what is for `__init__` alone are no fields.
        return [field.name for field in dataclasses.fields(cast("Any", kind))]
    for attribute in ("__struct_fields__", "model_fields"):
        found: Iterable[str] | None = getattr(kind, attribute, None)
        if found is not None:
            return tuple(found)
    attrs: Iterable[Any] | None = getattr(kind, "__attrs_attrs__", None)
    return None if attrs is None else [attribute.name for attribute in attrs]


def as_mapping(payload: Args | None) -> Mapping[str, Any]:
    """Give args as a mapping: as they are, or the fields of a typed instance."""
    if payload is None:
        return EMPTY
    if isinstance(payload, Mapping):
        return payload
    return {name: getattr(payload, name) for name in field_names(type(payload)) or ()}


def check_args(payload: Args | None) -> Args | None:
    """Give args that can be passed, None for empty ones.

    Raises:
        ArgsError: they are neither a mapping nor an instance of a class with fields.
    """
    if isinstance(payload, Mapping):
        return payload or None
    if payload is None or (not isinstance(payload, type) and field_names(type(payload)) is not None):
        return payload
    raise ArgsError(
        f"args are a mapping or one instance of a dataclass, attrs, msgspec or pydantic class, not {payload!r}; "
        'write {"name": value}'
    )
