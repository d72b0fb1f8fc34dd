"""The few questions of S3 that a reader asks, answered over real HTTP from a folder."""

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET = "bucket"
_TIME = "2026-03-01T12:00:00.000Z"


class _Handler(BaseHTTPRequestHandler):
    folder: Path
    refuse: bool
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._object(body=False)

    def do_GET(self) -> None:
        if "list-type" in self.path:
            self._list(parse_qs(urlsplit(self.path).query).get("prefix", [""])[0])
        else:
            self._object(body=True)

    def _object(self, *, body: bool) -> None:
        path = self.folder / unquote(urlsplit(self.path).path).removeprefix(f"/{BUCKET}").lstrip("/")
        if self.refuse or not path.is_file():
            self._answer(403 if self.refuse else 404, b"", body=body)
            return
        data = path.read_bytes()
        if asked := self.headers.get("Range"):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            self._answer(206, data[int(first) : int(last) + 1], body=body)
            return
        self._answer(200, data, body=body)

    def _list(self, prefix: str) -> None:
        paths = sorted(path for path in self.folder.rglob("*") if path.is_file())
        keys = [key for path in paths if (key := path.relative_to(self.folder).as_posix()).startswith(prefix)]
        items = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{(self.folder / key).stat().st_size}</Size>"
            f"<LastModified>{_TIME}</LastModified></Contents>"
            for key in keys
        )
        head = f"<Name>{BUCKET}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(keys)}</KeyCount>"
        text = f"<ListBucketResult>{head}<IsTruncated>false</IsTruncated>{items}</ListBucketResult>"
        self._answer(403 if self.refuse else 200, text.encode(), body=True)

    def _answer(self, status: int, data: bytes, *, body: bool) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Last-Modified", "Sun, 01 Mar 2026 12:00:00 GMT")
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@contextlib.contextmanager
def bucket(folder: Path, *, refuse: bool = False) -> Iterator[str]:
    """Serve `folder` as a bucket; give the URI of its root. refuse: 403 to everything."""
    handler = type("Handler", (_Handler,), {"folder": folder, "refuse": refuse})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"s3://access:secret@{BUCKET}/{{}}?endpoint_override=127.0.0.1:{server.server_port}&scheme=http&region=x"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
