"""The rules: what globs match, which rule decides, and what can be told without knowing a repository."""

from __future__ import annotations

import gc
import itertools
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from registry.auth import policy
from registry.auth.identity import ALL, ANONYMOUS, Action, Grant, Identity
from registry.auth.policy import (
    AccessControl,
    Policy,
    RepositoryRules,
    decide,
    grant_text,
    grants_more_than_anonymous,
    is_granted,
    matching,
    may_do_anything,
    may_read_all,
    may_see_metrics,
    parse_grant,
    readable_prefixes,
)
from storage.globs import check_pattern, matches
from storage.names import MAX_NAME

NO_DEADLINE = settings(deadline=None)  # the machine may be busy

ROOT = Path(__file__).resolve().parents[2]
READ = frozenset({Action.READ})
NOTHING: frozenset[Action] = frozenset()
ALICE = Identity("alice", scheme="htpasswd")


def users(*names: str, may: Iterable[Action] = ALL) -> Policy:
    return Policy(users=frozenset(names), actions=frozenset(may))


def everybody(*actions: Action) -> RepositoryRules:
    return RepositoryRules(anonymous_policy=frozenset(actions))


def logged_in(*actions: Action) -> RepositoryRules:
    return RepositoryRules(default_policy=frozenset(actions))


# Globs


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("a", "a", "b aa a/a"),
        ("*", "a abc", "a/b"),
        ("a*", "a abc", "ab/c ba"),
        ("*c", "c abc", "a/c cb"),
        ("a*/b", "abc/b a/b", "a/c/b"),
        ("a*b*c*d*e*", "axbxcxdxe abcde", "abced"),
        ("a*b?c*x", "abxbbxdbxebxczzx", "abxbbxdbxebxczzy"),
        ("a?b", "acb", "ab a/b accb"),
        ("**", "a a/b a/b/c", ""),
        ("a/**", "a a/b a/b/c", "ab b/a ab/c"),  # `a` too, as to zot
        ("a/*/**", "a/b a/b/c", "a"),
        ("a/**/**", "a a/b", "b"),
        ("**/c", "c b/c a/b/c", "a/b abcd a/abc"),
        ("a/**/b", "a/b a/x/b a/x/y/b a/b/b", "a a/bx ab a/xb"),
        ("a/**/b/**/c", "a/b/c a/b/b/c a/x/b/y/c", "a/c a/b a/c/b"),
        ("a/**/b/*/**/c", "a/b/x/c a/b/b/c", "a/b/c"),
        ("a**", "a abc", "a/b abc/b"),  # no component by itself: a single star
        ("**a", "a ba", "b/a"),
        ("a/b**/c", "a/b/c a/bx/c", "a/b/x/c"),
        ("***", "a", "a/b"),
        ("ab[cd]", "abc abd", "abe ab"),
        ("ab[b-d]", "abb abc", "abe"),
        ("ab[^b-d]", "aba ab-", "abc ab/"),
        ("ab[!b]", "aba", "abb ab/"),
        ("a[!b]c", "axc", "a/c"),
        ("[x-]", "x -", "a"),
        ("[-x]", "x -", "a"),
        ("[a-b-d]", "a b - d", "c"),
        (r"[\-x]", "x -", "a"),
        (r"\a", "a", "b"),
        (r"\a*", "a ab", "ba"),
        ("a[.-9]b", "a.b a0b", "a/b a-b"),
        ("ab{c,d}", "abc abd", "ab abcd"),
        ("ab{c,d,*}", "ab abcde", "ab/c"),
        ("a{,bc}", "a abc", "ab"),
        ("a{,/**}", "a a/b/c", "ab"),
        ("{a/{b,c},abc}", "a/b a/c abc", "a/b/c a"),
        ("{team,dept/*}/app", "team/app dept/x/app", "dept/app"),
        ("{a}", "a", "b"),
        ("a.b", "a.b", "axb"),
    ],
)
def test_what_globs_match(pattern: str, yes: str, no: str) -> None:
    """Names that it matches, and names that it does not."""
    assert check_pattern(pattern) == pattern
    assert [name for name in yes.split() if not matches(pattern, name)] == []
    assert [name for name in no.split() if matches(pattern, name)] == []


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("", "empty"),
        ("/a", "slash"),
        ("a/", "slash"),
        ("a//b", "slash"),
        ("/", "slash"),
        ("{a,}/b", "slash"),
        ("{,a}", "empty"),
        ("[", "closed"),
        ("a[", "closed"),
        ("[]", "closed"),
        ("[]a]", "closed"),
        ("[^", "closed"),
        ("[!]", "closed"),
        ("a[b/c]", "closed"),
        ("{", "closed"),
        ("{a,b", "closed"),
        ("{a,{b,c}", "closed"),
        ("a}", "before"),
        ("}{", "before"),
        ("\\", "backslash"),
        ("a\\", "backslash"),
        ("Team/**", "upper-case"),
        ("[A-Z]", "upper-case"),
        ("[a-Z]", "upper-case"),
        ("team/É", "upper-case"),
        ("a b", "character"),
        ("a,b", "character"),
        ("team:app", "character"),
        ("team/ü", "character"),
        ("a\n", "character"),
        ("[\n]", "character"),
        ("a\0", "character"),
        ("\ud800", "character"),
        (r"\*", "character"),
        (r"\{", "character"),
        ("[z-a]", "backwards"),
        ("[!a-z0-9._-]", "no character"),
        ("{a,b}" * 9, "256"),
        ("{" * 9 + "a" + "}" * 9, "deep"),
        ("{" * 1000, "closed"),
        ("a" * 1025, "1024"),
    ],
)
def test_malformed_globs_are_refused(pattern: str, message: str) -> None:
    """With a message that says what is wrong; asked all the same, they match nothing."""
    with pytest.raises(ValueError, match=message):
        check_pattern(pattern)
    assert not matches(pattern, "a")
    with pytest.raises(ValueError, match=message):
        AccessControl({pattern: RepositoryRules()})


