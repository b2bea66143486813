"""Locks of objects that threads share, and attributes without a lock."""

from __future__ import annotations

import functools
import os
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any

__all__ = ["Lock", "cached_property"]

if TYPE_CHECKING or sys.version_info >= (3, 12):
    from functools import cached_property
else:

    class cached_property(functools.cached_property):
        """As that of Python 3.12. Before, it held one lock for all instances while it calculated, for which
        threads waited, and a process forked meanwhile for ever."""

        def __get__(self, instance, owner=None):
            if instance is None:
                return self
            value = instance.__dict__[self.attrname] = self.func(instance)
            return value


class Lock:
    """A lock that its thread may take again. Copies, pickles and forked processes have it free.

    Example:
        >>> from electret.support.locks import Lock
        >>> lock = Lock()
        >>> with lock, lock:
        ...     pass
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        _locks.add(self)

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(self), ()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: Any) -> None:
        self._lock.release()


_locks: weakref.WeakSet[Lock] = weakref.WeakSet()


def _free_in_child() -> None:
    """The thread that holds a lock at a fork does not come along to release it."""
    for lock in _locks:
        lock._lock = threading.RLock()


if hasattr(os, "register_at_fork"):  # there is none on Windows
    os.register_at_fork(after_in_child=_free_in_child)
