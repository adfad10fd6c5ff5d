"""A folder over HTTP, whole files only, with what a client has asked for and taken."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ENDLESS = "endless.png"
"""A file that never ends."""
SECRET = "secret.png"
"""A file that is refused."""


class FileServer:
    """`url` names the folder; `sent` is the number of bytes of ENDLESS that left, `requests` are lines like GET /a.

    As many of the next requests as `failures` says are answered with 503.
    """

    def __init__(self) -> None:
        self.url = ""
        self.sent = 0
        self.requests: list[str] = []
        self.failures = 0


@contextmanager
def serve_folder(folder: Path) -> Iterator[FileServer]:
    found = FileServer()

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            found.requests.append(f"{self.command} {self.path}")
            if found.failures:
                found.failures -= 1
                self.send_error(503, "Slow down")
            elif self.path.endswith(SECRET):
                self.send_error(403, "Forbidden")
            elif self.path.endswith(ENDLESS):
                self._send_for_ever()
            else:
                super().do_GET()

        def _send_for_ever(self) -> None:
            self.send_response(200)
            self.end_headers()
            with suppress(OSError):
                while True:
                    found.sent += self.wfile.write(bytes(10_000))

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    found.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
