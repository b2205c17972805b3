"""A small Byname client on the standard library, for programs that are started by name or look for others by name.

    client = Byname()                           # asks where BYNAME_SERVER says
    found = client.find("/BVODS/QS")            # starts it when it is not running
    client.advertise("/BVODS/QS", [endpoint("127.0.0.1", 8080)])      # with the ticket of this start
    notify("READY=1")                           # the other way of saying that one is ready

It speaks HTTP/JSON, over a unix socket or TCP. It keeps nothing between calls, so it may be used by many threads.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import os
import socket
import time
from typing import NamedTuple, Optional
from urllib.parse import quote, urlsplit


class BynameError(Exception):
    """The name server refused. `code` is one of Byname's stable codes, such as `not-found`."""

    def __init__(self, code: str, message: str, status: int = 0):
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status


class ImpostorError(BynameError):
    """Whoever answered does not know the server's half of the ticket, so it is not the server that started us."""

    def __init__(self, message: str):
        super().__init__("unauthenticated", message)


class Found(NamedTuple):
    """The first endpoint of the instance that `find` chose. `name` is the service's own, where an alias was asked for;
    `pid` and `computer` are None when they are not known."""

    name: str
    instance: str
    pid: Optional[int]
    computer: Optional[str]
    protocol: str
    address: str
    port: int

    @property
    def host_port(self) -> str:
        """`127.0.0.1:8080`, or `[::1]:8080`."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


class Ticket(NamedTuple):
    """The pair of one start: `program` is shown to the server, `server` never leaves this process."""

    program: str
    server: str

    def __repr__(self) -> str:  # a traceback or a log must not show it
        return "Ticket(..)"

    def proof(self) -> str:
        """What only the server that made the ticket can answer."""
        return hashlib.sha256(bytes.fromhex(self.server)).hexdigest()


def endpoint(address: str, port: int, protocol: str = "tcp") -> dict:
    """An endpoint as requests carry it."""
    return {"protocol": protocol, "address": address, "port": port}


class Byname:
    """The operations of a name server. `servers` is as in BYNAME_SERVER: `unix:///path` or `http://host:port`,
    several with commas, which are tried in order. `timeout_s` bounds each request; it has to cover a start."""

    def __init__(self, servers: Optional[str] = None, timeout_s: float = 40.0):
        text = os.environ.get("BYNAME_SERVER", "") if servers is None else servers
        self.servers = [one.strip() for one in text.split(",") if one.strip()]
        self.timeout_s = timeout_s
        self.credential: Optional[str] = None
        if not self.servers:
            raise BynameError("unavailable", "no name server is known: set BYNAME_SERVER to unix:///PATH or http://HOST:PORT")

    def find(self, name: str, start: bool = True) -> Found:
        """Where the service answers; starts it when it is stopped, unless `start` is false."""
        reply = self.call("GET", f"/v1/find/{path_of(name)}" + ("" if start else "?start=false"))
        for instance in reply.get("instances") or []:
            for at in instance.get("endpoints") or []:
                return Found(
                    name=reply.get("canonical") or reply.get("name") or name,
                    instance=str(instance.get("id", "")),
                    pid=instance.get("pid"),
                    computer=instance.get("computer"),
                    protocol=at.get("protocol", "tcp"),
                    address=at.get("address") or "127.0.0.1",
                    port=int(at.get("port", 0)),
                )
        raise BynameError("not-running", f"{name} has no endpoint")

    def advertise(self, name: str, endpoints: list, ticket: Optional[Ticket] = None) -> str:
        """Says where this instance answers, with the ticket of its start (by default the inherited one). Checks that
        the reply comes from the server that made the ticket, and returns and keeps the instance's credential."""
        ticket = ticket or inherited_ticket()
        body = {"ticket": ticket.program, "instance": os.environ.get("BYNAME_INSTANCE", ""), "endpoints": endpoints}
        reply = self.call("POST", f"/v1/services/{path_of(name)}:advertise", body)
        if not hmac.compare_digest(str(reply.get("proof", "")).lower().encode(), ticket.proof().encode()):
            raise ImpostorError(f"the answer to the advertisement of {name} does not prove that it comes from the name server")
        self.credential = reply.get("credential")
        if not self.credential:
            raise BynameError("internal", f"the answer to the advertisement of {name} holds no credential")
        return self.credential

    def fetch(self, name: str, path: str, headers: Optional[dict] = None, tries: int = 3) -> Fetched:
        """A GET of `path` from the service `name`, at whatever place it has now. One that died since it was found is
        looked for again, up to `tries` times in all."""
        for attempt in range(1, tries + 1):
            found = self.find(name)
            try:
                return fetch_at(found, path, headers)
            except OSError as error:
                if attempt == tries:
                    raise BynameError("unavailable", f"{name} at {found.host_port} does not answer: {error}") from error
                time.sleep(0.02 * attempt)  # the server may hear of the death a moment after us
        raise BynameError("invalid-argument", "tries must be at least 1")

    def call(self, method: str, path: str, body: Optional[dict] = None) -> dict:
        """One request. The next server is tried when one cannot be reached; a write is sent on only when the
        connection was never made, because it may have been applied otherwise."""
        last: Optional[BynameError] = None
        for server in self.servers:
            connection = connection_to(server, self.timeout_s)
            sent = False
            try:
                connection.connect()
                sent = True
                data = None if body is None else json.dumps(body).encode()
                headers = {"Accept": "application/json"}
                if data is not None:
                    headers["Content-Type"] = "application/json"
                connection.request(method, path, body=data, headers=headers)
                response = connection.getresponse()
                return decode(response.status, response.read())
            except BynameError as error:
                if error.code != "unavailable" or method != "GET":
                    raise
                last = error
            except (OSError, http.client.HTTPException) as error:
                last = BynameError("unavailable", f"the name server at {server} does not answer: {error or type(error).__name__}")
                if sent and method != "GET":
                    break
            finally:
                connection.close()
        raise last or BynameError("unavailable", "no name server answered")


