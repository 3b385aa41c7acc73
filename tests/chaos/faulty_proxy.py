"""An HTTP proxy that fails some requests, as object storage does on a bad day: 503, a reset, a stall."""

from __future__ import annotations

import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FAULTS = ("503", "reset", "stall")
STALL_S = 90.0  # longer than any client waits
SLOW_DOWN = (
    b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>'
)


class FaultyProxy(ThreadingHTTPServer):
    """Forwards to one server.

    Attributes:
        failing: Share of the requests that fail, in [0, 1]; may be changed while the proxy runs.
        seen: Number of requests by outcome: a fault, or `passed`.
    """

    daemon_threads = True

    def __init__(self, target_port: int, seed: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), _Forward)
        self.target_port = target_port
        self.failing = 0.0
        self.seen: Counter[str] = Counter()
        self.random = random.Random(seed)
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        """URL at which the proxy listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def fault(self) -> str | None:
        """Draw the outcome of a request: a fault, or None to pass it on."""
        kind = self.random.choice(FAULTS) if self.random.random() < self.failing else None
        self.seen[kind or "passed"] += 1
        return kind

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that hang up."""


class _Forward(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyProxy

    def _serve(self) -> None:
        body = self._body()
        fault = self.server.fault()
        if fault == "503":
            self._answer(503, {"Content-Type": "application/xml"}, SLOW_DOWN)
        elif fault == "reset":
            self._reset()
        elif fault == "stall":
            self.server.closing.wait(STALL_S)
            self._reset()
        else:
            self._pass_on(body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve  # noqa: N815 - http.server's names

    def _body(self) -> bytes:
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.send_response_only(100)
            self.end_headers()
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            return b"".join(self._chunks())
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _pass_on(self, body: bytes) -> None:
        hop_by_hop = {"connection", "transfer-encoding", "expect", "content-length"}
        headers = {name: value for name, value in self.headers.items() if name.lower() not in hop_by_hop}
        target = http.client.HTTPConnection("127.0.0.1", self.server.target_port, timeout=60)
        target.request(self.command, self.path, body, headers | {"Content-Length": str(len(body))})
        answer = target.getresponse()
        content = answer.read()
        kept = {name: value for name, value in answer.getheaders() if name.lower() not in hop_by_hop}
        length = answer.getheader("Content-Length") if self.command == "HEAD" else None
        self._answer(answer.status, kept, content, length)
        target.close()

    def _answer(self, status: int, headers: dict[str, str], content: bytes, length: str | None = None) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", length or str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _reset(self) -> None:
        """End the connection with RST."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def faulty_proxy(target_port: int) -> Iterator[FaultyProxy]:
    """Run a proxy in front of a server of this machine."""
    proxy = FaultyProxy(target_port)
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.closing.set()
        proxy.shutdown()
        proxy.server_close()
        thread.join(timeout=5)
        time.sleep(0.1)
