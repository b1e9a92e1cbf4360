"""Who may do what: every actor, action and repository over HTTP, where there is content and where there is none."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support.oci import TIMEOUT, Answer, Remote, digest_of, image, random_bytes
from tests.support.server import Server
from tests.support.users import basic, htpasswd

PASSWORDS = {name: f"{name}'s password" for name in ("alice", "bob", "carol", "dave", "root")}
RULES: dict[str, Any] = {
    "groups": {"developers": {"users": ["bob"]}},
    "adminPolicy": {"users": ["root"], "actions": ["read", "create", "update", "delete"]},
    "metrics": {"users": ["dave"]},
    "repositories": {
        "public/**": {"anonymousPolicy": ["read"], "defaultPolicy": ["create"]},
        "team/**": {
            "policies": [
                {"users": ["alice"], "actions": ["read", "create"]},
                {"groups": ["developers"], "actions": ["read", "create", "update", "delete"]},
            ],
            "defaultPolicy": ["read"],
        },
        "team/secret/*": {"policies": [{"users": ["alice"], "actions": ["update"]}]},
    },
}

ACTORS = ("anonymous", *PASSWORDS)
REPOSITORIES = ("public/app", "team/app", "team/secret/app", "other/app")
#: What each may do; who is not named may do nothing. r: read, c: create, u: update, d: delete.
MAY = {
    ("anonymous", "public/app"): "r",
    ("alice", "public/app"): "rc",
    ("bob", "public/app"): "rc",
    ("carol", "public/app"): "rc",
    ("dave", "public/app"): "rc",
    ("root", "public/app"): "rcud",
    ("alice", "team/app"): "rc",
    ("bob", "team/app"): "rcud",
    ("carol", "team/app"): "r",
    ("dave", "team/app"): "r",
    ("root", "team/app"): "rcud",
    ("alice", "team/secret/app"): "u",
    ("root", "team/secret/app"): "rcud",
    ("root", "other/app"): "rcud",
}
DIGEST = digest_of(b"nothing has this digest")

#: Requests, as method and path, by what they need: any one of the letters.
OPERATIONS = {
    "manifest by tag": ("r", "GET", "manifests/{tag}"),
    "manifest head": ("r", "HEAD", "manifests/{tag}"),
    "manifest by digest": ("r", "GET", f"manifests/{DIGEST}"),
    "blob": ("r", "GET", f"blobs/{DIGEST}"),
    "blob head": ("r", "HEAD", f"blobs/{DIGEST}"),
    "tags": ("r", "GET", "tags/list"),
    "referrers": ("r", "GET", f"referrers/{DIGEST}"),
    "extensions": ("r", "GET", "_oci/ext/discover"),
    "upload": ("cu", "POST", "blobs/uploads/"),
    "upload state": ("cu", "GET", "blobs/uploads/5d1e61c0-6f7d-4be2-a4b4-0f4ab4a2f5b4"),
    "chunk": ("cu", "PATCH", "blobs/uploads/5d1e61c0-6f7d-4be2-a4b4-0f4ab4a2f5b4"),
    "last chunk": ("cu", "PUT", f"blobs/uploads/5d1e61c0-6f7d-4be2-a4b4-0f4ab4a2f5b4?digest={DIGEST}"),
    "upload cancel": ("cu", "DELETE", "blobs/uploads/5d1e61c0-6f7d-4be2-a4b4-0f4ab4a2f5b4"),
    "malformed manifest": ("cu", "PUT", "manifests/{tag}"),
    "manifest delete": ("d", "DELETE", f"manifests/{DIGEST}"),
    "blob delete": ("d", "DELETE", f"blobs/{DIGEST}"),
}


def headers_of(actor: str) -> dict[str, str]:
    return {} if actor == "anonymous" else basic(actor, PASSWORDS[actor])


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Give a server with rules, and with an image tagged `1` in one repository of each kind."""
    directory = tmp_path_factory.mktemp("guarded")
    users = htpasswd(directory / "htpasswd", PASSWORDS)
    http = {"auth": {"htpasswd": {"path": str(users)}}, "accessControl": RULES}
    with Server(directory / "data", config={"http": http}, workers=2) as server:
        for name in REPOSITORIES:
            with_content = Remote(server.url, name)
            with_content.authorize(headers_of("root"))
            with_content.push_image("1")
        yield server


def ask(server: Server, actor: str, method: str, path: str, **options: Any) -> requests.Response:
    headers = headers_of(actor) | options.pop("headers", {})
    return requests.request(method, server.url + path, headers=headers, timeout=TIMEOUT, **options)


