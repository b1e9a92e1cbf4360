"""Retention: what policies keep, until when, and by which rule; and that only that goes."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest

from registry.collecting import Stores
from registry.config import Config, StorageConfig
from storage.clock import seconds_of, timestamp
from storage.digest import Digest
from storage.errors import ManifestUnknown, TagImmutable
from storage.gc import Event, Result
from storage.image_store import ImageStore
from storage.layout import Layout
from storage.local import LocalBackend
from storage.retention import ImmutableTags, Keeper, KeepRule, Policy, Retention, is_due, is_immutable
from tests.support.oci import Document, index
from tests.unit.test_gc import HOUR, NAME, Place

DAY = 24 * HOUR
ALL = (NAME,)


def patterns(*texts: str) -> tuple[re.Pattern[str], ...]:
    return tuple(map(re.compile, texts))


class Kept(Place):
    """A repository that a policy is about, and whose past can be changed."""

    def __init__(self, root: Path, *rules: KeepRule, immutable: tuple[str, ...] = (), **policy: Any) -> None:
        super().__init__(root)
        self.layout = Layout(str(root))
        self.immutable = [ImmutableTags(ALL, patterns(*immutable))] if immutable else []
        self.settle(Retention(policies=(Policy(ALL, keep_tags=rules, **policy),)))
        self.known_since(365 * DAY)

    def settle(self, retention: Retention) -> None:
        backend = LocalBackend(str(self.root))
        immutable = lambda name, tag: is_immutable(self.immutable, name, tag)  # noqa: E731
        keeper = Keeper(retention, backend, delay=0, immutable=immutable)
        self.store = ImageStore(backend, undo=HOUR, keeper=keeper, immutable=immutable)

    def known_since(self, ago: float) -> None:
        path = Path(self.layout.pulls_since)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (0, time.time() - ago))

    def tag(self, tag: str, *, pushed: float | None = 0, pulled: float | None = None) -> Document:
        """Push a tag so many seconds ago (None: nobody knows when), and pull it likewise."""
        image = self.image(tag, tag)
        self.age({tag: pushed})
        if pulled is not None:
            self.pull(image.digest, pulled)
        return image

    def pull(self, digest: str, ago: float) -> None:
        self.store.backend.record_pull(NAME, Digest(digest))
        os.utime(self.layout.pull(NAME, Digest(digest)), (0, time.time() - ago))

    def age(self, ages: dict[str, float | None]) -> None:
        """Let tags, or manifests without one, have been pushed so many seconds ago."""
        path = Path(self.layout.index(NAME))
        document = json.loads(path.read_bytes())
        for entry in document["manifests"]:
            name = entry.get("annotations", {}).get("org.opencontainers.image.ref.name") or entry["digest"]
            if name in ages:
                ago = ages[name]
                entry.update(
                    {key: timestamp(time.time() - (ago or 0)) for key in ("pushed", "untagged") if key in entry}
                )
                if ago is None:
                    del entry["pushed"]
        path.write_text(json.dumps(document))

    def fates(self) -> dict[str, str]:
        """Return the rule for each tag, with a cross before those that go."""
        return {one.name: "x " * is_due(one) + one.reason for one in self.store.verdicts(NAME)}

    def left(self) -> list[str]:
        """Let retention do its work; return the tags that are left."""
        self.store.retain(NAME)
        return self.store.tags(NAME)[0]


def test_any_rule_keeps_and_the_one_that_keeps_longest_is_named(tmp_path: Path) -> None:
    place = Kept(
        tmp_path,
        KeepRule(patterns("^v1"), pushed_within=DAY),
        KeepRule(patterns(r"^v\d"), most_recently_pushed_count=1),
        KeepRule(patterns("^release$")),
    )
    for tag, pushed in {"v1.old": 2 * DAY, "v1.new": HOUR, "v2": 60, "release": 9 * DAY, "other": 0}.items():
        place.tag(tag, pushed=pushed)
    assert place.fates() == {
        "v1.old": "x keepTags[0].pushedWithin",
        "v1.new": "keepTags[0].pushedWithin",
        "v2": "keepTags[1].mostRecentlyPushedCount",
        "release": "keepTags[2].patterns",
        "other": "x no rule of keepTags is about it",
    }
    assert place.left() == ["release", "v1.new", "v2"]


def test_rules_count_apart_from_each_other(tmp_path: Path) -> None:
    """Each prefix keeps its newest tag, however old all of them are."""
    rules = [KeepRule(patterns(f"^env{number}-"), most_recently_pushed_count=1) for number in (1, 2)]
    place = Kept(tmp_path, *rules)
    for number in (1, 2):
        for age in (30, 40):
            place.tag(f"env{number}-{age}", pushed=age * DAY + number)
    assert place.left() == ["env1-30", "env2-30"]


def test_what_is_equally_old_counts_together(tmp_path: Path) -> None:
    """Where times cannot tell the newest ones, as after a copy of a whole store, chance does not decide."""
    place = Kept(tmp_path, KeepRule(most_recently_pushed_count=1))
    for tag in ("a", "b", "c"):
        place.tag(tag, pushed=None)
        os.utime(place.layout.blob(NAME, place.store.get_manifest(NAME, tag).digest), (0, 0))
    assert place.left() == ["a", "b", "c"]


def test_pulls_keep(tmp_path: Path) -> None:
    place = Kept(tmp_path, KeepRule(patterns("^w"), pulled_within=DAY), KeepRule(most_recently_pulled_count=2))
    place.tag("w-often", pushed=9 * DAY, pulled=600)
    place.tag("w-once", pushed=9 * DAY, pulled=2 * DAY)
    place.tag("w-never", pushed=9 * DAY)
    place.tag("w-new", pushed=HOUR)
    place.tag("c-pulled", pushed=8 * DAY, pulled=60)
    assert place.fates() == {
        "w-often": "keepTags[1].mostRecentlyPulledCount",
        "w-once": "x keepTags[0].pulledWithin",
        "w-never": "x keepTags[0].pulledWithin",
        "w-new": "keepTags[0].pulledWithin",
        "c-pulled": "keepTags[1].mostRecentlyPulledCount",
    }


def test_nothing_goes_for_pulls_that_could_not_be_known(tmp_path: Path) -> None:
    """Who asks for pulls within a day deletes nothing in the first day."""
    place = Kept(tmp_path, KeepRule(pulled_within=DAY))
    place.tag("old", pushed=99 * DAY)
    place.known_since(HOUR)
    assert place.fates() == {"old": "keepTags[0].pulledWithin"}
    place.known_since(2 * DAY)
    assert place.fates() == {"old": "x keepTags[0].pulledWithin"}


def test_what_another_tool_pushed_is_as_old_as_can_be_told(tmp_path: Path) -> None:
    place = Kept(tmp_path, KeepRule(pushed_within=DAY))
    image = place.tag("foreign", pushed=None)
    assert not is_due(*place.store.verdicts(NAME))
    os.utime(place.layout.blob(NAME, Digest(image.digest)), (0, time.time() - 2 * DAY))
    assert is_due(*place.store.verdicts(NAME))
    place.known_since(HOUR)
    assert not is_due(*place.store.verdicts(NAME))


def test_the_pull_of_a_platform_is_one_of_the_index(tmp_path: Path) -> None:
    place = Kept(tmp_path, KeepRule(pulled_within=DAY))
    child = place.image("child")
    place.push(index([child.descriptor()]), "multi")
    place.age({"multi": 9 * DAY})
    assert is_due(*place.store.verdicts(NAME))
    place.pull(child.digest, HOUR)
    assert not is_due(*place.store.verdicts(NAME))
    assert place.left() == ["multi"]


def test_pulling_is_written_down_by_every_kind_of_pull(tmp_path: Path) -> None:
    place = Kept(tmp_path, KeepRule(pulled_within=DAY))
    by_tag, by_digest, never = (place.tag(tag, pushed=9 * DAY) for tag in ("tag", "digest", "never"))
    before = time.time() - 1
    place.store.get_manifest(NAME, "tag")
    place.store.get_manifest(NAME, by_digest.digest)
    pulls = place.store.backend.pulls(NAME)
    assert set(pulls) == {by_tag.digest, by_digest.digest}
    assert min(pulls.values()) >= before
    assert place.left() == ["digest", "tag"]
    with pytest.raises(ManifestUnknown):
        place.store.get_manifest(NAME, never.digest)


def test_no_pull_fails_because_its_time_cannot_be_written(tmp_path: Path) -> None:
    place = Kept(tmp_path, KeepRule(pulled_within=DAY))
    place.tag("1")
    pulls = Path(place.layout.pulls(NAME))
    pulls.write_text("in the way")
    assert place.store.get_manifest(NAME, "1").data


def test_times_of_pulls_go_with_their_manifests(tmp_path: Path) -> None:
    place = Kept(tmp_path, KeepRule(pushed_within=DAY))
    place.tag("old", pushed=2 * DAY, pulled=HOUR)
    kept = place.tag("new", pulled=HOUR)
    assert place.left() == ["new"]
    assert set(place.store.backend.pulls(NAME)) == {kept.digest}


def test_a_manifest_goes_with_its_last_tag_and_not_before(tmp_path: Path) -> None:
    place = Kept(tmp_path, KeepRule(patterns("^keep")))
    shared, lonely = place.image("shared", "drop-1"), place.image("lonely", "drop-2")
    place.push(shared, "keep-1")
    child = place.image("child", "drop-3")
    place.push(index([child.descriptor()]), "keep-2")
    assert place.left() == ["keep-1", "keep-2"]
    for stays in (shared, child):
        assert place.store.get_manifest(NAME, stays.digest).data == stays.body
    with pytest.raises(ManifestUnknown):
        place.store.get_manifest(NAME, lonely.digest)


def test_what_goes_can_be_restored(tmp_path: Path) -> None:
    from storage import undo  # noqa: PLC0415

    place = Kept(tmp_path, KeepRule(patterns("^keep")))
    image = place.image("lonely", "drop")
    place.image("kept", "keep")
    assert place.left() == ["keep"]
    lost = undo.find(place.store.backend, NAME, "drop")
    assert lost
    undo.restore(place.store, NAME, lost)
    assert place.store.get_manifest(NAME, "drop").data == image.body


def test_signatures_stay_with_what_they_sign(tmp_path: Path) -> None:
    place = Kept(tmp_path, KeepRule(patterns("^v1$")), delete_referrers=True)
    kept, gone = place.image("kept", "v1"), place.image("gone", "v2")
    names = {image.digest: f"{image.digest.replace(':', '-')}.sig" for image in (kept, gone)}
    for digest, name in names.items():
        place.image(f"signature of {digest}", name)
    referrer = place.image("referrer", subject=kept.descriptor())
    fates = place.fates()
    assert fates[names[kept.digest]] == fates[referrer.digest] == f"belongs to {kept.digest}"
    assert place.left() == sorted([names[kept.digest], names[gone.digest], "v1"])
    assert place.left() == sorted([names[kept.digest], "v1"])  # what it signed is gone now
    assert place.store.referrers(NAME, Digest(kept.digest))


@pytest.mark.parametrize("delete", [False, True])
def test_referrers_without_subject(tmp_path: Path, delete: bool) -> None:
    place = Kept(tmp_path, delete_referrers=delete)
    early = place.image("early", subject=Place(tmp_path / "other").image("not pushed").descriptor())
    place.store.retain(NAME)
    assert (early.digest in place.fates()) != delete


def test_untagged_manifests_stay_unless_they_are_to_go(tmp_path: Path) -> None:
    place = Kept(tmp_path)
    untagged = place.image("untagged")
    assert place.fates() == {untagged.digest: "deleteUntagged is off"}


def test_untagged_manifests_go_where_that_is_wanted(tmp_path: Path) -> None:
    rule = KeepRule(most_recently_pulled_count=1, pushed_within=DAY)
    place = Kept(tmp_path, delete_untagged=True, keep_untagged=rule)
    old, pulled, young = (place.image(text) for text in ("old", "pulled", "young"))
    tagged, child = place.tag("v1", pushed=9 * DAY), place.image("child")
    listing = place.push(index([child.descriptor()]), "multi")
    referrer = place.image("referrer", subject=tagged.descriptor())
    moved = place.tag("latest", pushed=9 * DAY)
    place.age({image.digest: 9 * DAY for image in (old, pulled, referrer)})
    place.pull(pulled.digest, 0)
    place.image("another", "latest")
    assert {name: fate for name, fate in place.fates().items() if fate.startswith("x")} == {
        image.digest: "x keepUntagged.pushedWithin" for image in (old, moved)
    }
    place.store.retain(NAME)
    with pytest.raises(ManifestUnknown):
        place.store.get_manifest(NAME, old.digest)
    for stays in (pulled, young, child, listing, referrer):
        assert place.store.get_manifest(NAME, stays.digest)


def test_nothing_goes_before_the_delay(tmp_path: Path) -> None:
    place = Kept(tmp_path, KeepRule(patterns("^v")), delete_untagged=True)
    place.settle(
        Retention(delay=DAY, policies=(Policy(ALL, keep_tags=(KeepRule(patterns("^v")),), delete_untagged=True),))
    )
    place.tag("old", pushed=2 * DAY)
    place.tag("new", pushed=HOUR)
    lost = place.tag("moved", pushed=9 * DAY)
    place.image("another", "moved")
    assert lost.digest in place.fates()
    assert place.left() == ["moved", "new"]
    assert place.store.get_manifest(NAME, lost.digest)


def test_the_first_policy_that_matches_decides(tmp_path: Path) -> None:
    place = Kept(tmp_path)
    nothing = KeepRule(patterns("^$"))
    place.settle(
        Retention(
            policies=(
                Policy(("other/**",), keep_tags=(nothing,)),
                Policy(("team/*",)),
                Policy(ALL, keep_tags=(nothing,)),
            )
        )
    )
    place.tag("1")
    assert place.left() == ["1"]
    place.settle(Retention(policies=(Policy(("other/**",), keep_tags=(nothing,)),)))
    assert place.fates() == {}
    assert place.left() == ["1"]


def test_pushing_again_keeps_a_tag_young(tmp_path: Path) -> None:
    place = Kept(tmp_path, KeepRule(pushed_within=DAY))
    place.tag("nightly", pushed=2 * DAY)
    place.image("nightly", "nightly")
    assert place.left() == ["nightly"]
    [entry] = json.loads(Path(place.layout.index(NAME)).read_bytes())["manifests"]
    assert (seconds_of(entry["pushed"]) or 0) > time.time() - HOUR
    before = place.store.backend.index_version(NAME)
    place.image("nightly", "nightly")
    assert place.store.backend.index_version(NAME) == before  # but not at the price of an index for each push


def test_pushing_again_keeps_a_manifest_without_a_tag_young(tmp_path: Path) -> None:
    place = Kept(tmp_path, delete_untagged=True)
    place.settle(Retention(delay=DAY, policies=(Policy(ALL, delete_untagged=True),)))
    one, two = place.image("one"), place.image("two")
    place.age({one.digest: 2 * DAY, two.digest: 2 * DAY})
    place.image("two")
    assert [verdict.digest for verdict in place.store.retain(NAME)] == [one.digest]
    before = place.store.backend.index_version(NAME)
    place.image("two")
    assert place.store.backend.index_version(NAME) == before


def test_what_was_pushed_by_its_digest_stays_for_the_delay(tmp_path: Path) -> None:
    """With the tag, or the index, that keeps it: who pushed it is about to push an index that lists it."""
    place = Kept(tmp_path)
    place.settle(Retention(delay=HOUR, policies=(Policy(ALL, keep_tags=(KeepRule(pushed_within=DAY),)),)))
    old = place.tag("old", pushed=2 * DAY)
    child = place.image("child")
    place.push(index([child.descriptor()]), "multi")
    place.tag("other", pushed=2 * DAY)
    place.age({"multi": 2 * DAY})
    assert set(place.fates().values()) == {"x keepTags[0].pushedWithin"}
    for document in (old, child):
        place.push(document)
    before = place.store.backend.index_version(NAME)
    for document in (old, child):
        place.push(document)
    assert place.store.backend.index_version(NAME) == before
    assert place.left() == ["multi", "old"]
    place.push(index([old.descriptor(), child.descriptor()]), "new")


def test_pushing_a_manifest_by_its_digest_leaves_its_tags_as_old(tmp_path: Path) -> None:
    place = Kept(tmp_path, KeepRule(pushed_within=DAY))
    place.tag("old", pushed=2 * DAY)
    place.image("old")
    assert place.left() == []


def test_a_push_during_the_decision_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was to go when it was looked at, and was pushed before it went, stays."""
    place = Kept(tmp_path, KeepRule(pushed_within=DAY))
    place.tag("late", pushed=2 * DAY)
    look = ImageStore.verdicts

    def look_then_push(store: ImageStore, name: str) -> Any:
        found = look(store, name)
        ImageStore(LocalBackend(str(tmp_path)), undo=HOUR).put_manifest(
            NAME, "late", place.store.backend.read_blob(NAME, Digest(found[0].digest), 10_000)
        )
        return found

    monkeypatch.setattr(ImageStore, "verdicts", look_then_push)
    assert place.left() == ["late"]


