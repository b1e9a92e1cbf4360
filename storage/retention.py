"""Retention: which tags and manifests a repository keeps, until when, and by which rule.

The first policy whose globs match a repository decides for it; where none does, all stays. A tag stays as long as one
of the policy's rules keeps it. What belongs to another manifest by its tag (`sha256-<encoded>...`) stays with that.
"""

from __future__ import annotations

import heapq
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from storage.backend import Backend
from storage.cache import Cache
from storage.clock import timestamp
from storage.digest import Digest, is_digest, parse_digest
from storage.errors import BlobUnknown, DigestInvalid
from storage.globs import matches
from storage.index import Entry, kept_at, pushed_at, tag_of, untagged_at
from storage.snapshot import Snapshot

_BELONGING = re.compile(r"(sha256|sha512)-([0-9a-f]{64,128})(?:\..*)?")
_WARNINGS = 10_000  #: tags about which warnings are remembered, all together
_WARNINGS_AGE = 60.0  #: seconds for which they are
_FOR_GOOD = math.inf
_NEVER = -math.inf

K = TypeVar("K", float, tuple[float, float])


@dataclass(frozen=True, slots=True)
class KeepRule:
    """What keeps the tags that one of the patterns is found in (any tag, without patterns); times are in seconds.

    Without any of the other conditions they stay for good, else as long as one of these holds.
    """

    patterns: tuple[re.Pattern[str], ...] = ()
    most_recently_pushed_count: int | None = None
    most_recently_pulled_count: int | None = None
    pushed_within: float | None = None
    pulled_within: float | None = None

    def is_about(self, tag: str) -> bool:
        """Tell whether the rule is about a tag."""
        return _is_found(self.patterns, tag)

    @property
    def asks_for_pulls(self) -> bool:
        """Whether a pull can make it keep something."""
        return self.most_recently_pulled_count is not None or self.pulled_within is not None

    @property
    def is_unconditional(self) -> bool:
        """Whether it keeps for good whatever it is about."""
        return not self.asks_for_pulls and self.most_recently_pushed_count is None and self.pushed_within is None


@dataclass(frozen=True, slots=True)
class Policy:
    """What is kept in the repositories that one of the globs matches; without rules for tags, all of them."""

    repositories: tuple[str, ...]
    delete_referrers: bool = False
    delete_untagged: bool = False
    keep_tags: tuple[KeepRule, ...] = ()
    keep_untagged: KeepRule | None = None


@dataclass(frozen=True, slots=True)
class Retention:
    """The policies of a store; times are in seconds. Nothing goes that is younger than `delay`.

    Who pulls what goes within the time `warn_within` is told so.
    """

    dry_run: bool = False
    delay: float | None = None
    warn_within: float = 7 * 86400.0
    policies: tuple[Policy, ...] = ()

    def policy(self, repository: str) -> Policy | None:
        """Return the policy that decides for a repository."""
        return next(
            (policy for policy in self.policies if any(matches(glob, repository) for glob in policy.repositories)), None
        )


@dataclass(frozen=True, slots=True)
class ImmutableTags:
    """The tags that one of the patterns is found in (all, without patterns), in the repositories the globs match."""

    repositories: tuple[str, ...]
    patterns: tuple[re.Pattern[str], ...] = ()


def is_immutable(rules: Iterable[ImmutableTags], repository: str, tag: str) -> bool:
    """Tell whether one of the rules is about a tag."""
    return any(
        _is_found(rule.patterns, tag) and any(matches(glob, repository) for glob in rule.repositories) for rule in rules
    )


def _is_found(patterns: Sequence[re.Pattern[str]], tag: str) -> bool:
    return not patterns or any(pattern.search(tag) for pattern in patterns)


class Verdict(NamedTuple):
    """Until when a tag, or a manifest without one (None), is kept, in seconds since the epoch, and why.

    `until` is infinite for what stays; `pushed` and `pulled` are what is known of its past.
    """

    tag: str | None
    digest: str
    until: float
    reason: str
    pushed: float
    pulled: float | None

    @property
    def name(self) -> str:
        """The tag, or else the digest."""
        return self.tag or self.digest


class _Candidate(NamedTuple):
    """A tag, or a manifest without one: `pushed` and `pulled` are what the rules go by, `seen` is what was recorded."""

    tag: str | None
    entry: Entry
    pushed: float
    pulled: float
    seen: float | None


class _Kept(NamedTuple):
    """Until when something is kept, and by what; or what would have."""

    until: float
    reason: str


@dataclass(slots=True)
class _Warnings:
    """The verdicts on what goes soon, by tag, as they were at a moment of time.monotonic()."""

    made: float
    verdicts: dict[str, Verdict] = field(default_factory=dict)