@NO_DEADLINE
@given(st.text() | st.text(alphabet="ab*?[]{}!^-,/\\", max_size=12), st.text(alphabet="ab/-"))
def test_any_text_is_a_glob_or_refused(pattern: str, repository: str) -> None:
    """Nothing else than ValueError ever comes out."""
    try:
        check_pattern(pattern)
    except ValueError as error:
        assert str(error).isprintable()
        assert not matches(pattern, repository)


def naive(pattern: str, name: str) -> bool:
    """Match as the words say, by trying everything."""
    brace = re.fullmatch(r"([^{]*)\{([^{}]*)\}(.*)", pattern)
    if brace:
        head, options, tail = brace.groups()
        return any(naive(head + option + tail, name) for option in options.split(","))
    return naive_path(pattern.split("/"), name.split("/"))


def naive_path(patterns: list[str], parts: list[str]) -> bool:
    if not patterns:
        return not parts
    if patterns[0] == "**":
        return any(naive_path(patterns[1:], parts[skipped:]) for skipped in range(len(parts) + 1))
    return bool(parts) and naive_part(patterns[0], parts[0]) and naive_path(patterns[1:], parts[1:])


def naive_part(pattern: str, text: str) -> bool:
    if not pattern:
        return not text
    if pattern[0] == "*":
        return any(naive_part(pattern[1:], text[skipped:]) for skipped in range(len(text) + 1))
    if not text:
        return False
    if pattern.startswith("["):
        inside, _, rest = pattern[1:].partition("]")
        wanted = inside.lstrip("!")
        return (text[0] in wanted) != inside.startswith("!") and naive_part(rest, text[1:])
    return pattern[0] in ("?", text[0]) and naive_part(pattern[1:], text[1:])


atoms = st.sampled_from(["a", "b", "-", "*", "?", "[ab]", "[!a]", "{a,b*}", "{a/b,**}", "{,b}"])
parts = st.just("**") | st.lists(atoms, min_size=1, max_size=5).map("".join)
globs = st.lists(parts, min_size=1, max_size=4).map("/".join)
names = st.lists(st.text(alphabet="ab-", min_size=1, max_size=5), min_size=1, max_size=5).map("/".join)


@NO_DEADLINE
@given(globs, names)
@example("**/a*b/**/b", "a/ab/ab/b")
@example("*a*ab", "aaab")
@example("**/a/b/**/b/c", "a/a/b/b/b/c")
def test_globs_match_what_the_words_say(pattern: str, repository: str) -> None:
    """The regular expressions, which never go back, agree with trying everything."""
    try:
        check_pattern(pattern)
    except ValueError:
        assume(False)
    assert matches(pattern, repository) == naive(pattern, repository)


