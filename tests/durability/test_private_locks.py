"""Who replaces a private file holds its lock while reading it, too: nobody's change is lost."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from storage.locks import exclusive
from tests.durability.private_files import OPERATIONS, Place, Write


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_each_write_waits_for_who_is_at_it(tmp_path: Path, operation: Callable[[Place], Write]) -> None:
    """Whoever reads a file in order to replace it holds its lock meanwhile: else the other's change would be lost."""
    place = Place(tmp_path / "place")
    place.htpasswd.parent.mkdir(parents=True)
    write = operation(place)
    before = place.said()
    with ThreadPoolExecutor(1) as pool, ExitStack() as locks:
        for path in (f"{place.auth}/keys.json", f"{place.auth}/token-keys.json", str(place.htpasswd)):
            locks.enter_context(exclusive(path + ".lock"))
        waiting = pool.submit(write)
        with pytest.raises(TimeoutError):
            waiting.result(0.2)
        assert place.said() == before
        locks.close()
        waiting.result()
    assert place.said() != before