def check_refusal(answer: requests.Response, actor: str) -> None:
    """Check that it is 401 with a challenge to anonymous, and 403 to who has logged in."""
    status, code = (401, "UNAUTHORIZED") if actor == "anonymous" else (403, "DENIED")
    assert answer.status_code == status, answer.text
    if answer.request.method != "HEAD":
        assert [error["code"] for error in answer.json()["errors"]] == [code]
    assert answer.headers.get("WWW-Authenticate") == ('Basic realm="Pierhead"' if status == 401 else None)


@pytest.mark.parametrize("there", [True, False], ids=["existing", "missing"])
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("repository", REPOSITORIES)
@pytest.mark.parametrize("actor", ACTORS)
def test_matrix(guarded: Server, actor: str, repository: str, operation: str, there: bool) -> None:
    wanted, method, path = OPERATIONS[operation]
    name = repository if there else repository.replace("app", "missing")
    answer = ask(guarded, actor, method, f"/v2/{name}/{path.format(tag='1')}")
    if set(wanted) & set(MAY.get((actor, repository), "")):
        assert answer.status_code not in (401, 403), answer.text
    else:
        check_refusal(answer, actor)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_refusal_does_not_tell_what_exists(guarded: Server, operation: str) -> None:
    """Of both refusals everything is equal but the name that the client gave."""
    _, method, path = OPERATIONS[operation]

    def refused(actor: str, name: str) -> tuple[int, str, list[tuple[str, str]]]:
        answer = ask(guarded, actor, method, f"/v2/{name}/{path.format(tag='1')}")
        varying = {"Date", "X-Request-Id"}
        headers = sorted((key, value) for key, value in answer.headers.items() if key not in varying)
        return answer.status_code, answer.text.replace(name, "NAME"), headers

    for actor in ("anonymous", "carol"):
        assert refused(actor, "other/app") == refused(actor, "other/gap")


def push(server: Server, actor: str, name: str, tag: str, **options: Any) -> Answer:
    """Push a new image under a tag; its config is there already."""
    root = Remote(server.url, name)
    root.authorize(headers_of("root"))
    document = image(root.push_blob(random_bytes()))
    path = f"/v2/{name}/manifests/{tag if tag != 'digest' else document.digest}"
    headers = {"Content-Type": document.media_type}
    return ask(server, actor, "PUT", path, data=document.body, headers=headers, **options)


def test_create_is_for_new_tags_and_update_for_tags_that_move(guarded: Server, repository: str) -> None:
    name = f"team/{repository}"
    assert push(guarded, "alice", name, "1").status_code == 201
    check_refusal(push(guarded, "alice", name, "1"), "alice")  # type: ignore[arg-type]
    assert push(guarded, "bob", name, "1").status_code == 201
    assert push(guarded, "alice", name, "2").status_code == 201
    secret = f"team/secret/{repository.rpartition('/')[2]}"
    check_refusal(push(guarded, "alice", secret, "1"), "alice")  # type: ignore[arg-type]
    assert push(guarded, "root", secret, "1").status_code == 201
    assert push(guarded, "alice", secret, "1").status_code == 201


def test_either_is_enough_for_an_identical_push(guarded: Server, repository: str) -> None:
    names = [f"team/{repository}", f"team/secret/{repository.rpartition('/')[2]}"]
    for name in names:
        root = Remote(guarded.url, name)
        root.authorize(headers_of("root"))
        document = image(root.push_blob(random_bytes()))
        headers = {"Content-Type": document.media_type}
        for actor in ("root", "alice"):
            answer = ask(guarded, actor, "PUT", f"/v2/{name}/manifests/1", data=document.body, headers=headers)
            assert answer.status_code == 201, answer.text


def test_each_tag_of_the_query_is_asked_for(guarded: Server, repository: str) -> None:
    name = f"team/{repository}"
    assert push(guarded, "alice", name, "digest", params={"tag": ["1", "2"]}).status_code == 201
    before = ask(guarded, "root", "GET", f"/v2/{name}/manifests/1").headers["Docker-Content-Digest"]
    check_refusal(push(guarded, "alice", name, "digest", params={"tag": ["3", "1"]}), "alice")  # type: ignore[arg-type]
    assert ask(guarded, "root", "GET", f"/v2/{name}/manifests/1").headers["Docker-Content-Digest"] == before
    assert ask(guarded, "root", "HEAD", f"/v2/{name}/manifests/3").status_code == 404


