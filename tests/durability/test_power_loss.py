"""201 means that it survives a power loss; and every single fsync is needed for that."""

from __future__ import annotations

import pytest

from tests.durability.conftest import MakeRegistry
from tests.durability.ledger import Loss
from tests.durability.operations import JOINT, SINGLE, Operation

CASES = [
    pytest.param(operation, dedupe, id=f"{operation.__name__}-{'dedupe' if dedupe else 'copies'}")
    for operation in (*SINGLE, *JOINT)
    for dedupe in (True, False)
]


@pytest.mark.parametrize(("operation", "dedupe"), CASES)
def test_acknowledged_writes_survive(recorded: MakeRegistry, operation: Operation, dedupe: bool) -> None:
    """Whenever the power is lost, everything acknowledged is whole and nothing partial is there."""
    with recorded(dedupe=dedupe, every_step=operation in SINGLE) as registry:
        operation(registry)()
        registry.lose_power()
        registry.reopen()
        assert registry.ledger.promises()


def test_no_fsync_can_be_taken_away(recorded: MakeRegistry) -> None:
    """Without any one of the lines that sync, some write is lost: so each is needed, and the recorder sees it."""
    used: dict[str, list[tuple[Operation, bool]]] = {}
    for operation in (*SINGLE, *JOINT):
        for dedupe in (True, False):
            with recorded(dedupe=dedupe) as registry:
                operation(registry)()
            for site in registry.disk.sites:
                used.setdefault(site, []).append((operation, dedupe))
    assert len(used) >= 12
    superfluous = [site for site, cases in used.items() if not any(_loses(recorded, site, *case) for case in cases)]
    assert not superfluous


def _loses(recorded: MakeRegistry, site: str, operation: Operation, dedupe: bool) -> bool:
    """Tell whether something is lost when the calls of fsync from one place do nothing."""
    with recorded(dedupe=dedupe) as registry:
        registry.disk.ignored = site
        try:
            operation(registry)()
        except Loss:
            return True
    return False
