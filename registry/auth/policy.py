"""May you: the rules, and the one function that decides on them.

Everything here is a function of its arguments alone, so rules can be tried out in a test: see docs/authorization.md.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from registry.auth.identity import ALL, Action, Grant, Identity
from storage.globs import ANYTHING_BELOW, Glob, check_pattern, glob_of, glob_or_none, matches
from storage.names import MAX_NAME

_NOBODY: Final[frozenset[str]] = frozenset()
_NOTHING: Final[frozenset[Action]] = frozenset()
_ADMIN_POLICY = "http.accessControl.adminPolicy"


#: All that a decision depends on: the pattern that decides, a user's name and groups of their store, the action.
_Case = tuple[str | None, str, frozenset[str], Action]


class _Index:
    """What follows from rules alone, worked out once, and which pattern decides on a repository.

    It belongs to its rules and is gone with them; it remembers a bounded number of repositories.
    """

    __slots__ = ("_by_length", "_deciding", "_decisions", "_groups")

    _REMEMBERED = 4096

    def __init__(self, repositories: Iterable[str], groups: Mapping[str, frozenset[str]]) -> None:
        # The sort is stable: of patterns of one length the first in the file is the first here.
        self._by_length = [(pattern, glob_of(pattern)) for pattern in sorted(repositories, key=len, reverse=True)]
        self._deciding: dict[str, str | None] = {}
        self._decisions: dict[_Case, Decision] = {}
        members = {user for users in groups.values() for user in users}
        self._groups = {user: frozenset(name for name in groups if user in groups[name]) for user in members}

    def matching(self, repository: str) -> Iterator[str]:
        """Yield the patterns that match, the one that decides first."""
        return (pattern for pattern, glob in self._by_length if glob.matches(repository))

    def deciding(self, repository: str) -> str | None:
        """Return the pattern that decides."""
        try:
            return self._deciding[repository]
        except KeyError:
            pattern = next(self.matching(repository), None)
        if len(repository) <= MAX_NAME:
            if len(self._deciding) >= self._REMEMBERED:
                self._deciding.clear()
            self._deciding[repository] = pattern
        return pattern

    def decided(self, case: _Case) -> Decision | None:
        """Return what was decided before in such a case."""
        return self._decisions.get(case)

    def remember(self, case: _Case, decision: Decision) -> Decision:
        """Keep a decision for all that are alike, and return it."""
        if len(self._decisions) >= self._REMEMBERED:
            self._decisions.clear()
        self._decisions[case] = decision
        return decision

    def groups(self, identity: Identity) -> frozenset[str]:
        """Return the groups that somebody is in, by their user store or by the rules."""
        own = self._groups.get(identity.name)
        return identity.groups | own if own else identity.groups

    def globs(self) -> Iterator[tuple[str, Glob]]:
        """Yield the patterns, the longest first, with what they have become."""
        return iter(self._by_length)


@dataclass(frozen=True, slots=True)
class Policy:
    """Allow some users, and the members of some groups, some actions."""

    users: frozenset[str] = _NOBODY
    groups: frozenset[str] = _NOBODY
    actions: frozenset[Action] = _NOTHING


@dataclass(frozen=True, slots=True)
class RepositoryRules:
    """Say who may do what in the repositories that a glob matches.

    `default_policy` is for whoever has a name, `anonymous_policy` for everybody.
    """

    policies: tuple[Policy, ...] = ()
    default_policy: frozenset[Action] = _NOTHING
    anonymous_policy: frozenset[Action] = _NOTHING


@dataclass(frozen=True, slots=True)
class AccessControl:
    """Hold `http.accessControl`: rules by glob in the file's order, and the users of groups by name.

    `path` is where the globs stand in the file: zot 1.4 had them directly in `http.accessControl`.
    Raises ValueError for a glob that `check_pattern` refuses.
    """

    repositories: Mapping[str, RepositoryRules] = field(default_factory=lambda: MappingProxyType({}))
    groups: Mapping[str, frozenset[str]] = field(default_factory=lambda: MappingProxyType({}))
    admin_policy: Policy | None = None
    metrics_users: frozenset[str] = _NOBODY
    path: str = "http.accessControl.repositories"
    _index: _Index = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_index", _Index(self.repositories, self.groups))


@dataclass(frozen=True, slots=True)
class Decision:
    """Say whether something is allowed, by which rule (its path in the file), and why.

    `rule` is "" where no rule has been asked, because the credentials are limited to less. Neither names who asks or
    what they ask for: what comes from outside is not in them.
    """

    allowed: bool
    rule: str
    reason: str

    def __bool__(self) -> bool:
        return self.allowed


def decide(rules: AccessControl | None, identity: Identity, repository: str, action: Action) -> Decision:
    """Decide whether somebody may do something to a repository, which need not exist.

    1. What limits the credentials (`Identity.grants`) has to allow it.
    2. Without rules everybody may do everything who has a name, or credentials that say what they are for.
    3. `adminPolicy` allows it anywhere.
    4. Else the longest pattern that matches decides alone (of several, the first in the file): by `policies` that
       name the user or a group of theirs, by `defaultPolicy` for whoever has a name, by `anonymousPolicy` for
       everybody.

    More actions, users or groups in a rule never take anything away.
    """
    if not is_granted(identity, repository, (action,)):
        return Decision(False, "", "the credentials are limited, and not meant for this")
    if rules is None:
        return _decide_without_rules(identity)
    case = rules._index.deciding(repository), identity.name, identity.groups, action
    known = rules._index.decided(case)
    return known if known is not None else rules._index.remember(case, _decide_by_rules(rules, case, identity))


def _decide_by_rules(rules: AccessControl, case: _Case, identity: Identity) -> Decision:
    pattern, *_, action = case
    groups = rules._index.groups(identity)
    admin = rules.admin_policy
    if admin and action in admin.actions:
        by = _named(admin, identity, groups)
        if by:
            return Decision(True, _ADMIN_POLICY, f"it allows the action in every repository, and {by}")
    if pattern is None:
        return Decision(False, rules.path, "no pattern matches the repository")
    return _decide_by(rules, pattern, identity, groups, action)


def _decide_without_rules(identity: Identity) -> Decision:
    if _is_known(identity):
        return Decision(True, "http.accessControl", "there are no rules, so whoever logs in may do everything")
    return Decision(False, "http.accessControl", "there are no rules, so anonymous may do nothing")


def _decide_by(
    rules: AccessControl, pattern: str, identity: Identity, groups: frozenset[str], action: Action
) -> Decision:
    path = f"{rules.path}[{json.dumps(pattern)}]"
    entry = rules.repositories[pattern]
    for number, policy in enumerate(entry.policies):
        by = _named(policy, identity, groups) if action in policy.actions else ""
        if by:
            return Decision(True, f"{path}.policies[{number}]", f"it allows the action, and {by}")
    if action in entry.default_policy and not identity.anonymous:
        return Decision(True, f"{path}.defaultPolicy", "it allows the action to whoever logs in")
    if action in entry.anonymous_policy:
        return Decision(True, f"{path}.anonymousPolicy", "it allows the action to everybody")
    return Decision(False, path, "it is the longest pattern that matches, and nothing in it allows the action")


def _named(policy: Policy, identity: Identity, groups: frozenset[str]) -> str:
    """Return how a policy names somebody, or ""."""
    if identity.anonymous:
        return ""
    if identity.name in policy.users:
        return "names the user"
    common = policy.groups and groups & policy.groups
    return f"names the group {json.dumps(min(common))}" if common else ""


def _is_known(identity: Identity) -> bool:
    return not identity.anonymous or identity.grants is not None


def is_granted(identity: Identity, repository: str, actions: Collection[Action]) -> bool:
    """Tell whether somebody's credentials may be used for one of these actions at all, whatever the rules say."""
    if identity.grants is None:
        return True
    return any(
        not grant.actions.isdisjoint(actions) and matches(grant.pattern, repository) for grant in identity.grants
    )


