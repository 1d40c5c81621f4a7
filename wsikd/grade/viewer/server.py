"""Server of the viewer, which shows slide and map overlaid; only this machine can connect.

Requests name slides by number, so that none can name a file. It writes corrections alone, and
these only for a reviewer who was named at the start, and for pages that know the session's token.
"""

from __future__ import annotations

import hmac
import json
import logging
import re
import secrets
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from pydantic import ValidationError

from wsikd.core.about import RESEARCH_USE, __version__
from wsikd.core.errors import ConfigError, WsikdError
from wsikd.grade.viewer.reviewing import Change

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
_REVIEW = re.compile(r"/review/(\d{1,6})\.json", re.ASCII)
TOKEN_HEADER = "X-Wsikd-Token"
_LENGTH = re.compile(r"\d{1,9}", re.ASCII)
_LONGEST_BODY = 1 << 16

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
        self.token = secrets.token_urlsafe(24)
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            fault = f"cannot be used ({error.strerror or error})"
            raise ConfigError(f"--port {port}", fault, "give another, or leave it out") from error
        self.hosts = {f"{name}:{self.server_port}" for name in (HOST, "localhost")}

    @property
    def address(self) -> str:
        """The address to open in the browser; a reviewer's has the session's token.

        Browsers send no server the part after ``#``.
        """
        token = f"#token={self.token}" if self.viewing.reviewer else ""
        return f"http://{HOST}:{self.server_port}/{token}"


class _Handler(BaseHTTPRequestHandler):
    server: ViewServer
    server_version = "wsikd"
    sys_version = ""
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        """Answer a request; an error is one line of text."""
        if not self._under_own_name():
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

    def do_PUT(self) -> None:
        """Change a review; the answer is the new one, or one line of text on the fault."""
        if not (self._under_own_name() and self._may_write()):
            return
        match = _REVIEW.fullmatch(self.path)
        number = int(match[1]) if match else -1
        length = self.headers.get("Content-Length", "")
        if not 0 <= number < len(self.server.viewing.records):
            self._refuse(HTTPStatus.NOT_FOUND, "not here")
        elif not _LENGTH.fullmatch(length) or int(length) > _LONGEST_BODY:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {_LONGEST_BODY} bytes")
        else:
            self._change(number, self.rfile.read(int(length)))

    def _change(self, number: int, body: bytes) -> None:
        try:
            asked = Change.model_validate_json(body)
            answer = _json(self.server.viewing.change(number, asked))
        except ValidationError:
            self._send_text(HTTPStatus.BAD_REQUEST, "not a change of a review")
        except WsikdError as error:
            self._send_text(HTTPStatus.CONFLICT, str(error))
        except ValueError as error:
            self._send_text(HTTPStatus.BAD_REQUEST, str(error))
        else:
            self._send(HTTPStatus.OK, *answer)

    def _under_own_name(self) -> bool:
        # DNS rebinding: a foreign page whose host name resolves to this machine sends its own name.
        if self.headers.get("Host", "") in self.server.hosts:
            return True
        self._refuse(HTTPStatus.FORBIDDEN, "requested under another name than 127.0.0.1")
        return False

    def _may_write(self) -> bool:
        origins = {f"http://{host}" for host in self.server.hosts}
        given = self.headers.get(TOKEN_HEADER, "").encode("utf-8", "replace")
        if not self.server.viewing.reviewer:
            fault = "read only; start wsikd view with --reviewer NAME to correct grades"
        elif self.headers.get("Origin") not in (None, *origins):
            fault = "sent by another page"
        elif not hmac.compare_digest(given, self.server.token.encode()):
            fault = "not of this session; open the address that wsikd view has printed"
        else:
            return True
        self._refuse(HTTPStatus.FORBIDDEN, fault)
        return False

    def _refuse(self, status: HTTPStatus, text: str) -> None:
        """Send a line of text, and read nothing more from this connection."""
        self.close_connection = True
        self._send_text(status, text)

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


def _map_tile(viewing: Viewing, numbers: list[int], query: dict[str, list[str]]) -> Answer | None:
    number, shown, level, column, row = numbers
    outline = "outline" in query
    return _tile(viewing.map_tile(number, level, column, row, shown, outline=outline))


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
