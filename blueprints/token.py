"""The token server (`http.auth.token`): who shows a password, or a refresh token, is given a token for some minutes.

Docker's token protocol, by GET, and its OAuth2 variant, by POST. The scopes that clients ask for limit nothing: what
somebody may do is decided when they do it, by the rules of that moment.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from urllib.parse import parse_qsl

from flask import Blueprint, Response, g, request

from blueprints.requests import Body, content_type
from blueprints.responses import json_response
from registry.auth.gate import basic_identity, password_identity, public, renewed_identity, token_service
from registry.auth.identity import CredentialsRefused, Identity
from registry.context import pierhead
from registry.errors import RequestRefused

blueprint = Blueprint("token", __name__)

_FORM = "application/x-www-form-urlencoded"
_LONGEST_FORM = 64 * 1024
_MOST_FIELDS = 64
_LONGEST_CLIENT = 256  # characters; it becomes part of the refresh token

Form = dict[str, str]


@blueprint.get("/v2/token")
@public
def issue() -> Response:
    """Issue a token to whoever the request's name and password say, or to nobody in particular without any."""
    _check_service(request.args.get("service", ""))
    client = _client(request.args.get("client_id", ""))
    identity = _known(basic_identity)
    wants_refresh = request.args.get("offline_token", "").lower() in ("true", "1")
    refresh = _refresh_token(identity, client) if wants_refresh else None
    return _answer(identity, " ".join(request.args.getlist("scope")), refresh)


@blueprint.post("/v2/token")
@public
def exchange() -> Response:
    """Issue a token for a password or a refresh token in a form (RFC 6749, sections 4.3 and 6)."""
    form = _form()
    _check_service(form.get("service", ""))
    client = _client(form.get("client_id", ""))
    grant = form.get("grant_type")
    if grant == "refresh_token":
        given = _field(form, "refresh_token")
        # Docker's protocol has the client keep the one it has ("Getting a token", access_type).
        return _answer(_known(lambda: _renewed(given)), form.get("scope", ""), given)
    if grant == "password":
        user, password = _field(form, "username"), _field(form, "password")
        g.claimed = user
        identity = _known(lambda: password_identity(user, password))
        refresh = _refresh_token(identity, client) if form.get("access_type") == "offline" else None
        return _answer(identity, form.get("scope", ""), refresh)
    raise _malformed("grant_type is password or refresh_token", parameter="grant_type")


def _known(identify: Callable[[], Identity]) -> Identity:
    """Return who it is; raise RequestRefused (401) for bad credentials, and what else the gate raises."""
    try:
        return identify()
    except CredentialsRefused as error:
        g.refusal = error.reason
        headers = pierhead().gate.basic_challenge()
        raise RequestRefused("UNAUTHORIZED", 401, error.message, headers=headers) from error


def _renewed(token: str) -> Identity:
    identity = renewed_identity(token_service().verify_refresh(token))
    if identity is None:
        raise CredentialsRefused("the token is not valid, or no longer", "token: its user or their password is gone")
    return identity


def _refresh_token(identity: Identity, client: str) -> str | None:
    """Return a refresh token; None for whom no store could look up again by it."""
    return token_service().issue_refresh(identity, client) if identity.credential else None


def _answer(identity: Identity, scope: str, refresh: str | None) -> Response:
    issued = datetime.now(UTC).replace(microsecond=0)
    token, seconds = pierhead().gate.issue(identity)
    document: dict[str, object] = {
        "token": token,
        "access_token": token,
        "token_type": "Bearer",
        "expires_in": seconds,
        "issued_at": issued.isoformat().replace("+00:00", "Z"),
        "scope": " ".join(scope.split()),
    }
    if refresh is not None:
        document["refresh_token"] = refresh
    return json_response(document, {"Cache-Control": "no-store", "Pragma": "no-cache"})


def _form() -> Form:
    """Return the fields of the body; raise RequestRefused for what is no form, or has a field twice."""
    if content_type(request.environ) != _FORM:
        raise _malformed(f"the body is a form, {_FORM}", parameter="Content-Type")
    body = Body(request.environ).read_all(_LONGEST_FORM)
    if len(body) > _LONGEST_FORM:
        raise RequestRefused("SIZE_INVALID", 413, f"the form has more than {_LONGEST_FORM} bytes")
    try:
        fields = parse_qsl(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=_MOST_FIELDS)
    except ValueError:
        raise _malformed("the form is malformed, or has too many fields", parameter="body") from None
    form = dict(fields)
    if len(form) != len(fields):
        raise _malformed("a field is there twice", parameter="body")
    return form


def _field(form: Form, name: str) -> str:
    if not form.get(name):
        raise _malformed(f"{name} is missing", parameter=name)
    return form[name]


def _client(name: str) -> str:
    if len(name) > _LONGEST_CLIENT or not name.isprintable():
        raise _malformed(f"client_id is up to {_LONGEST_CLIENT} characters that can be printed", parameter="client_id")
    return name


def _check_service(service: str) -> None:
    if service and service != token_service().service:
        raise _malformed("tokens are issued for another service here", parameter="service")


def _malformed(message: str, *, parameter: str) -> RequestRefused:
    return RequestRefused("UNSUPPORTED", 400, message, parameter=parameter)