class Fetched(NamedTuple):
    """The answer of a service."""

    found: Found
    status: int
    headers: dict
    body: bytes

    def json(self) -> dict:
        return json.loads(self.body)


def fetch_at(found: Found, path: str, headers: Optional[dict] = None, timeout_s: float = 10.0) -> Fetched:
    """A GET from an endpoint that is already known. A broken connection or answer is an OSError."""
    connection = http.client.HTTPConnection(found.address, found.port, timeout=timeout_s)
    try:
        connection.request("GET", path, headers=headers or {})
        response = connection.getresponse()
        return Fetched(found, response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    except http.client.HTTPException as error:
        raise ConnectionError(f"broken answer: {error or type(error).__name__}") from error
    finally:
        connection.close()


def launched() -> bool:
    """Whether Byname started this process and expects it to advertise itself."""
    return "BYNAME_TICKET_FD" in os.environ


def inherited_ticket() -> Ticket:
    """The ticket of this start, from the descriptor in BYNAME_TICKET_FD. It can be read once, and the descriptor is
    closed, so that no child of this process can read it."""
    text = os.environ.pop("BYNAME_TICKET_FD", None)
    if text is None:
        raise BynameError("unauthenticated", "there is no ticket: BYNAME_TICKET_FD is not set, or was read before")
    try:
        with os.fdopen(int(text), "r", encoding="ascii") as source:
            halves = source.readline().split()
    except (OSError, ValueError) as error:
        raise BynameError("unauthenticated", f"the ticket cannot be read from descriptor {text}: {error}") from error
    if len(halves) != 2 or not all(is_half(half) for half in halves):
        raise BynameError("unauthenticated", f"descriptor {text} does not hold a ticket (two numbers of 64 hexadecimal digits)")
    return Ticket(*halves)


def notify(text: str) -> bool:
    """Sends `text` (`READY=1`, `STOPPING=1`, `STATUS=...`) to NOTIFY_SOCKET as sd_notify(3) does. False when nobody
    asked for it."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return False
    if path[0] not in "/@":
        raise BynameError("invalid-argument", f"NOTIFY_SOCKET must begin with / or @, and it is {path!r}")
    address = "\0" + path[1:] if path[0] == "@" else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.connect(address)
        sender.sendall(text.encode())
    return True


def path_of(name: str) -> str:
    """A name as it stands in a URL: without its first slash, and with `:` and the like percent-encoded."""
    if not name.startswith("/") or name == "/":
        raise BynameError("invalid-name", f"{name!r} is not the full name of a service: it must begin with / and go on")
    return quote(name[1:], safe="/")


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str, timeout: float):
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def connection_to(server: str, timeout_s: float) -> http.client.HTTPConnection:
    """A connection, not yet made, to one entry of BYNAME_SERVER."""
    parts = urlsplit(server)
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme == "unix" and not parts.netloc and parts.path.startswith("/"):
        return UnixConnection(parts.path, timeout_s)
    if parts.scheme == "http" and parts.hostname and port:
        return http.client.HTTPConnection(parts.hostname, port, timeout=timeout_s)
    raise BynameError("invalid-argument", f"BYNAME_SERVER: {server!r} is neither unix:///PATH nor http://HOST:PORT")


def decode(status: int, data: bytes) -> dict:
    """The JSON of a reply; a problem (RFC 9457) is raised with its code."""
    try:
        reply = json.loads(data) if data.strip() else {}
    except ValueError:
        reply = None
    if not isinstance(reply, dict):
        raise BynameError("internal", f"the answer (HTTP {status}) is not a JSON object", status)
    if status >= 400:
        code = reply.get("code") or str(reply.get("type", "")).rstrip("/").rsplit("/", 1)[-1] or "internal"
        raise BynameError(code, reply.get("detail") or reply.get("title") or f"HTTP {status}", status)
    return reply


def is_half(text: str) -> bool:
    return len(text) == 64 and all(c in "0123456789abcdefABCDEF" for c in text)
