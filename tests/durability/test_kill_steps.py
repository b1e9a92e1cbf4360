"""kill -9 at each step of each write: nothing partial is visible, and the next attempt brings what was wanted."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest

from tests.durability.inprocess import Registry
from tests.durability.ledger import check
from tests.durability.operations import SINGLE, Operation, damage_found
from tests.durability.steps import dies_at


class KilledRegistry(Registry):
    """A registry that loses its processes, and never its power."""

    def lose_power(self) -> None:
        """Hold that all promises are kept by what is there."""
        check(self.root, self.ledger.promises())


@pytest.mark.parametrize("operation", [*SINGLE, damage_found], ids=lambda operation: operation.__name__)
def test_kill_at_each_step(directory: Path, operation: Operation) -> None:
    """Whoever is killed leaves a store that another process goes on with."""
    for number in count(1):
        (directory / str(number)).mkdir()
        registry = KilledRegistry(directory / str(number))
        write = operation(registry)
        killed = dies_at(number, write)
        if operation is not damage_found:
            check(registry.root, {})
        registry.retrying = True
        write()
        assert registry.ledger.promises()
        if not killed:
            assert number > 1
            return
