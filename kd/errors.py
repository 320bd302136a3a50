"""The user's mistakes, and how a value is shown in the one line about them."""

import errno
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # on a device, in a quota or below a limit

# What a setting can hold.
Value: TypeAlias = str | int | float | bool | Sequence["Value"] | Mapping[str, "Value"] | None


class UserError(Exception):
    """A mistake that the user can mend; the message is one line: what is wrong, what to do."""


class OutOfMemory(UserError):
    """Less memory is free than is needed."""


class MissingTeacher(UserError):
    """A distillation has no teacher to learn from."""


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the error, then what it came of."""
    seen: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in seen:
        seen.append(link)
        yield link
        link = link.__cause__ or link.__context__


def shown(value: Value) -> str:
    """Show a value in an error's one line: nothing unprintable, and not too long."""
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in as_typed(value))
    return text if len(text) <= 200 else f"{text[:100]}… ({len(text)} characters)"


def reason(error: BaseException) -> str:
    """Return what an error says, in one line."""
    said = " ".join(str(getattr(error, "strerror", None) or error).split())
    return shown(said or type(error).__name__)


def as_typed(value: Value) -> str:
    """Write a value as one would type it on the command line.

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
