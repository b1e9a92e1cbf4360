"""A layered mapping is what the dict would be, and what it came from stays as it was."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from storage.layered import Layered

KEYS = st.integers(0, 400).map(str)
ITEMS = st.dictionaries(KEYS, st.integers(), max_size=300)


@given(st.dictionaries(KEYS, st.integers()), st.lists(ITEMS, max_size=5))
def test_it_is_what_the_dict_would_be(start: dict[str, int], additions: list[dict[str, int]]) -> None:
    layered, plain = Layered(dict(start)), dict(start)
    versions = [(layered, plain)]
    for added in additions:
        layered, plain = layered.with_items(added), plain | added
        versions.append((layered, plain))
    for found, expected in versions:
        assert list(found) == list(expected)
        assert list(found.items()) == list(expected.items())
        assert len(found) == len(expected)
        assert all(found[key] == found.get(key) == value for key, value in expected.items())
        assert "absent" not in found
        assert found.get("absent") is None
