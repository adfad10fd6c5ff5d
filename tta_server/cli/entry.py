"""The console script: which commands are imported."""

import sys


def main() -> None:
    """Run the command line. `ping` runs every few seconds in a container: it imports no other command."""
    if sys.argv[1:2] == ["ping"]:
        from tta_server.cli.ping import app as run
    else:
        from tta_server.cli.main import app as run
    run()
