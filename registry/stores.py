"""Build the stores that a configuration describes: the one place where backends are composed."""

from __future__ import annotations

from registry.config import Config, StoreConfig
from storage.controller import StoreController
from storage.durable import Durable
from storage.image_store import ImageStore
from storage.local import Count, LocalBackend


def build_controller(config: Config, count: Count = lambda *_: None) -> StoreController:
    """Return the default store and its substores; `count` is told what they do."""

    def build(store: StoreConfig) -> ImageStore:
        durable = Durable(store.root_directory, commit=store.commit)
        backend = LocalBackend(store.root_directory, dedupe=store.dedupe, durable=durable, count=count)
        return ImageStore(
            backend,
            sparse_indexes=config.server.sparse_indexes,
            undo=store.undo,
            delete_referrers=store.delete_referrers,
        )

    stores = {prefix: build(store) for prefix, store in config.stores.items()}
    return StoreController(stores.pop(""), stores)
