"""Behind nginx: it serves blobs from the disk, and only those, to whom the registry lets have them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tempfile
import threading
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import requests
from click.testing import CliRunner

from registry.cli import main
from tests.clients.support.programs import require, require_root
from tests.support import wire
from tests.support.certificates import Authority
from tests.support.nginx import Nginx, decisions, forget
from tests.support.oci import TIMEOUT, Remote, digest_of, random_bytes
from tests.support.server import Server, free_port, merged
from tests.support.users import basic, bearer, htpasswd

DEPLOY = Path(__file__).parents[2] / "deploy"
PASSWORDS = {"alice": "correct horse battery", "bob": "staple staple staple"}
ALICE, BOB = (basic(name, PASSWORDS[name]) for name in ("alice", "bob"))
RULES = {
    "repositories": {
        "team/**": {"policies": [{"users": ["alice"], "actions": ["read", "create", "delete"]}]},
        "public/**": {
            "anonymousPolicy": ["read"],
            "policies": [{"users": ["alice"], "actions": ["read", "create"]}],
        },
    }
}
#: Of an answer's headers, what depends on who gives it, or when.
_PASSING = {"server", "date", "connection", "x-request-id", "transfer-encoding"}
_SECONDS = 2  #: for which nginx may rely on what it was told, in these tests


def own(answer: requests.Response) -> dict[str, str]:
    """Return the headers that are to be the same whoever answers."""
    return {name: value for name, value in answer.headers.lower_items() if name not in _PASSING}


def pulls(server: Server) -> int:
    """Return how many pulls of blobs the registry itself has answered."""
    counted: int = requests.get(f"{server.url}/v2/metrics", timeout=TIMEOUT).json().get("blob_pulls", 0)
    return counted


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run a registry that is open to everybody, with a substore, behind nginx."""
    directory = tmp_path_factory.mktemp("nginx")
    paths = {"/team.x": {"rootDirectory": str(directory / "team x")}}
    with Server(directory / "data", config={"storage": {"subPaths": paths}}, workers=2, nginx=True) as server:
        yield server


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run a registry with users and rules behind nginx."""
    directory = tmp_path_factory.mktemp("guarded")
    auth = {"htpasswd": {"path": str(htpasswd(directory / "users", PASSWORDS))}, "token": {}}
    config = {"http": {"auth": auth, "accessControl": RULES}, "server": {"authCache": f"{_SECONDS}s"}}
    with Server(directory / "data", config=config, workers=2, nginx=True) as server:
        yield server


def pushed(server: Server, name: str, headers: Mapping[str, str] | None = None) -> tuple[Remote, str, bytes]:
    """Push a new blob; return its repository, its digest and its content."""
    remote, data = Remote(server.url, name), random_bytes(1000)
    if headers:
        remote.authorize(headers)
    return remote, str(remote.push_blob(data)["digest"]), data


# who answers, and what


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_blobs_come_from_nginx_as_they_would_from_the_registry(plain: Server, repository: str, algorithm: str) -> None:
    remote, data = Remote(plain.url, repository), random_bytes(1000)
    digest = remote.push_blob(data, algorithm=algorithm)["digest"]
    # What is conditional goes to the registry: a condition that does not hold gets all of it from there.
    asked = pulls(plain)
    for method in ("GET", "HEAD"):
        direct = remote.request(method, f"blobs/{digest}", headers={"If-None-Match": '"other"'})
        answer = remote.request(method, f"blobs/{digest}")
        assert answer.status_code == direct.status_code == 200
        assert answer.content == direct.content == (data if method == "GET" else b"")
        assert own(answer) == own(direct)
    assert pulls(plain) == asked + 1


@pytest.mark.parametrize("asked", ["0-4", "5-", "-7", "999-5000", "0-0"])
def test_a_range_comes_from_nginx(plain: Server, repository: str, asked: str) -> None:
    remote, digest, _ = pushed(plain, repository)
    before = pulls(plain)
    answer = remote.get(f"blobs/{digest}", headers={"Range": f"bytes={asked}"})
    assert pulls(plain) == before
    direct = remote.get(f"blobs/{digest}", headers={"Range": f"bytes={asked}", "If-Range": f'"{digest}"'})
    assert pulls(plain) == before + 1
    assert answer.status_code == direct.status_code == 206
    assert answer.content == direct.content
    # Of a part the registry says besides that there are parts.
    assert own(answer) | {"accept-ranges": "bytes"} == own(direct)


@pytest.mark.parametrize("asked", ["bytes=0-1,4-5", "bytes=x", "bytes", "lines=0-4", f"bytes=0-{9**30}"])
def test_other_ranges_are_for_the_registry(plain: Server, repository: str, asked: str) -> None:
    remote, digest, data = pushed(plain, repository)
    answer = remote.get(f"blobs/{digest}", headers={"Range": asked})
    assert (answer.status_code, answer.content) == (200, data)


def test_a_range_that_lies_outside(plain: Server, repository: str) -> None:
    remote, digest, _ = pushed(plain, repository)
    answer = remote.get(f"blobs/{digest}", headers={"Range": "bytes=1000-"})
    assert answer.status_code == 416
    assert answer.json()["errors"][0]["code"] == "SIZE_INVALID"
    assert answer.headers["Content-Range"] == "bytes */1000"
    assert "no-store" in answer.headers["Cache-Control"]
    assert "ETag" not in answer.headers


@pytest.mark.parametrize("known", ['"{}"', 'W/"{}"', '"a", "{}"', "*"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_a_client_has_is_not_sent_again(plain: Server, repository: str, method: str, known: str) -> None:
    remote, digest, _ = pushed(plain, repository)
    answer = remote.request(method, f"blobs/{digest}", headers={"If-None-Match": known.format(digest)})
    assert (answer.status_code, answer.content) == (304, b"")
    assert answer.headers["ETag"] == f'"{digest}"'


def test_an_old_date_is_no_reason_to_refuse(plain: Server, repository: str) -> None:
    """The file's own time is nobody's business, and nginx would compare it."""
    remote, digest, data = pushed(plain, repository)
    for header in ("If-Modified-Since", "If-Unmodified-Since"):
        for date in ("Thu, 01 Jan 1970 00:00:00 GMT", "Fri, 01 Jan 2100 00:00:00 GMT"):
            answer = remote.get(f"blobs/{digest}", headers={header: date})
            assert (answer.status_code, answer.content) == (200, data)
    assert "Last-Modified" not in remote.get(f"blobs/{digest}").headers


def test_nothing_is_compressed(plain: Server, repository: str) -> None:
    remote = Remote(plain.url, repository)
    data = b"compressible " * 10_000
    digest = remote.push_blob(data)["digest"]
    answer = remote.get(f"blobs/{digest}", headers={"Accept-Encoding": "gzip, br"})
    assert "Content-Encoding" not in answer.headers
    assert answer.headers["Content-Length"] == str(len(data))


def test_what_is_not_there_is_for_the_registry_to_say(plain: Server, repository: str) -> None:
    remote, digest, _ = pushed(plain, repository)
    missing = remote.get(f"blobs/{digest_of(b'no')}")
    assert (missing.status_code, missing.json()["errors"][0]["code"]) == (404, "BLOB_UNKNOWN")
    assert remote.get("blobs/sha256:no").json()["errors"][0]["code"] == "DIGEST_INVALID"
    assert remote.put(f"blobs/{digest}").status_code == 405
    assert remote.post(f"blobs/{digest}", data=b"x").status_code == 405
    assert len(missing.raw.headers.getlist("Docker-Distribution-API-Version")) == 1


def test_what_was_deleted_is_gone_at_once(plain: Server, repository: str) -> None:
    remote, digest, _ = pushed(plain, repository)
    for _ in range(3):
        assert remote.get(f"blobs/{digest}").status_code == 200
    assert remote.delete(f"blobs/{digest}").status_code == 202
    assert remote.get(f"blobs/{digest}").status_code == 404
    assert remote.head(f"blobs/{digest}").status_code == 404


def test_a_blob_comes_back_out_of_the_bin(plain: Server, repository: str) -> None:
    """nginx does not find it; the registry, asked then, does."""
    remote, digest, data = pushed(plain, repository)
    where = plain.root / repository
    batch = where / ".bin" / "20990101T000000Z" / "sha256"
    batch.mkdir(parents=True)
    (where / "blobs" / "sha256" / digest.partition(":")[2]).rename(batch / digest.partition(":")[2])
    assert remote.get(f"blobs/{digest}").content == data
    assert (where / "blobs" / "sha256" / digest.partition(":")[2]).exists()


@pytest.mark.parametrize(
    "name", ["a", "0", "a.b-c__d", "a--b/c---d", "team.x", "team.x/y", "team.xy", "teamyx", "v2/blobz/v2", "a" * 255]
)
def test_every_name_finds_its_blobs(plain: Server, name: str) -> None:
    remote, digest, data = pushed(plain, name)
    asked = pulls(plain)
    assert remote.get(f"blobs/{digest}").content == data
    assert pulls(plain) == asked, "it was the registry that answered"
    for path in (digest.replace(":", "%3A"), f"{digest}?ns=docker.io"):
        assert requests.get(f"{plain.url}/v2/{name}/blobs/{path}", timeout=TIMEOUT).content == data


def test_a_substore_is_not_looked_for_in_the_default_one(plain: Server) -> None:
    """What lies in the default store under a substore's prefix belongs to nobody."""
    data = random_bytes()
    digest = digest_of(data)
    stray = plain.root / "team.x" / "stray" / "blobs" / "sha256"
    stray.mkdir(parents=True)
    (stray / digest.partition(":")[2]).write_bytes(data)
    assert Remote(plain.url, "team.x/stray").get(f"blobs/{digest}").status_code == 404


