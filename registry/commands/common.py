"""What the commands share: reading the configuration, and ending on what is wrong with it."""

from __future__ import annotations

import click

from registry.audit import Audit, local_entry
from registry.config import Config, ConfigError, load, load_from_environment

#: Bad input: nothing was changed.
BAD_INPUT = 2


def record(config: Config, action: str, **fields: object) -> None:
    """Write down in the audit log, if there is one, what a command has done."""
    if config.log.audit:
        Audit(config.log.audit).write(local_entry(action, **fields))


def load_config(path: str | None, *, code: int = BAD_INPUT) -> Config:
    """Load a file, else what PIERHEAD_CONFIG names, else the defaults; end with a line for each problem of it."""
    try:
        return load(path) if path else load_from_environment()
    except ConfigError as error:
        for problem in error.problems:
            click.echo(str(problem), err=True)
        raise click.exceptions.Exit(code) from None