@pytest.mark.parametrize(
    ("pattern", "repository"),
    [
        ("*-" * 40 + "b", "a-" * 127 + "c"),
        ("**/a/" * 30 + "b", "a/" * 127 + "c"),
        ("**/*-*/" * 30 + "z", "a-b/" * 60 + "c"),
        ("{*,*a,*-*}" * 4 + "/b", "a-" * 127 + "a"),
        ("*" * 500 + "b", "a" * MAX_NAME),
        ("?*" * 100 + "b", "a" * MAX_NAME),
        ("*[a-z]" * 100 + "0", "a" * MAX_NAME),
    ],
)
def test_no_name_takes_long(pattern: str, repository: str) -> None:
    """Going back over what has matched would take longer than anybody waits."""
    for _ in range(20):
        assert not matches(pattern, repository)


def test_names_that_are_too_long_match_nothing() -> None:
    """So that what is looked at is bounded: no repository is called so."""
    assert matches("a*", "a" * MAX_NAME)
    assert not matches("a*", "a" * (MAX_NAME + 1))
    rules = AccessControl({"**": everybody(Action.READ)})
    assert decide(rules, ANONYMOUS, "a" * MAX_NAME, Action.READ)
    assert not decide(rules, ANONYMOUS, "a" * 1_000_000, Action.READ)


@NO_DEADLINE
@given(st.text() | st.text(alphabet="ab/\n\0.", max_size=6))
def test_names_that_nobody_can_have_are_decided_on(repository: str) -> None:
    """They come from outside, before anything has checked them; the end of a line is not the end of a name."""
    rules = AccessControl({"a": everybody(*ALL), "{b,a}/*": everybody(*ALL), "*[ab]": everybody(*ALL)})
    decision = decide(rules, ANONYMOUS, repository, Action.READ)
    if repository.endswith(("\n", "\0", ".")) and "/" not in repository:
        assert not decision


# Which rule decides

RULES = AccessControl(
    repositories={
        "**": everybody(Action.READ),
        "team/**": RepositoryRules(
            policies=(
                users("bob", may=READ),
                Policy(groups=frozenset({"developers"}), actions=frozenset({Action.READ, Action.CREATE})),
                users("bob", may=(Action.UPDATE,)),
            ),
            default_policy=READ,
        ),
        "team/open": everybody(Action.READ, Action.CREATE),
        "team/none": RepositoryRules(),
    },
    groups={"developers": frozenset({"alice"}), "operators": frozenset({"olga"})},
    admin_policy=Policy(frozenset({"root"}), frozenset({"operators"}), frozenset({Action.DELETE, Action.READ})),
    metrics_users=frozenset({"monitor"}),
)
PATH = "http.accessControl.repositories"
LDAP_DEVELOPER = Identity("eve", frozenset({"developers", "others"}), "ldap")


@pytest.mark.parametrize(
    ("identity", "repository", "action", "allowed", "rule"),
    [
        (ANONYMOUS, "library/a", Action.READ, True, f'{PATH}["**"].anonymousPolicy'),
        (ALICE, "library/a", Action.READ, True, f'{PATH}["**"].anonymousPolicy'),
        (ALICE, "library/a", Action.CREATE, False, f'{PATH}["**"]'),
        (ANONYMOUS, "team/app", Action.READ, False, f'{PATH}["team/**"]'),
        (ANONYMOUS, "team", Action.READ, False, f'{PATH}["team/**"]'),
        (ANONYMOUS, "teams", Action.READ, True, f'{PATH}["**"].anonymousPolicy'),
        (ALICE, "team/app", Action.CREATE, True, f'{PATH}["team/**"].policies[1]'),
        (ALICE, "team/app", Action.READ, True, f'{PATH}["team/**"].policies[1]'),
        (LDAP_DEVELOPER, "team/app", Action.CREATE, True, f'{PATH}["team/**"].policies[1]'),
        (Identity("bob"), "team/app", Action.READ, True, f'{PATH}["team/**"].policies[0]'),
        (Identity("bob"), "team/app", Action.UPDATE, True, f'{PATH}["team/**"].policies[2]'),
        (Identity("bob"), "team/app", Action.CREATE, False, f'{PATH}["team/**"]'),
        (Identity("carol"), "team/app", Action.READ, True, f'{PATH}["team/**"].defaultPolicy'),
        (Identity("carol"), "team/open", Action.CREATE, True, f'{PATH}["team/open"].anonymousPolicy'),
        (ALICE, "team/none", Action.READ, False, f'{PATH}["team/none"]'),
        (Identity("root"), "team/none", Action.READ, True, "http.accessControl.adminPolicy"),
        (Identity("olga"), "team/none", Action.DELETE, True, "http.accessControl.adminPolicy"),
        (Identity("root"), "team/none", Action.CREATE, False, f'{PATH}["team/none"]'),
        (Identity("developers"), "team/app", Action.CREATE, False, f'{PATH}["team/**"]'),
    ],
)
def test_decisions(identity: Identity, repository: str, action: Action, allowed: bool, rule: str) -> None:
    """Each names the rule; asked again, it is the same."""
    for _ in range(2):
        decision = decide(RULES, identity, repository, action)
        assert (decision.allowed, decision.rule) == (allowed, rule)
        assert decision.reason
        assert bool(decision) is allowed