def matching(rules: AccessControl, repository: str) -> tuple[str, ...]:
    """Return every pattern that matches a repository, the one that decides first."""
    return tuple(rules._index.matching(repository))


# What can be told without knowing the repository.


def may_do_anything(rules: AccessControl | None, identity: Identity, action: Action) -> bool:
    """Tell whether there can be a repository to which somebody may do this; True if in doubt."""
    if identity.grants is not None and not any(action in grant.actions for grant in identity.grants):
        return False
    if rules is None:
        return _is_known(identity)
    return _is_admin(rules, identity, action) or any(
        _allows(rules, pattern, identity, action) for pattern in rules.repositories
    )


def may_read_all(rules: AccessControl | None, identity: Identity, prefix: str) -> bool:
    """Tell whether somebody may read every repository that there can be at or below a prefix; False if in doubt.

    The prefix "" is that of the default store, and stands for all repositories.
    """
    below = _directory(prefix)
    if identity.grants is not None and not any(glob.covers(below) for glob in _reading(identity.grants)):
        return False
    if rules is None:
        return _is_known(identity)
    if _is_admin(rules, identity, Action.READ):
        return True
    concerned = [(pattern, glob) for pattern, glob in rules._index.globs() if glob.may_lie_below(below)]
    return any(glob.covers(below) for _, glob in concerned) and all(
        _allows(rules, pattern, identity, Action.READ) for pattern, _ in concerned
    )


def readable_prefixes(rules: AccessControl | None, identity: Identity) -> tuple[str, ...]:
    """Return the directories at or below which everything lies that somebody may read, none below another, sorted.

    There may be more below them. ("",) stands for everything, () for nothing.
    """
    prefixes = _rules_prefixes(rules, identity)
    if identity.grants is not None:
        granted = {branch.directory for glob in _reading(identity.grants) for branch in glob.branches}
        prefixes = {
            max(one, other, key=len)
            for one in prefixes
            for other in granted
            if all(a == b for a, b in zip(one, other, strict=False))
        }
    minimal = (one for one in prefixes if not any(one[:length] in prefixes for length in range(len(one))))
    return tuple(sorted(map("/".join, minimal)))


