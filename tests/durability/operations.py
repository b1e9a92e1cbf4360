"""Every kind of write: each prepares a registry and returns the write itself, which can be repeated."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from storage import undo
from storage.controller import StoreController
from storage.errors import RepositoryUnknown
from storage.gc import Collector, Result
from storage.image_store import ImageStore
from storage.moving import move
from storage.retention import Keeper, KeepRule, Policy, Retention
from storage.scrub import Result as Scrubbed
from storage.scrub import Scrubber
from storage.transfer.files import Directory
from storage.transfer.importing import Importer
from storage.transfer.sources import OciLayout
from tests.clients.support.images import Layout
from tests.durability.inprocess import Client, Registry
from tests.durability.ledger import BLOB, DAMAGED, LOST, MANIFEST, TAG
from tests.support.oci import OCI_CONFIG, REF_NAME, digest_of, expect_status, image, index, random_bytes

Write = Callable[[], object]
Operation = Callable[[Registry], Write]

_DATA = random_bytes(3000)


def session(registry: Registry) -> Write:
    client = registry.client("new/team/app")
    return lambda: client.push_blob(_DATA)


def monolithic(registry: Registry) -> Write:
    client = registry.client("app")

    def write() -> None:
        answer = client.post("blobs/uploads/", params={"digest": digest_of(_DATA)}, data=_DATA)
        client.acknowledge_blob(answer, _DATA)

    return write


def streamed(registry: Registry) -> Write:
    client = registry.client("app")

    def write() -> None:
        location = client.start_upload()
        expect_status(client.patch(location, data=_parts()), 202)
        client.acknowledge_blob(client.finish_upload(location, digest_of(_DATA)), _DATA)

    return write


def chunked_over_two_processes(registry: Registry) -> Write:
    clients = [registry.client("app"), registry.client("app", registry.process())]

    def write() -> None:
        location = clients[0].start_upload()
        for number, part in enumerate(_parts()):
            headers = {"Content-Range": f"{number * 1000}-{number * 1000 + len(part) - 1}"}
            expect_status(clients[number % 2].patch(location, data=part, headers=headers), 202)
        clients[1].acknowledge_blob(clients[1].finish_upload(location, digest_of(_DATA)), _DATA)

    return write


def sha512(registry: Registry) -> Write:
    client = registry.client("app")

    def write() -> None:
        location = client.start_upload(**{"digest-algorithm": "sha512"})
        client.acknowledge_blob(client.finish_upload(location, digest_of(_DATA, "sha512"), data=_DATA), _DATA)

    return write


def blob_already_there(registry: Registry) -> Write:
    client = registry.client("app")
    client.push_blob(_DATA)
    return lambda: client.push_blob(_DATA)


def blob_from_the_pool(registry: Registry) -> Write:
    registry.client("one").push_blob(_DATA)
    client = registry.client("two")
    return lambda: client.push_blob(_DATA)


def mount_from(registry: Registry) -> Write:
    registry.client("one").push_blob(_DATA)
    return _mount(registry.client("two"), source="one")


def mount_already_there(registry: Registry) -> Write:
    registry.client("one").push_blob(_DATA)
    registry.client("two").push_blob(_DATA)
    return _mount(registry.client("two"), source="one")


def mount_from_anywhere(registry: Registry) -> Write:
    registry.client("one").push_blob(_DATA)
    return _mount(registry.client("two"))


def _mount(client: Client, **source: str) -> Write:
    query = {"mount": digest_of(_DATA), **({"from": source["source"]} if source else {})}

    def write() -> None:
        answer = client.post("blobs/uploads/", params=query)
        if answer.status_code == 202:  # there is no pool to take it from
            answer = client.finish_upload(answer.headers["Location"], digest_of(_DATA), data=_DATA)
        client.acknowledge_blob(answer, _DATA)

    return write


def first_manifest(registry: Registry) -> Write:
    client = registry.client("new/team/app")
    manifest = client.build_image()
    return lambda: client.push(manifest, "1")


def first_manifest_without_blobs(registry: Registry) -> Write:
    client = registry.client("new/team/app")
    manifest = index([])
    return lambda: client.push(manifest, "1")


def manifest_by_digest(registry: Registry) -> Write:
    client = registry.client("app")
    client.push_image("1")
    manifest = client.build_image()
    return lambda: client.push(manifest)


def manifest_by_sha512(registry: Registry) -> Write:
    client = registry.client("app")
    client.push_image("1")
    manifest = client.build_image()
    return lambda: client.push(manifest, digest_of(manifest.body, "sha512"))


def manifest_by_digest_with_tags(registry: Registry) -> Write:
    client = registry.client("app")
    manifest = client.build_image()
    return lambda: client.push(manifest, manifest.digest, params=[("tag", "a"), ("tag", "b")])


def manifest_already_there(registry: Registry) -> Write:
    client = registry.client("app")
    manifest = client.push_image("1")
    return lambda: client.push(manifest, "1")


def second_tag(registry: Registry) -> Write:
    client = registry.client("app")
    manifest = client.push_image("1")
    return lambda: client.push(manifest, "2")


def index_over_images(registry: Registry) -> Write:
    client = registry.client("app")
    children = [client.push_image() for _ in range(2)]
    manifest = index([child.descriptor() for child in children])
    return lambda: client.push(manifest, "multi")


def referrers(registry: Registry) -> Write:
    client = registry.client("app")
    subject = client.push_image("1")
    artifact = image(client.push_blob(random_bytes(), OCI_CONFIG), [], subject=subject.descriptor())

    def write() -> None:
        client.push(artifact)
        client.promise_referrers(subject, [artifact])

    return write


def tag_moved(registry: Registry) -> Write:
    client = registry.client("app")
    client.push_image("1")
    manifest = client.build_image()
    return lambda: client.push(manifest, "1")


def tag_deleted(registry: Registry) -> Write:
    client = registry.client("app")
    client.push_image("1")
    return lambda: client.remove(TAG, "1")


def tag_deleted_to_be_restored(registry: Registry) -> Write:
    client = registry.client("app")
    manifest = client.push_image("1")

    def write() -> None:
        client.remove(TAG, "1")
        client.promised(LOST, "1", manifest.body)

    return write


def tag_restored(registry: Registry) -> Write:
    client = registry.client("app")
    manifest = client.push_image("1")
    client.remove(MANIFEST, manifest.digest, tags=["1"])
    store = _controller(registry).store("app")

    def write() -> None:
        for kind, name in ((TAG, "1"), (MANIFEST, manifest.digest)):
            registry.ledger.doubt(kind, "app", name)
        lost = undo.find(store.backend, "app", "1")
        assert lost
        with _answered():
            undo.restore(store, "app", lost)
        client.promised(MANIFEST, manifest.digest, manifest.body)
        client.promised(TAG, "1", manifest.body)

    return write


def tags_that_retention_drops(registry: Registry) -> Write:
    client = registry.client("app")
    manifests = {tag: client.push_image(tag) for tag in ("1", "2", "kept")}
    backend = _controller(registry).at("").backend
    policy = Policy(repositories=("**",), keep_tags=(KeepRule(most_recently_pushed_count=1),))
    keeper = Keeper(Retention(policies=(policy,)), backend, delay=0, immutable=lambda *_: False)
    store = ImageStore(backend, undo=3600, keeper=keeper)

    def write() -> None:
        dropped = {tag: manifest for tag, manifest in manifests.items() if tag != "kept"}
        for tag, manifest in dropped.items():
            registry.ledger.doubt(TAG, "app", tag)
            registry.ledger.doubt(MANIFEST, "app", manifest.digest)
        with _answered():
            gone = store.retain("app")
        if gone:
            for tag, manifest in dropped.items():
                client.promised(TAG, tag, None)
                client.promised(LOST, tag, manifest.body)

    return write


def repository_deleted(registry: Registry) -> Write:
    client = registry.client("app")
    nested = registry.client("app/nested").push_image("1")
    manifest = client.push_image("1")
    store = _controller(registry).store("app")

    def write() -> None:
        for kind, name in ((TAG, "1"), (MANIFEST, manifest.digest)):
            registry.ledger.doubt(kind, "app", name)
        with _answered():
            store.delete_repository("app")
        client.promised(LOST, "1", manifest.body)
        client.promised(TAG, "1", None)
        registry.client("app/nested").promised(TAG, "1", nested.body)

    return write


def repository_moved(registry: Registry) -> Write:
    old, new = registry.client("old"), registry.client("new/name")
    manifest = old.push_image("1")
    blobs = registry.ledger.promises()
    controller = _controller(registry)

    def write() -> None:
        for kind, name in ((TAG, "1"), (MANIFEST, manifest.digest)):
            registry.ledger.doubt(kind, "old", name)
        with _answered():
            try:
                move(controller, "old", "new/name")
                old.promised(TAG, "1", None)
                old.promised(LOST, "1", manifest.body)
            except RepositoryUnknown:
                assert registry.retrying
        new.promised(TAG, "1", manifest.body)
        for fact, content in blobs.items():
            if fact.kind == BLOB:
                new.promised(BLOB, fact.name, content)

    return write


def damage_found(registry: Registry) -> Write:
    """What is damaged does not come back, nor is it forgotten who had it."""
    clients = _damage(registry)

    def write() -> None:
        _scrub(registry)
        for client in clients:
            client.promised(BLOB, digest_of(_DATA), None)
            client.promised(DAMAGED, digest_of(_DATA), b"")

    return write


def damaged_blob_pushed_again(registry: Registry) -> Write:
    client, _ = _damage(registry)
    with registry.disk.uninterrupted():
        _scrub(registry)
    return lambda: client.push_blob(_DATA)


def damaged_blob_healed_elsewhere(registry: Registry) -> Write:
    client, other = _damage(registry)
    _scrub(registry)

    def write() -> None:
        client.push_blob(_DATA)
        other.promised(BLOB, digest_of(_DATA), _DATA)

    return write


def _damage(registry: Registry) -> list[Client]:
    """Let two repositories have a blob that is damaged; nobody was promised any of it."""
    clients = [registry.client("one"), registry.client("two")]
    for client in clients:
        client.push_image("1")
        expect_status(client.finish_upload(client.start_upload(), digest_of(_DATA), data=_DATA), 201)
    for client in clients:
        registry.disk.damage(registry.root / client.name / "blobs" / digest_of(_DATA).replace(":", "/"))
    registry.disk.settle()
    return clients


def _scrub(registry: Registry) -> None:
    scrubber = Scrubber(_controller(registry).at("").backend, tell=lambda _: None)
    for name in ("one", "two"):
        scrubber.scrub(name, Scrubbed())


def blob_set_aside(registry: Registry) -> Write:
    """Garbage is kept for a while after it was collected, and what else is pushed must not make an end of it."""
    client = registry.client("app")
    client.push_blob(_DATA)
    collector = _collector(registry)

    def write() -> None:
        collector.collect("app", Result())
        client.push_blob(random_bytes())
        client.promised(BLOB, digest_of(_DATA), _DATA)

    return write


def blob_set_aside_and_needed(registry: Registry) -> Write:
    """The client asks whether the blob is there, and then pushes only the manifest."""
    client = registry.client("app")
    manifest = client.build_image()
    collector = _collector(registry)

    def write() -> None:
        collector.collect("app", Result())
        client.push(manifest, "1")

    return write


def _collector(registry: Registry) -> Collector:
    """Return what sets all garbage aside that there is by now, and unlinks nothing for an hour."""
    for path in registry.root.rglob("blobs/*/*"):
        os.utime(path, (0, 0))
    return Collector(_controller(registry).at("").backend, delay=3600, undo=3600)


def _controller(registry: Registry) -> StoreController:
    controller: StoreController = registry.process().extensions["pierhead"].controller
    return controller


@contextmanager
def _answered() -> Iterator[None]:
    """Let a command's failing disk look like a server's."""
    try:
        yield
    except OSError as error:
        raise AssertionError(f"status 500: {error}") from error


def import_by_copies(registry: Registry) -> Write:
    return _import(registry, copy=True)


def import_by_links(registry: Registry) -> Write:
    """The files of the source were never synced."""
    return _import(registry, copy=False)


def _import(registry: Registry, *, copy: bool) -> Write:
    """Import an index over two images from an image layout that lies elsewhere."""
    layout = Layout(registry.disk.anchor.parent / "source")
    manifest = layout.tag("1", layout.multi_arch("amd64", "arm64"))
    [repository] = OciLayout(Directory(str(layout.root))).repositories()
    [root] = repository.roots
    store = _controller(registry).store("app")
    client = registry.client("app")

    def write() -> None:
        registry.ledger.doubt(TAG, "app", "1")
        with _answered():
            outcome = Importer(copy=copy).run(store, "app", repository.content, root)
        assert outcome.action in ("imported", "unchanged"), f"status 500: {outcome.reason}"
        client.promised(TAG, "1", manifest.body)
        for digest in layout.digests():
            client.promised(BLOB, digest, (layout.root / "blobs" / digest.replace(":", "/")).read_bytes())

    return write


def manifest_deleted(registry: Registry) -> Write:
    client = registry.client("app")
    client.push_image("kept")
    manifest = client.push_image("1")
    client.push(manifest, "2")
    return lambda: client.remove(MANIFEST, manifest.digest, tags=["1", "2"])


def blob_deleted(registry: Registry) -> Write:
    client = registry.client("app")
    registry.client("other").push_blob(_DATA)
    client.push_blob(_DATA)
    return lambda: client.remove(BLOB, digest_of(_DATA))


def last_blob_deleted(registry: Registry) -> Write:
    client = registry.client("app")
    client.push_image("1")
    client.push_blob(_DATA)
    return lambda: client.remove(BLOB, digest_of(_DATA))


def directories_that_another_process_just_made(registry: Registry) -> Write:
    for below in (".uploads", "blobs/sha256"):
        os.makedirs(registry.root / "new/team/app" / below, exist_ok=True)
    client = registry.client("new/team/app")
    return lambda: client.push_image("1")


def blob_after_a_ping(registry: Registry) -> Write:
    """The first request counts itself, in a file below the root."""
    client = registry.client("app")
    expect_status(client.get("/v2/"), 200)
    return lambda: client.push_blob(_DATA)


def index_that_was_not_synced(registry: Registry) -> Write:
    """Another process died before it could sync what it wrote, or another tool never does."""
    client = registry.client("app")
    manifest = client.push_image("1")
    path = registry.root / "app/index.json"
    index_document = json.loads(path.read_bytes())
    [entry] = index_document["manifests"]
    index_document["manifests"].append(entry | {"annotations": {REF_NAME: "2"}})
    path.with_name(".new").write_text(json.dumps(index_document))
    path.with_name(".new").replace(path)
    return lambda: client.push(manifest, "2")


def blob_that_was_not_synced(registry: Registry) -> Write:
    """Another tool put it there, and never syncs."""
    client = registry.client("app")
    _put_unsynced(registry, client)
    return lambda: client.push_blob(_DATA)


def mount_of_a_blob_that_was_not_synced(registry: Registry) -> Write:
    _put_unsynced(registry, registry.client("one"))
    return _mount(registry.client("two"), source="one")


def _put_unsynced(registry: Registry, client: Client) -> None:
    client.push_blob(random_bytes())
    path = registry.root / client.name / "blobs" / digest_of(_DATA).replace(":", "/")
    path.write_bytes(_DATA)


def two_processes(registry: Registry) -> Write:
    apps = [registry.process(), registry.process()]

    def write() -> None:
        for number in range(4):
            registry.client("shared", apps[number % 2]).push_image(str(number))

    return write


def concurrent_writers(registry: Registry) -> Write:
    apps = [registry.process(), registry.process()]

    def push(number: int) -> None:
        client = registry.client(f"team/{number % 2}", apps[number // 2 % 2])
        client.push_blob(_DATA)
        client.push_image(f"tag{number}")
        client.push_image(f"deleted{number}")
        client.remove(TAG, f"deleted{number}")

    def write() -> None:
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(push, range(12)))

    return write


def _parts() -> Iterator[bytes]:
    return (_DATA[start : start + 1000] for start in range(0, len(_DATA), 1000))


#: One write by one client, to begin again where it failed.
SINGLE: list[Operation] = [
    session,
    monolithic,
    streamed,
    chunked_over_two_processes,
    sha512,
    blob_already_there,
    blob_from_the_pool,
    mount_from,
    mount_already_there,
    mount_from_anywhere,
    first_manifest,
    first_manifest_without_blobs,
    manifest_by_digest,
    manifest_by_sha512,
    manifest_by_digest_with_tags,
    manifest_already_there,
    second_tag,
    index_over_images,
    referrers,
    tag_moved,
    tag_deleted,
    tag_deleted_to_be_restored,
    tag_restored,
    tags_that_retention_drops,
    repository_deleted,
    repository_moved,
    damaged_blob_pushed_again,
    blob_set_aside_and_needed,
    import_by_copies,
    manifest_deleted,
    blob_deleted,
    last_blob_deleted,
    directories_that_another_process_just_made,
    blob_after_a_ping,
]
#: More than one client or process, or another tool: what they have under way at any moment is not known.
JOINT: list[Operation] = [
    blob_set_aside,
    damage_found,
    damaged_blob_healed_elsewhere,
    index_that_was_not_synced,
    blob_that_was_not_synced,
    mount_of_a_blob_that_was_not_synced,
    import_by_links,
    two_processes,
    concurrent_writers,
]
