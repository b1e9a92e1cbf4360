"""What threads have freed is given back to the system, and only after there was something to free."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from registry import memory


def test_it_is_due_after_some_seconds_and_some_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("registry.memory.time.monotonic", lambda: now)
    trimmer = memory.Trimmer()
    assert not trimmer.is_due(1)
    now += 60
    assert not trimmer.is_due(0)
    assert trimmer.is_due(1)
    assert not trimmer.is_due(2)
    now += 60
    assert not trimmer.is_due(1)
    assert trimmer.is_due(2)


def test_what_is_free_in_the_middle_goes_back() -> None:
    """In a process of its own: of many blocks every page's worth is freed but the last, which holds the rest."""
    program = """
        import ctypes
        from registry.memory import Trimmer
        def resident():
            with open("/proc/self/statm") as file:
                return int(file.read().split()[1]) * 4096
        libc = ctypes.CDLL(None)
        libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
        blocks = [libc.malloc(60_000) for _ in range(2000)]
        for block in blocks:
            ctypes.memset(block, 1, 60_000)
        for block in blocks[:-1]:
            libc.free(block)
        before = resident()
        Trimmer().trim()
        print(before - resident())
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    freed = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert freed > 50_000_000


def test_threads_share_one_heap() -> None:
    """In a process of its own, which prints what the C library has: a heap for each thread otherwise."""
    program = """
        import ctypes, threading
        from registry.memory import share_one_heap
        share_one_heap()
        libc = ctypes.CDLL(None)
        threads = [threading.Thread(target=libc.malloc, args=(1000,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
        libc.fflush(None)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert printed.count("<heap ") == 1
