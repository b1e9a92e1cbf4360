"""The two ways of loading a registry: one small request over and over, and several clients at once."""

from __future__ import annotations

import multiprocessing
import re
import select
import selectors
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from multiprocessing.synchronize import Barrier

from bench.client import Connection, WrongAnswer, check
from bench.registries import Registry

CONNECTIONS = 8
_MOST = 65536  # bytes of an answer without a body: it comes in one piece
START_TIMEOUT = 60.0  # seconds until all clients of a measurement are connected

Job = Callable[[Connection], None]
"""One unit of work of a client, such as the push of one image."""

_forked = multiprocessing.get_context("fork")


@dataclass(frozen=True, slots=True)
class Request:
    """A request that is answered 200 and changes nothing."""

    method: str
    path: str
    headers: dict[str, str] = field(default_factory=dict)


def generator(request: Request) -> str:
    """Name what repeats the request: wrk waits for the body that the answer to a HEAD does not have.

    ab asks by HTTP/1.0, and h2load waits as wrk does.
    """
    return "wrk" if request.method == "GET" and shutil.which("wrk") else "raw sockets"


def repeat(registry: Registry, request: Request, seconds: int) -> float:
    """Repeat a request on CONNECTIONS connections; give the answers per second."""
    with registry.connect() as connection:
        connection.ask(request.method, request.path, 200, headers=request.headers)
    if generator(request) == "wrk":
        return _wrk(registry, request, seconds)
    return (_heads if request.method == "HEAD" else _sockets)(registry, request, seconds)


def _wrk(registry: Registry, request: Request, seconds: int) -> float:
    sent = {**registry.headers, **request.headers}
    headers = [part for name, value in sent.items() for part in ("-H", f"{name}: {value}")]
    url = f"http://{registry.host}:{registry.port}{request.path}"
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", *headers, url]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rate = re.search(r"^Requests/sec:\s*([0-9.]+)", output, re.MULTILINE)
    if rate is None or "Non-2xx" in output or "Socket errors" in output:
        raise WrongAnswer(f"{registry.name}, wrk, {url}:\n{output}")
    return float(rate[1])


def _heads(registry: Registry, request: Request, seconds: int) -> float:
    """Repeat a HEAD, looking at an answer's status and end alone: the processor is for the server."""
    answers = 0
    with select.epoll() as poll:
        connections = [registry.connect() for _ in range(CONNECTIONS)]
        head = connections[0].head(request.method, request.path, request.headers)
        sockets = {connection.open().fileno(): connection.open() for connection in connections}
        for number in sockets:
            poll.register(number, select.EPOLLIN)
        begin = time.perf_counter()
        for one in sockets.values():
            one.send(head)
        while (now := time.perf_counter()) < begin + seconds:
            for number, _ in poll.poll(seconds):
                answer = sockets[number].recv(_MOST)
                if not (answer.startswith(b"HTTP/1.1 200 ") and answer.find(b"\r\n\r\n") == len(answer) - 4):
                    raise WrongAnswer(f"{registry.name}: HEAD {request.path}: {answer[:500]!r}")
                answers += 1
                sockets[number].send(head)
        for connection in connections:
            connection.close()
    return answers / (now - begin)


def _sockets(registry: Registry, request: Request, seconds: int) -> float:
    answers = 0
    with selectors.DefaultSelector() as selector:
        connections = [registry.connect() for _ in range(CONNECTIONS)]
        head = connections[0].head(request.method, request.path, request.headers)
        for connection in connections:
            selector.register(connection.open(), selectors.EVENT_READ, connection)
        begin = time.perf_counter()
        for connection in connections:
            connection.send(head)
        while (now := time.perf_counter()) < begin + seconds:
            for key, _ in selector.select(timeout=seconds):
                check(request.path, key.data.receive(discard=True), 200)
                answers += 1
                if key.data.open() is not key.fileobj:
                    selector.unregister(key.fileobj)
                    selector.register(key.data.open(), selectors.EVENT_READ, key.data)
                key.data.send(head)
        for connection in connections:
            connection.close()
    return answers / (now - begin)


@dataclass(frozen=True, slots=True)
class Finished:
    """When each job of a measurement was done, in seconds after its begin, in order."""

    times: list[float]

    @property
    def rate(self) -> float:
        """Jobs per second."""
        return len(self.times) / self.times[-1]

    def slope(self, share: float = 0.1) -> float:
        """Give the rate of the last share of the jobs as a multiple of the rate of the first."""
        count = max(int(len(self.times) * share), 1)
        return self.times[count - 1] / (self.times[-1] - self.times[-count - 1])


def together(registry: Registry, work: Sequence[Sequence[Job]]) -> Finished:
    """Do each client's jobs in a process of its own, with a connection of its own, all starting at once."""
    barrier = _forked.Barrier(len(work))
    pipes = [_start(registry, jobs, barrier) for jobs in work]
    results = [pipe.recv() for pipe in pipes]
    for result in results:
        if isinstance(result, Exception):
            raise result
    begin = min(began for began, _ in results)
    return Finished(sorted(at - begin for _, times in results for at in times))


def _start(registry: Registry, jobs: Sequence[Job], barrier: Barrier) -> Pipe:
    ours, theirs = _forked.Pipe(duplex=False)
    _forked.Process(target=_client, args=(registry, jobs, barrier, theirs), daemon=True).start()
    theirs.close()
    return ours


def _client(registry: Registry, jobs: Sequence[Job], barrier: Barrier, pipe: Pipe) -> None:
    """Send back when the work began and when each job was done, or what went wrong."""
    try:
        with registry.connect() as connection:
            barrier.wait(START_TIMEOUT)
            began = time.perf_counter()
            times = []
            for job in jobs:
                job(connection)
                times.append(time.perf_counter())
        pipe.send((began, times))
    except Exception as error:
        barrier.abort()
        pipe.send(WrongAnswer(f"{registry.name}: {error!r}"))
