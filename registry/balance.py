"""How many connections each worker has, in memory that they share, so that none takes the others' part.

The kernel wakes all workers for a new connection, and the one that was quickest the last time tends to be so again:
of eight clients, one worker often gets seven.
"""

import mmap

_SLOTS = 64  #: workers beyond this many share slots, and balance less well
_NOBODY = -1


class Balance:
    """The numbers of connections, by worker. Made before the workers fork."""

    def __init__(self) -> None:
        """Begin without workers."""
        self._loads = memoryview(mmap.mmap(-1, _SLOTS * 4)).cast("i")
        for worker in range(_SLOTS):
            self.leave(worker)

    def set(self, worker: int, connections: int) -> None:
        """Say how many connections a worker has."""
        self._loads[worker % _SLOTS] = connections

    def leave(self, worker: int) -> None:
        """Say that a worker has ended."""
        self._loads[worker % _SLOTS] = _NOBODY

    def is_ahead(self, worker: int) -> bool:
        """Tell whether another worker has fewer connections; where there are many, a sixteenth fewer."""
        own = self._loads[worker % _SLOTS]
        return any(load != _NOBODY and load + load // 16 < own for load in self._loads.tolist())
