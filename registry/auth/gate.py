"""The gate that every request passes: who makes it, and may they do what its route declares.

A route declares by a decorator what it needs; one that declares nothing is denied. The decision is made from the name
in the URL, before any store is asked, so that what exists and what does not are refused alike.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from flask import current_app, g, request
from flask_httpauth import HTTPBasicAuth, HTTPTokenAuth

from registry.auth import policy
from registry.auth.certificates import CLIENT_CERTIFICATE, identity_of
from registry.auth.identity import ANONYMOUS, Action, CredentialsRefused, Identity
from registry.config_auth import MTLSConfig
from registry.context import location, pierhead
from registry.errors import RequestRefused, other_methods
from storage.digest import Digest

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

    from registry.auth.bearer import BearerVerifier
    from registry.auth.passwords import Passwords
    from registry.auth.policy import AccessControl
    from registry.auth.rules import LiveRules
    from registry.auth.tokens import Tokens
    from registry.config import HTTPConfig
    from storage.image_store import Permit

Route = TypeVar("Route", bound=Callable[..., Any])

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_READ = frozenset({Action.READ})
_WRITE = frozenset({Action.CREATE, Action.UPDATE})

#: What people call it to need one of these actions.
_WORDS = {
    _READ: "pull from",
    frozenset({Action.CREATE}): "add a tag or manifest to",
    frozenset({Action.UPDATE}): "move a tag of",
    _WRITE: "push to",
    frozenset({Action.DELETE}): "delete from",
}
#: Basic credentials with an empty name and an empty password.
_NOBODY = re.compile(r"basic +Og==", re.IGNORECASE)
_BEARER = re.compile(r"[Bb]earer [A-Za-z0-9._~+/-]+")
_BEARERS = ("Bearer ", "bearer ")


class Place(Enum):
    """What a route belongs to, where it is not a repository's."""

    PUBLIC = "public"  #: for everybody, and shows nothing that is anybody's
    ENTRANCE = "entrance"  #: tells whether one is known here: for anonymous only where nobody can be more
    LISTING = "listing"  #: shows what the caller may read
    METRICS = "metrics"  #: for administrators, and those whom the rules name


@dataclass(frozen=True, slots=True)
class Need:
    """What a route needs: any of these actions on the repository in its URL, or what its place asks."""

    actions: frozenset[Action] = frozenset()
    place: Place | None = None


def needs(*actions: Action) -> Callable[[Route], Route]:
    """Declare that a route needs one of these actions on the repository in its URL."""
    return partial(_declare, Need(frozenset(actions)))


def at(place: Place) -> Callable[[Route], Route]:
    """Declare what a route belongs to that is not about one repository."""
    return partial(_declare, Need(place=place))


def public(view: Route) -> Route:
    """Declare that a route is for everybody."""
    return _declare(Need(place=Place.PUBLIC), view)


def _declare(need: Need, view: Route) -> Route:
    view.need = need  # type: ignore[attr-defined]
    return view


def declared(view: Callable[..., Any]) -> Need | None:
    """Return what a route declares, if it does."""
    return getattr(view, "need", None)


class View(NamedTuple):
    """What somebody may know of: the repositories of which `visible` is true; they lie in the directories `below`."""

    below: tuple[str, ...] = ("",)
    visible: Callable[[str], bool] = lambda _: True


class _NotPermitted(Exception):
    """A push is not allowed: it would have needed one of these actions."""

    def __init__(self, actions: frozenset[Action]) -> None:
        super().__init__()
        self.actions = actions


