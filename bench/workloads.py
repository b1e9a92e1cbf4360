"""The workloads: what is done to a registry, and the rates that come of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial

from bench.client import Connection, WrongAnswer
from bench.content import (
    MANIFEST_TYPE,
    Blob,
    Image,
    LargeBody,
    new_blob,
    new_image,
    new_manifest,
    push_blob,
    push_chunked,
    push_image,
    push_manifest,
    push_streamed,
)
from bench.load import Job, Request, repeat, together
from bench.registries import Registry

CLIENTS = 8  # of small images, tags and repositories
SMALL_LAYER = 2048
MIDDLE_BLOB = 1 << 20
PULLS = 4  # of the large blob, by each client in turn: a single one is over too soon to be measured
CATALOG_PAGE = 100
REPOSITORY = "bench/image"
MOST_FOR_LOGIN = 1.2  # times what the same request costs where nobody has to log in


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything."""

    seconds: int = 3  # that one small request is repeated
    large: int = 256 << 20  # bytes of a large blob
    images: int = 25  # small images per client
    tags: int = 1000
    repositories: int = 300
    catalog: int = 10_000  # repositories of which some are listed
    collected: int = 100_000  # blobs of the repository that a garbage collection is measured with


QUICK = Scale(seconds=1, large=8 << 20, images=2, tags=40, repositories=120, catalog=120, collected=4000)