def test_no_pattern_matches() -> None:
    """What no rule is about is denied."""
    decision = decide(AccessControl({"a": everybody(*ALL)}), ALICE, "b", Action.READ)
    assert (decision.allowed, decision.rule) == (False, PATH)
    assert not decide(AccessControl(), ALICE, "b", Action.READ)


def test_the_older_shape_has_another_path() -> None:
    """zot 1.4 had the globs directly under accessControl."""
    rules = AccessControl({"team/**": everybody(Action.READ)}, path="http.accessControl")
    assert decide(rules, ALICE, "team/a", Action.READ).rule == 'http.accessControl["team/**"].anonymousPolicy'


@pytest.mark.parametrize(
    ("identity", "allowed"),
    [
        (ANONYMOUS, False),
        (ALICE, True),
        (Identity(grants=(Grant("a/*", ALL),)), True),
        (Identity(grants=()), False),
        (Identity("alice", grants=(Grant("b", ALL),)), False),
    ],
)
def test_without_rules(identity: Identity, allowed: bool) -> None:
    """Whoever is known may do everything that their credentials are for."""
    assert decide(None, identity, "a/b", Action.CREATE).allowed is allowed


@pytest.mark.parametrize("action", list(Action))
def test_grants_limit_the_rules_and_add_nothing(action: Action) -> None:
    """A key of root's is bound by its scope, and a key with every scope by its user's rules."""
    key = replace(ALICE, scheme="key", grants=(Grant("team/a*", READ), Grant("library/**", ALL)))
    for repository in ("team/app", "team/b", "library/x", "other"):
        covered = (repository == "team/app" and action is Action.READ) or repository == "library/x"
        assert is_granted(key, repository, (action,)) is covered
        assert decide(RULES, key, repository, action).allowed is (
            covered and decide(RULES, ALICE, repository, action).allowed
        )
        limited_root = Identity("root", grants=(Grant("library/x", READ),))
        wanted = repository == "library/x" and action is Action.READ
        assert decide(RULES, limited_root, repository, action).allowed is wanted


def test_a_denial_by_scope_names_no_rule() -> None:
    """There is none that could be changed."""
    assert decide(RULES, Identity("root", grants=()), "a", Action.READ).rule == ""


def test_a_malformed_grant_covers_nothing() -> None:
    """A foreign token may say anything."""
    for pattern in ("", "[", "A", "{" * 2000, "\0"):
        assert not is_granted(Identity("alice", grants=(Grant(pattern, ALL),)), "a", ALL)


def test_grants_of_any_of_several_actions() -> None:
    """An upload needs create or update."""
    key = Identity("alice", grants=(Grant("a", frozenset({Action.UPDATE})),))
    assert is_granted(key, "a", (Action.CREATE, Action.UPDATE))
    assert not is_granted(key, "a", (Action.CREATE, Action.READ))
    assert is_granted(ALICE, "a", (Action.CREATE,))


def test_anonymous_is_no_user() -> None:
    """A nameless user in a rule, or a group of nobody's, opens nothing."""
    entry = RepositoryRules(policies=(Policy(frozenset({""}), frozenset({"g"}), ALL),), default_policy=ALL)
    rules = AccessControl({"**": entry}, groups={"g": frozenset({""})}, admin_policy=entry.policies[0])
    for identity in (ANONYMOUS, Identity(groups=frozenset({"g"})), Identity(grants=(Grant("**", ALL),))):
        assert not any(decide(rules, identity, "a", action) for action in Action)


def test_names_are_compared_whole_and_in_their_case() -> None:
    rules = AccessControl({"**": RepositoryRules(policies=(users("alice"),))})
    assert not any(decide(rules, Identity(name), "a", Action.READ) for name in ("Alice", "ALICE", "alic", "alice "))


