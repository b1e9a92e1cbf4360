"""An index.json that somebody damaged, or that another tool replaced, while the server runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from storage.local import LocalBackend
from tests.conftest import MakeServer
from tests.support.oci import REF_NAME, Document, Json, Remote, expect_error, expect_status, random_bytes
from tests.support.server import Server

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda data: data[: len(data) // 2],
    "cut at the end": lambda data: data[:-1],
    "emptied": lambda _: b"",
    "garbage": lambda data: bytes(range(256)) + data,
    "zeros": lambda data: bytes(len(data)),
    "a list": lambda _: b"[]",
    "a string": lambda _: b'"index"',
    "an empty object": lambda _: b"{}",
    "no manifests": lambda _: b'{"schemaVersion": 2}',
    "manifests is no list": lambda _: b'{"schemaVersion": 2, "manifests": {}}',
    "deep": lambda _: b"[" * 100_000,
}


def everywhere(server: Server, name: str) -> list[Remote]:
    """Return clients enough, each with a connection of its own, to reach every worker."""
    return [Remote(server.url, name) for _ in range(8 * server.workers)]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_index(server: Server, repository: str, damage: str) -> None:
    """Its last good copy is served by every worker, writes are refused, the others go on, and repair is enough."""
    remote, other = Remote(server.url, repository), Remote(server.url, f"{repository}-other")
    first, second = remote.push_image("1"), remote.push_image("2")
    prepared, unused = remote.build_image(), remote.push_blob(random_bytes())
    index = server.root / repository / "index.json"
    good = index.read_bytes()
    index.write_bytes(DAMAGES[damage](good))
    for reader in everywhere(server, repository):
        assert reader.tags() == ["1", "2"]
        assert reader.get("manifests/1").content == first.body
        assert reader.get(f"manifests/{second.digest}").content == second.body
    for answer in _writes(remote, prepared, unused):
        [error] = expect_error(answer, 503, "UNSUPPORTED")
        assert repository in error["message"]
        assert "damaged" in error["message"]
    other.push_image("1")
    assert index.read_bytes() == DAMAGES[damage](good)
    assert f"index.json of repository {repository} is damaged" in server.log.read_text()
    index.write_bytes(good)
    remote.push(prepared, "3")
    expect_status(remote.delete("manifests/1"), 202)
    assert all(reader.tags() == ["2", "3"] for reader in everywhere(server, repository))


def _writes(remote: Remote, prepared: Document, unused: Json) -> list[requests.Response]:
    return [
        remote.put_manifest(prepared, "1"),
        remote.put_manifest(prepared, "3"),
        remote.put_manifest(prepared),
        remote.delete("manifests/1"),
        remote.delete(f"manifests/{prepared.digest}"),
        remote.delete(f"blobs/{unused['digest']}"),
    ]


def test_last_good_copy_outlives_the_server(make_server: MakeServer) -> None:
    """A server that starts after the damage serves what the last swap left."""
    server = make_server(workers=2)
    remote = Remote(server.url, "team/app")
    manifest = remote.push_image("1")
    os.truncate(server.root / "team/app/index.json", 20)
    server.restart()
    for reader in everywhere(server, "team/app"):
        assert reader.tags() == ["1"]
        assert reader.get("manifests/1").content == manifest.body
    expect_error(Remote(server.url, "team/app").put_manifest(manifest, "2"), 503, "UNSUPPORTED")
    Remote(server.url, "team/other").push_image("1")


def test_damaged_index_without_a_good_copy(make_server: MakeServer) -> None:
    """Where no good copy was ever seen, reads are refused as clearly as writes, and the list of repositories works."""
    server = make_server(workers=2)
    (server.root / "foreign").mkdir(parents=True)
    (server.root / "foreign/index.json").write_text("{")
    for reader in everywhere(server, "foreign"):
        expect_error(reader.get("tags/list"), 503, "UNSUPPORTED")
        expect_error(reader.get("manifests/1"), 503, "UNSUPPORTED")
    expect_status(Remote(server.url, "other").get("/v2/_catalog"), 200)


def test_index_that_another_tool_wrote_has_a_good_copy_once_it_was_read(make_server: MakeServer) -> None:
    """Also where it replaced one of ours: what is served then, after a restart too, is the newest that was good."""
    server = make_server(workers=2)
    remote = Remote(server.url, "app")
    remote.push_image("ours")
    index = server.root / "app/index.json"
    document = json.loads(index.read_bytes())
    document["manifests"][0]["annotations"][REF_NAME] = "theirs"
    index.write_text(json.dumps(document, indent=1))
    assert remote.tags() == ["theirs"]
    index.write_text("")
    server.restart()
    for reader in everywhere(server, "app"):
        assert reader.tags() == ["theirs"]
    lines = [line for line in server.log.read_text().splitlines() if "serving the last good copy" in line]
    assert 1 <= len(lines) <= 4  # once in each worker, before and after the restart


def test_damaged_copy_is_not_served(make_server: MakeServer) -> None:
    """The copy has a checksum: it is not durable, and may be as damaged as the index itself."""
    server = make_server()
    Remote(server.url, "app").push_image("1")
    os.truncate(server.root / "app/index.json", 20)
    os.truncate(server.root / ".pierhead/indexes/app", 200)
    server.restart()
    expect_error(Remote(server.url, "app").get("tags/list"), 503, "UNSUPPORTED")


def test_index_replaced_by_hand_is_seen_at_once(server: Server, repository: str) -> None:
    """index.json is the truth: every worker believes the new one with its next request, each of many times."""
    manifest = Remote(server.url, repository).push_image("0")
    readers = everywhere(server, repository)
    index = server.root / repository / "index.json"
    document = json.loads(index.read_bytes())
    for number in range(30):
        document["manifests"][0]["annotations"][REF_NAME] = str(number)
        temporary = index.with_name("new.json")
        temporary.write_text(json.dumps(document))
        temporary.replace(index)
        for reader in readers:
            assert reader.tags() == [str(number)]
            assert reader.get(f"manifests/{number}").content == manifest.body


def test_index_written_in_place_is_seen_at_once(server: Server, repository: str) -> None:
    """A tool that does not replace the file, but writes into it, is believed too."""
    Remote(server.url, repository).push_image("100")
    readers = everywhere(server, repository)
    index = server.root / repository / "index.json"
    data = index.read_bytes()
    for number in range(101, 131):
        with index.open("r+b") as file:
            file.write(data.replace(b'"100"', f'"{number}"'.encode()))
        assert all(reader.tags() == [str(number)] for reader in readers)


def test_skopeo_writes_into_the_layout(server: Server, repository: str, tmp_path: Path) -> None:
    """What skopeo copies into the directory is served at once, beside what was pushed, and a push keeps it."""
    skopeo = shutil.which("skopeo")
    if skopeo is None:
        pytest.skip("skopeo is not installed")
    remote = Remote(server.url, repository)
    remote.push_image("pushed")
    source = Remote(server.url, f"{repository}-source").push_image("1")
    layout = f"oci:{server.root}/{repository}"
    command = [skopeo, "--tmpdir", str(tmp_path), "copy", "--insecure-policy", "--preserve-digests"]
    command.append("--src-tls-verify=false")
    for number in range(3):
        copied = f"copied{number}"
        from_registry = f"docker://{server.host}/{repository}-source:1"
        subprocess.run([*command, from_registry, f"{layout}:{copied}"], check=True, capture_output=True)
        for reader in everywhere(server, repository):
            assert copied in reader.tags()
            assert reader.get(f"manifests/{copied}").content == source.body
        remote.push_image(f"after{number}")
    assert set(remote.tags()) >= {"pushed", "copied2", "after0", "after1", "after2"}


def test_quick_swaps_never_look_alike(tmp_path: Path) -> None:
    """Many swaps within one tick of the clock get strictly increasing times, also after one from the future."""
    backend = LocalBackend(str(tmp_path))
    index = tmp_path / "app/index.json"
    version = backend.swap_index("app", b"0", None)
    versions, times = {version}, [index.stat().st_mtime_ns]
    for number in range(1, 2000):
        if number == 1000:
            os.utime(index, ns=(times[-1] + 10**12, times[-1] + 10**12))
            version = backend.index_version("app")
            times.append(index.stat().st_mtime_ns)
        version = backend.swap_index("app", str(number % 10).encode(), version)
        versions.add(version)
        times.append(index.stat().st_mtime_ns)
    assert times == sorted(set(times))
    assert len(versions) == 2000


def test_swaps_of_a_file_system_with_coarse_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where times are kept in steps of two seconds, each swap is still later than the one before."""
    step = 2 * 10**9
    original = os.utime

    def rounded(path: int, *, ns: tuple[int, int]) -> None:
        original(path, ns=(ns[0] // step * step, ns[1] // step * step))

    monkeypatch.setattr(os, "utime", rounded)
    backend = LocalBackend(str(tmp_path))
    index = tmp_path / "app/index.json"
    version = backend.swap_index("app", b"0", None)
    times = [index.stat().st_mtime_ns]
    original(index, ns=(times[0] + step, times[0] + step))
    version = backend.index_version("app")
    for _ in range(5):
        times.append(index.stat().st_mtime_ns)
        version = backend.swap_index("app", b"0", version)
    assert times == sorted(set(times))
