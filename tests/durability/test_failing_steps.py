"""Whatever step of a write fails: nothing acknowledged is lost, nothing partial stays, and it can be repeated."""

from __future__ import annotations

import os
from itertools import count

import pytest

from tests.durability.conftest import MakeRegistry
from tests.durability.faults import Faults
from tests.durability.ledger import Loss
from tests.durability.operations import SINGLE, Operation, Write
from tests.support.oci import digest_of, expect_error, expect_status, random_bytes

CASES = [
    pytest.param(operation, dedupe, id=f"{operation.__name__}-{'dedupe' if dedupe else 'copies'}")
    for operation in SINGLE
    for dedupe in (True, False)
]


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
@pytest.mark.parametrize(("operation", "dedupe"), CASES)
def test_every_step(
    recorded: MakeRegistry, monkeypatch: pytest.MonkeyPatch, operation: Operation, dedupe: bool, lasting: bool
) -> None:
    """Let the first step fail, then the second, and so on, each time on a new disk, until none is left to fail."""
    for number in count(1):
        with recorded(dedupe=dedupe) as registry, monkeypatch.context() as patch:
            write = operation(registry)
            faults = Faults(registry.disk, patch)
            faults.arm(number, lasting=lasting)
            _try(write)
            faults.disarm()
            registry.lose_power()
            registry.reopen()
            registry.retrying = True
            write()
            registry.reopen()
        if not faults.fired:
            assert number > 1
            return


def _try(write: Write) -> None:
    """Let a write fail, but only in the way of a server whose disk fails."""
    try:
        write()
    except Loss:
        raise
    except AssertionError as error:
        assert "status 50" in str(error), error


def test_failed_sync_uses_the_session_up(recorded: MakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failed fsync the next one succeeds without having written anything: so there must be no next one."""
    data = random_bytes(3000)
    with recorded() as registry:
        client = registry.client("app")
        client.push_blob(random_bytes())
        location = client.start_upload()
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", registry.disk.fail)
            expect_status(client.finish_upload(location, digest_of(data), data=data), 503)
        expect_error(client.finish_upload(location, digest_of(data), data=data), 404, "BLOB_UPLOAD_UNKNOWN")
        client.push_blob(data)


def test_chunk_that_does_not_fit_leaves_the_session_whole(
    recorded: MakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client whose chunk failed asks for the state, and goes on from there once there is room."""
    data = random_bytes(3000)
    with recorded() as registry, monkeypatch.context() as patch:
        client = registry.client("app")
        location = client.start_upload()
        expect_status(client.patch(location, data=data[:1000]), 202)
        faults = Faults(registry.disk, patch)
        faults.arm(1, lasting=True)
        expect_error(client.patch(location, data=data[1000:2000]), 507, "UNSUPPORTED")
        faults.disarm()
        assert client.get(location).headers["Range"] == "0-999"
        expect_status(client.patch(location, data=data[1000:], headers={"Content-Range": "1000-2999"}), 202)
        client.acknowledge_blob(client.finish_upload(location, digest_of(data)), data)