def test_the_first_of_patterns_as_long_decides() -> None:
    for first, second in (("a/*", "*/b"), ("*/b", "a/*")):
        rules = AccessControl({first: everybody(Action.READ), second: everybody(Action.DELETE)})
        assert decide(rules, ANONYMOUS, "a/b", Action.READ)
        assert not decide(rules, ANONYMOUS, "a/b", Action.DELETE)
        assert matching(rules, "a/b") == (first, second)


def test_matching_names_every_pattern() -> None:
    assert matching(RULES, "team/open") == ("team/open", "team/**", "**")
    assert matching(AccessControl(), "a") == ()


def test_reasons_hold_nothing_from_outside() -> None:
    """They go into logs: neither the name in the URL nor the user's."""
    told = Identity("mallory\n", frozenset({"group\n"}))
    for identity, repository in itertools.product((told, Identity("mallory\n", grants=())), ("evil\nname", "team/a")):
        decision = decide(RULES, identity, repository, Action.CREATE)
        assert "\n" not in decision.rule + decision.reason
        assert "mallory" not in decision.reason


# Whatever the rules

actions = st.frozensets(st.sampled_from(list(Action)))
people = st.frozensets(st.sampled_from(["alice", "bob"]))
teams = st.frozensets(st.sampled_from(["g", "h"]))
policies = st.builds(Policy, people, teams, actions)
entries = st.builds(RepositoryRules, st.lists(policies, max_size=2).map(tuple), actions, actions)
patterns = st.sampled_from(["**", "a/**", "a/*", "*/b", "a", "a/b", "b/*", "a/b/**", "{a,c}/b", "*", "c/**/b", "b**"])
rule_sets = st.builds(
    AccessControl,
    repositories=st.dictionaries(patterns, entries, max_size=5),
    groups=st.dictionaries(st.sampled_from(["g", "h"]), people),
    admin_policy=st.none() | policies,
    metrics_users=st.frozensets(st.just("bob")),
)
grants = st.none() | st.lists(st.builds(Grant, patterns, actions), max_size=2).map(tuple)
identities = st.builds(Identity, st.sampled_from(["", "alice", "bob", "carol"]), teams, st.just("x"), grants)
repositories = st.sampled_from(
    ["a", "b", "c", "d", "ba", *("/".join(parts) for n in (2, 3, 4) for parts in itertools.product("abc", repeat=n))]
)
questions = st.tuples(identities, repositories, st.sampled_from(list(Action)))


@NO_DEADLINE
@given(rule_sets, questions)
def test_the_longest_pattern_decides_alone(rules: AccessControl, question: tuple[Identity, str, Action]) -> None:
    """Without the others, and without their order, the answer is the same."""
    _, repository, _ = question
    found = [pattern for pattern in rules.repositories if naive(pattern, repository)]
    assert sorted(matching(rules, repository)) == sorted(found)
    longest = max(found, key=len, default=None)  # the first of those as long
    alone = {longest: rules.repositories[longest]} if longest else {}
    assert decide(rules, *question) == decide(replace(rules, repositories=alone), *question)


@NO_DEADLINE
@given(rule_sets, questions, st.data())
def test_more_in_a_rule_never_denies(
    rules: AccessControl, question: tuple[Identity, str, Action], data: st.DataObject
) -> None:
    """Adding actions, users, groups or members leaves everything allowed that was."""

    def more(entry: Policy) -> Policy:
        return Policy(
            entry.users | data.draw(people), entry.groups | data.draw(teams), entry.actions | data.draw(actions)
        )

    def more_of_all(entry: RepositoryRules) -> RepositoryRules:
        return RepositoryRules(
            (data.draw(policies), *map(more, entry.policies)),
            entry.default_policy | data.draw(actions),
            entry.anonymous_policy | data.draw(actions),
        )

    wider = replace(
        rules,
        repositories={pattern: more_of_all(entry) for pattern, entry in rules.repositories.items()},
        groups={name: members | data.draw(people) for name, members in rules.groups.items()},
        admin_policy=more(rules.admin_policy) if rules.admin_policy else data.draw(policies),
    )
    if decide(rules, *question):
        assert decide(wider, *question)


@NO_DEADLINE
@given(rule_sets, questions)
def test_whoever_logs_in_may_no_less(rules: AccessControl, question: tuple[Identity, str, Action]) -> None:
    """Unlike in zot, where anonymousPolicy is for anonymous alone."""
    identity, repository, action = question
    if decide(rules, ANONYMOUS, repository, action):
        assert decide(rules, replace(identity, grants=None), repository, action)