# nothing but blobs


def test_nothing_but_blobs_can_be_reached(plain: Server, repository: str) -> None:
    remote, digest, _ = pushed(plain, repository)
    remote.push_image("1")
    session = remote.start_upload().rpartition("/")[2]
    encoded = digest.partition(":")[2]
    secret = plain.root.parent / "secret"
    secret.write_bytes(b"a secret")
    upward = "/".join([".."] * 12)
    paths = [
        f"/v2/{repository}/index.json",
        f"/v2/{repository}/oci-layout",
        f"/v2/{repository}/blobs/sha256/{encoded}",
        f"/v2/{repository}/blobs/index.json",
        f"/v2/{repository}/.uploads/{session}",
        f"/v2/{repository}/.uploads/blobs/{digest}",
        f"/v2/{repository}/.bin/blobs/{digest}",
        f"/v2/.pierhead/pool/sha256/{encoded[:2]}/{encoded}",
        f"/v2/.pierhead/blobs/{digest}",
        f"/v2/.pierhead/pool/blobs/{digest}",
        f"/v2/{repository}/blobs/sha256:{encoded[:-1]}",
        f"/v2/{repository}/blobs/sha256:{encoded}0",
        f"/v2/{repository}/blobs/sha256:{encoded.upper()}",
        f"/v2/{repository}/blobs/sha256:{encoded}/",
        f"/v2/{repository}/blobs//sha256:{encoded}",
        f"/v2//{repository}/blobs/{digest}",
        f"/v2/{repository}/blobs/sha256:{encoded}%00",
        f"/v2/{repository}/blobs/sha256:{encoded}%0a",
        f"/v2/{repository}%00/blobs/{digest}",
        f"/v2/{repository}/blobs/../index.json",
        f"/v2/{repository}/blobs/%2e%2e/index.json",
        f"/v2/{repository}/blobs/..%2findex.json",
        f"/v2/{repository}/blobs/sha256:..%2f..%2findex.json",
        f"/v2/{upward}{secret}",
        f"/v2/{upward.replace('.', '%2e')}{secret}",
        f"/v2/{upward.replace('/', '%2f')}{secret}",
        f"/v2/{repository}/blobs/{upward.replace('/', '%2f')}{secret}",
        f"/..{secret}",
        str(secret),
        "/check",
        f"/{repository}/blobs/sha256/{encoded}",
        f"/{repository}/index.json",
    ]
    for path in paths:
        for method in ("GET", "HEAD"):
            answer = wire.exchange(plain.host, wire.head(method, path))
            assert answer is not None, path
            assert answer.status_code in (400, 404, 405), (path, answer)
            assert b"a secret" not in answer.content
            assert b'"schemaVersion"' not in answer.content


