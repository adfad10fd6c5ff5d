"""Runs the locust users for half a minute: `make load`. Against a server of its own unless --url names one.

A gRPC user for each HTTP user; a server at --url gets gRPC users where --grpc names its gRPC port. The exit status is 1
if more than 5 % of the requests that were not refused fail. loadtest/README.md explains the tables.
"""

import argparse
import os
import signal
import subprocess
import sys
from contextlib import nullcontext

from loadtest.cases import HERE, MODELS
from loadtest.server import Started, served
from loadtest.target import KEY, Target, add_arguments, target_of

EXAMPLE = """example:
  make load ARGS='--url https://tta.example.org --grpc tta.example.org:8001 --key-file key.txt --cacert ca.pem'
"""


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        "python -m loadtest.run",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--seconds", type=int, default=30, help="duration (30)")
    made.add_argument("--users", type=int, default=16, help="number of users (16)")
    add_arguments(made)
    made.add_argument("--grpc", metavar="HOST:PORT", help="gRPC port of the server at --url; TLS as the URL has it")
    return made


def environment(target: Target, grpc: str) -> dict[str, str]:
    """The variables of the locustfile."""
    stated = {"TTA_LOAD_GRPC": grpc, "TTA_LOAD_CACERT": str(target.cacert or ""), KEY: target.key}
    return {**os.environ, **stated}


def main() -> int:
    options = parser().parse_args()
    if options.grpc and not options.url:
        raise SystemExit("--grpc is the gRPC port of a running server; name that server with --url, or leave both out")
    signal.signal(signal.SIGINT, lambda *_: None)  # locust handles Ctrl-C and prints its summary
    given = Started(options.url, options.grpc or "")
    with nullcontext(given) if options.url else served(MODELS) as started:
        target = target_of(options, started.url)
        for model in ("clothing", "nuclei"):
            target.max_budget_ms(model)  # one sentence, instead of a table of failures
        command = [sys.executable, "-m", "locust", "--locustfile", str(HERE / "locustfile.py"), "--host", target.url]
        command += ["--headless", "--only-summary", "--users", str(options.users), "--spawn-rate", str(options.users)]
        command += ["--run-time", f"{options.seconds}s", "HttpUser", *(["GrpcUser"] if started.grpc else [])]
        return subprocess.run(command, env=environment(target, started.grpc)).returncode


if __name__ == "__main__":
    sys.exit(main())
