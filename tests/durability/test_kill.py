"""kill -9 of master and workers in mid-push: what was acknowledged pulls whole, and nothing partial is visible."""

from __future__ import annotations

import os
import signal
import threading
import time

import requests

from tests.conftest import MakeServer
from tests.durability.ledger import BLOB, TAG, Ledger, check
from tests.support.oci import OCI_CONFIG, Remote, digest_of, image, random_bytes
from tests.support.server import Server

ROUNDS = 4
CLIENTS = 6


def test_everything_acknowledged_survives_kill(make_server: MakeServer) -> None:
    """Push from several clients, kill all processes at once, look at the disk, start again; several times."""
    server = make_server(workers=3)
    ledger = Ledger()
    for number in range(ROUNDS):
        crowd = _push_until_it_breaks(server, ledger, number)
        time.sleep(0.6 + 0.2 * number)
        server.kill()
        for client in crowd:
            client.join()
        _hold(server, ledger, minimum=10 * number)
        server.start()
    _pull(server, ledger)
    Remote(server.url, "team/0").push_image("after")


def test_killed_workers_are_replaced_and_nothing_is_lost(make_server: MakeServer) -> None:
    """Kill only the workers, again and again: their replacements go on with the same store."""
    server = make_server(workers=2)
    ledger = Ledger()
    stop = threading.Event()
    crowd = [_start(_push_stubbornly, server, ledger, number, stop) for number in range(CLIENTS)]
    for _ in range(ROUNDS):
        time.sleep(0.5)
        for pid in server.worker_pids():
            os.kill(pid, signal.SIGKILL)
    time.sleep(1)
    stop.set()
    for client in crowd:
        client.join()
    _hold(server, ledger, minimum=10)
    _pull(server, ledger)


def _push_until_it_breaks(server: Server, ledger: Ledger, round_number: int) -> list[threading.Thread]:
    return [
        _start(_push_all, server, ledger, f"r{round_number}c{number}", f"team/{number % 2}")
        for number in range(CLIENTS)
    ]


def _start(target: object, *args: object) -> threading.Thread:
    thread = threading.Thread(target=target, args=args)  # type: ignore[arg-type]
    thread.start()
    return thread


def _push_all(server: Server, ledger: Ledger, prefix: str, repository: str) -> None:
    """Push images, one tag after the other, until the server is gone."""
    remote = Remote(server.url, repository)
    number = 0
    try:
        while True:
            _push_one(remote, ledger, f"{prefix}n{number}")
            number += 1
    except requests.RequestException:
        return


def _push_stubbornly(server: Server, ledger: Ledger, client: int, stop: threading.Event) -> None:
    """Push images until told to stop; a connection that breaks is followed by a new one."""
    number = 0
    while not stop.is_set():
        try:
            _push_one(Remote(server.url, f"team/{client % 2}"), ledger, f"c{client}n{number}")
        except requests.RequestException:
            continue
        finally:
            number += 1


def _push_one(remote: Remote, ledger: Ledger, tag: str) -> None:
    """Push an image with a layer large enough to be cut, and remember each acknowledgement."""
    layer, config = random_bytes(300_000), random_bytes()
    layers = []
    for data, media_type in ((config, OCI_CONFIG), (layer, "application/vnd.oci.image.layer.v1.tar")):
        layers.append(remote.push_blob(data, media_type))
        ledger.promise(BLOB, remote.name, digest_of(data), data)
    manifest = remote.push(image(layers[0], layers[1:]), tag)
    ledger.promise(TAG, remote.name, tag, manifest.body)


def _hold(server: Server, ledger: Ledger, minimum: int) -> None:
    """Hold that the store's files have all that was acknowledged, which is not little, and nothing partial."""
    promises = ledger.promises()
    assert len(promises) > minimum
    check(server.root, promises)


def _pull(server: Server, ledger: Ledger) -> None:
    """Hold that all that was acknowledged can be pulled."""
    with requests.Session() as session:
        for fact, content in ledger.promises().items():
            kind = "manifests" if fact.kind == TAG else "blobs"
            answer = session.get(f"{server.url}/v2/{fact.repository}/{kind}/{fact.name}", timeout=60)
            assert answer.content == content, fact
