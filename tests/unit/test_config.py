"""The configuration: what is taken, and that everything else is refused with its path, all at once."""

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from registry.config import Config, ConfigError, StoreConfig, default_config, load, load_from_environment
from registry.config_values import parse_duration
from storage.retention import ImmutableTags, KeepRule, Policy, Retention

Load = Callable[..., Config]


@pytest.fixture
def load_text(tmp_path: Path) -> Load:
    """Give a function that loads a text, or an object as JSON."""

    def load_text(content: object, suffix: str = ".json") -> Config:
        path = tmp_path / f"config{suffix}"
        if not isinstance(content, str | bytes):
            content = json.dumps(content)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return load(str(path))

    return load_text


def problems_of(load_text: Load, content: object, suffix: str = ".json") -> dict[str, str]:
    """Load what must be refused, and give the messages by path."""
    with pytest.raises(ConfigError) as caught:
        load_text(content, suffix)
    problems = {problem.path: problem.message for problem in caught.value.problems}
    assert len(problems) == len(caught.value.problems), "two problems share a path"
    return problems


def only_problem(load_text: Load, content: object, suffix: str = ".json") -> tuple[str, str]:
    """Load what must be refused for one reason, and give its path and message."""
    (problem,) = problems_of(load_text, content, suffix).items()
    return problem


