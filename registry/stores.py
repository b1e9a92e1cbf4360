"""Build the stores that a configuration describes: the one place where backends are composed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from registry.config import Config, StoreConfig
from storage.backend import Backend
from storage.controller import StoreController
from storage.durable import Durable
from storage.image_store import ImageStore
from storage.layout import Layout
from storage.local import Count, LocalBackend
from storage.quota import Quotas, guarded
from storage.retention import Keeper, is_immutable


def build_controller(config: Config, count: Count = lambda *_: None) -> StoreController:
    """Return the default store and its substores; `count` is told what they do."""
    backends = _guarded(config, _local_backends(config, count))
    stores = {prefix: _store(config, prefix, backend) for prefix, backend in backends.items()}
    return StoreController(stores.pop(""), stores)


def build_quotas(config: Config, backends: Mapping[str, Backend] | None = None) -> Quotas:
    """Return the quotas of all stores; what their workers share lies in the default store."""
    return Quotas(
        Layout(config.storage.root_directory).quotas,
        config.storage.quotas,
        config.storage.max_repos,
        backends or _local_backends(config),
    )


def _local_backends(config: Config, count: Count = lambda *_: None) -> dict[str, Backend]:
    return {prefix: _local(store, count) for prefix, store in config.stores.items()}


def _local(store: StoreConfig, count: Count) -> Backend:
    durable = Durable(store.root_directory, commit=store.commit)
    return LocalBackend(store.root_directory, dedupe=store.dedupe, durable=durable, count=count)


def _guarded(config: Config, backends: dict[str, Backend]) -> dict[str, Backend]:
    """Put the quotas before the backends, if there are any."""
    if not config.storage.quotas and config.storage.max_repos is None:
        return backends
    quotas = build_quotas(config, backends)
    return {prefix: guarded(backend, quotas) for prefix, backend in backends.items()}


def _store(config: Config, prefix: str, backend: Backend) -> ImageStore:
    store = config.stores[prefix]
    immutable = partial(is_immutable, store.immutable_tags)
    keeper = Keeper(store.retention, backend, delay=store.gc_delay, immutable=immutable) if store.retention else None
    return ImageStore(
        backend,
        keeper=keeper,
        immutable=immutable,
        sparse_indexes=config.server.sparse_indexes,
        undo=store.undo,
        delete_referrers=store.delete_referrers,
    )
