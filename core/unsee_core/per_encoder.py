"""What is computed from a text encoder once, and kept in memory as long as the encoder is resident."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

from torch import nn

V = TypeVar("V")


class PerEncoder(Generic[V]):
    """Keeps so many values of each text encoder, by key; those not asked for the longest leave first.

    Safe between threads: one makes a value, and others wait for it. A value must not hold the encoder.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: WeakKeyDictionary[nn.Module, OrderedDict[Hashable, V]] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def get(self, encoder: nn.Module, key: Hashable, make: Callable[[], V]) -> V:
        """Return an encoder's value, made now where it is not kept."""
        with self._lock:
            values = self._values.setdefault(encoder, OrderedDict())
            if key not in values:
                values[key] = make()
            values.move_to_end(key)
            while len(values) > self._most:
                values.popitem(last=False)
            return values[key]