@pytest.mark.parametrize("path", ["/v2/_check/pull/team/app", "/v2/%5Fcheck/pull/team/app", "/v2/x/../_check/pull/a"])
def test_the_check_is_for_nginx_alone(guarded: Server, path: str) -> None:
    with wire.connect(guarded.host) as connection:
        connection.sendall(wire.head("GET", path))
        answer = wire.receive(connection, "GET")
    assert answer is not None
    assert (answer.status_code, json.loads(answer.content)["errors"][0]["code"]) == (404, "UNSUPPORTED")


def test_a_path_that_nginx_tidies_up_is_judged_as_what_it_becomes(guarded: Server) -> None:
    """It decodes and resolves a path before it compares it; who may read is asked of the same name that is served."""
    _, digest, data = pushed(guarded, "team/tidy", ALICE)
    for path in (
        f"/v2/public/x/../../team/tidy/blobs/{digest}",
        f"/v2/public/%2e%2e/team/tidy/blobs/{digest}",
        f"/v2/public/..%2fteam/tidy/blobs/{digest}",
        f"/v2/te%61m%2ftidy/blobs/{digest}",
    ):
        for headers in (BOB, {}):
            fields = [f"{name}: {value}" for name, value in headers.items()]
            answer = wire.exchange(guarded.host, wire.head("GET", path, *fields))
            assert answer is not None
            assert answer.status_code in (400, 401, 403, 404), path
            assert data not in answer.content


