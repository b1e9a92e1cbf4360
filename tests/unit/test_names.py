"""Repository names and tags: the distribution spec's grammar, and the names that the layout on disk needs."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import NameInvalid, TagInvalid
from storage.names import MAX_NAME, RESERVED, check_name, check_tag, is_tag

# Both as the distribution spec prints them ("Pulling manifests").
NAME = re.compile(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*")
TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")

near_names = st.text(alphabet="ab0._-/A", max_size=12)
near_tags = st.text(alphabet="aZ0._-/:", max_size=4) | st.text(alphabet="a", min_size=126, max_size=130)


def accepts(name: str) -> bool:
    try:
        return check_name(name) == name
    except NameInvalid:
        return False


@given(near_names | st.text() | st.from_regex(NAME, fullmatch=True))
def test_names_are_the_specs_but_for_what_the_layout_needs(name: str) -> None:
    wanted = NAME.fullmatch(name) is not None and len(name) <= MAX_NAME and not RESERVED & set(name.split("/"))
    assert accepts(name) == wanted


@given(near_tags | st.text() | st.from_regex(TAG, fullmatch=True))
def test_tags_are_the_specs(tag: str) -> None:
    assert is_tag(tag) == (TAG.fullmatch(tag) is not None)


@pytest.mark.parametrize("name", ["a", "a/b", "a.b", "a__b", "a---b", "0", "a" * 255, "/".join("a" * 128), "manifests"])
def test_good_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "/", "a/", "/a", "a//b", "A", "a..b", "a___b", ".", "..", "a/../b", ".pierhead", "a/.uploads", "a\n", "a\0b"],
)
def test_names_that_could_leave_the_grammar_or_the_root(name: str) -> None:
    assert not accepts(name)


@pytest.mark.parametrize("name", ["a%2fb", "\u00e9", "a" * 256, "-a", "a_"])
def test_bad_names(name: str) -> None:
    assert not accepts(name)


@pytest.mark.parametrize("part", sorted(RESERVED))
@pytest.mark.parametrize("pattern", ["{}", "a/{}", "{}/a", "a/{}/b"])
def test_names_that_the_layout_needs_are_refused_with_the_reason(part: str, pattern: str) -> None:
    with pytest.raises(NameInvalid, match="layout") as caught:
        check_name(pattern.format(part))
    assert part in caught.value.message


def test_a_long_name_is_not_repeated_in_the_answer() -> None:
    with pytest.raises(NameInvalid) as caught:
        check_name("a" * 100_000)
    assert caught.value.detail == {"length": 100_000}


def test_a_name_of_many_separators_is_refused_at_once() -> None:
    assert not accepts("a" + "-" * 253 + "!")


@pytest.mark.parametrize("tag", ["", ".a", "-a", "a/b", "a:b", "a" * 129, "a\n", "\u00e9", ".."])
def test_bad_tags(tag: str) -> None:
    with pytest.raises(TagInvalid) as caught:
        check_tag(tag)
    assert caught.value.detail == {"tag": tag}


@pytest.mark.parametrize("tag", ["a", "_", "v1.0-rc.1", "A" * 128])
def test_good_tags(tag: str) -> None:
    assert check_tag(tag) == tag
