"""A token server that is not the registry's: it knows users and their rights, and signs what they ask for."""

from __future__ import annotations

import base64
import binascii
import json
import re
import secrets
import threading
import time
from collections.abc import Iterable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.support.oci import Json

SERVICE = "the registry"
ISSUER = "the token server"
LIFETIME = 300
_SCOPE = re.compile(r"repository:([^:]+):([a-z,*]+)")

#: What somebody may do, by the first part of the repository's name; nobody in particular is "".
Rights = Mapping[str, Mapping[str, Iterable[str]]]


class Signer:
    """Sign tokens with a key of its own; its public part is the file `cert`."""

    def __init__(self, directory: Path, algorithm: str) -> None:
        self.algorithm = algorithm
        is_rsa = algorithm == "RS256"
        self._key = rsa.generate_private_key(65537, 2048) if is_rsa else ec.generate_private_key(ec.SECP256R1())
        self.cert = directory / f"{algorithm}.pem"
        public = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        self.cert.write_bytes(self._key.public_key().public_bytes(*public))

    def sign(self, user: str, access: list[Json], **claims: Any) -> str:
        """Return a token; `claims` replace those that it would have."""
        now = int(time.time())
        times = {"iat": now, "nbf": now, "exp": now + LIFETIME}
        named = {"iss": ISSUER, "aud": SERVICE, "sub": user, "jti": secrets.token_hex(8), "access": access}
        return jwt.encode(named | times | claims, self._key, self.algorithm)


class TokenServer(ThreadingHTTPServer):
    """Serve tokens, by GET and POST, while the context lasts."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, signer: Signer, passwords: Mapping[str, str], rights: Rights) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.signer = signer
        #: The scopes that were asked for, in order.
        self.asked: list[str] = []
        self._passwords = passwords
        self._rights = rights
        self._refresh: dict[str, str] = {}

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.shutdown()
        self.server_close()

    def config(self) -> Json:
        """Return the keys of `http.auth.bearer`."""
        realm = f"http://127.0.0.1:{self.server_address[1]}/token"
        return {"realm": realm, "service": SERVICE, "cert": str(self.signer.cert), "issuer": ISSUER}

    def knows(self, user: str, password: str) -> bool:
        """Tell whether this is a user's password."""
        return user in self._passwords and self._passwords[user] == password

    def user_of(self, refresh_token: str) -> str | None:
        """Return whose refresh token this is."""
        return self._refresh.get(refresh_token)

    def answer(self, user: str, scopes: Iterable[str], offline: bool) -> Json:
        """Return a token for as much of the scopes as somebody may, and a refresh token if that is wanted."""
        self.asked += scopes
        token = self.signer.sign(
            user, [self._granted(user, *match.groups()) for match in map(_SCOPE.fullmatch, scopes) if match]
        )
        answer: Json = {"token": token, "access_token": token, "expires_in": LIFETIME}
        if offline and user:
            answer["refresh_token"] = secrets.token_hex(16)
            self._refresh[answer["refresh_token"]] = user
        return answer

    def _granted(self, user: str, name: str, wanted: str) -> Json:
        owner = name.partition("/")[0]
        allowed = {*self._rights.get("", {}).get(owner, ()), *self._rights.get(user, {}).get(owner, ())}
        actions = sorted(allowed if wanted == "*" else allowed & set(wanted.split(",")))
        return {"type": "repository", "name": name, "actions": actions}


class _Handler(BaseHTTPRequestHandler):
    server: TokenServer

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        user = self._basic_user()
        offline = query.get("offline_token") == ["true"]
        self._answer(user, _scopes(query), offline)

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        if form["grant_type"] == ["refresh_token"]:
            user = self.server.user_of(form["refresh_token"][0])
        else:
            name, password = form["username"][0], form["password"][0]
            user = name if self.server.knows(name, password) else None
        self._answer(user, _scopes(form), form.get("access_type") == ["offline"])

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""

    def _basic_user(self) -> str | None:
        header = self.headers.get("Authorization")
        if header is None:
            return ""
        try:
            name, _, password = base64.b64decode(header.removeprefix("Basic ")).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
        return name if self.server.knows(name, password) else None

    def _answer(self, user: str | None, scopes: list[str], offline: bool) -> None:
        if user is None:
            self._send(401, {"errors": [{"code": "UNAUTHORIZED", "message": "the token server knows better"}]})
        else:
            self._send(200, self.server.answer(user, scopes, offline))

    def _send(self, status: int, document: Json) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _scopes(fields: Mapping[str, list[str]]) -> list[str]:
    return [scope for text in fields.get("scope", []) for scope in text.split()]
