"""`python -m tta_server`."""

from tta_server.cli.entry import main

main()
