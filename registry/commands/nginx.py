"""The command that writes nginx's configuration for a registry."""

from __future__ import annotations

import ipaddress
import math
import os
import re
import secrets
import unicodedata
from urllib.parse import urlsplit

import click
from jinja2 import Environment, PackageLoader, StrictUndefined

from registry.commands.common import load_config, refuse
from registry.config import Config
from registry.worker import STOP_SECONDS
from storage.names import NAME_PATTERN

_TLS = ("443 ssl http2", "[::]:443 ssl http2")
_CLEAR = ("80", "[::]:80")
#: What nginx reads within quotes as more than itself.
_SPECIAL = re.compile(r'["\\$]')
_UPSTREAM = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\]):[0-9]{1,5}")
_WORD = re.compile(r"[A-Za-z0-9._*~^:\[\]/-]+(?: [A-Za-z0-9_=.:-]+)*")


@click.command("nginx-config")
@click.argument("path", metavar="CONFIG", type=click.Path())
@click.option("--server-name", metavar="NAME", help="By default the host of http.externalUrl, else any.")
@click.option("--listen", "listens", metavar="ADDRESS", multiple=True, help="As nginx has it; by default 443 or 80.")
@click.option("--certificate", metavar="FILE", help="The certificate with its chain, for TLS.")
@click.option("--key", metavar="FILE", help="The certificate's key.")
@click.option("--cache", metavar="DIRECTORY", default="/run/pierhead-nginx", show_default=True, help="On a tmpfs.")
@click.option("--also", "others", metavar="HOST:PORT", multiple=True, help="Another registry on the same directory.")
@click.option("--secret-file", metavar="FILE", help="What nginx is to include for its secret, instead of a new one.")
def nginx_config(  # noqa: PLR0913
    *,
    path: str,
    server_name: str | None,
    listens: tuple[str, ...],
    certificate: str | None,
    key: str | None,
    cache: str,
    others: tuple[str, ...],
    secret_file: str | None,
) -> None:
    """Write what nginx needs to serve the registry that the file CONFIG describes.

    Each run makes a new secret, by which nginx tells credentials apart: keep the output from other users.
    """
    config = load_config(path)
    _check(config)
    if (certificate is None) is not (key is None):
        refuse("--certificate and --key go together")
    files = {"--certificate": certificate, "--key": key, "--cache": cache, "--secret-file": secret_file}
    roots = {prefix: os.path.abspath(store.root_directory) for prefix, store in config.stores.items()}
    for option, file in files.items():
        if file is not None and not os.path.isabs(file):
            refuse(f"{option}: expected an absolute path, got {file!r}: nginx runs elsewhere")
    for text in (*roots.values(), *filter(None, files.values())):
        if _SPECIAL.search(text) or any(unicodedata.category(letter) == "Cc" for letter in text):
            refuse(f"{text!r}: nginx's configuration has no way to write \" \\ $ or a control character")
    host = urlsplit(config.http.external_url or "").hostname
    name = server_name or host or "_"
    for text in (name, *listens):
        if not _WORD.fullmatch(text):
            refuse(f"{text!r} is nothing that nginx could listen on or be called")
    for other in others:
        if not _UPSTREAM.fullmatch(other):
            refuse(f"--also: expected HOST:PORT, got {other!r}")
    environment = Environment(
        loader=PackageLoader("registry"), undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    click.echo(
        environment.get_template("nginx.conf").render(
            upstreams=[_upstream(config), *others],
            default_root=roots[""],
            # The longest prefix decides.
            substores=sorted(((re.escape(p), root) for p, root in roots.items() if p), key=lambda item: -len(item[0])),
            # So nginx, by the template, is the first to give up an idle connection, by far.
            keeps_writes=config.server.keepalive >= STOP_SECONDS,
            cache=cache,
            listens=listens or (_TLS if certificate else _CLEAR),
            server_name=name,
            certificate=certificate,
            key=key,
            stall=math.ceil(config.server.stall_timeout),
            name=NAME_PATTERN,
            secret=secrets.token_hex(32),
            secret_file=secret_file,
        ),
        nl=False,
    )


def _check(config: Config) -> None:
    """End on a configuration that cannot stand behind nginx."""
    if config.http.tls:
        refuse("http.tls: nginx encrypts for the registry: take it out, and give --certificate and --key here")
    if urlsplit(config.http.external_url or "").path.strip("/"):
        refuse("http.externalUrl: nginx serves the registry at /v2/, so there can be no path")
    networks = [ipaddress.ip_network(network, strict=False) for network in config.server.trusted_proxies]
    peer = _address(config.http.local_address)
    if not networks or (peer and peer.is_loopback and not any(peer in network for network in networks)):
        refuse("server.trustedProxies: has to name nginx: else all clients have its address, and are sent to it")


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address that a host is; None of a name, but for localhost."""
    try:
        return ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        return None


def _upstream(config: Config) -> str:
    host = config.http.local_address
    return f"[{host}]:{config.http.port}" if ":" in host else f"{host}:{config.http.port}"