def test_a_manifest_by_digest_needs_create(guarded: Server, repository: str) -> None:
    assert push(guarded, "alice", f"team/{repository}", "digest").status_code == 201
    secret = f"team/secret/{repository.rpartition('/')[2]}"
    check_refusal(push(guarded, "alice", secret, "digest"), "alice")  # type: ignore[arg-type]


def mount(server: Server, actor: str, target: str, digest: str, source: str | None) -> int:
    query = {"mount": digest} | ({"from": source} if source else {})
    return ask(server, actor, "POST", f"/v2/{target}/blobs/uploads/", params=query).status_code


def test_a_mount_needs_read_on_the_source(guarded: Server, repository: str) -> None:
    root = Remote(guarded.url, f"other/{repository}")
    root.authorize(headers_of("root"))
    digest = root.push_blob(random_bytes())["digest"]
    target = f"team/{repository}"
    assert mount(guarded, "alice", target, digest, root.name) == 202
    assert mount(guarded, "alice", target, digest, f"other/missing/{repository}") == 202
    assert ask(guarded, "alice", "HEAD", f"/v2/{target}/blobs/{digest}").status_code == 404
    assert mount(guarded, "root", target, digest, root.name) == 201
    assert mount(guarded, "alice", f"{target}/again", digest, target) == 201


def test_a_mount_without_a_source_needs_read_everywhere(guarded: Server, repository: str) -> None:
    root = Remote(guarded.url, f"team/{repository}")
    root.authorize(headers_of("root"))
    digest = root.push_blob(random_bytes())["digest"]
    assert mount(guarded, "bob", f"team/{repository}/copy", digest, None) == 202
    assert mount(guarded, "root", f"team/{repository}/copy", digest, None) == 201


def test_the_catalog_shows_what_the_caller_may_read(guarded: Server) -> None:
    seen = {
        actor: set(ask(guarded, actor, "GET", "/v2/_catalog").json()["repositories"]) & set(REPOSITORIES)
        for actor in ACTORS
    }
    readable = {actor: {name for name in REPOSITORIES if "r" in MAY.get((actor, name), "")} for actor in ACTORS}
    assert seen == readable


def test_a_page_of_the_catalog_is_full_though_much_is_hidden(guarded: Server) -> None:
    names: list[str] = []
    while True:
        last = names[-1] if names else ""
        answer = ask(guarded, "carol", "GET", f"/v2/_catalog?n=1&last={last}")
        page = answer.json()["repositories"]
        assert len(page) <= 1
        names += page
        if "Link" not in answer.headers:
            break
        assert page
    assert {"public/app", "team/app"} <= set(names)
    assert not {"team/secret/app", "other/app"} & set(names)


def test_metrics_are_for_administrators_and_those_named(guarded: Server) -> None:
    statuses = {actor: ask(guarded, actor, "GET", "/v2/metrics").status_code for actor in ACTORS}
    assert statuses == {"anonymous": 401, "alice": 403, "bob": 403, "carol": 403, "dave": 200, "root": 200}


@pytest.mark.parametrize("path", ["/v2/", "/v2/_oci/ext/discover"])
def test_the_entrance_is_closed_to_anonymous(guarded: Server, path: str) -> None:
    """Docker takes a 200 here as a valid login, and then never sends credentials."""
    check_refusal(ask(guarded, "anonymous", "GET", path), "anonymous")
    assert ask(guarded, "carol", "GET", path).status_code == 200


def test_wrong_credentials_are_refused_even_where_anonymous_may(guarded: Server) -> None:
    for headers in (
        basic("alice", "wrong"),
        basic("nobody", "wrong"),
        {"Authorization": "Digest x"},
        {"Authorization": ""},
    ):
        answer = requests.get(f"{guarded.url}/v2/public/app/manifests/1", headers=headers, timeout=TIMEOUT)
        check_refusal(answer, "anonymous")


def test_the_description_is_public(guarded: Server) -> None:
    assert ask(guarded, "anonymous", "GET", "/swagger/v2/swagger.json").status_code == 200


def rules_file(server: Server, change: Any) -> None:
    document = json.loads(server.config_file.read_text())
    document["http"]["accessControl"] = change
    server.config_file.write_text(json.dumps(document))


@pytest.fixture
def own(tmp_path: Path, make_server: Any) -> Server:
    users = htpasswd(tmp_path / "htpasswd", PASSWORDS)
    http = {"auth": {"htpasswd": {"path": str(users)}}, "accessControl": RULES}
    server: Server = make_server(config={"http": http}, workers=2)
    return server


def statuses(server: Server, actor: str, path: str) -> set[int]:
    """Ask until both workers have answered, most probably, by the rules that are settled."""
    time.sleep(1.5)
    return {ask(server, actor, "GET", path).status_code for _ in range(16)}