def test_links_are_not_followed(plain: Server, repository: str, tmp_path: Path) -> None:
    """Neither one in a blob's place, nor a directory's on the way there."""
    remote, _, _ = pushed(plain, repository)
    secret = tmp_path / "secret"
    secret.write_bytes(b"a secret")
    blobs = plain.root / repository / "blobs" / "sha256"
    digest = digest_of(b"a link")
    (blobs / digest.partition(":")[2]).symlink_to(secret)
    other = plain.root / f"{repository}-linked"
    other.symlink_to(plain.root / repository)
    asked = pulls(plain)
    remote.get(f"blobs/{digest}")
    assert pulls(plain) == asked + 1, "what a link leads to is for the registry to serve, or not"
    name = digest_of(b"another")
    (blobs / name.partition(":")[2]).write_bytes(b"a secret")
    Remote(plain.url, f"{repository}-linked").get(f"blobs/{name}")
    assert pulls(plain) == asked + 2, "so is what lies behind a linked directory"


# who may


def test_who_may_pull(guarded: Server) -> None:
    remote, digest, data = pushed(guarded, "team/app", ALICE)
    anybody = Remote(guarded.url, "team/app")
    for _ in range(3):  # asked, and remembered
        assert remote.get(f"blobs/{digest}").content == data
        nobody = anybody.get(f"blobs/{digest}")
        assert (nobody.status_code, nobody.json()["errors"][0]["code"]) == (401, "UNAUTHORIZED")
        assert nobody.headers["WWW-Authenticate"].startswith(f'Bearer realm="{guarded.url}/v2/token"')
        assert len(nobody.raw.headers.getlist("WWW-Authenticate")) == 1
        other = anybody.get(f"blobs/{digest}", headers=BOB)
        assert (other.status_code, other.json()["errors"][0]["code"]) == (403, "DENIED")
        wrong = anybody.get(f"blobs/{digest}", headers=basic("alice", "wrong"))
        assert wrong.status_code == 401
        assert anybody.get(f"blobs/{digest}", headers=bearer("nonsense")).status_code == 401
        assert anybody.head(f"blobs/{digest}").status_code == 401


def test_what_was_decided_is_for_one_repository(guarded: Server) -> None:
    """A decision of one repository says nothing about another, or about one that is nested in it."""
    _, digest, data = pushed(guarded, "public/app", ALICE)
    anybody = Remote(guarded.url, "public/app")
    assert anybody.get(f"blobs/{digest}").content == data
    for name in ("team/app", "team", "publicly/app"):
        assert Remote(guarded.url, name).get(f"blobs/{digest}").status_code == 401


def test_what_only_some_may_read_is_not_for_shared_caches(guarded: Server) -> None:
    for name, private in (("public/app", False), ("team/app", True)):
        remote, digest, _ = pushed(guarded, name, ALICE)
        for headers in ({}, {"If-None-Match": '"other"'}):
            answer = remote.get(f"blobs/{digest}", headers=headers)
            assert answer.status_code == 200
            assert ("private" in answer.headers["Cache-Control"]) is private


def test_a_token_is_as_good_as_a_password(guarded: Server) -> None:
    _, digest, data = pushed(guarded, "team/app", ALICE)
    query = {"service": "pierhead", "scope": "repository:team/app:pull"}
    asked = requests.get(f"{guarded.url}/v2/token", params=query, headers=ALICE, timeout=TIMEOUT)
    assert asked.status_code == 200, asked.text
    anybody = Remote(guarded.url, "team/app")
    assert anybody.get(f"blobs/{digest}", headers=bearer(asked.json()["token"])).content == data


def test_a_second_header_does_not_change_who_one_is(guarded: Server) -> None:
    """nginx and the registry have to mean the same credentials."""
    _, digest, data = pushed(guarded, "team/app", ALICE)
    fields = [f"Authorization: {user['Authorization']}" for user in (BOB, ALICE)]
    for lines in (fields, fields[::-1]):
        answer = wire.exchange(guarded.host, wire.head("GET", f"/v2/team/app/blobs/{digest}", *lines))
        assert answer is not None
        assert data not in answer.content


def test_a_revocation_holds_soon(tmp_path: Path) -> None:
    """Whoever may no longer is out when `server.authCache` is over, at the latest."""
    users = htpasswd(tmp_path / "users", PASSWORDS)
    auth = {"htpasswd": {"path": str(users)}}
    config = {"http": {"auth": auth}, "server": {"authCache": f"{_SECONDS}s"}}
    with Server(tmp_path / "data", config=config, nginx=True) as server:
        remote, digest, data = pushed(server, "team/app", ALICE)
        time.sleep(1 - time.time() % 1 + 0.05)  # nginx counts whole seconds: at the beginning of one they last longest
        assert remote.get(f"blobs/{digest}").content == data
        asked = time.monotonic()
        htpasswd(users, {"bob": PASSWORDS["bob"]})
        time.sleep(asked + _SECONDS - time.monotonic() + 0.2)
        assert remote.get(f"blobs/{digest}").status_code == 401
        assert Remote(server.url, "team/app").get(f"blobs/{digest}", headers=BOB).content == data


