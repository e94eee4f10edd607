"""A registry for one node: serves the images of the cache over the OCI distribution protocol, read-only."""

import http.server
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import oci

ADDRESS = ("127.0.0.1", 5000)
MANIFEST_PATH = re.compile(r"/v2/(?P<name>[a-z0-9/-]+)/manifests/[\w.:-]+")
BLOB_PATH = re.compile(r"/v2/(?P<name>[a-z0-9/-]+)/blobs/(?P<digest>sha256:[0-9a-f]{64})")


@contextmanager
def serving(images: Path) -> Iterator[None]:
    """Serve the images below the folder, whatever tag they are asked for by."""

    class Handler(_Handler):
        folder = images

    with http.server.ThreadingHTTPServer(ADDRESS, Handler) as server:
        thread = threading.Thread(target=server.serve_forever, name="registry")
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder: Path

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        path, kind = self._find(self.path.partition("?")[0])
        if path is None or not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Docker-Content-Digest", oci.digest_of(content))
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def _find(self, asked: str) -> tuple[Path | None, str]:
        if found := MANIFEST_PATH.fullmatch(asked):
            return self.folder / found["name"] / "manifest", oci.MANIFEST
        if found := BLOB_PATH.fullmatch(asked):
            return self.folder / found["name"] / found["digest"], "application/octet-stream"
        return None, ""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Stay silent: containerd's own log tells what it pulled."""
