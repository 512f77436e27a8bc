"""A set that forgets no order.

A plain set of objects iterates by hash, and the hash of most objects is their address, which is
another one in every process. Where a library keeps such a set and iterates it inside a workflow,
the adapters put this one in its place. It is a real `set`, so nothing else about it changes.
"""

from collections.abc import Iterable, Iterator
from typing import TypeVar, cast

T = TypeVar("T")


class InsertionOrderedSet(set[T]):
    """Iterates and pops in the order of arrival.

    What is in it is up to `set` alone; the order is kept beside it. So methods of `set` that are
    not repeated here stay right, and at worst put their newcomers last. `a | b` and the like give
    a plain set.
    """

    __slots__ = ("_arrivals",)

    def __init__(self, members: Iterable[T] = (), /) -> None:
        super().__init__()
        self._arrivals: dict[T, None] = {}
        self.update(members)

    def __iter__(self) -> Iterator[T]:
        in_order = [member for member in self._arrivals if member in self]
        if len(in_order) < len(self):
            in_order += [member for member in super().__iter__() if member not in self._arrivals]
        return iter(in_order)

    def add(self, member: T, /) -> None:
        super().add(member)
        self._arrivals[member] = None

    def update(self, *others: Iterable[T]) -> None:
        for other in others:
            for member in other:
                self.add(member)

    def discard(self, member: object, /) -> None:
        super().discard(member)
        self._arrivals.pop(cast(T, member), None)

    def remove(self, member: T, /) -> None:
        super().remove(member)
        self._arrivals.pop(member, None)

    def pop(self) -> T:
        for member in self:
            self.remove(member)
            return member
        return super().pop()  # raises: there is nothing

    def clear(self) -> None:
        super().clear()
        self._arrivals.clear()
