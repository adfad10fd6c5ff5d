"""Runs the locust users for half a minute against a server of its own: `make load`."""

import argparse
import signal
import subprocess
import sys
from contextlib import nullcontext

from loadtest.cases import HERE, MODELS
from loadtest.server import served


def main() -> int:
    parser = argparse.ArgumentParser("python -m loadtest.run", description=__doc__)
    parser.add_argument("--seconds", type=int, default=30, help="duration (30)")
    parser.add_argument("--users", type=int, default=16, help="number of users (16)")
    parser.add_argument("--url", help="a running server, like http://127.0.0.1:8000; default: start one")
    args = parser.parse_args()
    signal.signal(signal.SIGINT, lambda *_: None)  # locust handles Ctrl-C and prints its summary
    with nullcontext(args.url) if args.url else served(MODELS) as url:
        command = [sys.executable, "-m", "locust", "--locustfile", str(HERE / "locustfile.py"), "--host", url]
        command += ["--headless", "--only-summary", "--users", str(args.users), "--spawn-rate", str(args.users)]
        return subprocess.run([*command, "--run-time", f"{args.seconds}s"]).returncode


if __name__ == "__main__":
    sys.exit(main())