class Gate:
    """Tell who makes a request, and let through what they may do."""

    def __init__(
        self,
        http: HTTPConfig,
        rules: LiveRules,
        *,
        passwords: Passwords | None = None,
        bearer: BearerVerifier | None = None,
        tokens: Tokens | None = None,
    ) -> None:
        self._http = http
        self._rules = rules
        self._passwords = passwords
        self._bearer = bearer
        self.tokens = tokens
        self._is_open = not http.has_identities and http.access_control is None
        self._attributes = (http.auth.mtls or MTLSConfig()).identity_attributes
        # They take the credentials off the request and hand them to our functions.
        self._basic = HTTPBasicAuth(realm=http.realm)
        self._basic.verify_password(self._by_password)
        self._token = HTTPTokenAuth("Bearer", realm=http.realm)
        self._token.verify_token(self._by_token)

    def admit(self) -> None:
        """Let this request pass, or raise RequestRefused: 401, 403, or 405 where the registry is read-only."""
        g.identity = ANONYMOUS
        need = self._need()
        if need is None or need.place is Place.PUBLIC:
            return
        g.action = ",".join(sorted(need.actions)) or str(need.place and need.place.value)
        if not self._is_open:
            g.identity = self.identify()
            self._authorize(need)
        if self._http.read_only and request.method not in _SAFE_METHODS:
            g.refusal = "read-only"
            raise RequestRefused(
                "UNSUPPORTED",
                405,
                "the registry is read-only: nothing can be pushed or deleted",
                headers={"Allow": ", ".join(sorted(other_methods() & _SAFE_METHODS))},
            )

    def _need(self) -> Need | None:
        """Return what this request's route declares; None where there is no route, or none that does anything."""
        if request.endpoint is None or request.method == "OPTIONS":
            return None
        need = declared(current_app.view_functions[request.endpoint])
        if need is None:
            raise RequestRefused("DENIED", 403, "this operation does not say who may use it, so nobody may")
        return need

    # who

    def identify(self) -> Identity:
        """Return who makes this request; raise RequestRefused (401, 429), and StoreUnavailable."""
        header = _credentials()
        try:
            if header is None or not self._http.auth.has_schemes:
                return self._by_certificate()
            return self._by_header(header)
        except CredentialsRefused as error:
            g.refusal = error.reason
            raise self.challenge(Need(), error.message, fault="invalid_token") from error

    def plain_reader(self, environ: WSGIEnvironment, repository: str) -> Identity | None:
        """Return who makes a request, if that is known without asking anybody, and they may read a repository.

        Only `admit` can tell about whom this does not. Raises CredentialsRefused, RequestRefused and StoreUnavailable.
        """
        return self._plain(environ, repository, _READ)

    def plain_writer(self, environ: WSGIEnvironment, repository: str) -> Identity | None:
        """Return likewise who may push something to a repository; what exactly, `permit` says."""
        return None if self._http.read_only else self._plain(environ, repository, _WRITE)

    def plain_caller(self, environ: WSGIEnvironment) -> Identity | None:
        """Return likewise who has logged in, or anybody where nobody can."""
        if self._is_open:
            return ANONYMOUS
        identity = self._plain_identity(environ)
        return None if identity is None or identity.anonymous else identity

    def _plain(self, environ: WSGIEnvironment, repository: str, actions: frozenset[Action]) -> Identity | None:
        if self._is_open:
            return ANONYMOUS
        identity = self._plain_identity(environ)
        if identity is None:
            return None
        rules = self._rules.current()
        for action in actions:
            if policy.decide(rules, identity, repository, action).allowed:
                return identity
        return None

    def _plain_identity(self, environ: WSGIEnvironment) -> Identity | None:
        header: str | None = environ.get("HTTP_AUTHORIZATION")
        if header is None:
            return None if CLIENT_CERTIFICATE in environ else ANONYMOUS
        if header.startswith(_BEARERS) and (self._bearer or self.tokens):
            return self._by_plain_token(header)
        return self._passwords.recall_basic(header, environ.get("REMOTE_ADDR", "")) if self._passwords else None

    def _by_plain_token(self, header: str) -> Identity | None:
        try:
            return self._by_token(header[len(_BEARERS[0]) :])
        except CredentialsRefused:
            if _BEARER.fullmatch(header):
                raise
            return None  # who parses it with more patience may find a good one in it

    def basic_identity(self) -> Identity:
        """Return who this request is by a name and password alone; ANONYMOUS without any.

        Raises CredentialsRefused, RequestRefused (429) and StoreUnavailable.
        """
        header = _credentials()
        if header is None:
            return ANONYMOUS
        if _scheme(header) != "basic" or self._passwords is None:
            raise CredentialsRefused("expected Basic credentials")
        return self._by_header(header)

    def password_identity(self, user: str, password: str) -> Identity:
        """Return who this is; raises what `basic_identity` does."""
        if self._passwords is None:
            raise CredentialsRefused(reason="there are no users with passwords")
        return self._passwords.identity(user, password, request.remote_addr or "")

    def issue(self, identity: Identity) -> tuple[str, int]:
        """Return an access token for somebody, and the seconds for which it is good.

        Of their groups it has those that the rules name: a directory may know hundreds, too many for a header.
        """
        named = policy.named_groups(self._rules.current())
        return token_service().issue(replace(identity, groups=identity.groups & named))

    def renewed(self, identity: Identity) -> Identity | None:
        """Return who somebody is now, by the store that once vouched for them; raise StoreUnavailable."""
        if identity.anonymous:
            return identity
        return self._passwords.renewed(identity) if self._passwords else None

    def _by_header(self, header: str) -> Identity:
        scheme = _scheme(header)
        carrier = {"basic": self._basic, "bearer": self._token}.get(scheme)
        # The parsers of flask-httpauth and werkzeug differ in what they make of other letters.
        credentials = carrier.get_auth() if carrier and header.isascii() else None
        found: Identity | None = carrier.authenticate(credentials, None) if carrier and credentials else None
        if found is None:
            raise CredentialsRefused("the Authorization header is malformed, or of no scheme that is known here")
        return found

    def _by_password(self, user: str, password: str) -> Identity:
        return self.password_identity(user, password)

    def _by_token(self, token: str) -> Identity:
        if self._bearer:
            return self._bearer.verify(token)
        if self.tokens is None:
            raise CredentialsRefused("there are no tokens here: use a name and password")
        return self._still_there(self.tokens.verify(token))

    def _still_there(self, identity: Identity) -> Identity:
        """Refuse a token whose key was revoked, or whose password is no longer right, where that is cheap to tell.

        A directory is not asked at each request: who leaves it is known until the token expires.
        """
        if identity.scheme not in ("key", "htpasswd"):
            return identity
        found = self.renewed(identity)
        if found is None:
            raise CredentialsRefused(reason=f"the token's {identity.scheme} credentials are gone")
        return found

    def _by_certificate(self) -> Identity:
        certificate = request.environ.get(CLIENT_CERTIFICATE)
        return identity_of(certificate, self._attributes) if certificate else ANONYMOUS

    # may they

    def may(self, action: Action, repository: str) -> bool:
        """Tell whether who makes this request may do this to a repository."""
        return self._is_open or bool(policy.decide(self._rules.current(), g.identity, repository, action))

    def is_public(self, repository: str) -> bool:
        """Tell whether anybody may pull from a repository, whoever they are."""
        return self._is_open or bool(policy.decide(self._rules.current(), ANONYMOUS, repository, Action.READ))

    def view(self, identity: Identity) -> View:
        """Return what of the repositories somebody may know of."""
        if self._is_open:
            return View()
        rules = self._rules.current()
        return View(
            policy.readable_prefixes(rules, identity),
            lambda repository: policy.decide(rules, identity, repository, Action.READ).allowed,
        )

    def may_read_all(self, prefix: str) -> bool:
        """Tell whether who makes this request may read every repository that there can be under a prefix."""
        return self._is_open or policy.may_read_all(self._rules.current(), g.identity, prefix)

    @contextmanager
    def pushing(self, repository: str) -> Iterator[Permit | None]:
        """Yield what decides on a manifest's push by who makes this request; raise RequestRefused for what it refuses.

        That may be a refusal of `permit` that is raised here once more.
        """
        try:
            yield self.permit(g.identity, repository)
        except _NotPermitted as refused:
            raise self._refusal(repository, refused.actions) from None

    def permit(self, identity: Identity, repository: str) -> Permit | None:
        """Return what decides on somebody's push of a manifest, tag by tag, while its repository's lock is held.

        It may be asked in the thread of another request, so it knows whose push it is.
        """
        if self._is_open:
            return None

        def permit(_tag: str | None, current: Digest | None, new: Digest) -> None:
            if current is None:
                wanted = frozenset({Action.CREATE})
            else:
                wanted = _WRITE if current == new else frozenset({Action.UPDATE})
            rules = self._rules.current()
            if not any(policy.decide(rules, identity, repository, action) for action in wanted):
                raise _NotPermitted(wanted)

        return permit

    def _authorize(self, need: Need) -> None:
        if need.actions:
            self._authorize_on((request.view_args or {})["name"], need.actions)
            return
        rules = self._rules.current()
        if g.identity.anonymous and g.identity.grants is None:
            allowed = {
                Place.ENTRANCE: not policy.grants_more_than_anonymous(rules) or self._is_for_certificates(rules),
                Place.LISTING: policy.may_do_anything(rules, ANONYMOUS, Action.READ),
                Place.METRICS: False,
            }[need.place or Place.METRICS]
            # An anonymous token was asked for and given: its bearer has logged in, as far as there is a login.
            has_token = self.tokens is not None and _credentials() is not None
            if not allowed and not (need.place is Place.ENTRANCE and has_token):
                raise self.challenge(need, "log in first")
        elif need.place is Place.METRICS and not policy.may_see_metrics(rules, g.identity):
            raise _denied("this user may not see the metrics")

    def _is_for_certificates(self, rules: AccessControl | None) -> bool:
        """Tell whether anonymous may do something, and no header could say who they are: only a certificate could."""
        has_login = self._http.auth.has_schemes
        return not has_login and any(policy.may_do_anything(rules, ANONYMOUS, action) for action in Action)

    def _authorize_on(self, repository: str, actions: frozenset[Action]) -> None:
        """Raise RequestRefused unless one of the actions is allowed."""
        if not any(self.may(action, repository) for action in actions):
            raise self._refusal(repository, actions)

    def _refusal(self, repository: str, actions: frozenset[Action]) -> RequestRefused:
        """Return what who makes this request is told instead, and note why."""
        identity: Identity = g.identity
        decision = policy.decide(self._rules.current(), identity, repository, min(actions))
        g.action = ",".join(sorted(actions))
        g.refusal = ": ".join(filter(None, (decision.rule, decision.reason)))
        if identity.grants is not None and not policy.is_granted(identity, repository, actions):
            if identity.scheme == "key":
                return _denied(f"this API key of {identity.name} may not", repository, actions)
            # A foreign token that does not cover this can be exchanged for one that does.
            message = "the token does not cover this"
            return self.challenge(Need(actions), message, repository=repository, fault="insufficient_scope")
        if identity.anonymous:
            return self.challenge(Need(actions), "log in to do this", repository=repository)
        return _denied(f"{identity.name} may not", repository, actions)

    def challenge(self, need: Need, message: str, *, repository: str = "", fault: str = "") -> RequestRefused:
        """Return the refusal that asks for credentials (RFC 9110, section 11.6.1; RFC 6750, section 3)."""
        header = self._challenge_header(need, repository, fault)
        if not header:
            return _denied("this is for nobody whom this registry could know by a login")
        if _credentials() is None:
            g.refusal = "no credentials"
        return RequestRefused("UNAUTHORIZED", 401, message, headers={"WWW-Authenticate": header})

    def _challenge_header(self, need: Need, repository: str, fault: str) -> str:
        auth = self._http.auth
        if auth.bearer:
            realm, service = auth.bearer.realm, auth.bearer.service
        elif auth.token:
            realm, service = token_url(), auth.token.service
        else:
            return str(self._basic.authenticate_header()) if auth.has_passwords else ""
        parts = {"realm": realm, "service": service, "scope": _scope(need, repository)}
        if fault and _credentials() is not None:
            parts["error"] = fault
        return "Bearer " + ",".join(f'{name}="{value}"' for name, value in parts.items() if value)

    def basic_challenge(self) -> Mapping[str, str]:
        """Return the header that asks for a name and password, whatever else there is."""
        return {"WWW-Authenticate": str(self._basic.authenticate_header())}