@NO_DEADLINE
@given(st.none() | rule_sets, questions)
def test_grants_only_ever_take_away(rules: AccessControl | None, question: tuple[Identity, str, Action]) -> None:
    identity, repository, action = question
    unlimited = replace(identity, grants=None)
    if decide(rules, identity, repository, action) and not identity.anonymous:
        assert decide(rules, unlimited, repository, action)


@NO_DEADLINE
@given(st.none() | rule_sets, identities, st.sampled_from(["", "a", "b", "a/b", "c/b", "a/a"]))
@example(AccessControl({"a/**": everybody(Action.READ)}), ANONYMOUS, "a/b")
@example(AccessControl({"**": everybody(Action.READ), "a": RepositoryRules()}), ANONYMOUS, "a/b")
def test_may_read_all_is_never_wrong(rules: AccessControl | None, identity: Identity, prefix: str) -> None:
    """Where it says yes, each repository at or below the prefix may be read."""
    if may_read_all(rules, identity, prefix):
        for repository in all_names("abcd"):
            if not prefix or f"{repository}/".startswith(f"{prefix}/"):
                assert decide(rules, identity, repository, Action.READ)


def all_names(letters: str) -> list[str]:
    return ["/".join(parts) for n in (1, 2, 3) for parts in itertools.product([*letters, "ba"], repeat=n)]


@pytest.mark.parametrize(
    ("rules", "identity", "prefix", "wanted"),
    [
        (None, ALICE, "", True),
        (None, ANONYMOUS, "", False),
        (None, Identity("key", grants=(Grant("**", READ),)), "", True),
        (None, Identity("key", grants=(Grant("a/**", READ),)), "", False),
        (None, Identity("key", grants=(Grant("a/**", READ),)), "a/b", True),
        (None, Identity("key", grants=(Grant("**", ALL - READ),)), "", False),
        (AccessControl({"**": everybody(Action.READ)}), ANONYMOUS, "", True),
        (AccessControl({"**": logged_in(Action.READ)}), ANONYMOUS, "", False),
        (AccessControl({"**": logged_in(Action.READ)}), ALICE, "", True),
        (AccessControl({"**": everybody(Action.READ), "a": RepositoryRules()}), ANONYMOUS, "", False),
        (AccessControl({"**": everybody(Action.READ), "a": RepositoryRules()}), ANONYMOUS, "b", True),
        (AccessControl({"**": everybody(Action.READ), "a": RepositoryRules()}), ANONYMOUS, "a", False),
        (AccessControl({"**": everybody(Action.READ), "*/x": RepositoryRules()}), ANONYMOUS, "b", False),
        (AccessControl({"a/**": everybody(Action.READ)}), ANONYMOUS, "a", True),
        (AccessControl({"a/**": everybody(Action.READ)}), ANONYMOUS, "a/b", True),
        (AccessControl({"a/**": everybody(Action.READ)}), ANONYMOUS, "ab", False),
        (AccessControl({"{a,b}/**": everybody(Action.READ)}), ANONYMOUS, "b", True),
        (AccessControl({"a/*": everybody(Action.READ)}), ANONYMOUS, "a", False),
        (RULES, Identity("root"), "team", True),
        (AccessControl(), ALICE, "", False),
    ],
)
def test_may_read_all(rules: AccessControl | None, identity: Identity, prefix: str, wanted: bool) -> None:
    """What is common is recognised."""
    assert may_read_all(rules, identity, prefix) is wanted


@NO_DEADLINE
@given(st.none() | rule_sets, identities)
def test_all_that_is_readable_lies_below_the_prefixes(rules: AccessControl | None, identity: Identity) -> None:
    prefixes = readable_prefixes(rules, identity)
    assert list(prefixes) == sorted(set(prefixes))
    assert not any(lies_below(one, other) for one, other in itertools.permutations(prefixes, 2))
    for repository in all_names("abc"):
        if decide(rules, identity, repository, Action.READ):
            assert any(lies_below(repository, prefix) for prefix in prefixes)


def lies_below(repository: str, prefix: str) -> bool:
    return not prefix or f"{repository}/".startswith(f"{prefix}/")


