"""Listing tags: order, pages and the Link between them."""

from __future__ import annotations

from urllib.parse import parse_qs, quote, urlsplit

import pytest

from tests.support.oci import Document, Remote, expect_error, expect_status, index, next_link

TAGS = ["0", "1.0", "1.0-rc", "1.0.1", "10", "2", "A", "A1", "B", "_x", "a", "a-b", "a.b", "aB", "a_b", "ab", "latest"]


def push_tags(remote: Remote, tags: list[str]) -> Document:
    """Set `tags` in an order that is not theirs."""
    manifest = index([])
    return remote.push(manifest, manifest.digest, params={"tag": sorted(tags, key=lambda tag: tag[::-1])})


def pages(remote: Remote, path: str) -> list[list[str]]:
    """Follow the Links from `path` and return the tags of each page."""
    collected = []
    link: str | None = path
    while link is not None:
        answer = remote.get(link)
        expect_status(answer, 200)
        collected.append(answer.json()["tags"])
        assert len(collected) <= 100
        link = next_link(answer)
    return collected


def test_tags_are_listed_in_byte_order(remote: Remote) -> None:
    """Spec "Listing Tags", end-8a: 200 with name and tags, in ASCIIbetical order."""
    push_tags(remote, TAGS)
    answer = remote.get("tags/list")
    expect_status(answer, 200)
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json() == {"name": remote.name, "tags": sorted(TAGS, key=str.encode)}
    assert "Link" not in answer.headers


def test_list_of_tags_may_be_empty(remote: Remote) -> None:
    """Spec "Listing Tags": the list MAY be empty, and is then a list."""
    remote.push(index([]))
    assert remote.get("tags/list").json() == {"name": remote.name, "tags": []}


def test_head_is_answered_like_get(remote: Remote) -> None:
    """RFC 9110 (section 9.3.2): HEAD is GET without the content."""
    push_tags(remote, TAGS)
    assert remote.head("tags/list").headers["Content-Length"] == remote.get("tags/list").headers["Content-Length"]


@pytest.mark.parametrize("count", [1, 2, 5, 16, 17, 18, 1000])
def test_pages_follow_each_other(remote: Remote, count: int) -> None:
    """Spec "Listing Tags", end-8b: n results a page, or fewer at the end, and RFC 5988 Links between them."""
    push_tags(remote, TAGS)
    collected = pages(remote, f"tags/list?n={count}")
    assert [tag for page in collected for tag in page] == TAGS
    assert all(len(page) == count for page in collected[:-1])
    assert len(collected) == max(1, -(-len(TAGS) // count))


def test_link_has_the_form_of_rfc_5988(remote: Remote) -> None:
    """Spec "Listing Tags": `Link` MUST be set according to RFC 5988 with the relation type next."""
    push_tags(remote, TAGS)
    header = remote.get("tags/list?n=3").headers["Link"]
    assert header.startswith(f"</v2/{remote.name}/tags/list?")
    assert header.endswith('>; rel="next"')
    query = parse_qs(urlsplit(header[1 : header.index(">")]).query)
    assert query == {"n": ["3"], "last": ["1.0-rc"]}


@pytest.mark.parametrize(
    "last", [*TAGS, "", "1", "3", "Z", "a-", "zzz", "~", "not a tag!", "é", "a/b", "%2e%2e", "\U0001f600"]
)
@pytest.mark.parametrize("count", [None, 2])
def test_last_is_excluded_and_need_not_exist(remote: Remote, last: str, count: int | None) -> None:
    """Spec "Listing Tags": the list begins non-inclusively with `last`; `n` is OPTIONAL."""
    push_tags(remote, TAGS)
    expected = [tag for tag in TAGS if tag.encode() > last.encode()]
    params = {"last": last} if count is None else {"last": last, "n": str(count)}
    assert remote.tags(**params) == expected[:count]


def test_last_is_a_name_not_a_number(remote: Remote) -> None:
    """Spec "Listing Tags": `last` MUST NOT be a numerical index."""
    push_tags(remote, ["1", "2", "3"])
    assert remote.tags(last="1") == ["2", "3"]


def test_last_page_has_no_link(remote: Remote) -> None:
    """Spec "Listing Tags": a Link is for when additional tags are available."""
    push_tags(remote, ["a", "b", "c", "d"])
    for query in ("n=4", "n=5", "n=2&last=b", "n=1&last=c", "n=3&last=zzz"):
        assert "Link" not in remote.get(f"tags/list?{query}").headers, query


@pytest.mark.parametrize("query", ["n=0", "n=0&last=a", "n=00"])
def test_zero_gives_an_empty_list(remote: Remote, query: str) -> None:
    """Spec "Listing Tags": n of zero MUST return an empty list and MUST NOT include a Link."""
    push_tags(remote, ["a", "b"])
    answer = remote.get(f"tags/list?{query}")
    assert answer.json() == {"name": remote.name, "tags": []}
    assert "Link" not in answer.headers


@pytest.mark.parametrize(
    "count", ["-1", "x", "1.5", "", " 1", "1 ", "+1", "1e3", "0x10", "٣", "1_000", "NaN", "-0", "\0"]
)
def test_n_that_is_no_number_is_400(remote: Remote, count: str) -> None:
    """Spec "Listing Tags": `<int>` is an integer specifying the number of tags requested."""
    push_tags(remote, ["a"])
    errors = expect_error(remote.get(f"tags/list?n={quote(count)}"), 400, "UNSUPPORTED")
    assert "n" in str(errors[0]["detail"])


def test_n_may_be_absurdly_large(remote: Remote) -> None:
    """RFC 9110 (section 2.2): a number beyond any machine word is no reason to fail; 400 or all tags."""
    push_tags(remote, ["a", "b"])
    for digits in (10, 19, 20, 5000):
        answer = remote.get(f"tags/list?n={'9' * digits}")
        if answer.status_code == 200:
            assert answer.json()["tags"] == ["a", "b"]
        else:
            expect_error(answer, (400, 414))


def test_tags_of_a_thousand(remote: Remote) -> None:
    """Spec "Listing Tags": without `n` everything comes, or a Link leads to the rest."""
    manifest = index([])
    tags = [f"t{number:04}" for number in range(1000)]
    for start in range(0, 1000, 100):
        remote.push(manifest, manifest.digest, params={"tag": tags[start : start + 100]})
    assert [tag for page in pages(remote, "tags/list") for tag in page] == tags
    assert [tag for page in pages(remote, "tags/list?n=300") for tag in page] == tags
