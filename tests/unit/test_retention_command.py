"""`pierhead retention explain`, and what `pierhead gc` does about retention."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from registry.collecting import Stores
from registry.config import load
from storage.clock import seconds_of
from tests.unit.test_garbage_command import Registry
from tests.unit.test_gc import NAME


class Kept(Registry):
    """A store with a policy."""

    def __init__(self, directory: Path, **retention: Any) -> None:
        super().__init__(directory)
        self.configure(policies=[{"repositories": [NAME], "keepTags": [{"patterns": ["^v"]}]}], **retention)

    def configure(self, **retention: Any) -> None:
        config = json.loads(self.config.read_bytes())
        config["storage"]["retention"] = {"delay": "0", **retention}
        self.config.write_text(json.dumps(config))
        self.store = Stores(load(str(self.config))).controller.at("")


@pytest.fixture
def registry(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


def test_explain_lists_each_tag_with_its_rule(registry: Kept) -> None:
    image, other = registry.image("one", "v1"), registry.image("two", "old")
    registry.store.get_manifest(NAME, "v1")
    before = registry.tree()
    answers = {answer["tag"]: answer for answer in registry.lines("retention", "explain", NAME)}
    assert registry.tree() == before
    assert answers["v1"] | {"pushed": 0, "pulled": 0} == {
        **{"tag": "v1", "digest": image.digest, "kept": True, "until": None},
        **{"rule": "keepTags[0].patterns", "policy": 0, "pushed": 0, "pulled": 0},
    }
    for key in ("pushed", "pulled"):
        assert abs((seconds_of(answers["v1"][key]) or 0) - time.time()) < 3600
    assert (answers["old"]["kept"], answers["old"]["digest"]) == (False, other.digest)
    assert answers["old"]["pulled"] is None
    text = registry.run("retention", "explain", NAME)
    assert text.stdout == (
        "old  goes with the next collection  (no rule of keepTags is about it)\nv1  stays  (keepTags[0].patterns)\n"
    )
    assert text.stderr.startswith(f"policies[0] decides for {NAME}; pulls are known since 20")


def test_explain_says_until_when(registry: Kept) -> None:
    registry.configure(policies=[{"repositories": ["**"], "keepTags": [{"pushedWithin": "24h"}]}], dryRun=True)
    registry.image("one", "1")
    [answer] = registry.lines("retention", "explain", NAME)
    assert answer["kept"]
    assert (seconds_of(answer["until"]) or 0) > time.time() + 80_000
    text = registry.run("retention", "explain", NAME)
    assert f"1  stays until {answer['until']}  (keepTags[0].pushedWithin)\n" in text.stdout
    assert "dryRun" in text.stderr


@pytest.mark.parametrize(
    ("name", "code", "message"), [("NAME", 2, "lower-case"), ("other", 2, "no policy"), (NAME, 1, "no such")]
)
def test_explain_of_what_is_not_there(registry: Kept, name: str, code: int, message: str) -> None:
    result = registry.run("retention", "explain", name, code=code)
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_explain_without_policies(tmp_path: Path) -> None:
    assert "keeps everything" in Registry(tmp_path).run("retention", "explain", NAME, code=2).stderr


def test_gc_removes_what_is_not_kept(registry: Kept) -> None:
    registry.image("one", "v1")
    registry.image("two", "old")
    [would, _] = registry.lines("gc", "--dry-run")
    assert registry.store.tags(NAME)[0] == ["old", "v1"]
    [deleted, summary] = registry.lines("gc")
    assert would == deleted | {"dryRun": True}
    assert (deleted["action"], deleted["what"], deleted["reason"]) == (
        "deleted",
        "old",
        "no rule of keepTags is about it",
    )
    assert summary["summary"]["deleted"] == 1
    assert registry.store.tags(NAME)[0] == ["v1"]
    [line] = (registry.root / ".pierhead/gc/journal").read_text().splitlines()
    assert json.loads(line)["action"] == "deleted"
    [audited] = (registry.config.parent / "audit").read_text().splitlines()
    assert json.loads(audited)["deleted"] == 1
    assert "old" in registry.run("history", NAME).stdout


def test_gc_tells_the_number_of_tags(registry: Kept) -> None:
    registry.image("two", "old")
    assert "1 repositories: 1 tags deleted by retention, 0 blobs" in registry.run("gc").stdout
