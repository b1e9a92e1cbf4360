"""The application: `create_app` wires configuration, stores and blueprints together; nothing happens at import."""

from __future__ import annotations

from flask import Flask

from registry import errors
from registry.config import Config, load_from_environment
from registry.context import Pierhead
from registry.metrics import Metrics
from registry.proxy import TrustedProxies
from registry.stores import build_controller
from storage.layout import Layout


def create_app(config: Config | None = None) -> Flask:
    """Return the WSGI app for a configuration; without one, for what PIERHEAD_CONFIG names, or for the defaults.

    Raises registry.config.ConfigError.
    """
    from blueprints import docs, extensions, routes  # noqa: PLC0415
    from blueprints.distribution import blobs, manifests, ping, referrers, tags, uploads  # noqa: PLC0415
    from registry import cli  # noqa: PLC0415

    config = config or load_from_environment()
    app = Flask("registry", static_folder=None)
    app.url_map.merge_slashes = False
    app.url_map.strict_slashes = False
    metrics = Metrics(Layout(config.storage.root_directory).metrics)
    app.extensions["pierhead"] = Pierhead(config, build_controller(config, metrics.add), metrics)
    errors.install(app)
    routes.install(app)
    for module in (ping, manifests, blobs, uploads, tags, referrers, extensions):
        app.register_blueprint(module.blueprint)
    docs.register(app)
    cli.register(app)
    if config.server.trusted_proxies:
        app.wsgi_app = TrustedProxies(app.wsgi_app, config.server.trusted_proxies)  # type: ignore[method-assign]
    return app