class Keeper:
    """Apply the retention of one store to its repositories.

    `delay` is how old anything is, in seconds, before it can go. Of what `immutable` is true, a repository and a tag,
    nothing goes.
    """

    def __init__(
        self, retention: Retention, backend: Backend, *, delay: float, immutable: Callable[[str, str], bool]
    ) -> None:
        self.retention = retention
        self._backend = backend
        self._delay = delay if retention.delay is None else retention.delay
        self._immutable = immutable
        self._warnings: Cache[str, _Warnings] = Cache(_WARNINGS)

    def pulled(self, repository: str, digest: Digest) -> None:
        """Remember that a manifest is pulled now."""
        self._backend.record_pull(repository, digest)

    def verdicts(self, repository: str, snapshot: Snapshot) -> list[Verdict]:
        """Judge each tag, and each manifest without one that could go; none if no policy decides for the repository."""
        policy = self.retention.policy(repository)
        if policy is None:
            return []
        pulls = _with_parents(self._backend.pulls(repository), snapshot)
        return list(self._judge(repository, snapshot, policy, pulls))

    def tidy(self, repository: str, snapshot: Snapshot) -> None:
        """Drop what is known about the pulls of manifests that are there no longer."""
        gone = [digest for digest in self._backend.pulls(repository) if not snapshot.resolve(digest)]
        self._backend.forget_pulls(repository, gone)

    def warning(self, repository: str, tag: str, digest: str, snapshot: Snapshot) -> str | None:
        """Say when a tag goes, if that is soon, and its being pulled does not change it."""
        if self.retention.dry_run or not self.retention.policies:
            return None
        known = self._warnings.get(repository)
        if known is None or time.monotonic() > known.made + _WARNINGS_AGE:
            known = _Warnings(time.monotonic(), self._soon(repository, snapshot))
            self._warnings.put(repository, known, weight=len(known.verdicts) + 1)
        verdict = known.verdicts.get(tag)
        if verdict is None or verdict.digest != digest:
            return None
        goes = max(verdict.until, time.time())
        return f"tag {tag} is removed after {timestamp(goes)}: {verdict.reason}"

    def _soon(self, repository: str, snapshot: Snapshot) -> dict[str, Verdict]:
        """Return the verdicts on tags that go soon, even if they are pulled."""
        policy = self.retention.policy(repository)
        if policy is None or not policy.keep_tags:
            return {}
        end = time.time() + self.retention.warn_within
        return {
            verdict.tag: verdict
            for verdict in self._judge(repository, snapshot, policy, {})
            if verdict.tag and verdict.until <= end
            if not any(rule.asks_for_pulls and rule.is_about(verdict.tag) for rule in policy.keep_tags)
        }

    # judging

    def _judge(
        self, repository: str, snapshot: Snapshot, policy: Policy, pulls: Mapping[str, float]
    ) -> Iterator[Verdict]:
        """Yield the verdicts: on what stays or goes for its own sake, then by the rules on the others."""
        tagged: list[_Candidate] = []
        untagged: list[_Candidate] = []
        since = self._backend.pulls_known_since()
        for entry in snapshot.index.entries:
            candidate = self._candidate(repository, entry, pulls, since)
            fate = self._fate(repository, snapshot, policy, candidate)
            if fate:
                yield self._verdict(candidate, fate)
            else:
                (untagged if candidate.tag is None else tagged).append(candidate)
        keep_tags = [(f"keepTags[{number}]", rule) for number, rule in enumerate(policy.keep_tags)]
        keep_untagged = [("keepUntagged", policy.keep_untagged)] if policy.keep_untagged else []
        yield from (
            self._verdict(*judged) for judged in _by_rules(keep_tags, tagged, "no rule of keepTags is about it")
        )
        yield from (self._verdict(*judged) for judged in _by_rules(keep_untagged, untagged, "deleteUntagged"))

    def _candidate(self, repository: str, entry: Entry, pulls: Mapping[str, float], since: float) -> _Candidate:
        """Put together what is known of an entry's past; what is not known did not end before it could be."""
        pushed, seen = pushed_at(entry), pulls.get(entry["digest"])
        if pushed is None:
            pushed = max(self._written_at(repository, entry["digest"]), since)
        return _Candidate(tag_of(entry), entry, pushed, max(seen or since, pushed, since), seen)

    def _written_at(self, repository: str, digest: str) -> float:
        try:
            return self._backend.written_at(repository, parse_digest(digest))
        except (BlobUnknown, DigestInvalid):
            return time.time()

    def _fate(self, repository: str, snapshot: Snapshot, policy: Policy, candidate: _Candidate) -> _Kept | None:
        """Tell what becomes of an entry whatever the rules say; None where they decide."""
        tag, digest = candidate.tag, candidate.entry["digest"]
        if tag and self._immutable(repository, tag):
            return _Kept(_FOR_GOOD, "immutableTags")
        subject = _subject_by_tag(tag) if tag else snapshot.subject(candidate.entry)
        if subject:
            return _fate_of_referrer(snapshot, policy, subject)
        if tag:
            return None if policy.keep_tags else _Kept(_FOR_GOOD, "the policy has no keepTags")
        if digest in snapshot.parents:
            return _Kept(_FOR_GOOD, f"listed by {snapshot.parents[digest][0]}")
        return None if policy.delete_untagged else _Kept(_FOR_GOOD, "deleteUntagged is off")

    def _verdict(self, candidate: _Candidate, kept: _Kept) -> Verdict:
        until, reason = kept
        entry = candidate.entry
        young = max(candidate.pushed, kept_at(entry) or 0.0, untagged_at(entry) or 0.0) + self._delay
        if young > max(until, time.time()):
            until, reason = young, f"{reason}; delay"
        return Verdict(candidate.tag, candidate.entry["digest"], until, reason, candidate.pushed, candidate.seen)


