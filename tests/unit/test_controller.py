"""The controller: which store a repository lies in, one list of all, and mounts between stores."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.controller import StoreController
from storage.digest import Digest
from storage.errors import BlobUnknown
from storage.image_store import ImageStore
from storage.local import LocalBackend
from tests.unit.backends import content

DATA = b"some content"
DIGEST = Digest.of(DATA)
PREFIXES = ["a", "a/b", "c/d"]


@pytest.fixture
def stores(tmp_path: Path) -> dict[str, ImageStore]:
    return {prefix: ImageStore(LocalBackend(str(tmp_path / str(n)))) for n, prefix in enumerate(["", *PREFIXES])}


@pytest.fixture
def controller(stores: dict[str, ImageStore]) -> StoreController:
    return StoreController(stores[""], {prefix: stores[prefix] for prefix in PREFIXES})


@pytest.mark.parametrize(
    ("repository", "prefix"),
    [
        ("a", "a"),
        ("a/x", "a"),
        ("a/x/b", "a"),
        ("a/b", "a/b"),
        ("a/b/c", "a/b"),
        ("a/bc", "a"),
        ("ab", ""),
        ("a-b", ""),
        ("b", ""),
        ("c", ""),
        ("c/d", "c/d"),
        ("c/de", ""),
        ("x/a", ""),
    ],
)
def test_the_longest_prefix_of_whole_components_decides(
    controller: StoreController, stores: dict[str, ImageStore], repository: str, prefix: str
) -> None:
    assert controller.store(repository) is stores[prefix]


names = st.lists(st.sampled_from(["a", "b", "ab"]), min_size=1, max_size=4).map("/".join)


@given(names, st.sets(names))
def test_any_prefixes(repository: str, prefixes: set[str]) -> None:
    stores = {prefix: ImageStore(LocalBackend(f"/nowhere/{prefix}")) for prefix in prefixes}
    default = ImageStore(LocalBackend("/nowhere"))
    matching = [prefix for prefix in prefixes if f"{repository}/".startswith(f"{prefix}/")]
    expected = stores[max(matching, key=len)] if matching else default
    assert StoreController(default, stores).store(repository) is expected


def make_repositories(store: ImageStore, *names: str) -> None:
    for name in names:
        store.backend.swap_index(name, b"{}", None)


def test_the_lists_are_one_sorted_list_without_what_is_shadowed(
    controller: StoreController, stores: dict[str, ImageStore]
) -> None:
    make_repositories(stores[""], "a", "a/hidden", "a-b", "b", "c", "c/d/hidden", "c/e")
    make_repositories(stores["a"], "a", "a/b", "a/b/hidden", "a/c", "hidden")
    make_repositories(stores["a/b"], "a/b", "a/b/c", "a/hidden")
    make_repositories(stores["c/d"], "c/d/x")
    expected = ["a", "a-b", "a/b", "a/b/c", "a/c", "b", "c", "c/d/x", "c/e"]
    assert controller.repositories() == (expected, False)
    for limit in range(len(expected) + 2):
        for after in ("", "a", "a/b", "b", "c/d/x", "zz"):
            rest = [name for name in expected if name > after]
            assert controller.repositories(after, limit) == (rest[:limit], len(rest) > limit)


@pytest.mark.parametrize(
    ("below", "listed"),
    [
        ([""], ["a", "a/b", "a/b/x", "a/x", "b", "c/d/x", "c/x"]),
        ([], []),
        (["a"], ["a", "a/b", "a/b/x", "a/x"]),
        (["a/b"], ["a/b", "a/b/x"]),
        (["a/x", "c"], ["a/x", "c/d/x", "c/x"]),
        (["c/d/x"], ["c/d/x"]),
        (["c/d/y"], []),
        (["x"], []),
    ],
)
def test_a_list_of_parts(
    controller: StoreController, stores: dict[str, ImageStore], below: list[str], listed: list[str]
) -> None:
    make_repositories(stores[""], "b", "c/x", "a/shadowed")
    make_repositories(stores["a"], "a", "a/x")
    make_repositories(stores["a/b"], "a/b", "a/b/x")
    make_repositories(stores["c/d"], "c/d/x")
    assert controller.repositories(below=below) == (listed, False)
    odd = [name for name in listed if name.endswith("x")]
    found, more = controller.repositories("", 1, below=below, visible=lambda name: name.endswith("x"))
    assert (found, more) == (odd[:1], len(odd) > 1)


def test_a_mount_between_stores_copies(controller: StoreController, stores: dict[str, ImageStore]) -> None:
    stores["a"].push_blob("a/x", DIGEST, io.BytesIO(DATA))
    assert controller.mount("other", DIGEST, "a/x")
    stores["a"].delete_blob("a/x", DIGEST)
    assert content(stores[""].backend, "other", DIGEST) == DATA


@pytest.mark.parametrize("source", ["a/x", "b"])
def test_a_mount_of_what_is_not_there_makes_nothing(
    controller: StoreController, stores: dict[str, ImageStore], source: str
) -> None:
    assert not controller.mount("other", DIGEST, source)
    with pytest.raises(BlobUnknown):
        stores[""].blob_size("other", DIGEST)


def test_a_mount_within_a_store(controller: StoreController, stores: dict[str, ImageStore]) -> None:
    stores[""].push_blob("x", DIGEST, io.BytesIO(DATA))
    assert controller.mount("y", DIGEST, "x")
    assert controller.mount("z", DIGEST, None)
    assert not controller.mount("a/x", DIGEST, None)
    assert content(stores[""].backend, "y", DIGEST) == content(stores[""].backend, "z", DIGEST) == DATA
