"""Pickles read as data: what they name is never imported, and what they would call is never called.

A pickle is a program for a stack machine, and Python's own unpickler runs it: it imports whatever the file names and
calls it. This one keeps the name and the arguments instead, as an ``Inert``. Only functions that the caller
gives are called, and nothing in the file decides which these are.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Inert", "Named", "TextReference", "UnreadablePickle", "mapping", "read_pickle"]

# A checkpoint has some ten thousand, with the log of a long training a million. Each may take a hundred bytes.
_MAX_OPERATIONS = 4_000_000
_MOST_REBUILT = 200_000  # tensors and the like, a kilobyte each; a checkpoint has some thousands
_MOST_BITS = 4096  # of a whole number: the state of a random generator has 128


class UnreadablePickle(ValueError):
    """The bytes are no pickle, or one that uses what no checkpoint needs."""


class TextReference(UnreadablePickle):
    """It refers to what is outside by text, as protocol 0 writes it: what was meant is lost."""


@dataclass(frozen=True)
class Named:
    """A class or function that the file names, such as ``argparse.Namespace``. It is not imported."""

    name: str


@dataclass(eq=False, repr=False, slots=True)
class Inert:
    """An object of which only the description is kept.

    Attributes:
        name: of the class or function that would have made it.
        args: what that would have been called with.
        state: what would have become its attributes.
        pairs: what it would hold as a mapping.
        elements: what it would hold as a list or a set.
    """

    name: str
    args: tuple[Any, ...] = ()
    state: Any = None
    pairs: dict[Any, Any] = field(default_factory=dict)
    elements: list[Any] = field(default_factory=list)


def mapping(content: Any) -> dict[Any, Any] | None:
    """Return what ``content`` holds by key, where it is a dict or stands for a subclass of it; else None."""
    if isinstance(content, dict):
        return content
    return content.pairs if isinstance(content, Inert) and content.pairs else None


def read_pickle(
    stream: IO[bytes], rebuild: Mapping[str, Callable[..., Any]], persistent: Callable[[Any], Any] | None = None
) -> Any:
    """Read one pickle from where ``stream`` is, and leave it behind its end.

    Args:
        stream: the bytes.
        rebuild: functions that may be called, by the name that the file has for them. They must be harmless
            whatever they are given.
        persistent: makes an object of what the file has as a persistent id; the same holds for it.

    Raises:
        UnreadablePickle: it is damaged, or too large.
    """
    machine = _Machine(rebuild, persistent)
    try:
        for count, (operation, argument, _) in enumerate(pickletools.genops(stream)):
            if count >= _MAX_OPERATIONS:
                raise UnreadablePickle("it holds too many objects")
            machine.do(operation.name, argument)
        return machine.stack.pop()
    except UnreadablePickle:
        raise
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError) as error:
        raise UnreadablePickle(str(error)) from error


class _Mark:
    """Where the items of a container begin on the stack."""


_MARK = _Mark()

_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
    "MARK": lambda: _MARK,
}
_NUMBERS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
_TEXTS = {"STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
_LITERALS = _NUMBERS | _TEXTS | {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
_NOTHING_TO_DO = {"PROTO", "FRAME", "STOP"}


class _Machine:
    """The stack machine. Every operation of pickle that a checkpoint may have is a method or in a table above."""

    def __init__(self, rebuild: Mapping[str, Callable[..., Any]], persistent: Callable[[Any], Any] | None) -> None:
        self.stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._rebuild, self._rebuilt = rebuild, 0
        self._persistent = persistent

    def do(self, operation: str, argument: Any) -> None:
        if operation in _LITERALS:
            if isinstance(argument, int) and argument.bit_length() > _MOST_BITS:
                raise UnreadablePickle("it has a number of thousands of digits")
            self.stack.append(argument)
        elif operation in _CONSTANTS:
            self.stack.append(_CONSTANTS[operation]())
        elif operation not in _NOTHING_TO_DO:
            method = getattr(self, f"_{operation.lower()}", None)
            if method is None:
                raise UnreadablePickle(f"it uses {operation}")
            method(argument)

    # -- the stack ----------------------------------------------------------------------------------------------------

    def _pop(self, _argument: object = None) -> Any:
        return self.stack.pop()

    def _pop_mark(self, _argument: object = None) -> list[Any]:
        """Take off what was put on the stack since the last mark."""
        items = []
        while (item := self.stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    def _dup(self, _argument: object) -> None:
        self.stack.append(self.stack[-1])

    def _put(self, index: int) -> None:
        self._memo[index] = self.stack[-1]

    def _memoize(self, _argument: object) -> None:
        self._memo[len(self._memo)] = self.stack[-1]

    def _get(self, index: int) -> None:
        self.stack.append(self._memo[index])

    _binput = _long_binput = _put
    _binget = _long_binget = _get

    # -- containers ---------------------------------------------------------------------------------------------------

    def _tuple(self, _argument: object) -> None:
        self.stack.append(tuple(self._pop_mark()))

    def _take(self, count: int) -> None:
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def _tuple1(self, _argument: object) -> None:
        self._take(1)

    def _tuple2(self, _argument: object) -> None:
        self._take(2)

    def _tuple3(self, _argument: object) -> None:
        self._take(3)

    def _list(self, _argument: object) -> None:
        self.stack.append(self._pop_mark())

    def _dict(self, _argument: object) -> None:
        items = self._pop_mark()
        self.stack.append({})
        self._fill(items)

    def _frozenset(self, _argument: object) -> None:
        self.stack.append(frozenset(item for item in self._pop_mark() if _hashes_quickly(item)))

    def _append(self, _argument: object) -> None:
        self._extend([self.stack.pop()])

    def _appends(self, _argument: object) -> None:
        self._extend(self._pop_mark())

    _additems = _appends

    def _extend(self, items: list[Any]) -> None:
        match self.stack[-1]:
            case list() as whole:
                whole.extend(items)
            case set() as whole:
                whole.update(item for item in items if _hashes_quickly(item))
            case Inert() as whole:
                whole.elements.extend(items)
            case other:
                raise UnreadablePickle(f"it appends to {type(other).__name__}")

    def _setitem(self, _argument: object) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._fill([key, value])

    def _setitems(self, _argument: object) -> None:
        self._fill(self._pop_mark())

    def _fill(self, items: list[Any]) -> None:
        whole = self.stack[-1].pairs if isinstance(self.stack[-1], Inert) else self.stack[-1]
        if not isinstance(whole, dict):
            raise UnreadablePickle(f"it sets items of {type(whole).__name__}")
        whole.update((key, value) for key, value in zip(items[::2], items[1::2], strict=True) if _hashes_quickly(key))

    # -- objects ------------------------------------------------------------------------------------------------------

    def _global(self, argument: str) -> None:
        self.stack.append(Named(argument.replace(" ", ".")))

    def _stack_global(self, _argument: object) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise UnreadablePickle("it names something by what is no text")
        self.stack.append(Named(f"{module}.{name}"))

    def _reduce(self, _argument: object) -> None:
        args, maker = self.stack.pop(), self.stack.pop()
        self._make(maker, args)

    _newobj = _reduce

    def _newobj_ex(self, argument: object) -> None:
        self.stack.pop()  # the arguments by name
        self._reduce(argument)

    def _obj(self, _argument: object) -> None:
        maker, *args = self._pop_mark()
        self._make(maker, tuple(args))

    def _inst(self, argument: str) -> None:
        args = tuple(self._pop_mark())
        self._make(Named(argument.replace(" ", ".")), args)

    def _make(self, maker: Any, args: Any) -> None:
        name = maker.name if isinstance(maker, Named | Inert) else type(maker).__name__
        args = args if isinstance(args, tuple) else ()
        known = self._rebuild.get(name) if isinstance(maker, Named) else None
        self._rebuilt += known is not None
        if self._rebuilt > _MOST_REBUILT:
            raise UnreadablePickle("it holds too many tensors")
        self.stack.append(known(*args) if known else Inert(name, args))

    def _build(self, _argument: object) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], Inert):  # attributes of anything else are of no interest
            self.stack[-1].state = state

    def _persid(self, _argument: object) -> None:
        raise TextReference("it refers to something outside by text")

    def _binpersid(self, _argument: object) -> None:
        if self._persistent is None:
            raise UnreadablePickle("it refers to something outside")
        self.stack.append(self._persistent(self.stack.pop()))


def _hashes_quickly(key: Any) -> bool:
    """Return whether hashing takes no time; tuples of tuples that share their parts may take for ever."""
    if isinstance(key, tuple):
        return all(isinstance(part, str | int | float | bytes | None) for part in key)
    return isinstance(key, str | int | float | bytes | None | Named | Inert)
