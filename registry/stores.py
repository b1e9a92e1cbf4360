"""Build the stores that a configuration describes: the one place where backends are composed."""

from __future__ import annotations

from functools import partial

from registry.config import Config, StoreConfig
from storage.controller import StoreController
from storage.durable import Durable
from storage.image_store import ImageStore
from storage.local import Count, LocalBackend
from storage.retention import Keeper, is_immutable


def build_controller(config: Config, count: Count = lambda *_: None) -> StoreController:
    """Return the default store and its substores; `count` is told what they do."""

    def build(store: StoreConfig) -> ImageStore:
        durable = Durable(store.root_directory, commit=store.commit)
        backend = LocalBackend(store.root_directory, dedupe=store.dedupe, durable=durable, count=count)
        immutable = partial(is_immutable, store.immutable_tags)
        keeper = (
            Keeper(store.retention, backend, delay=store.gc_delay, immutable=immutable) if store.retention else None
        )
        return ImageStore(
            backend,
            keeper=keeper,
            immutable=immutable,
            sparse_indexes=config.server.sparse_indexes,
            undo=store.undo,
            delete_referrers=store.delete_referrers,
        )

    stores = {prefix: build(store) for prefix, store in config.stores.items()}
    return StoreController(stores.pop(""), stores)