def test_a_revocation_holds_soon_for_who_pulls_all_the_time(tmp_path: Path) -> None:
    """What nginx keeps open of an older decision is not what it goes by, in whichever of its processes."""
    users = htpasswd(tmp_path / "users", PASSWORDS)
    config = {"http": {"auth": {"htpasswd": {"path": str(users)}}}, "server": {"authCache": f"{_SECONDS}s"}}
    with ExitStack() as stack:
        server = stack.enter_context(Server(tmp_path / "data", config=config, nginx=True))
        _, digest, _ = pushed(server, "team/app", ALICE)
        sessions = [stack.enter_context(requests.Session()) for _ in range(8)]

        def pull(until: float) -> set[int]:
            statuses = set[int]()
            while time.monotonic() < until:
                for session in sessions:
                    answer = session.get(f"{server.url}/v2/team/app/blobs/{digest}", headers=ALICE, timeout=TIMEOUT)
                    statuses.add(answer.status_code)
            return statuses

        assert pull(time.monotonic() + 3 * _SECONDS) == {200}
        htpasswd(users, {"bob": PASSWORDS["bob"]})
        assert pull(time.monotonic() + _SECONDS + 0.2) <= {200, 401}
        assert pull(time.monotonic() + 2 * _SECONDS) == {401}


def test_without_a_cache_a_revocation_holds_at_once(tmp_path: Path) -> None:
    users = htpasswd(tmp_path / "users", PASSWORDS)
    config = {"http": {"auth": {"htpasswd": {"path": str(users)}}}, "server": {"authCache": "0s"}}
    with Server(tmp_path / "data", config=config, nginx=True) as server:
        remote, digest, data = pushed(server, "team/app", ALICE)
        assert remote.get(f"blobs/{digest}").content == data
        htpasswd(users, {"bob": PASSWORDS["bob"]})
        assert remote.get(f"blobs/{digest}").status_code == 401


def test_no_credential_lies_in_the_clear(tmp_path: Path) -> None:
    """Neither in what nginx remembers, nor in its logs: no password, no header, no token, no hash without a key."""
    users = htpasswd(tmp_path / "users", PASSWORDS)
    config = {"http": {"auth": {"htpasswd": {"path": str(users)}, "token": {}}}}
    with Server(tmp_path / "data", config=config, nginx=True) as server:
        remote, digest, _ = pushed(server, "team/app", ALICE)
        token = requests.get(f"{server.url}/v2/token", headers=ALICE, timeout=TIMEOUT).json()["token"]
        assert remote.get(f"blobs/{digest}").status_code == 200
        assert remote.get(f"blobs/{digest}", headers=bearer(token)).status_code == 200
        remembered, site = front_of(server)
        files = [path for path in remembered.rglob("*") if path.is_file()]
        assert len(files) >= 2
        for directory in [remembered, *(path for path in remembered.rglob("*") if path.is_dir())]:
            assert directory.stat().st_mode & 0o777 == 0o700
        header = ALICE["Authorization"]
        texts = [PASSWORDS["alice"], header, header.split()[1], token, token.rpartition(".")[2]]
        hashes = [sha256(text.encode()) for text in texts]
        needles = [text.encode() for text in texts] + [h.hexdigest().encode() for h in hashes]
        needles += [h.digest() for h in hashes] + [b64encode(h.digest()) for h in hashes]
        for path in [*files, *(site.parent.rglob("*.log"))]:
            assert path.stat().st_mode & 0o077 == 0 or path.suffix == ".log"
            content = path.read_bytes()
            assert not [needle for needle in needles if needle in content], path


def front_of(server: Server) -> tuple[Path, Path]:
    """Return where a server's nginx remembers what was decided, and its configuration."""
    site = server.root.with_name(server.root.name + ".nginx") / "nginx.conf"
    found = re.search(r'^proxy_cache_path "([^"]+)"', site.read_text(), re.MULTILINE)
    assert found
    return Path(found[1]), site


# uploads, and a registry that is away