# immutable tags


def test_immutable_tags_are_neither_moved_nor_deleted(tmp_path: Path) -> None:
    place = Kept(tmp_path, KeepRule(patterns("^none$")), immutable=("^v",))
    image = place.image("one", "v1")
    place.image("one", "v1")  # the same again is no change
    place.push(image, "latest")
    for change in (
        lambda: place.image("two", "v1"),
        lambda: place.store.delete_manifest(NAME, "v1"),
        lambda: place.store.delete_manifest(NAME, image.digest),
    ):
        with pytest.raises(TagImmutable, match="v1"):
            change()
    assert place.left() == ["v1"]
    assert place.store.get_manifest(NAME, "v1").digest == image.digest


def test_immutable_tags_of_other_repositories_are_free(tmp_path: Path) -> None:
    rules = [ImmutableTags(("team/*",), patterns("^v", "^prod$")), ImmutableTags(("all/**",))]
    found = [
        is_immutable(rules, *which) for which in (("team/a", "prod"), ("team/a", "x"), ("a", "v1"), ("all/b/c", "x"))
    ]
    assert found == [True, False, False, True]


# warnings


def test_who_pulls_what_goes_soon_is_told(tmp_path: Path) -> None:
    place = Kept(tmp_path, KeepRule(patterns("^pulled"), pulled_within=HOUR), KeepRule(pushed_within=10 * DAY))
    for tag, pushed in {"soon": 5 * DAY, "later": 2 * DAY, "gone": 11 * DAY, "pulled": 11 * DAY}.items():
        place.tag(tag, pushed=pushed)
    warnings = {tag: place.store.get_manifest(NAME, tag).warning for tag in ("soon", "later", "gone", "pulled")}
    assert (warnings["later"], warnings["pulled"]) == (None, None)
    assert "keepTags[1].pushedWithin" in (warnings["soon"] or "")
    assert timestamp(time.time() + 5 * DAY)[:10] in (warnings["soon"] or "")
    assert "tag gone is removed after" in (warnings["gone"] or "")
    place.image("other content", "soon")
    assert place.store.get_manifest(NAME, "soon").warning is None


def test_a_dry_run_warns_of_nothing_and_removes_nothing(tmp_path: Path) -> None:
    config = Config(
        storage=StorageConfig(
            str(tmp_path),
            gc_delay=0.001,
            retention=Retention(dry_run=True, policies=(Policy(ALL, keep_tags=(KeepRule(patterns("^$")),)),)),
        )
    )
    stores, events = Stores(config), list[Event]()
    place = Place(tmp_path)
    place.store = stores.controller.at("")
    place.image("one", "1")
    time.sleep(0.01)
    assert place.store.get_manifest(NAME, "1").warning is None
    stores.collector("", tell=events.append).collect(NAME, Result())
    assert not events
    stores.collector("", dry_run=True, tell=events.append).collect(NAME, Result())
    assert [(event.action, event.what) for event in events] == [("deleted", "1")]
    assert place.store.tags(NAME)[0] == ["1"]
