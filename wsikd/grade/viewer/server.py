"""Server of the viewer, which shows slide and map overlaid; only this machine can connect.

It never writes. Requests name slides by number, so that none can name a file.
"""

from __future__ import annotations

import json
import logging
import re
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from wsikd.core.about import RESEARCH_USE, __version__
from wsikd.core.errors import ConfigError, WsikdError

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsikd.grade.viewer.session import Viewing

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
_STATIC = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/viewer.css": ("viewer.css", "text/css; charset=utf-8"),
    "/viewer.js": ("viewer.js", "text/javascript; charset=utf-8"),
    "/openseadragon.min.js": ("openseadragon.min.js", "text/javascript; charset=utf-8"),
}
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_SLIDE_TILE = re.compile(r"/slide/(\d{1,6})/(\d{1,2})/(\d{1,6})_(\d{1,6})\.png", re.ASCII)
_MAP_TILE = re.compile(r"/map/(\d{1,6})/(\d{1,20})/(\d{1,2})/(\d{1,6})_(\d{1,6})\.png", re.ASCII)
_ABOUT = re.compile(r"/about/(\d{1,6})\.json", re.ASCII)
_AT = re.compile(r"/at/(\d{1,6})\.json", re.ASCII)

Answer = tuple[bytes, str]


class ViewServer(ThreadingHTTPServer):
    """Serves one folder of results on the loopback interface."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, viewing: Viewing, port: int = 0) -> None:
        """Bind the port; 0 takes a free one.

        Raises:
            ConfigError: the port is in use, or the user may not bind it.
        """
        self.viewing = viewing
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            fault = f"cannot be used ({error.strerror or error})"
            raise ConfigError(f"--port {port}", fault, "give another, or leave it out") from error
        self.hosts = {f"{name}:{self.server_port}" for name in (HOST, "localhost")}

    @property
    def address(self) -> str:
        """The address to open in the browser."""
        return f"http://{HOST}:{self.server_port}/"


class _Handler(BaseHTTPRequestHandler):
    server: ViewServer
    server_version = "wsikd"
    sys_version = ""
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        """Answer a request; an error is one line of text."""
        # DNS rebinding: a foreign page whose host name resolves to this machine sends its own name.
        if self.headers.get("Host", "") not in self.server.hosts:
            self._send_text(HTTPStatus.FORBIDDEN, "requested under another name than 127.0.0.1")
            return
        try:
            answer = _answer(self.server.viewing, self.path)
        except WsikdError as error:
            self._send_text(HTTPStatus.NOT_FOUND, str(error))
            return
        if answer is None:
            self._send_text(HTTPStatus.NOT_FOUND, "not here")
        else:
            self._send(HTTPStatus.OK, *answer)

    do_HEAD = do_GET

    def _send_text(self, status: HTTPStatus, text: str) -> None:
        self._send(
            status, f"{text}\n".encode("utf-8", "backslashreplace"), "text/plain; charset=utf-8"
        )

    def _send(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle(self) -> None:
        """Serve a connection; a browser may close it at any time."""
        try:
            super().handle()
        except (ConnectionError, TimeoutError):
            log.debug("connection closed", exc_info=True)

    def log_message(self, format: str, *args: Any) -> None:
        """Log requests at --log-level debug."""
        log.debug(format, *args)


def _answer(viewing: Viewing, target: str) -> Answer | None:
    """Body and content type of the resource at a path; None if it is empty."""
    parts = urlsplit(target)
    path = parts.path
    if path in _STATIC:
        name, kind = _STATIC[path]
        return files("wsikd.grade.viewer").joinpath(name).read_bytes(), kind
    if path == "/slides.json":
        return _json({"slides": viewing.names(), "note": RESEARCH_USE, "version": __version__})
    for pattern, make in _ROUTES:
        match = pattern.fullmatch(path)
        if match:
            numbers = [int(group) for group in match.groups()]
            if numbers[0] >= len(viewing.records):
                return None
            return make(viewing, numbers, parse_qs(parts.query))
    return None


def _json(content: object) -> Answer:
    return json.dumps(content).encode(), "application/json"


def _tile(data: bytes | None) -> Answer | None:
    return None if data is None else (data, "image/png")


def _slide_tile(viewing: Viewing, numbers: list[int], _: dict[str, list[str]]) -> Answer | None:
    number, level, column, row = numbers
    return _tile(viewing.slide_tile(number, level, column, row))


def _map_tile(viewing: Viewing, numbers: list[int], _: dict[str, list[str]]) -> Answer | None:
    number, shown, level, column, row = numbers
    return _tile(viewing.map_tile(number, level, column, row, shown))


def _about(viewing: Viewing, numbers: list[int], _: dict[str, list[str]]) -> Answer | None:
    return _json(viewing.about(numbers[0]))


def _at(viewing: Viewing, numbers: list[int], query: dict[str, list[str]]) -> Answer | None:
    try:
        x, y = (float(query[name][0]) for name in ("x", "y"))
        return _json(viewing.at(numbers[0], x, y))
    except (KeyError, ValueError, OverflowError):
        return None


_ROUTES: tuple[tuple[re.Pattern[str], Callable[..., Answer | None]], ...] = (
    (_SLIDE_TILE, _slide_tile),
    (_MAP_TILE, _map_tile),
    (_ABOUT, _about),
    (_AT, _at),
)