def test_an_upload_is_passed_on_as_it_comes(plain: Server, repository: str) -> None:
    """However large and slow it is, nothing waits in nginx: the bytes are in the session before the body ends."""
    remote = Remote(plain.url, repository)
    location = remote.start_upload()
    session = plain.root / repository / ".uploads" / location.partition("?")[0].rpartition("/")[2]
    path = location.removeprefix(plain.url)
    with wire.connect(plain.host) as connection:
        connection.sendall(wire.head("PATCH", path, "Transfer-Encoding: chunked"))
        connection.sendall(b"%x\r\n%s\r\n" % (4_000_000, bytes(4_000_000)))
        deadline = time.monotonic() + 30
        while session.stat().st_size < 3_000_000:
            assert time.monotonic() < deadline, "the bytes do not arrive"
            time.sleep(0.05)
        connection.sendall(b"0\r\n\r\n")
        answer = wire.receive(connection, "PATCH")
    assert answer is not None
    assert answer.status_code == 202
    assert answer.headers["Range"] == "0-3999999"


def test_while_the_registry_is_away_clients_are_told_so(tmp_path: Path) -> None:
    with front(tmp_path, written(tmp_path)) as url:
        for method, path in (("GET", f"blobs/{digest_of(b'')}"), ("GET", "manifests/1"), ("POST", "blobs/uploads/")):
            answer = Remote(url, "team/app").request(method, path, data=b"x" if method == "POST" else None)
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
            assert answer.json()["errors"][0]["code"] == "UNSUPPORTED"


def test_pushes_share_connections_to_the_registry(plain: Server, repository: str) -> None:
    remote, port = Remote(plain.url, repository), json.loads(plain.config_file.read_text())["http"]["port"]
    before = closed_connections(int(port))
    for number in range(50):
        remote.push_blob(b"%d" % number)
    assert closed_connections(int(port)) - before < 10


def closed_connections(port: int) -> int:
    """Count the connections to a port of this machine that whoever opened them has closed in the last minute."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(remote.endswith(f":{port:04X}") and state == "06" for _, _, remote, state, *_ in lines)


@pytest.mark.parametrize(("keepalive", "kept"), [("75s", True), ("1s", True), ("0.9s", False), ("0s", False)])
def test_a_registry_that_soon_gives_up_connections_gets_new_ones(tmp_path: Path, keepalive: str, kept: bool) -> None:
    """Else it would give one up just as nginx sends it a push, which nginx cannot send anew."""
    site = generated(written(tmp_path, server={"keepAlive": keepalive}))
    assert ("keepalive 64;" in site.partition("upstream pierhead_writes {")[2].partition("}")[0]) is kept


def test_a_restart_costs_nobody_anything(tmp_path: Path) -> None:
    """What reads is asked anew where the registry closes a connection; for what writes nginx is the first to do so."""
    with Server(tmp_path / "data", workers=2, nginx=True) as server:
        remote, digest, data = pushed(server, "team/app")
        end, failures = time.monotonic() + 8, list[str]()

        def work(number: int) -> None:
            mine = Remote(server.url, f"team/app{number}")
            while time.monotonic() < end:
                answers = [mine.post(f"blobs/uploads/?digest={digest}", data=data), mine.get(f"blobs/{digest}")]
                answers += [remote.get("manifests/1"), remote.get("tags/list")]
                failures.extend(f"{answer.status_code} {answer.text}" for answer in answers if answer.status_code > 404)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        while time.monotonic() < end - 1:
            os.kill(server.pid, signal.SIGHUP)
            time.sleep(1.5)
        for thread in threads:
            thread.join()
        assert failures == []


def test_registries_on_one_directory_are_restarted_in_turn(tmp_path: Path) -> None:
    """Nobody is sent away: who is refused by the one is passed on to the other, however often either was away."""
    trusted = {"server": {"trustedProxies": ["127.0.0.1"]}}
    with ExitStack() as stack:
        servers = [Server(tmp_path / "data", config=trusted, nginx=False) for _ in range(2)]
        servers[1].config_file, servers[1].log = tmp_path / "second.json", tmp_path / "second.log"
        for server in servers:
            stack.enter_context(server)
        url = stack.enter_context(front(tmp_path, servers[0].config_file, "--also", servers[1].host))
        over, failures, count = threading.Event(), list[str](), 0

        def work(number: int) -> None:
            nonlocal count
            mine = Remote(url, f"team/app{number}")
            while not over.is_set():
                manifest = mine.push_image("1")
                answers = [mine.get("manifests/1"), mine.get(f"blobs/{digest_of(b'')}")]
                failures.extend(f"{answer.status_code} {answer.text}" for answer in answers if answer.status_code > 404)
                assert answers[0].content == manifest.body
                count += 1

        with ThreadPoolExecutor() as threads:
            running = [threads.submit(work, number) for number in range(2)]
            try:
                for server in servers * 2:
                    server.restart()
            finally:
                over.set()
            for work_done in running:
                work_done.result()
        assert failures == []
        assert count > 4


def test_http2_and_tls(tmp_path: Path) -> None:
    require("curl")
    pair = Authority.in_new(tmp_path / "ca").server()
    tls = {"cert": str(pair.cert), "key": str(pair.key)}
    with Server(tmp_path / "data", config={"http": {"tls": tls}}, nginx=True) as server:
        sent, got = tmp_path / "blob", tmp_path / "got"
        sent.write_bytes(random_bytes(3_000_000))
        digest = digest_of(sent.read_bytes())
        url = f"{server.url}/v2/team/app/blobs"
        # Without a length: HTTP/2 has no chunks, so that nginx has to make them.
        unsized = ["--request", "POST", "--header", "Content-Length:", "--upload-file", "-"]
        assert curl(*unsized, f"{url}/uploads/?digest={digest}", source=sent) == "2 201"
        assert curl("--output", str(got), f"{url}/{digest}") == "2 200"
        assert got.read_bytes() == sent.read_bytes()


def curl(*arguments: str, source: Path | None = None) -> str:
    """Run curl; return the version of HTTP and the status."""
    options = [
        "--silent",
        "--insecure",
        "--http2",
        "--max-time",
        "60",
        "--write-out",
        "%{stderr}%{http_version} %{http_code}",
    ]
    with (source or Path(os.devnull)).open("rb") as stdin:
        done = subprocess.run(["curl", *options, *arguments], stdin=stdin, capture_output=True, text=True, check=True)
    return done.stderr


def test_nginx_reads_by_its_group(tmp_path: Path) -> None:
    """With the unit's UMask what the registry writes is for its group to read, and for nobody else."""
    require_root()
    with tempfile.TemporaryDirectory(prefix="pierhead-") as base:
        Path(base).chmod(0o755)
        with ExitStack() as stack:
            old = os.umask(0o027)
            try:
                server = stack.enter_context(Server(Path(base) / "data", nginx=True, nginx_user="nobody root"))
            finally:
                os.umask(old)
            remote, digest, data = pushed(server, "team/app")
            remote.push_image("1")
            asked = pulls(server)
            assert remote.get(f"blobs/{digest}").content == data
            assert pulls(server) == asked
            for path in (server.root / "team").rglob("*"):
                assert path.stat().st_mode & 0o777 == (0o750 if path.is_dir() else 0o640), path