def is_due(verdict: Verdict) -> bool:
    """Tell whether something is kept no longer."""
    return verdict.until <= time.time()


def due(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Return the verdicts on what is kept no longer."""
    return [verdict for verdict in verdicts if is_due(verdict)]


def _by_rules(
    rules: Sequence[tuple[str, KeepRule]], candidates: Sequence[_Candidate], otherwise: str
) -> Iterator[tuple[_Candidate, _Kept]]:
    """Judge candidates by all rules: the one that keeps longest counts."""
    best = [_Kept(_NEVER, otherwise)] * len(candidates)
    for name, rule in rules:
        own = [number for number, candidate in enumerate(candidates) if rule.is_about(candidate.tag or "")]
        for number, kept in zip(own, _by_rule(name, rule, [candidates[number] for number in own]), strict=True):
            if kept.until > best[number].until or best[number].reason == otherwise:
                best[number] = kept
    return zip(candidates, best, strict=True)


def _by_rule(name: str, rule: KeepRule, candidates: Sequence[_Candidate]) -> Iterator[_Kept]:
    """Judge the candidates that a rule is about, in their order."""
    if rule.is_unconditional:
        yield from (_Kept(_FOR_GOOD, f"{name}.patterns") for _ in candidates)
        return
    pushed_from = _least_of_the_most(rule.most_recently_pushed_count, [each.pushed for each in candidates])
    pulls = [(each.pulled, each.pushed) for each in candidates]
    pulled_from = _least_of_the_most(rule.most_recently_pulled_count, pulls)
    for each in candidates:
        kept = []
        if pushed_from is not None:
            counts = each.pushed >= pushed_from
            kept.append(_Kept(_FOR_GOOD if counts else _NEVER, f"{name}.mostRecentlyPushedCount"))
        if pulled_from is not None:
            counts = (each.pulled, each.pushed) >= pulled_from
            kept.append(_Kept(_FOR_GOOD if counts else _NEVER, f"{name}.mostRecentlyPulledCount"))
        if rule.pushed_within is not None:
            kept.append(_Kept(each.pushed + rule.pushed_within, f"{name}.pushedWithin"))
        if rule.pulled_within is not None:
            kept.append(_Kept(each.pulled + rule.pulled_within, f"{name}.pulledWithin"))
        yield max(kept, key=lambda one: one.until)


def _least_of_the_most(count: int | None, keys: Sequence[K]) -> K | None:
    """Return the least of the `count` greatest keys; what equals it counts among them, too. None without a count."""
    if count is None or not keys:
        return None
    return heapq.nlargest(count, keys)[-1]


def _fate_of_referrer(snapshot: Snapshot, policy: Policy, subject: str) -> _Kept:
    if snapshot.resolve(subject):
        return _Kept(_FOR_GOOD, f"belongs to {subject}")
    if policy.delete_referrers:
        return _Kept(_NEVER, f"belongs to {subject}, which is gone")
    return _Kept(_FOR_GOOD, "deleteReferrers is off")


def _subject_by_tag(tag: str) -> str | None:
    """Return what a tag like `sha256-<encoded>.sig` belongs to (the referrers tag schema, and cosign's)."""
    found = _BELONGING.fullmatch(tag)
    digest = f"{found[1]}:{found[2]}" if found else ""
    return digest if is_digest(digest) else None


def _with_parents(pulls: Mapping[str, float], snapshot: Snapshot) -> dict[str, float]:
    """Let the pull of a manifest be one of each index that lists it."""
    times = dict(pulls)
    todo = list(pulls)
    while todo:
        digest = todo.pop()
        for parent in snapshot.parents.get(digest, ()):
            if times.get(parent, _NEVER) < times[digest]:
                times[parent] = times[digest]
                todo.append(parent)
    return times