class TestDefaults:
    """No configuration at all is a good one."""

    def test_no_file(self) -> None:
        config = default_config()
        assert (config.http.address, config.http.port, config.http.external_url) == ("127.0.0.1", 5000, None)
        assert config.storage == type(config.storage)(root_directory=os.path.abspath("data"))
        assert (config.storage.dedupe, config.storage.commit, config.storage.sub_paths) == (True, True, {})
        assert (config.log.level, config.log.output) == ("info", "stdout")
        assert config.server.workers in (2, 3, 4)
        assert (config.server.threads, config.server.stall_timeout) == (512, 60.0)
        assert config.warnings == ()

    def test_an_empty_object_is_the_defaults(self, load_text: Load) -> None:
        assert load_text({}) == default_config()
        assert load_text("{}", ".yaml") == default_config()

    def test_load_without_a_path_is_the_defaults(self) -> None:
        assert load(None) == default_config()

    def test_the_environment_names_the_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "config.yaml"
        path.write_text("http: {port: 5001}")
        monkeypatch.setenv("PIERHEAD_CONFIG", str(path))
        assert load_from_environment().http.port == 5001

    @pytest.mark.parametrize("value", [None, ""])
    def test_an_empty_environment_is_the_defaults(self, value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
        if value is None:
            monkeypatch.delenv("PIERHEAD_CONFIG", raising=False)
        else:
            monkeypatch.setenv("PIERHEAD_CONFIG", value)
        assert load_from_environment() == default_config()

    def test_it_is_frozen(self) -> None:
        config = default_config()
        with pytest.raises(AttributeError):
            config.http.port = 1  # type: ignore[misc]
        with pytest.raises(TypeError):
            config.storage.sub_paths["/a"] = StoreConfig("/a")  # type: ignore[index]


class TestWhatIsTaken:
    """Every key, in JSON and YAML, spelled in any case."""

    def test_a_whole_configuration(self, load_text: Load, tmp_path: Path) -> None:
        text = f"""
        distSpecVersion: 1.0.1-dev
        storage:
          rootDirectory: {tmp_path}/main
          dedupe: false
          commit: false
          subPaths:
            /a: {{rootDirectory: {tmp_path}/a}}
            /a/b: {{rootDirectory: {tmp_path}/b, dedupe: false, commit: false}}
        http: {{address: "::1", port: "8080", externalUrl: "https://example.com:8443/prefix/"}}
        log: {{level: debug, output: {tmp_path}/log}}
        server:
          workers: 3
          threads: 7
          stallTimeout: 1m30s
          gracefulTimeout: 500ms
          keepAlive: "0"
          trustedProxies: [127.0.0.1, 10.0.0.0/8, "fd00::/8"]
          sparseIndexes: true
        """
        config = load_text(text, ".yaml")
        assert config.dist_spec_version == "1.0.1-dev"
        assert config.storage.root_directory == f"{tmp_path}/main"
        assert (config.storage.dedupe, config.storage.commit) == (False, False)
        assert config.storage.sub_paths == {
            "/a": StoreConfig(f"{tmp_path}/a", dedupe=True, commit=True),
            "/a/b": StoreConfig(f"{tmp_path}/b", dedupe=False, commit=False),
        }
        assert (config.http.address, config.http.port) == ("::1", 8080)
        assert config.http.external_url == "https://example.com:8443/prefix"
        assert (config.log.level, config.log.output) == ("debug", f"{tmp_path}/log")
        server = config.server
        assert (server.workers, server.threads, server.sparse_indexes) == (3, 7, True)
        assert (server.stall_timeout, server.graceful_timeout, server.keepalive) == (90.0, 0.5, 0.0)
        assert server.trusted_proxies == ("127.0.0.1/32", "10.0.0.0/8", "fd00::/8")

    def test_schema_keys_in_any_case(self, load_text: Load, tmp_path: Path) -> None:
        root = str(tmp_path / "here")
        config = load_text({"STORAGE": {"rootdirectory": root}, "Http": {"PORT": 5001}, "server": {"KeepAlive": "1s"}})
        assert (config.storage.root_directory, config.http.port, config.server.keepalive) == (root, 5001, 1.0)

    @pytest.mark.parametrize(
        ("suffix", "text"),
        [
            ("", '\n {"http": {"port": 5001}}'),
            ("", "http:\n  port: 5001\n"),
            (".conf", '{"http":\t{"port": 5001}}'),
            (".yml", "http: {port: 5001}"),
            (".json", '\ufeff{"http": {"port": 5001}}'),
        ],
    )
    def test_json_and_yaml_under_any_name(self, load_text: Load, suffix: str, text: str) -> None:
        assert load_text(text, suffix).http.port == 5001

    def test_a_relative_root_is_below_the_current_directory(self, load_text: Load) -> None:
        config = load_text({"storage": {"rootDirectory": "here/../there"}})
        assert config.storage.root_directory == os.path.abspath("there")

    @pytest.mark.parametrize("level", ["trace", "debug", "info", "warn", "error", "fatal", "panic", "INFO"])
    def test_zots_log_levels(self, load_text: Load, level: str) -> None:
        assert load_text({"log": {"level": level}}).log.level == level.lower()

    @pytest.mark.parametrize("address", ["0.0.0.0", "::", "localhost", "registry.example.com"])
    def test_addresses(self, load_text: Load, address: str) -> None:
        assert load_text({"http": {"address": address}}).http.address == address

    def test_another_version_of_the_spec_only_warns(self, load_text: Load) -> None:
        (warning,) = load_text({"distSpecVersion": "1.0.1"}).warnings
        assert "1.0.1" in warning


class TestWhatIsRefused:
    """Each problem has its path and says what was expected."""

    def test_all_problems_at_once(self, load_text: Load, tmp_path: Path) -> None:
        problems = problems_of(
            load_text,
            {
                "storage": {"storageDriver": {}, "subPaths": {"/a": {"rootDirectory": 1}, "b": {}}, "dedupe": 1},
                "http": {"port": "http", "prot": 1, "TLS": {"cert": "x"}},
                "log": [],
                "server": {"stallTimeout": 60},
                "other": 1,
            },
        )
        assert set(problems) == {
            "storage.storageDriver",
            "storage.dedupe",
            'storage.subPaths["/a"].rootDirectory',
            "storage.subPaths.b",
            "storage.subPaths.b.rootDirectory",
            "http.port",
            "http.prot",
            "http.tls.cert",
            "http.tls.key",
            "log",
            "server.stallTimeout",
            "other",
        }

    def test_the_error_reads_as_lines(self, load_text: Load) -> None:
        with pytest.raises(ConfigError, match=r"(?m)^http\.port: expected a port .*\nlog\.level: expected one of "):
            load_text({"http": {"port": 0}, "log": {"level": "loud"}})

    def test_an_unknown_key_suggests_a_close_one(self, load_text: Load) -> None:
        assert only_problem(load_text, {"storage": {"rootDir": "x"}}) == (
            "storage.rootDir",
            'unknown key, did you mean "rootDirectory"?',
        )

    def test_an_unknown_key_lists_the_known_ones(self, load_text: Load) -> None:
        assert only_problem(load_text, {"http": {"zzz": 1}}) == (
            "http.zzz",
            "unknown key, expected one of address, port, externalUrl, realm, allowOrigin, tls, auth, accessControl, "
            "ratelimit, readOnly",
        )

    @pytest.mark.parametrize(
        "path",
        [
            "storage.storageDriver",
            *("storage.remoteCache", "storage.redirectBlobURL", "http.allowReadAccess", "http.compat"),
            *("http.readTimeout", "http.writeTimeout", "http.auth.openid", "http.auth.sessionDriver"),
        ],
    )
    @pytest.mark.parametrize("value", [None, True, {}, "1h"])
    def test_a_key_of_zots_that_is_not_built(self, load_text: Load, path: str, value: object) -> None:
        *sections, key = path.split(".")
        document: dict[str, object] = {key.upper(): value}
        for section in reversed(sections):
            document = {section: document}
        refused, message = only_problem(load_text, document)
        assert refused == path
        assert "not built yet" in message

    def test_extensions_are_not_built(self, load_text: Load) -> None:
        path, message = only_problem(load_text, {"extensions": {"search": {"enable": False}}})
        assert path == "extensions.search"
        assert "not built yet" in message

    @pytest.mark.parametrize(
        ("path", "values"),
        [
            ("distSpecVersion", [1.1, "latest", "", None, "1.1\n"]),
            ("storage", [None, [], "x", 1, True]),
            ("storage.rootDirectory", [None, "", 1, "a\0b", "\ud800", []]),
            ("storage.dedupe", [None, "true", 1, 0, {}]),
            ("storage.commit", ["yes", 1]),
            ("storage.subPaths", [None, [], "/a"]),
            ("storage.maxRepos", [None, 0, -1, 1.5, "2", True, 10**12]),
            ("storage.quotas", [None, [], "50GiB", 1, True]),
            ("http.address", [None, "", 1, "a b", "[::1]", "1.2.3", "127.0.0.1:80", "-a", "a" * 300]),
            ("http.port", [None, 0, -1, 65536, "", "0", "65536", "80 ", "+80", "٨٠", 80.0, True, [80]]),
            (
                "http.externalUrl",
                [
                    *(None, 1, "", "example.com", "ftp://a", "http://", "http://a?b", "http://a#b", "http://u:p@a"),
                    *("http://a:x", "http://a:99999", "http://a b", "http://a\n", "http://[a", "/a"),
                ],
            ),
            ("log.level", [None, "", "loud", 1]),
            ("log.output", [None, "", 1, "/", "/nowhere/at/all", "a\0b", "/" + "x" * 5000 + "/y"]),
            ("server.workers", [None, 0, -1, 1.5, "2", True, 10**9]),
            ("server.threads", [None, 0, "x", 10**9]),
            ("server.stallTimeout", [None, 60, "60", "0s", "-1s", ""]),
            ("server.gracefulTimeout", [None, "0", 1]),
            ("server.keepAlive", [None, 1, "1d"]),
            ("server.trustedProxies", [None, "127.0.0.1", ["*"], [1], [None], ["10.0.0.1/8"], [["::1"]]]),
            ("server.sparseIndexes", [None, "no"]),
        ],
    )
    def test_wrong_values(self, load_text: Load, path: str, values: list[object]) -> None:
        for value in values:
            document: Any = value
            for key in reversed(path.split(".")):
                document = {key: document}
            refused, message = only_problem(load_text, document)
            assert refused == path
            assert message.startswith("expected ")

    def test_a_long_value_is_not_shown_whole(self, load_text: Load) -> None:
        _, message = only_problem(load_text, {"http": {"port": "9" * 10_000}})
        assert len(message) < 200

    def test_every_wrong_proxy_is_named(self, load_text: Load) -> None:
        _, message = only_problem(load_text, {"server": {"trustedProxies": ["::1", "here", "10.0.0.1/8", 4]}})
        assert all(wrong in message for wrong in ("here", "10.0.0.1/8", "4 is none"))


class TestDuplicates:
    """A key given twice has no one meaning."""

    @pytest.mark.parametrize(
        ("suffix", "text", "path"),
        [
            (".json", '{"http": {"port": 1}, "http": {"port": 2}}', "http"),
            (".json", '{"http": {"port": 1, "Port": 2}}', "http.Port"),
            (".yaml", "http: {port: 1}\nHTTP: {port: 2}", "HTTP"),
            (".yaml", "http:\n  port: 1\n  port: 1", "http.port"),
            (".json", '{"storage": {"subPaths": {"/a": {"rootDirectory":"x"}, "/a": {}}}}', 'storage.subPaths["/a"]'),
        ],
    )
    def test_refused(self, load_text: Load, suffix: str, text: str, path: str) -> None:
        refused, message = only_problem(load_text, text, suffix)
        assert refused == path
        assert "given twice" in message


class TestQuotas:
    """Limits by the start of the repositories' names."""

    def test_sizes(self, load_text: Load) -> None:
        sizes = {"/": "1.5TiB", "/a": "500MB", "a/b": "50 gib", "c/": "4096", "d": 10, "e": "7B", "f": "1KB"}
        config = load_text({"storage": {"quotas": sizes, "maxRepos": 3}})
        expected = {"": 3 * 2**39, "a": 5 * 10**8, "a/b": 50 * 2**30, "c": 4096, "d": 10, "e": 7, "f": 1000}
        assert config.storage.quotas == expected
        assert config.storage.max_repos == 3

    def test_none_by_default(self) -> None:
        assert (default_config().storage.quotas, default_config().storage.max_repos) == ({}, None)

    @pytest.mark.parametrize(
        "size", [None, 0, -1, 1.5, True, "", "0", "0.1B", "GiB", "1G", "1 Gigabyte", "-1MB", "1e9", "9EiB", 2**63, [1]]
    )
    def test_what_is_no_size(self, load_text: Load, size: object) -> None:
        path, message = only_problem(load_text, {"storage": {"quotas": {"team/app": size, "team": "1GiB"}}})
        assert path == 'storage.quotas["team/app"]'
        assert message.startswith("expected a size")

    @pytest.mark.parametrize("prefix", ["Team", "team/*", "**", "a//b", "a b", "blobs", "..", "a" * 300])
    def test_what_is_no_prefix(self, load_text: Load, prefix: str) -> None:
        path, message = only_problem(load_text, {"storage": {"quotas": {prefix: "1GiB"}}})
        assert path.startswith("storage.quotas")
        assert message.startswith('expected the start of a repository name, or "/" for all, but ')

    @pytest.mark.parametrize(("one", "other"), [("a", "/a"), ("/", ""), ("a/b", "a/b/")])
    def test_a_prefix_given_twice(self, load_text: Load, one: str, other: str) -> None:
        _, message = only_problem(load_text, {"storage": {"quotas": {one: "1GiB", other: "2GiB"}}})
        assert message == "is given twice"
        _, message = only_problem(load_text, f'{{"storage": {{"quotas": {{"{one}": 1, "{one}": 1}}}}}}')
        assert message == "is given twice"

    def test_every_problem_is_named(self, load_text: Load) -> None:
        problems = problems_of(load_text, {"storage": {"quotas": {"A": 1, "b": "much", "c": 1}, "maxRepos": "x"}})
        assert set(problems) == {"storage.quotas.A", "storage.quotas.b", "storage.maxRepos"}

    def test_a_key_that_is_no_string(self, load_text: Load) -> None:
        _, message = only_problem(load_text, "storage: {quotas: {1: 5GiB}}", ".yaml")
        assert message == "expected a string as a key, got 1"

    def test_substores_have_none_of_their_own(self, load_text: Load) -> None:
        sub = {"/a": {"rootDirectory": "elsewhere", "quotas": {"/": 1}}}
        path, _ = only_problem(load_text, {"storage": {"subPaths": sub}})
        assert path == 'storage.subPaths["/a"].quotas'


class TestSubPaths:
    """Prefixes are repository names; the roots lie apart."""

    @pytest.mark.parametrize("prefix", ["a", "/", "", "/a/", "//a", "/A", "/a b", "/../a", "/a/blobs", "/" + "a" * 256])
    def test_prefixes_are_repository_names(self, load_text: Load, prefix: str, tmp_path: Path) -> None:
        document = {"storage": {"subPaths": {prefix: {"rootDirectory": str(tmp_path / "a")}}}}
        path, message = only_problem(load_text, document)
        assert path.startswith("storage.subPaths")
        assert message.startswith('expected "/" and the start of a repository name')

    @pytest.mark.parametrize(
        ("main", "one", "other"),
        [
            ("main", "main", "b"),
            ("main", "main/a", "b"),
            ("main/x", "main", "b"),
            ("main", "a", "a/"),
            ("main", "a", "a/b"),
            ("main", "a/b", "a"),
            ("main", "link", "a/b"),
            ("main", "link/x", "a"),
        ],
    )
    def test_roots_equal_or_nested(self, load_text: Load, tmp_path: Path, main: str, one: str, other: str) -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "link").symlink_to("a")
        sub_paths = {"/one": {"rootDirectory": f"{tmp_path}/{one}"}, "/other": {"rootDirectory": f"{tmp_path}/{other}"}}
        document = {"storage": {"rootDirectory": f"{tmp_path}/{main}", "subPaths": sub_paths, "retention": True}}
        problems = problems_of(load_text, document)
        clashes = [path for path in problems if path.endswith(".rootDirectory")]
        assert len(clashes) == 1
        assert "apart" in problems[clashes[0]]
        assert "storage.retention" in problems

    def test_the_default_root_counts(self, load_text: Load) -> None:
        path, _ = only_problem(load_text, {"storage": {"subPaths": {"/a": {"rootDirectory": "data/a"}}}})
        assert path == 'storage.subPaths["/a"].rootDirectory'

    def test_names_that_only_begin_alike_lie_apart(self, load_text: Load, tmp_path: Path) -> None:
        sub_paths = {"/a": {"rootDirectory": f"{tmp_path}/data2"}}
        config = load_text({"storage": {"rootDirectory": f"{tmp_path}/data", "subPaths": sub_paths}})
        assert list(config.storage.sub_paths) == ["/a"]

    def test_map_keys_keep_their_case(self, load_text: Load) -> None:
        path, _ = only_problem(load_text, {"storage": {"subPaths": {"/Team": {"rootDirectory": "elsewhere"}}}})
        assert path == 'storage.subPaths["/Team"]'