# the configuration


def written(directory: Path, **changes: Any) -> Path:
    """Write a configuration that can stand behind nginx, but for what is changed."""
    base = {
        "storage": {"rootDirectory": str(directory / "data")},
        "http": {"port": free_port()},
        "server": {"trustedProxies": ["127.0.0.1"]},
    }
    path = directory / "config.json"
    path.write_text(json.dumps(merged(base, changes)))
    return path


def generated(config: Path, *options: str, code: int = 0) -> str:
    """Run `pierhead nginx-config`; return what it writes, or says that is wrong."""
    result = CliRunner().invoke(main, ["nginx-config", str(config), *options])
    assert result.exit_code == code, result.output
    if code:
        assert result.stdout == ""
    return result.stderr if code else result.stdout


@contextmanager
def front(directory: Path, config: Path, *options: str) -> Iterator[str]:
    """Run nginx with what is written for a configuration; yield its URL."""
    require("nginx")
    host, remembered = f"127.0.0.1:{free_port()}", decisions()
    try:
        site = generated(config, "--listen", host, "--cache", str(remembered), *options)
        with Nginx(directory / "nginx", site):
            yield f"http://{host}"
    finally:
        forget(remembered)


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"server": {"trustedProxies": []}}, (), "server.trustedProxies"),
        ({"server": {"trustedProxies": ["10.0.0.0/8"]}}, (), "server.trustedProxies"),
        ({"http": {"externalUrl": "https://example.com/registry"}}, (), "http.externalUrl"),
        ({"http": {"tls": {"cert": "/a", "key": "/b"}}}, (), "http.tls"),
        ({"http": {"port": "no"}}, (), "http.port"),
        ({"storage": {"rootDirectory": '/srv/"quoted"'}}, (), "no way to write"),
        ({"storage": {"rootDirectory": "/srv/$dollar"}}, (), "no way to write"),
        ({}, ("--certificate", "/a"), "go together"),
        ({}, ("--key", "/a"), "go together"),
        ({}, ("--cache", "relative"), "--cache"),
        ({}, ("--cache", "/run/a\nb"), "no way to write"),
        ({}, ("--certificate", "relative", "--key", "/a"), "--certificate"),
        ({}, ("--server-name", "a; include /etc/passwd"), "nothing that nginx"),
        ({}, ("--listen", "80; }"), "nothing that nginx"),
        ({}, ("--also", "5001"), "HOST:PORT"),
        ({}, ("--also", "a:1; b"), "HOST:PORT"),
    ],
)
def test_what_cannot_stand_behind_nginx(
    tmp_path: Path, changes: dict[str, Any], options: tuple[str, ...], message: str
) -> None:
    assert message in generated(written(tmp_path, **changes), *options, code=2)