def test_rules_are_read_again_and_broken_ones_refused(own: Server) -> None:
    path = "/v2/other/app/tags/list"
    assert statuses(own, "carol", path) == {403}
    rules_file(own, {"repositories": {"other/**": {"defaultPolicy": ["read"]}}})
    assert statuses(own, "carol", path) == {404}
    rules_file(own, {"repositories": {"other/**": {"defaultPolicy": ["reed"]}}})
    assert statuses(own, "carol", path) == {404}
    assert "defaultPolicy" in own.log_tail()
    assert "stays in force" in own.log_tail()
    own.config_file.write_text("{")
    assert statuses(own, "carol", path) == {404}


def test_rules_that_come_back_whole_hold_again(own: Server) -> None:
    path = "/v2/other/app/tags/list"
    document = own.config_file.read_text()
    own.config_file.write_text(document[: len(document) // 2])
    assert statuses(own, "carol", path) == {403}
    own.config_file.write_text(document)
    rules_file(own, {"repositories": {"**": {"defaultPolicy": ["read"]}}})
    assert statuses(own, "carol", path) == {404}


def test_a_file_that_is_being_written_opens_nothing(own: Server) -> None:
    """A valid beginning of the rules may lack what closes a part of what it opens."""
    rules_file(own, {"repositories": {"**": {"anonymousPolicy": ["read"]}}})
    assert ask(own, "anonymous", "GET", "/v2/other/app/tags/list").status_code == 401
    rules_file(own, RULES)
    assert statuses(own, "anonymous", "/v2/other/app/tags/list") == {401}


def test_rules_that_appear_take_a_restart_and_say_so(tmp_path: Path, make_server: Any) -> None:
    users = htpasswd(tmp_path / "htpasswd", PASSWORDS)
    server: Server = make_server(config={"http": {"auth": {"htpasswd": {"path": str(users)}}}})
    rules_file(server, RULES)
    assert statuses(server, "carol", "/v2/other/app/tags/list") == {404}
    assert "takes a restart" in server.log_tail()


@pytest.mark.parametrize(
    "header", ["Bearer", "bearer ", "Bearer a=b", "Bearer e30=.e30=.", "Basic", "Basic ÿ", "Basic YTpiÿ", "é"]
)
@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_credentials_that_are_none_are_refused(tmp_path: Path, make_server: Any, header: str, method: str) -> None:
    users = htpasswd(tmp_path / "htpasswd", PASSWORDS)
    auth = {"htpasswd": {"path": str(users)}, "token": {}}
    audit = tmp_path / "audit.log"
    server: Server = make_server(config={"http": {"auth": auth}, "log": {"audit": str(audit)}})
    headers = {"Authorization": header.encode("latin-1")}
    for path in ("/v2/", "/v2/a/manifests/1", "/v2/token"):
        answer = requests.request(method, server.url + path, headers=headers, timeout=TIMEOUT)
        assert answer.status_code == (405 if method == "PUT" and path != "/v2/a/manifests/1" else 401)
    assert all(json.loads(line)["status"] in (401, 405) for line in audit.read_text().splitlines())


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_read_only_registry_serves_and_takes_nothing(read_only: Server, operation: str) -> None:
    _, method, path = OPERATIONS[operation]
    answer = ask(read_only, "root", method, f"/v2/team/app/{path.format(tag='1')}")
    if method in ("GET", "HEAD"):
        assert answer.status_code not in (401, 403, 405)
    else:
        assert answer.status_code == 405
        assert answer.json()["errors"][0]["code"] == "UNSUPPORTED"
        assert "read-only" in answer.json()["errors"][0]["message"]
        assert ask(read_only, "carol", method, f"/v2/other/app/{path.format(tag='1')}").status_code == 403


@pytest.fixture(scope="module")
def read_only(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("readonly")
    users = htpasswd(directory / "htpasswd", PASSWORDS)
    http = {"auth": {"htpasswd": {"path": str(users)}}, "accessControl": RULES, "readOnly": True}
    with Server(directory / "data", config={"http": http}) as server:
        yield server


def test_explain_agrees_with_the_server(own: Server) -> None:
    pierhead = str(Path(sys.executable).with_name("pierhead"))
    command = [pierhead, "authz", "explain", "--config", str(own.config_file)]
    for actor, allowed in (("alice", True), ("carol", False)):
        arguments = ["--user", actor, "--repository", "team/app", "--action", "create"]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == (0 if allowed else 1), done.stderr
        assert 'http.accessControl.repositories["team/**"]' in done.stdout
