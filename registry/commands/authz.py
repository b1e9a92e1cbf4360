"""The commands about authorization: which rule decides on something, and why."""

from __future__ import annotations

import json
from collections.abc import Sequence

import click

from registry.auth import policy
from registry.auth.identity import ANONYMOUS, Action, Identity
from registry.auth.policy import Decision
from registry.commands.common import load_config
from registry.config import HTTPConfig
from storage.errors import NameInvalid
from storage.names import check_name


@click.group()
def authz() -> None:
    """Look into the rules about who may do what."""


@authz.command()
@click.argument("config", required=False, type=click.Path())
@click.option("--config", "config_option", type=click.Path(), help="The same as CONFIG.")
@click.option("--user", help="Who would do it.")
@click.option("--group", "groups", multiple=True, help="A group that the user store has them in; can be repeated.")
@click.option("--anonymous", is_flag=True, help="Nobody in particular would do it.")
@click.option("--repository", required=True, help="To which repository; it need not exist.")
@click.option("--action", required=True, type=click.Choice([str(action) for action in Action]), help="What.")
@click.option("--json", "as_json", is_flag=True, help="Answer with a JSON object.")
@click.pass_context
def explain(  # noqa: PLR0913
    context: click.Context,
    *,
    config: str | None,
    config_option: str | None,
    user: str | None,
    groups: tuple[str, ...],
    anonymous: bool,
    repository: str,
    action: str,
    as_json: bool,
) -> None:
    """Tell whether the rules in the file CONFIG allow something, which of them decides, and why.

    Without CONFIG, the file that PIERHEAD_CONFIG names is used. Groups that the rules define are known; those of a
    user store are told by --group. A limited API key or token may do less than its user.

    Exits with 0 if it is allowed, 1 if it is denied, 2 if the question or the file is no good.
    """
    if config and config_option:
        raise click.UsageError("expected CONFIG or --config, not both")
    identity = _identity(user, groups, anonymous)
    _check_repository(repository)
    http = load_config(config or config_option).http
    decision = _decide(http, identity, repository, Action(action))
    patterns = policy.matching(http.access_control, repository) if http.access_control else ()
    show = _as_json if as_json else _as_text
    click.echo(show(decision, identity, repository, action, patterns))
    context.exit(0 if decision else 1)


def _identity(user: str | None, groups: Sequence[str], anonymous: bool) -> Identity:
    if anonymous == bool(user):
        raise click.UsageError("expected either --user or --anonymous")
    if anonymous and groups:
        raise click.UsageError("--group has no meaning with --anonymous")
    return Identity(user, frozenset(groups), "password") if user else ANONYMOUS


def _check_repository(repository: str) -> None:
    try:
        check_name(repository)
    except NameInvalid as error:
        raise click.BadParameter(str(error), param_hint="--repository") from error


def _decide(http: HTTPConfig, identity: Identity, repository: str, action: Action) -> Decision:
    """Decide as the gate does: an open registry has nothing to decide, a read-only one refuses what is allowed."""
    if http.access_control is None and not http.has_identities:
        decision = Decision(True, "http.auth", "there are no users and no rules, so everybody may do everything")
    else:
        decision = policy.decide(http.access_control, identity, repository, action)
    if decision and http.read_only and action is not Action.READ:
        return Decision(False, "http.readOnly", "the registry is read-only, for everybody")
    return decision


def _as_text(decision: Decision, identity: Identity, repository: str, action: str, patterns: tuple[str, ...]) -> str:
    lines = [
        f"{'allowed' if decision else 'denied'}: {_shown(identity)}, {action}, {repository}",
        f"rule: {decision.rule}",
        f"reason: {decision.reason}",
    ]
    if len(patterns) > 1:
        others = ", ".join(map(json.dumps, patterns[1:]))
        lines.append(f"{json.dumps(patterns[0])} is the longest pattern that matches; these match too: {others}")
    return "\n".join(lines)


def _shown(identity: Identity) -> str:
    name = identity.name or "anonymous"
    return name if name.isprintable() else json.dumps(name)


def _as_json(decision: Decision, identity: Identity, repository: str, action: str, patterns: tuple[str, ...]) -> str:
    return json.dumps(
        {
            "allowed": decision.allowed,
            "rule": decision.rule,
            "reason": decision.reason,
            "user": identity.name or None,
            "groups": sorted(identity.groups),
            "repository": repository,
            "action": action,
            "patterns": patterns,
        }
    )