@pytest.mark.parametrize(
    ("changes", "options", "lines"),
    [
        ({}, (), ["listen 80;", "listen [::]:80;", "server_name _;", 'proxy_cache_path "/run/pierhead-nginx" levels']),
        ({"http": {"address": "0.0.0.0", "port": 5001}}, (), ["server 127.0.0.1:5001 max_fails=0;"]),
        (
            {"http": {"address": "::", "port": 5001}, "server": {"trustedProxies": ["::1"]}},
            (),
            ["server [::1]:5001 max_fails=0;"],
        ),
        ({"http": {"externalUrl": "https://example.com:8443"}}, (), ["server_name example.com;"]),
        ({}, ("--server-name", "a.example.com b.example.com"), ["server_name a.example.com b.example.com;"]),
        (
            {},
            ("--certificate", "/etc/a b.crt", "--key", "/etc/a.key"),
            ["listen 443 ssl http2;", "listen [::]:443 ssl http2;", 'ssl_certificate "/etc/a b.crt";'],
        ),
        (
            {},
            ("--also", "[::1]:5001", "--also", "b.example:5002"),
            ["server [::1]:5001 max_fails=0;", "server b.example:5002 max_fails=0;"],
        ),
        ({}, ("--cache", "/run/a b; c"), ['proxy_cache_path "/run/a b; c" levels']),
        ({"server": {"stallTimeout": "90s"}}, (), ["client_body_timeout 90s;", "send_timeout 90s;"]),
    ],
)
def test_what_is_written(tmp_path: Path, changes: dict[str, Any], options: tuple[str, ...], lines: list[str]) -> None:
    site = generated(written(tmp_path, **changes), *options)
    assert [line for line in lines if line not in site] == []


def test_each_configuration_has_a_secret_of_its_own(tmp_path: Path) -> None:
    config = written(tmp_path)
    one, other = generated(config), generated(config)
    assert one != other
    assert re.sub("[0-9a-f]{64}", "", one) == re.sub("[0-9a-f]{64}", "", other)


def test_the_configuration_in_deploy_is_what_is_written(tmp_path: Path) -> None:
    """Of deploy/behind-nginx.yaml; nginx itself finds nothing wrong with it."""
    require("nginx")
    htpasswd(tmp_path / "htpasswd", PASSWORDS)
    config = tmp_path / "config.yaml"
    config.write_text((DEPLOY / "behind-nginx.yaml").read_text().replace("/etc/pierhead", str(tmp_path)))
    files = {"--certificate": "/etc/nginx/pierhead.crt", "--key": "/etc/nginx/pierhead.key"}
    options = [word for pair in (files | {"--secret-file": "/etc/nginx/pierhead.secret"}).items() for word in pair]
    site = generated(config, *options)
    assert site == (DEPLOY / "nginx.conf").read_text()
    pair = Authority.in_new(tmp_path / "ca").server()
    secret = tmp_path / "secret"
    secret.write_text(f'set $secret "{"a" * 64}";\n')
    places = {"/etc/nginx/pierhead.crt": pair.cert, "/etc/nginx/pierhead.key": pair.key}
    for old, new in (places | {"/etc/nginx/pierhead.secret": secret, "/run/pierhead-nginx": tmp_path / "r"}).items():
        site = site.replace(old, str(new))
    for old in ("[::]:443", "443"):
        site = site.replace(f"listen {old} ", f"listen 127.0.0.1:{free_port()} ")
    with Nginx(tmp_path / "nginx", site):
        pass


def test_a_secret_that_is_kept_in_a_file_is_not_written(tmp_path: Path) -> None:
    """The file's secret is used: nginx starts with it, and lets in who may."""
    secret = tmp_path / "secret"
    secret.write_text(f'set $secret "{"b" * 64}";\n')
    with Server(tmp_path / "data", config={"server": {"trustedProxies": ["127.0.0.1"]}}, nginx=False) as server:
        _, digest, data = pushed(server, "team/app")
        options = ("--secret-file", str(secret))
        assert re.search("[0-9a-f]{64}", generated(server.config_file, *options)) is None
        with front(tmp_path, server.config_file, *options) as url:
            assert Remote(url, "team/app").get(f"blobs/{digest}").content == data
            assert pulls(server) == 0