class TestFiles:
    """What is no configuration at all: one clear problem that names the file."""

    @pytest.mark.parametrize("suffix", [".json", ".yaml"])
    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b" \n",
            b"[]",
            b"3",
            b'"text"',
            b"null",
            b"{",
            b"\x00\x01\x02",
            b"\xff\xfe\xfa",
            b"\x7fELF",
            b"[" * 100_000,
            b'{"a":' * 40_000,
            b" " * 1_000_000,
            b"{" + b"9" * 5000 + b": 1}",
        ],
        ids=lambda content: repr(content[:6]),
    )
    def test_not_a_configuration(self, load_text: Load, tmp_path: Path, suffix: str, content: bytes) -> None:
        path, message = only_problem(load_text, content, suffix)
        assert path == str(tmp_path / f"config{suffix}")
        assert message

    @pytest.mark.parametrize(
        "text",
        [
            "a: &x [1]\nb: *x",
            "http: &x {port: 1}",
            "a: *nowhere",
            "a: !!python/object/apply:os.system [true]",
            "a: !!binary aGk=",
            "<<: {http: {port: 1}}",
            "a: 1\n---\nb: 2",
            "a: 2022-02-31",
            "a: 0x_",
            "\ta: 1",
            "- " * 50_000,
        ],
    )
    def test_yaml_beyond_plain_data(self, load_text: Load, text: str) -> None:
        _, message = only_problem(load_text, text, ".yaml")
        assert message.startswith("is not valid YAML: ")

    @pytest.mark.parametrize("text", ['{"http": {"port": NaN}}', '{"http": 1,}', "{'http': 1}", "http: 1"])
    def test_no_json(self, load_text: Load, text: str) -> None:
        _, message = only_problem(load_text, text)
        assert message.startswith("is not valid JSON: ")

    @pytest.mark.parametrize("key", ["1", "true", "1.5", "2022-01-01", "[a]", "{a: 1}"])
    def test_keys_that_are_no_strings(self, load_text: Load, key: str) -> None:
        _, message = only_problem(load_text, f"? {key}\n: 1", ".yaml")
        assert message == "expected a string as a key"

    def test_a_huge_number(self, load_text: Load) -> None:
        path, message = only_problem(load_text, f"http:\n  port: 0x{'f' * 5000}", ".yaml")
        assert path == "http.port"
        assert message.endswith("got a huge number")

    @pytest.mark.parametrize("path", ["missing.json", "", "dir", "file/x", "a\0b", "x" * 5000])
    def test_a_file_that_cannot_be_read(self, tmp_path: Path, path: str) -> None:
        (tmp_path / "dir").mkdir()
        (tmp_path / "file").touch()
        with pytest.raises(ConfigError, match=r"cannot be read|no path of a file"):
            load(f"{tmp_path}/{path}")


