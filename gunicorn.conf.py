"""What `gunicorn wsgi:app` reads by itself in this directory: the settings of `pierhead serve`."""

from registry.config import load_from_environment
from registry.server import prepare, settings

_config = load_from_environment()
prepare(_config)
globals().update(settings(_config))
