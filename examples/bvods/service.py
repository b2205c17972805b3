"""What the three servers of BVODS share: their arguments, the place of their data, and a small HTTP server."""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import socketserver
import stat
import sys
import tempfile
import threading
import traceback
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Callable, Optional
from urllib.parse import parse_qs, unquote, urlsplit

from byname_client import BynameError, notify


class Problem(Exception):
    """An answer other than 200, as problem+json (RFC 9457)."""

    def __init__(self, status: int, code: str, detail: str, **more):
        super().__init__(detail)
        self.status = status
        self.body = {"type": "about:blank", "status": status, "code": code, "detail": detail, **more}


class Request(BaseHTTPRequestHandler):
    """GET and HEAD, answered by `answer`. Connections are kept open; an idle one is closed after `timeout` seconds."""

    protocol_version = "HTTP/1.1"
    server_version = "bvods"
    timeout = 30

    def answer(self, path: str, query: dict) -> Optional[dict]:
        """The JSON of the answer, or None when it was already sent. `query` holds the first value of each field."""
        raise NotImplementedError

    def do_GET(self) -> None:
        self.begun = False
        try:
            parts = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(parts.query).items()}
            body = self.answer(unquote(parts.path), query)
            if body is not None:
                self.send_json(200, body)
        except Problem as problem:
            self.send_json(problem.status, problem.body, "application/problem+json")
        except BynameError as error:
            self.send_json(502, Problem(502, error.code, error.message).body, "application/problem+json")
        except (ConnectionError, socket.timeout):
            self.close_connection = True  # the client has gone
        except Exception:  # a defect: one request fails, the server goes on
            traceback.print_exc()
            self.close_connection = True
            if not self.begun:
                self.send_json(500, Problem(500, "internal", "something went wrong; the log has the details").body, "application/problem+json")

    do_HEAD = do_GET

    def send_response(self, code, message=None) -> None:
        self.begun = True
        super().send_response(code, message)

    def send_json(self, status: int, body: dict, kind: str = "application/json") -> None:
        data = (json.dumps(body, ensure_ascii=False) + "\n").encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_request(self, code="-", size="-") -> None:
        """Requests are not logged: the log is for what an operator has to know."""


class Server(socketserver.ThreadingMixIn, HTTPServer):
    """A thread a connection."""

    daemon_threads = True
    request_queue_size = 128

    def server_bind(self) -> None:
        # HTTPServer would ask the DNS for this host's name here, which can take seconds.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]

    def handle_error(self, request, client_address) -> None:
        """A client that breaks its connection off is no news; anything else is."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, socket.timeout)):
            super().handle_error(request, client_address)


def arguments(what: str) -> argparse.ArgumentParser:
    """The arguments that all of them take."""
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--port", type=int, default=int(os.environ.get("PORT") or 0), help="0 picks a free one (default: $PORT, else 0)")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: %(default)s)")
    parser.add_argument("--data", type=Path, help="where generated files are kept (default: bvods-UID in the temporary folder)")
    return parser


def data_dir(asked: Optional[Path], *below: str) -> Path:
    """The folder for generated files, made when it is not there. The default lies in a folder that everybody can
    write to, so it is used only if it is ours alone."""
    root = asked or Path(tempfile.gettempdir()) / f"bvods-{os.getuid()}"
    try:
        root.mkdir(mode=0o700, parents=asked is not None, exist_ok=True)
        found = root.lstat()
        if asked is None and (not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid()):
            sys.exit(f"{root} belongs to somebody else: give another folder with --data")
        folder = root.joinpath(*below)
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    except OSError as error:
        sys.exit(f"the data folder cannot be made: {error}; give another one with --data")


def put_file(path: Path, data: bytes) -> None:
    """Writes a whole file or nothing, also when several processes do it at once."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def serve(name: str, args: argparse.Namespace, handler: type, ready: Callable[[str, int], None]) -> None:
    """Listens, calls `ready(address, port)` once connections are taken, and serves until SIGTERM or SIGINT;
    then the process may end at once, since nothing is kept that could be lost."""
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # before any thread, so that only sigwait sees them
    try:
        server = Server((args.host, args.port), handler)
    except OSError as error:
        sys.exit(f"{name}: cannot listen on {args.host}:{args.port}: {error}")
    address, port = server.server_address[:2]
    threading.Thread(target=server.serve_forever, name="serve", daemon=True).start()
    try:
        ready(address, port)
    except (BynameError, OSError) as error:
        sys.exit(f"{name}: cannot say that it is ready: {error}")
    print(f"{name}: listening on {address}:{port}", flush=True)
    signal.sigwait(signals)
    print(f"{name}: stopping", flush=True)
    try:
        notify("STOPPING=1")
    except (BynameError, OSError):
        pass  # whoever listened has gone first
