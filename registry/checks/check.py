"""What a check comes to."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """What was looked at, such as a store's directory, and in what respect; `detail` is what was found, what to do."""

    subject: str
    name: str
    status: Status
    detail: str


def ok(subject: str, name: str, detail: str) -> Check:
    """Say that all is well."""
    return Check(subject, name, Status.OK, detail)


def warn(subject: str, name: str, detail: str) -> Check:
    """Say what works, but costs something or is at risk."""
    return Check(subject, name, Status.WARN, detail)


def fail(subject: str, name: str, detail: str) -> Check:
    """Say what has to be mended."""
    return Check(subject, name, Status.FAIL, detail)