@dataclass(eq=False, slots=True)
class Site:
    """A registry under load; what has been pushed to it to be read is remembered per site."""

    registry: Registry
    scale: Scale
    _names: int = field(default=0, init=False)

    def new_repository(self) -> str:
        """Give a name that was not used before."""
        self._names += 1
        return f"bench/new/{self._names:06}"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the result: a figure, its unit, and the ratio to the other registry that is the goal."""

    name: str
    title: str
    unit: str
    goal: float | None = None
    less_is_better: bool = False


@dataclass(frozen=True, slots=True)
class Workload:
    """One kind of load; run gives a figure for each row."""

    rows: tuple[Row, ...]
    run: Callable[[Site], tuple[float, ...]]

    def is_named(self, beginnings: tuple[str, ...]) -> bool:
        """Tell whether the name of one of its rows begins like one of these."""
        return any(row.name.startswith(beginnings) for row in self.rows)


@cache
def _image(site: Site) -> Image:
    """Push the image whose manifest and blobs are read."""
    image = new_image(SMALL_LAYER)
    with site.registry.connect() as connection:
        push_image(connection, REPOSITORY, "latest", image)
    return image


@cache
def _middle_blob(site: Site) -> Blob:
    blob = new_blob(MIDDLE_BLOB)
    with site.registry.connect() as connection:
        push_blob(connection, REPOSITORY, blob.digest, blob.data)
    return blob


@cache
def _large_body(size: int) -> LargeBody:
    return LargeBody(size)


@cache
def _large_blob(site: Site) -> str:
    """Push the blob that is pulled, and give its path."""
    body = _large_body(site.scale.large)
    body.renew()
    path = f"/v2/{REPOSITORY}/blobs/{body.digest}"
    with site.registry.connect() as connection:
        push_blob(connection, REPOSITORY, body.digest, body.data)
        if connection.ask("GET", path, 200).body != body.data:
            raise WrongAnswer(f"{site.registry.name}: a pulled blob is not what was pushed")
    return path


@cache
def _tagged(site: Site) -> str:
    """Push a repository of many tags, and give its name."""
    repository = site.new_repository()
    _push_tags(site, repository)
    _check_names(site, f"/v2/{repository}/tags/list", "tags", site.scale.tags)
    return repository


@cache
def _catalog(site: Site) -> str:
    """Push many repositories, and give the path that lists some of them."""
    together(site.registry, _repository_jobs(site, site.scale.catalog))
    path = f"/v2/_catalog?n={CATALOG_PAGE}"
    _check_names(site, path, "repositories", CATALOG_PAGE)
    return path


def _check_names(site: Site, path: str, key: str, count: int) -> None:
    """Raise WrongAnswer unless a list has the length it must have."""
    with site.registry.connect() as connection:
        names = connection.ask("GET", path, 200).json()[key]
    if len(names) != count:
        raise WrongAnswer(f"{site.registry.name}: GET {path} lists {len(names)} where {count} were expected")


def _get_manifest(site: Site, method: str, *, by_digest: bool) -> Request:
    image = _image(site)
    reference = image.manifest.digest if by_digest else "latest"
    return Request(method, f"/v2/{REPOSITORY}/manifests/{reference}", {"Accept": MANIFEST_TYPE})


def _get_with_token(site: Site) -> Request:
    """Ask for the manifest with a token, where the registry gives one, instead of a password."""
    request = _get_manifest(site, "GET", by_digest=False)
    return replace(request, headers=request.headers | site.registry.token())


def _get_blob(site: Site, method: str, blob: Callable[[Site], Blob]) -> Request:
    return Request(method, f"/v2/{REPOSITORY}/blobs/{blob(site).digest}")


def _small_blob(site: Site) -> Blob:
    return _image(site).layer


def _list_tags(site: Site, query: str) -> Request:
    return Request("GET", f"/v2/{_tagged(site)}/tags/list{query}")


def _list_catalog(site: Site) -> Request:
    return Request("GET", _catalog(site))


def _repeated(row: Row, request: Callable[[Site], Request]) -> Workload:
    def run(site: Site) -> tuple[float, ...]:
        return (repeat(site.registry, request(site), site.scale.seconds),)

    return Workload((row,), run)


def _cost(row: Row, request: Callable[[Site], Request]) -> Workload:
    """Measure what one request costs while as many are made as can be."""

    def run(site: Site) -> tuple[float, ...]:
        return (1e6 / repeat(site.registry, request(site), site.scale.seconds),)

    return Workload((row,), run)


def _discard(path: str, size: int, connection: Connection) -> None:
    connection.send(connection.head("GET", path, {}))
    answer = connection.receive(discard=True)
    if (answer.status, answer.size) != (200, size):
        raise WrongAnswer(f"GET {path}: {answer.status} with {answer.size} bytes")


def _pull(site: Site, clients: int) -> tuple[float, ...]:
    job = partial(_discard, _large_blob(site), site.scale.large)
    return (_megabytes(site) * together(site.registry, [[job] * PULLS] * clients).rate,)


def _push(site: Site, job: Callable[[str, LargeBody], Job]) -> tuple[float, ...]:
    body = _large_body(site.scale.large)
    body.renew()
    return (_megabytes(site) * together(site.registry, [[job(site.new_repository(), body)]]).rate,)


def _megabytes(site: Site) -> float:
    return site.scale.large / 1e6


def _at_once(repository: str, body: LargeBody) -> Job:
    return lambda connection: push_blob(connection, repository, body.digest, body.data)


def _streamed(repository: str, body: LargeBody) -> Job:
    framed = body.framed()
    return lambda connection: push_streamed(connection, repository, body.digest, framed)


def _in_chunks(repository: str, body: LargeBody) -> Job:
    return lambda connection: push_chunked(connection, repository, body)


def _push_images(site: Site) -> tuple[float, ...]:
    """Push small images, each client to a repository of its own."""

    def jobs(repository: str) -> list[Job]:
        images = [new_image(SMALL_LAYER) for _ in range(site.scale.images)]
        return [partial(push_image, repository=repository, tag=f"v{n}", image=i) for n, i in enumerate(images)]

    return (together(site.registry, [jobs(site.new_repository()) for _ in range(CLIENTS)]).rate,)


def _push_tags(site: Site, repository: str) -> tuple[float, ...]:
    """Push manifests of one layer, each under a tag of its own, to one repository."""
    config, layer = new_blob(SMALL_LAYER), new_blob(SMALL_LAYER)
    with site.registry.connect() as connection:
        for blob in (config, layer):
            push_blob(connection, repository, blob.digest, blob.data)
    jobs = [
        partial(push_manifest, repository=repository, reference=f"v{n:05}", manifest=new_manifest(config, layer))
        for n in range(site.scale.tags)
    ]
    finished = together(site.registry, _dealt(jobs))
    return finished.rate, finished.slope()


def _repository_jobs(site: Site, count: int) -> list[list[Job]]:
    """Make images of one blob, each pushed into a new repository."""
    blob = new_blob(SMALL_LAYER)
    manifest = new_manifest(blob, blob)

    def push(repository: str, connection: Connection) -> None:
        push_blob(connection, repository, blob.digest, blob.data)
        push_manifest(connection, repository, "latest", manifest)

    return _dealt([partial(push, site.new_repository()) for _ in range(count)])


def _dealt(jobs: Sequence[Job]) -> list[list[Job]]:
    """Deal jobs out to the clients in turn."""
    return [list(jobs[client::CLIENTS]) for client in range(CLIENTS)]


def workloads(scale: Scale) -> tuple[Workload, ...]:
    """List all workloads in the order in which they run: what reads comes before what fills the registry."""
    large = f"{scale.large >> 20} MB"
    return (
        _repeated(
            Row("manifest-get-tag", "manifest GET by tag", "req/s", 7.5),
            partial(_get_manifest, method="GET", by_digest=False),
        ),
        _repeated(
            Row("manifest-get-digest", "manifest GET by digest", "req/s", 7.5),
            partial(_get_manifest, method="GET", by_digest=True),
        ),
        _repeated(
            Row("manifest-head", "manifest HEAD by tag", "req/s", 7.5),
            partial(_get_manifest, method="HEAD", by_digest=False),
        ),
        _repeated(Row("blob-head", "blob HEAD", "req/s", 8), partial(_get_blob, method="HEAD", blob=_small_blob)),
        _repeated(Row("blob-get-2k", "blob GET 2 KB", "req/s", 16), partial(_get_blob, method="GET", blob=_small_blob)),
        _repeated(
            Row("blob-get-1m", "blob GET 1 MB", "req/s", 4.5), partial(_get_blob, method="GET", blob=_middle_blob)
        ),
        Workload((Row("pull-1", f"pull {large}, 1 client", "MB/s", 1.7),), partial(_pull, clients=1)),
        Workload((Row("pull-4", f"pull {large}, 4 clients", "MB/s", 1.1),), partial(_pull, clients=4)),
        Workload((Row("push-put", f"push {large}, POST and PUT", "MB/s", 2),), partial(_push, job=_at_once)),
        Workload((Row("push-streamed", f"push {large}, streamed PATCH", "MB/s", 2),), partial(_push, job=_streamed)),
        Workload((Row("push-chunks", f"push {large}, 10 MB chunks", "MB/s", 2),), partial(_push, job=_in_chunks)),
        Workload((Row("images", f"small images, {CLIENTS} clients", "images/s", 7),), _push_images),
        Workload(
            (
                Row("tags", f"{scale.tags} tags to one repository", "tags/s", 3),
                Row("tags-slope", "… rate of the last tenth to the first", "x"),
            ),
            lambda site: _push_tags(site, site.new_repository()),
        ),
        _repeated(Row("tags-list", f"tags/list, {scale.tags} tags", "req/s", 6), partial(_list_tags, query="")),
        _repeated(Row("tags-list-n", "tags/list?n=100", "req/s", 6), partial(_list_tags, query="?n=100")),
        Workload(
            (Row("repositories", f"creating {scale.repositories} repositories", "repos/s", 6),),
            lambda site: (together(site.registry, _repository_jobs(site, site.scale.repositories)).rate,),
        ),
        _repeated(
            Row("catalog", f"_catalog?n={CATALOG_PAGE}, {scale.catalog:,} repositories", "req/s", 10), _list_catalog
        ),
    )


_GET_TAG = partial(_get_manifest, method="GET", by_digest=False)


def login_costs() -> tuple[Workload, ...]:
    """List what is compared of a registry with users and the same without."""
    return (
        _cost(Row("auth-basic", "manifest GET by tag, Basic", "µs", MOST_FOR_LOGIN, less_is_better=True), _GET_TAG),
        _cost(
            Row("auth-token", "manifest GET by tag, token", "µs", MOST_FOR_LOGIN, less_is_better=True), _get_with_token
        ),
    )


#: What is compared behind nginx too, with the goals there.
_BEHIND_NGINX = {
    "manifest-get-tag": 3,
    "manifest-get-digest": 3,
    "manifest-head": 3,
    "blob-head": 18,
    "blob-get-2k": 45,
    "blob-get-1m": 5,
    "pull-1": 1.7,
    "pull-4": 1.1,
    "push-put": 1.8,
    "push-streamed": 1.8,
    "push-chunks": 1.8,
    "images": 6,
}
#: What a server of files alone could not do much faster.
_OF_A_FILE = {"blob-head": None, "blob-get-2k": None, "blob-get-1m": None, "pull-1": 0.9, "pull-4": 0.9}

#: What waits for nothing but many small files, whoever writes them.
_OF_FILES = {"images": None, "repositories": None}


def behind_nginx(scale: Scale) -> tuple[Workload, ...]:
    """List what is compared of this registry behind nginx and another one."""
    return _with_goals(scale, "nginx-", _BEHIND_NGINX)


def of_a_file(scale: Scale, prefix: str) -> tuple[Workload, ...]:
    """List what is compared of a registry and a server of files."""
    return _with_goals(scale, prefix, _OF_A_FILE)


def of_files(scale: Scale) -> tuple[Workload, ...]:
    """List what is compared of a registry and those who write its files without one."""
    return _with_goals(scale, "disk-", _OF_FILES)


def _with_goals(scale: Scale, prefix: str, goals: Mapping[str, float | None]) -> tuple[Workload, ...]:
    chosen = [(one, row) for one in workloads(scale) for row in one.rows if row.name in goals]
    return tuple(
        Workload((replace(row, name=prefix + row.name, goal=goals[row.name]),), one.run) for one, row in chosen
    )


def logins() -> tuple[Workload, ...]:
    """List what is compared of two registries with users."""
    return (_repeated(Row("auth-docker", "manifest GET by tag, Basic", "req/s"), _GET_TAG),)
