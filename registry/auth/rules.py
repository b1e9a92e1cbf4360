"""The rules in force: `http.accessControl` of the configuration file, read anew when that changes."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from registry.auth.policy import AccessControl
from registry.config import Config, ConfigError, load
from registry.watched import WatchedFile

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Rules:
    rules: AccessControl | None


class LiveRules:
    """Follow the rules of a configuration's file; one that is broken is refused, and the old rules stay."""

    def __init__(self, config: Config) -> None:
        self._config = config
        initial = _Rules(config.http.access_control)
        # A file that is being written may be valid, and open what its end would close.
        self._file = WatchedFile(config.source, self._parse, initial=initial, patience=1.0) if config.source else None

    def current(self) -> AccessControl | None:
        """Return the rules, or None where there are none: who is known may do everything then."""
        return self._file.get().rules if self._file else self._config.http.access_control

    def _parse(self, _content: bytes) -> _Rules:
        """Read the whole file as the start does, and take the rules out of it."""
        try:
            config = load(self._config.source)
        except ConfigError as error:
            raise ValueError(f"refused: {error}") from None
        if (config.http.access_control is None) != (self._config.http.access_control is None):
            raise ValueError("refused: http.accessControl came or went, which takes a restart")
        if _without_rules(config) != _without_rules(self._config):
            log.warning("%s: changes outside http.accessControl take effect at a restart", config.source)
        return _Rules(config.http.access_control)


def _without_rules(config: Config) -> Config:
    return replace(config, http=replace(config.http, access_control=None))