def _rules_prefixes(rules: AccessControl | None, identity: Identity) -> set[tuple[str, ...]]:
    everything: set[tuple[str, ...]] = {()}
    if rules is None:
        return everything if _is_known(identity) else set()
    if _is_admin(rules, identity, Action.READ):
        return everything
    return {
        branch.directory
        for pattern, glob in rules._index.globs()
        if _allows(rules, pattern, identity, Action.READ)
        for branch in glob.branches
    }


def grants_more_than_anonymous(rules: AccessControl | None) -> bool:
    """Tell whether some credentials could allow anything that anonymous is not allowed; True if in doubt."""
    if rules is None or rules.metrics_users:
        return True
    admin = rules.admin_policy
    if admin and (admin.users or admin.groups):
        return True  # the metrics, if nothing else
    return any(map(_has_more, rules.repositories.values()))


def _has_more(entry: RepositoryRules) -> bool:
    named = [policy.actions for policy in entry.policies if policy.users or policy.groups]
    return not all(actions <= entry.anonymous_policy for actions in [entry.default_policy, *named])


def named_groups(rules: AccessControl | None) -> frozenset[str]:
    """Return the groups that the rules name: what other groups somebody is in decides nothing."""
    if rules is None:
        return frozenset()
    entries = [policy for entry in rules.repositories.values() for policy in entry.policies]
    return frozenset().union(*(policy.groups for policy in (*entries, rules.admin_policy) if policy))


def may_see_metrics(rules: AccessControl | None, identity: Identity) -> bool:
    """Tell whether somebody may see the counters: not by credentials that are limited to some repositories.

    Without rules everybody may who has a name, else those in `metrics`, and whom `adminPolicy` names.
    """
    if identity.anonymous or not _is_unlimited(identity):
        return False
    if rules is None or identity.name in rules.metrics_users:
        return True
    admin = rules.admin_policy
    return bool(admin and _named(admin, identity, rules._index.groups(identity)))


def _is_unlimited(identity: Identity) -> bool:
    return identity.grants is None or any(
        grant.pattern == ANYTHING_BELOW and grant.actions == ALL for grant in identity.grants
    )


def _is_admin(rules: AccessControl, identity: Identity, action: Action) -> bool:
    admin = rules.admin_policy
    return bool(admin and action in admin.actions and _named(admin, identity, rules._index.groups(identity)))


def _allows(rules: AccessControl, pattern: str, identity: Identity, action: Action) -> bool:
    return _decide_by(rules, pattern, identity, rules._index.groups(identity), action).allowed


def _reading(grants: Iterable[Grant]) -> Iterator[Glob]:
    """Yield the globs of the grants that allow to read."""
    for grant in grants:
        glob = glob_or_none(grant.pattern) if Action.READ in grant.actions else None
        if glob:
            yield glob


def _directory(prefix: str) -> tuple[str, ...]:
    return tuple(prefix.split("/")) if prefix else ()


# Grants as text: the scopes of API keys.

_PUSH: Final = frozenset({Action.READ, Action.CREATE, Action.UPDATE})
_WORDS: Final[Mapping[str, frozenset[Action]]] = MappingProxyType(
    {
        "*": ALL,
        "push": _PUSH,  # with read: clients look for what is there before they upload
        "pull": frozenset({Action.READ}),
        **{str(action): frozenset({action}) for action in Action},
    }
)


def parse_grant(text: str) -> Grant:
    """Take a scope such as `pull:team/*`, `push:team/app`, `read,delete:**` or `*:team/**`.

    Actions are those of the rules, or `pull` (read), `push` (read, create, update), `*` (all).
    Raises ValueError saying what is wrong.
    """
    words, colon, pattern = text.partition(":")
    if not colon:
        raise ValueError(f'expected actions, ":" and a glob, such as "pull:team/*", got {json.dumps(text)}')
    unknown = [word for word in words.split(",") if word not in _WORDS]
    if unknown:
        raise ValueError(f"expected actions from {', '.join(_WORDS)}, got {json.dumps(unknown[0])}")
    actions = frozenset[Action]().union(*(_WORDS[word] for word in words.split(",")))
    try:
        return Grant(check_pattern(pattern), actions)
    except ValueError as error:
        raise ValueError(f"{json.dumps(pattern)}: {error}") from error


def grant_text(grant: Grant) -> str:
    """Return the scope that `parse_grant` takes for this grant, with the widest word for its actions."""
    word = next((word for word, actions in _WORDS.items() if actions == grant.actions), None)
    return f"{word or ','.join(action for action in Action if action in grant.actions)}:{grant.pattern}"