class TestDurations:
    """Durations are Go's."""

    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            ("1h30m", 5400.0),
            ("90s", 90.0),
            ("1.5h", 5400.0),
            ("300ms", 0.3),
            (".5s", 0.5),
            ("1.s", 1.0),
            ("2us", 2e-6),
            ("2µs", 2e-6),
            ("2\u03bcs", 2e-6),
            ("7ns", 7e-9),
            ("1m1m", 120.0),
            ("0", 0.0),
            ("0s", 0.0),
        ],
    )
    def test_taken(self, text: str, seconds: float) -> None:
        assert parse_duration(text) == pytest.approx(seconds)

    @pytest.mark.parametrize(
        "value",
        [
            *("", "1", "s", ".s", "-1s", "1 s", " 1s", "1d", "1h-1m", "1s\n", "٣s", "1e3s", "300000000h"),
            *("9" * 999 + "h", "1" * 100_000, 60, 1.5, None, True, 0, []),
        ],
    )
    def test_refused(self, value: object) -> None:
        with pytest.raises(ValueError, match="expected a duration"):
            parse_duration(value)


class TestRetention:
    """The policies of zot, and what is ours."""

    def test_all_keys(self, load_text: Load) -> None:
        keep = {"mostRecentlyPushedCount": 1, "mostRecentlyPulledCount": 2, "pushedWithin": "1h", "pulledWithin": "2h"}
        policy = {
            "repositories": ["team/**", "x"],
            "deleteReferrers": True,
            "deleteUntagged": True,
            "keepTags": [{"patterns": ["^v", "x$"], **keep}, {}],
            "keepUntagged": keep,
        }
        retention = {"dryRun": True, "delay": "3h", "warnWithin": "4h", "policies": [policy]}
        immutable = [{"repositories": ["a"], "patterns": ["^v"]}, {"repositories": ["b"]}]
        storage = load_text({"storage": {"retention": retention, "immutableTags": immutable}}).storage
        rule = KeepRule((re.compile("^v"), re.compile("x$")), 1, 2, 3600.0, 7200.0)
        expected = Policy(("team/**", "x"), True, True, (rule, KeepRule()), replace(rule, patterns=()))
        assert storage.retention == Retention(True, 10800.0, 14400.0, (expected,))
        assert storage.immutable_tags == (ImmutableTags(("a",), (re.compile("^v"),)), ImmutableTags(("b",)))

    def test_an_empty_section_keeps_everything(self, load_text: Load) -> None:
        assert load_text({"storage": {"retention": {}}}).storage.retention == Retention()
        assert load_text({}).storage.retention is None

    @pytest.mark.parametrize(
        ("policy", "path", "message"),
        [
            ({}, "repositories", "is missing"),
            ({"repositories": []}, "repositories", "a list of globs"),
            ({"repositories": ["a{"]}, "repositories", "{"),
            ({"repositories": [1]}, "repositories", "glob"),
            (
                {"repositories": ["a"], "keepTags": [{"patterns": ["("]}]},
                "keepTags[0].patterns",
                "no regular expression",
            ),
            ({"repositories": ["a"], "keepTags": [{"patterns": []}]}, "keepTags[0].patterns", "a list of"),
            ({"repositories": ["a"], "keepTags": [{"pushedWithin": "30d"}]}, "keepTags[0].pushedWithin", "duration"),
            (
                {"repositories": ["a"], "keepTags": [{"mostRecentlyPushedCount": 0}]},
                "keepTags[0].mostRecentlyPushedCount",
                "from 1",
            ),
            ({"repositories": ["a"], "keepUntagged": {}}, "keepUntagged", "deleteUntagged"),
            (
                {"repositories": ["a"], "deleteUntagged": True, "keepUntagged": {"patterns": ["a"]}},
                "keepUntagged.patterns",
                "unknown",
            ),
        ],
    )
    def test_what_is_refused(self, load_text: Load, policy: dict[str, object], path: str, message: str) -> None:
        refused, text = only_problem(load_text, {"storage": {"retention": {"policies": [policy]}}})
        assert refused == f"storage.retention.policies[0].{path}"
        assert message in text
