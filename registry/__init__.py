"""The application: `create_app` wires configuration, stores and blueprints together; nothing happens at import."""

from __future__ import annotations

from flask import Flask, request

from registry import audit, cors, errors, logs
from registry.audit import Audit
from registry.auth.build import build_gate
from registry.config import Config, load_from_environment
from registry.context import Pierhead
from registry.errors import FAILED
from registry.inline import INLINE
from registry.metrics import Metrics
from registry.proxy import TrustedProxies
from registry.ratelimit import RateLimit
from registry.stores import build_controller
from registry.tls_only import TLSOnly
from storage.layout import Layout


def create_app(config: Config | None = None) -> Flask:
    """Return the WSGI app for a configuration; without one, for what PIERHEAD_CONFIG names, or for the defaults.

    Raises registry.config.ConfigError.
    """
    from blueprints import docs, extensions, routes, token  # noqa: PLC0415
    from blueprints.check import PullCheck  # noqa: PLC0415
    from blueprints.distribution import blobs, manifests, ping, referrers, tags, uploads  # noqa: PLC0415
    from blueprints.express import Express  # noqa: PLC0415
    from blueprints.express_pushes import Pushes  # noqa: PLC0415
    from registry import cli  # noqa: PLC0415

    config = config or load_from_environment()
    app = Flask("registry", static_folder=None)
    app.url_map.merge_slashes = False
    app.url_map.strict_slashes = False
    layout = Layout(config.storage.root_directory)
    metrics = Metrics(layout.metrics)
    controller = build_controller(config, metrics.add)
    app.extensions["pierhead"] = Pierhead(config, controller, build_gate(config), metrics)
    errors.install(app)
    if config.log.audit:
        audit.install(app, Audit(config.log.audit))
    logs.install(app)
    cors.install(app, config.http.allow_origin)
    limit = RateLimit(config.http.ratelimit, layout.limits) if config.http.ratelimit else None
    if limit:

        def check_rate() -> None:
            if FAILED not in request.environ:  # or it was checked
                limit.check(request.method, request.remote_addr or "")

        app.before_request(check_rate)
    routes.install(app)
    for module in (ping, manifests, blobs, uploads, tags, referrers, extensions):
        app.register_blueprint(module.blueprint)
    if config.http.auth.token:
        app.register_blueprint(token.blueprint)
    docs.register(app)
    cli.register(app)
    if not config.http.allow_origin:  # what pages of others may read, only the routes say
        app.extensions[INLINE] = True
        # Only the routes write the audit log.
        pushes = None if config.log.audit else Pushes(app.extensions["pierhead"], limit)
        app.wsgi_app = Express(app.wsgi_app, app.extensions["pierhead"], limit, pushes)  # type: ignore[method-assign]
    app.wsgi_app = PullCheck(app, app.extensions["pierhead"])  # type: ignore[method-assign]
    if config.http.tls:
        app.wsgi_app = TLSOnly(app.wsgi_app)  # type: ignore[method-assign]
    if config.server.trusted_proxies:
        app.wsgi_app = TrustedProxies(app.wsgi_app, config.server.trusted_proxies)  # type: ignore[method-assign]
    return app