@pytest.mark.parametrize(
    ("globs_of_alice", "scopes", "wanted"),
    [
        (["**"], None, ("",)),
        (["team/**"], None, ("team",)),
        (["team/**", "team/app", "library/*"], None, ("library", "team")),
        (["team/app"], None, ("team/app",)),
        (["team/{a,b}/**", "x/y"], None, ("team/a", "team/b", "x/y")),
        (["team-*/**", "a/**"], None, ("",)),
        ([], None, ()),
        (["**"], ["pull:team/**"], ("team",)),
        (["team/**"], ["pull:**"], ("team",)),
        (["team/**"], ["pull:other/*"], ()),
        (["team/**"], ["pull:team/app/*", "delete:**"], ("team/app",)),
        (["**"], [], ()),
    ],
)
def test_readable_prefixes(globs_of_alice: list[str], scopes: list[str] | None, wanted: tuple[str, ...]) -> None:
    rules = AccessControl({pattern: RepositoryRules((users("alice"),)) for pattern in globs_of_alice})
    limited = None if scopes is None else tuple(map(parse_grant, scopes))
    assert readable_prefixes(rules, Identity("alice", grants=limited)) == wanted


def test_readable_prefixes_of_administrators_and_without_rules() -> None:
    assert readable_prefixes(RULES, Identity("root")) == ("",)
    assert readable_prefixes(None, ALICE) == ("",)
    assert readable_prefixes(None, ANONYMOUS) == ()
    assert readable_prefixes(None, Identity(grants=(Grant("a/b", READ),))) == ("a/b",)


@NO_DEADLINE
@given(st.none() | rule_sets, questions)
def test_may_do_anything_is_true_of_whoever_may_something(
    rules: AccessControl | None, question: tuple[Identity, str, Action]
) -> None:
    identity, repository, action = question
    if decide(rules, identity, repository, action):
        assert may_do_anything(rules, identity, action)


@pytest.mark.parametrize(
    ("rules", "identity", "action", "wanted"),
    [
        (None, ANONYMOUS, Action.READ, False),
        (None, ALICE, Action.READ, True),
        (None, Identity("alice", grants=(Grant("a", READ),)), Action.CREATE, False),
        (AccessControl(), ALICE, Action.READ, False),
        (AccessControl({"a": logged_in(Action.READ)}), ANONYMOUS, Action.READ, False),
        (AccessControl({"a": logged_in(Action.READ)}), ALICE, Action.CREATE, False),
        (AccessControl({"a": everybody(Action.READ)}), ANONYMOUS, Action.READ, True),
        (RULES, Identity("root"), Action.DELETE, True),
        (RULES, ALICE, Action.DELETE, False),
    ],
)
def test_may_do_anything(rules: AccessControl | None, identity: Identity, action: Action, wanted: bool) -> None:
    assert may_do_anything(rules, identity, action) is wanted


@NO_DEADLINE
@given(rule_sets, st.lists(questions, max_size=20))
def test_grants_more_than_anonymous_is_true_where_somebody_may_more(
    rules: AccessControl, asked: list[tuple[Identity, str, Action]]
) -> None:
    """Where it says no, nobody may anything that anonymous may not."""
    if not grants_more_than_anonymous(rules):
        for identity, repository, action in asked:
            if decide(rules, identity, repository, action):
                assert decide(rules, ANONYMOUS, repository, action)
            assert not may_see_metrics(rules, identity)


@pytest.mark.parametrize(
    ("rules", "wanted"),
    [
        (None, True),
        (AccessControl(), False),
        (AccessControl({"**": everybody(*ALL)}), False),
        (AccessControl({"**": everybody(Action.READ)}), False),
        (AccessControl({"**": RepositoryRules((users("alice", may=READ),), READ, READ)}), False),
        (AccessControl({"**": RepositoryRules((Policy(actions=ALL),), NOTHING, READ)}), False),
        (AccessControl({"**": RepositoryRules((users("alice"),), NOTHING, READ)}), True),
        (AccessControl({"**": RepositoryRules((Policy(groups=frozenset("g"), actions=ALL),))}), True),
        (AccessControl({"**": everybody(*ALL), "a": logged_in(Action.READ)}), True),
        (AccessControl({"**": everybody(*ALL)}, admin_policy=users("root")), True),  # the metrics
        (AccessControl({"**": everybody(*ALL)}, metrics_users=frozenset({"monitor"})), True),
        (AccessControl(admin_policy=Policy(actions=ALL)), False),
    ],
)
def test_grants_more_than_anonymous(rules: AccessControl | None, wanted: bool) -> None:
    assert grants_more_than_anonymous(rules) is wanted


