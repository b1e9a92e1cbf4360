"""The WSGI application, for `gunicorn wsgi:app` and `flask --app wsgi`."""

from registry import create_app

app = create_app()
