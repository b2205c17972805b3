#!/usr/bin/env python3
"""A page that counts its visits in PostgreSQL.

    GET /          counts a visit and says how many there were
    GET /healthz   answers without the database

    visits.py --database URL [--port PORT]

Started by Byname with `handover = "fds"` it serves the socket that it inherits (LISTEN_FDS), and else listens on a port of
127.0.0.1. It reaches the database by the `psql` program, since Python's standard library has no driver; where it is, and
that it may have to be started first, is not known here.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import installation  # noqa: E402

FIRST_SOCKET = 3  # SD_LISTEN_FDS_START of sd_listen_fds(3)
QUERY_S_MAX = 75  # a query may have to wait for a database that makes its cluster first
AT_ONCE = 8  # psql processes

TABLE = "CREATE TABLE IF NOT EXISTS visits (page text PRIMARY KEY, count bigint NOT NULL)"
COUNT = (
    "INSERT INTO visits VALUES ('/', 1) ON CONFLICT (page) DO UPDATE SET count = visits.count + 1 RETURNING count"
)


class Counter:
    """The visits in the database."""

    def __init__(self, psql: Path, url: str):
        self.psql = psql
        self.url = url
        self.has_table = False
        self.making = threading.Lock()  # two at once would stand in each other's way
        self.room = threading.BoundedSemaphore(AT_ONCE)

    def count(self) -> int:
        """Counts one visit; how many there were with it. RuntimeError with the database's own words when it fails."""
        with self.making:
            if not self.has_table:
                self.ask(TABLE)
                self.has_table = True
        with self.room:
            return int(self.ask(COUNT))

    def ask(self, sql: str) -> str:
        command = [str(self.psql), "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", self.url, "-c", sql]
        env = {**os.environ, "PGCONNECT_TIMEOUT": str(QUERY_S_MAX), "PGOPTIONS": "-c client_min_messages=warning"}
        try:
            done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=QUERY_S_MAX)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"no answer within {QUERY_S_MAX} s") from None
        if done.returncode != 0:
            raise RuntimeError(done.stderr.strip() or f"psql ended with status {done.returncode}")
        return done.stdout.strip()


class Page(BaseHTTPRequestHandler):
    """One request a connection, so that no connection is open that nobody uses."""

    server_version = "visits"
    timeout = 30

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/":
            try:
                count = self.server.counter.count()
            except (RuntimeError, ValueError, OSError) as error:
                print(f"visits: a visit was not counted: {error}", file=sys.stderr, flush=True)
                return self.reply(503, "The visit could not be counted, because the database does not answer.")
            return self.reply(200, f"This is visit {count}.")
        if path == "/healthz":
            return self.reply(200, "ok")
        self.reply(404, f"There is no {path} here, only / and /healthz.")

    def reply(self, status: int, text: str) -> None:
        data = f"{text}\n".encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(data)

    def log_request(self, code="-", size="-") -> None:
        """Requests are not logged: the log is for what an operator has to know."""


class Pages(ThreadingHTTPServer):
    """Serves a listening socket that it is given. `server_close` waits for the answers that have begun."""

    daemon_threads = False

    def __init__(self, listener: socket.socket, counter: Counter):
        super().__init__(listener.getsockname(), Page, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.counter = counter

    def handle_error(self, request, client_address) -> None:
        """A client that breaks its connection off is no news; anything else is."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, socket.timeout)):
            super().handle_error(request, client_address)


def listener(port: int) -> socket.socket:
    """The socket that was handed over to this process (sd_listen_fds(3)), or a new one."""
    handed = os.environ.pop("LISTEN_FDS", "")
    meant = os.environ.pop("LISTEN_PID", "") == str(os.getpid())
    if not handed or not meant:
        return socket.create_server(("127.0.0.1", port), backlog=128)
    if handed != "1":
        sys.exit(f"visits: it serves one socket, and was handed {handed}")
    os.set_inheritable(FIRST_SOCKET, False)
    return socket.socket(fileno=FIRST_SOCKET)


def main() -> None:
    parser = argparse.ArgumentParser(description="A page that counts its visits in PostgreSQL.")
    parser.add_argument("--database", required=True, help="as psql takes it: postgresql://USER@HOST:PORT/DATABASE")
    parser.add_argument("--port", type=int, default=0, help="the port on 127.0.0.1 when no socket is handed over; 0 picks one")
    args = parser.parse_args()
    psql = installation.program("psql")
    if psql is None:
        sys.exit("visits: `psql` is not installed, and it speaks to the database by it: apt-get install postgresql-client")
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # before any thread, so that only sigwait sees them
    try:
        pages = Pages(listener(args.port), Counter(psql, args.database))
    except OSError as error:
        sys.exit(f"visits: cannot listen: {error}")
    threading.Thread(target=pages.serve_forever, args=(0.1,), name="serve", daemon=True).start()
    print(f"visits: serving {pages.server_address[0]}:{pages.server_address[1]}", flush=True)
    signal.sigwait(signals)
    pages.shutdown()  # whoever connects from now on waits for the next copy, if the socket was handed over
    pages.server_close()


if __name__ == "__main__":
    main()