@pytest.mark.parametrize(
    ("rules", "identity", "wanted"),
    [
        (None, ANONYMOUS, False),
        (None, ALICE, True),
        (None, Identity("alice", grants=(Grant("**", READ),)), False),
        (None, Identity("alice", grants=(Grant("**", ALL),)), True),
        (RULES, ALICE, False),
        (RULES, Identity("monitor"), True),
        (RULES, Identity("monitor", grants=(Grant("a", ALL),)), False),
        (RULES, Identity("root"), True),
        (RULES, Identity("olga"), True),
        (RULES, Identity("eve", frozenset({"operators"})), True),
        (AccessControl({"**": everybody(*ALL)}), ALICE, False),
    ],
)
def test_may_see_metrics(rules: AccessControl | None, identity: Identity, wanted: bool) -> None:
    assert may_see_metrics(rules, identity) is wanted


# What is remembered


def test_what_is_remembered_is_bounded() -> None:
    """Names come from anybody."""
    rules = AccessControl({"**": everybody(Action.READ)})
    for number in range(10_000):
        decide(rules, ANONYMOUS, f"a/{number}", Action.READ)
        decide(rules, ANONYMOUS, "b" * 300 + str(number), Action.READ)
    assert 0 < len(rules._index._deciding) <= policy._Index._REMEMBERED


def test_new_rules_hold_at_once() -> None:
    """They know nothing of old ones."""
    rules = AccessControl({"a": everybody(Action.READ)})
    assert decide(rules, ANONYMOUS, "a", Action.READ)
    assert not decide(replace(rules, repositories={"a": RepositoryRules()}), ANONYMOUS, "a", Action.READ)


def test_what_is_remembered_goes_with_the_rules() -> None:
    """A reload leaves nothing behind."""

    def indexes() -> int:
        gc.collect()
        return sum(isinstance(thing, policy._Index) for thing in gc.get_objects())

    before = indexes()
    rules = [AccessControl({"a": everybody(Action.READ)}) for _ in range(3)]
    assert all(decide(one, ANONYMOUS, "a", Action.READ) for one in rules)
    assert indexes() == before + 3
    del rules
    assert indexes() == before


def test_rules_are_equal_by_what_they_say() -> None:
    """A file that was saved without a change is no change; nor is what is remembered in their repr."""
    one, other = (AccessControl({"a": everybody(Action.READ)}) for _ in range(2))
    decide(one, ANONYMOUS, "a", Action.READ)
    assert one == other
    assert "_index" not in repr(one)


# Scopes


@pytest.mark.parametrize(
    ("text", "wanted", "shown"),
    [
        ("pull:team/*", Grant("team/*", READ), "pull:team/*"),
        ("read:a", Grant("a", READ), "pull:a"),
        ("push:a", Grant("a", ALL - {Action.DELETE}), "push:a"),
        ("pull,push:a", Grant("a", ALL - {Action.DELETE}), "push:a"),
        ("read,create:**", Grant("**", frozenset({Action.READ, Action.CREATE})), "read,create:**"),
        ("delete:a", Grant("a", frozenset({Action.DELETE})), "delete:a"),
        ("push,delete:a", Grant("a", ALL), "*:a"),
        ("*:{a,b}", Grant("{a,b}", ALL), "*:{a,b}"),
    ],
)
def test_scopes(text: str, wanted: Grant, shown: str) -> None:
    assert parse_grant(text) == wanted
    assert grant_text(wanted) == shown
    assert parse_grant(shown) == wanted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", 'expected actions, ":"'),
        ("team/*", 'expected actions, ":"'),
        (":a", "expected actions from"),
        ("pull,:a", "expected actions from"),
        ("Pull:a", "expected actions from"),
        ("pull, push:a", "expected actions from"),
        ("admin:a", '"admin"'),
        ("pull:", "empty"),
        ("pull: a", "character"),
        ("pull:[", "closed"),
        ("repository:a:pull", "expected actions from"),
    ],
)
def test_malformed_scopes_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_grant(text)


@NO_DEADLINE
@given(actions.filter(bool), patterns)
def test_scopes_survive_being_shown(allowed: frozenset[Action], pattern: str) -> None:
    assert parse_grant(grant_text(Grant(pattern, allowed))) == Grant(pattern, allowed)


# The page about them


def test_the_rules_of_the_page_pass_their_tests(tmp_path: Path) -> None:
    """An operator can do the same with theirs."""
    page = (ROOT / "docs" / "authorization.md").read_text(encoding="utf-8")
    for language, name in (("yaml", "rules.yaml"), ("python", "test_rules.py")):
        (block,) = re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
        (tmp_path / name).write_text(block, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_rules.py"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout
