"""Quotas between processes: of two pushes that fit one by one, one is refused; a killed one holds nothing back."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from storage.backend import Backend
from storage.digest import Digest
from storage.errors import QuotaExceeded
from storage.image_store import ImageStore
from storage.local import LocalBackend
from storage.quota import Quotas, guarded

_LIMIT = 1000
_ROUNDS = 30

_START = """
import io, sys
from storage.digest import Digest
from storage.errors import QuotaExceeded
from storage.image_store import ImageStore
from storage.local import LocalBackend
from storage.quota import Quotas, guarded
root, name, limit = sys.argv[1], sys.argv[2], int(sys.argv[3])
backend = LocalBackend(root)
store = ImageStore(guarded(backend, Quotas(root + "/.pierhead/quotas", {"": limit}, None, {"": backend})))
class Body:
    def __init__(self, data, known):
        self.body = io.BytesIO(data)
        if known:
            self.left = len(data)
    def read(self, size):
        return self.body.read(min(size, 100))
print("ready", flush=True)
"""

#: For each line with a number: push 600 bytes that nobody else has; delete them, if they went in, at the next line.
_PUSH = (
    _START
    + """
for line in sys.stdin:
    data = (name + line.strip()).encode().ljust(600, b".")
    try:
        store.push_blob(name, Digest.of(data), Body(data, known=int(line) % 2))
    except QuotaExceeded:
        print("refused", flush=True)
    else:
        print("stored", flush=True)
        sys.stdin.readline()
        store.delete_blob(name, Digest.of(data))
        print("deleted", flush=True)
"""
)

#: Reserve 900 bytes, take 300 of them, and hang.
_HANG = (
    _START
    + """
class Hanging(Body):
    def read(self, size):
        if self.body.tell() == 300:
            print("hanging", flush=True)
            sys.stdin.readline()
        return super().read(size)
data = b"x" * 900
session = store.begin_upload(name, "sha256")
store.append_upload(name, session, Hanging(data, known=True))
"""
)


@contextmanager
def process(script: str, root: Path, name: str) -> Iterator[subprocess.Popen[str]]:
    """Run a script until it is ready, and kill it in the end."""
    with subprocess.Popen(
        [sys.executable, "-c", script, str(root), name, str(_LIMIT)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as running:
        try:
            assert answer(running) == "ready"
            yield running
        finally:
            running.kill()


def answer(running: subprocess.Popen[str]) -> str:
    assert running.stdout
    return running.stdout.readline().strip()


def tell(running: subprocess.Popen[str], line: str) -> None:
    assert running.stdin
    running.stdin.write(f"{line}\n")
    running.stdin.flush()


def open_store(root: Path) -> tuple[Backend, Quotas, ImageStore]:
    backend = LocalBackend(str(root))
    quotas = Quotas(f"{root}/.pierhead/quotas", {"": _LIMIT}, None, {"": backend})
    return backend, quotas, ImageStore(guarded(backend, quotas))


def test_of_two_pushes_that_fit_one_by_one_exactly_one_is_refused(tmp_path: Path) -> None:
    _, quotas, _ = open_store(tmp_path)
    with ExitStack() as stack:
        pushers = [stack.enter_context(process(_PUSH, tmp_path, name)) for name in ("a", "b")]
        for number in range(_ROUNDS):
            for pusher in pushers:
                tell(pusher, str(number))
            answers = [answer(pusher) for pusher in pushers]
            # Each may reserve more than it will need, so that both can be refused; never are both let in.
            assert answers.count("stored") <= 1
            if number % 2:
                assert sorted(answers) == ["refused", "stored"]
            assert quotas.usages()[0].used == 600 * answers.count("stored")
            for pusher, said in zip(pushers, answers, strict=True):
                if said == "stored":
                    tell(pusher, "delete")
                    assert answer(pusher) == "deleted"


def test_a_killed_push_holds_only_what_has_arrived(tmp_path: Path) -> None:
    backend, quotas, store = open_store(tmp_path)
    with process(_HANG, tmp_path, "a") as hanging:
        assert answer(hanging) == "hanging"
        assert quotas.usages()[0].used == 900
        with pytest.raises(QuotaExceeded):
            store.push_blob("b", Digest.of(b"y" * 600), io.BytesIO(b"y" * 600))
    assert quotas.usages()[0].used == 300
    store.push_blob("b", Digest.of(b"y" * 600), io.BytesIO(b"y" * 600))
    with pytest.raises(QuotaExceeded):
        store.push_blob("b", Digest.of(b"z" * 400), io.BytesIO(b"z" * 400))
    assert len(backend.drop_stale("a", time.time() + 1)) == 1
    store.push_blob("b", Digest.of(b"z" * 400), io.BytesIO(b"z" * 400))
    assert quotas.usages()[0].used == 1000
