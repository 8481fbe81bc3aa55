"""What was used last, up to a stated number: graphs and tables must not fill the memory of a robot in weeks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """A table that forgets the entry that was not used for longest.

    Attributes:
        limit: So many entries it holds at most.
    """

    def __init__(self, limit: int, forget: Callable[[Value], None] = lambda value: None) -> None:
        """An empty table; `forget` is called with each value that has to go."""
        self.limit = limit
        self._forget = forget
        self._entries: OrderedDict[Key, Value] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: Key) -> bool:
        return key in self._entries

    def values(self) -> tuple[Value, ...]:
        """All of them, the one that was not used for longest first."""
        return tuple(self._entries.values())

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """The value of a key, made where there is none; room for it is made first, so that both never exist at once."""
        if key not in self._entries:
            while len(self._entries) >= self.limit:
                self._forget(self._entries.popitem(last=False)[1])
            self._entries[key] = make()
        self._entries.move_to_end(key)
        return self._entries[key]
