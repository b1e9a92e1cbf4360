"""The rules in force: `http.accessControl` of the configuration file, read anew when that changes."""

from __future__ import annotations

import logging
from dataclasses import replace

from registry.auth.policy import AccessControl
from registry.config import Config, ConfigError, load
from registry.watched import WatchedFile

log = logging.getLogger(__name__)


class LiveRules:
    """Follow the rules of a configuration's file; one that is broken is refused, and the old rules stay."""

    def __init__(self, config: Config) -> None:
        self._config = config
        rules = config.http.access_control
        self._file = WatchedFile(config.source, self._parse, initial=rules) if config.source and rules else None

    def current(self) -> AccessControl | None:
        """Return the rules, or None where there are none: who is known may do everything then."""
        return self._file.get() if self._file else self._config.http.access_control

    def _parse(self, _content: bytes) -> AccessControl:
        """Read the whole file as the start does, and take the rules out of it."""
        try:
            config = load(self._config.source)
        except ConfigError as error:
            raise ValueError(f"refused: {error}") from None
        if config.http.access_control is None:
            raise ValueError("refused: http.accessControl is gone, which takes a restart")
        if _without_rules(config) != _without_rules(self._config):
            log.warning("%s: changes outside http.accessControl take effect at a restart", config.source)
        return config.http.access_control


def _without_rules(config: Config) -> Config:
    return replace(config, http=replace(config.http, access_control=None))
