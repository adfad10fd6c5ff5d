"""`python -m tta_server`."""

from tta_server.cli.main import app

app()