def token_url() -> str:
    """Return where the registry's own tokens are issued: an absolute URL, as clients need it."""
    path = location("/v2/token")
    return path if path.startswith("http") else f"{request.scheme}://{request.host}{path}"


def _credentials() -> str | None:
    """Return the Authorization header; None without one, and for the empty name and password of RFC 7617.

    podman, buildah and skopeo send these where they have no login.
    """
    header: str | None = request.environ.get("HTTP_AUTHORIZATION")
    return None if header is not None and _NOBODY.fullmatch(header) else header


def _scheme(header: str) -> str:
    return header.split(" ", 1)[0].lower()


def _scope(need: Need, repository: str) -> str:
    """Return what a token has to cover, in the words of Docker's token protocol."""
    if need.place is Place.LISTING:
        return "registry:catalog:*"
    if not repository:
        return ""
    if need.actions & _WRITE:
        return f"repository:{repository}:pull,push"
    return f"repository:{repository}:{'delete' if Action.DELETE in need.actions else 'pull'}"


def _denied(message: str, repository: str = "", actions: frozenset[Action] = frozenset()) -> RequestRefused:
    if not repository:
        return RequestRefused("DENIED", 403, message)
    message = f"{message} {_WORDS.get(actions, 'do this to')} {repository}"
    return RequestRefused("DENIED", 403, message, repository=repository, actions=sorted(actions))


def basic_identity() -> Identity:
    """Return who this request is by a name and password alone; see `Gate.basic_identity`."""
    return pierhead().gate.basic_identity()


def password_identity(user: str, password: str) -> Identity:
    """Return who this is; see `Gate.password_identity`."""
    return pierhead().gate.password_identity(user, password)


def renewed_identity(identity: Identity) -> Identity | None:
    """Return who somebody is now; see `Gate.renewed`."""
    return pierhead().gate.renewed(identity)


def token_service() -> Tokens:
    """Return what issues and verifies the registry's own tokens, where it has any."""
    tokens = pierhead().gate.tokens
    assert tokens is not None, "the token routes are there only with http.auth.token"
    return tokens
