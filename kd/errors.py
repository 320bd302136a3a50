"""Mistakes of the user's, and how a value is shown in their one line."""

from typing import Any


class UserError(Exception):
    """A mistake that the user can mend; its message is one line: what is wrong, what to do."""


class OutOfMemory(UserError):
    """Less memory is free than is needed."""


def shown(value: Any) -> str:
    """A value as an error's one line shows it: nothing unprintable, and not too long."""
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in as_typed(value))
    return text if len(text) <= 200 else f"{text[:100]}… ({len(text)} characters)"


def as_typed(value: Any) -> str:
    """A value as one would type it on the command line.

    >>> as_typed([None, True, {"T": 2.0}])
    '[null,true,{T:2.0}]'
    """
    if isinstance(value, list):
        return "[" + ",".join(map(as_typed, value)) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{as_typed(inner)}" for key, inner in value.items()) + "}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
