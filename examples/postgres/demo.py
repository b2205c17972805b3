#!/usr/bin/env python3
"""A database and a page that run only while somebody uses them, woken by plain `psql` and `curl`.

    python3 examples/postgres/demo.py --byname target/release/byname

Starts a name server of its own in a temporary folder, and stops everything again. Ends with status 0 when all that is
told was so, and otherwise with 1, the reason and the end of the server's log.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Optional

HERE = Path(__file__).resolve().parent
sys.dont_write_bytecode = True
sys.path[:0] = [str(HERE), str(HERE.parent)]

import installation  # noqa: E402
from demo_server import END_S_MAX, Failure, Server, alive, check, end_processes_of, ms_since, processes_of, tail, wait_until  # noqa: E402
from narration import Screen  # noqa: E402

DB, PAGE = "/db/postgres", "/web/visits"
# What postgres.toml says, and the demo says otherwise.
DB_SOCKET, PAGE_SOCKET, DATA, IDLE = "127.0.0.1:5433", "127.0.0.1:8433", "~/.local/state/byname-postgres", '"1m"'
IDLE_S = 3
AT_ONCE = 300
ANSWER_S_MAX = 60
PROGRAMS = ("postgres.py", "visits.py", "installation.py")
STEM = "byname-demo-"


def main() -> int:
    parser = argparse.ArgumentParser(description="Wakes a database and a page by psql and curl, and lets them stop again.")
    parser.add_argument("--byname", required=True, type=Path, help="the byname binary")
    args = parser.parse_args()
    say = Screen()
    binary = shutil.which(args.byname) or shutil.which(args.byname.resolve())
    if binary is None:
        return say.refuse(f"{args.byname} is not a program: build it first (cargo build), or give another with --byname")
    for program, package in (("postgres", "postgresql"), ("psql", "postgresql-client"), ("curl", "curl")):
        if installation.program(program) is None:
            return say.refuse(f"`{program}` is not installed: apt-get install {package}")
    try:
        user = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
    except KeyError:
        return say.refuse("you are root, as whom PostgreSQL refuses to run, and there is no user `postgres`: be another user")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("demo: ended by SIGTERM"))
    folder = Path(tempfile.mkdtemp(prefix=STEM)).resolve()
    demo = Demo(say, Server(os.path.abspath(binary), folder), user)
    try:
        demo.run()
        say.good("Everything was as told.")
        return 0
    except (Failure, OSError, ValueError, LookupError, subprocess.SubprocessError) as error:
        say.bad(f"Not as told: {error if isinstance(error, Failure) else repr(error)}")
        demo.explain(error)
        return 1
    except KeyboardInterrupt:
        say.bad("Interrupted.")
        return 130
    finally:
        demo.clean_up()
        shutil.rmtree(folder, ignore_errors=True)


class Demo:
    """The story, chapter by chapter."""

    def __init__(self, say: Screen, server: Server, user: Optional[pwd.struct_passwd]):
        self.say = say
        self.server = server
        self.user = user  # whom the programs run as, when it is not us
        self.psql_program = shutil.which("psql") or str(installation.program("psql"))
        self.db_port, self.page_port = free_ports(2)
        self.url = f"postgresql://guest@127.0.0.1:{self.db_port}/guest"
        self.sessions: list = []
        self.facts: list = []

    def run(self) -> None:
        begun = time.monotonic()
        self.chapter_declare()
        self.chapter_psql()
        self.chapter_idle()
        self.chapter_again()
        self.chapter_chain()
        self.chapter_at_once()
        self.chapter_restart()
        self.chapter_end()
        self.say.chapter("Summary")
        for what, value in [*self.facts, ("the whole demo", f"{time.monotonic() - begun:.1f} s")]:
            self.say.line(what, value)

    # The chapters.

    def chapter_declare(self) -> None:
        self.say.chapter("A database and a page are declared, and nothing runs")
        files = self.prepare()
        self.say.command("byname dev --data DIR --listen 127.0.0.1:0")
        self.say.line("ready", ms=self.server.start())
        self.cli("apply", "-f", str(files), shown="byname apply -f examples/postgres")
        if self.user:
            self.say.line(f"(as root the programs run as the user {self.user.pw_name}, which the launch names)")
        self.say.quote(self.cli("status", "/{db,web}/**", shown="byname status '/{db,web}/**'"))
        for name, port in ((DB, self.db_port), (PAGE, self.page_port)):
            check(self.state(name) == "stopped" and self.starts(name) == 0, f"{name} is {self.state(name)}, and nobody asked for it", name)
            check(wait_until(lambda: listens(port), END_S_MAX), f"nobody listens on the stable socket of {name}", name)
        self.say.line("both are stopped, and both stable sockets listen", f"ports {self.db_port} and {self.page_port}")

    def chapter_psql(self) -> None:
        self.say.chapter("Plain psql wakes the database")
        made_ms = self.psql("CREATE TABLE notes (text text); INSERT INTO notes VALUES ('kept'); SELECT 'made'", "made", "the very first, which makes the cluster")
        session = self.open_session()  # while it is open the database is not idle
        pid, starts = self.pid(DB), self.starts(DB)
        warm_ms = self.psql("SELECT text FROM notes", "kept", "the second")
        check((self.pid(DB), self.starts(DB)) == (pid, starts), f"{DB} was started again for the second psql", DB)
        self.say.line("both were served by one process", f"pid {pid}")
        session.close()
        self.facts += [("psql, the very first (makes the cluster)", ms_text(made_ms)), ("psql, while the database runs", ms_text(warm_ms))]

    def chapter_idle(self) -> None:
        self.say.chapter(f"After {IDLE_S} s without a connection it is gone, and its port still listens")
        took_ms = self.until_stopped(DB)
        self.say.line("stopped after the last session's end", ms=took_ms)
        check(took_ms >= IDLE_S * 900, f"{DB} was stopped {took_ms:.0f} ms after its last connection, before the {IDLE_S} s were over", DB)
        self.say.quote(self.cli("status", DB, shown=f"byname status {DB}"))
        story = self.cli("why", DB, shown=f"byname why {DB}")
        self.say.quote(story)
        check("idle" in story, f"`byname why {DB}` does not say that it was idle", DB)
        check(wait_until(lambda: not self.postgres_runs(), END_S_MAX), f"{DB} is stopped, and PostgreSQL still runs", DB)
        check(listens(self.db_port), f"nobody listens on the stable socket of {DB}", DB)
        self.say.line("no PostgreSQL runs, the stable socket listens")

    def chapter_again(self) -> None:
        self.say.chapter("The next psql finds the data")
        starts = self.starts(DB)
        cold_ms = self.psql("SELECT text FROM notes", "kept", "while it was stopped")
        check(self.starts(DB) == starts + 1, f"{DB} was started {self.starts(DB) - starts} times for one psql", DB)
        self.say.line("one start, and what was written is there")
        self.facts.append(("psql, while the database is stopped", ms_text(cold_ms)))
        self.until_stopped(DB)

    def chapter_chain(self) -> None:
        self.say.chapter("curl wakes the page, and the page's query wakes the database")
        check(self.state(PAGE) == "stopped" and self.state(DB) == "stopped", "the page or the database runs already")
        before = (self.starts(PAGE), self.starts(DB))
        cold_ms = self.curl("This is visit 1.", "while both are stopped")
        after = (self.starts(PAGE), self.starts(DB))
        check(after == (before[0] + 1, before[1] + 1), f"starts of page and database were {before} before one curl, and {after} after it")
        warm_ms = self.curl("This is visit 2.", "again")
        self.say.line("one start of each; the page serves its socket itself")
        self.until_stopped(PAGE)
        self.until_stopped(DB)
        self.say.line("both are gone again, and both sockets listen")
        for name, port in ((DB, self.db_port), (PAGE, self.page_port)):
            check(listens(port), f"nobody listens on the stable socket of {name}", name)
        self.facts += [("curl, while page and database are stopped", ms_text(cold_ms)), ("curl, while both run", ms_text(warm_ms))]

    def chapter_at_once(self) -> None:
        self.say.chapter(f"{AT_ONCE} clients at once of a stopped database are one start, and all are answered")
        starts = self.starts(DB)
        gate = threading.Barrier(AT_ONCE)

        def ask(number: int) -> tuple:
            gate.wait(END_S_MAX)
            begun = time.monotonic()
            # The sleep keeps all connections open at once.
            answer = query(self.db_port, f"SELECT {number}, pg_postmaster_start_time(), pg_sleep(0.2)")
            return number, answer, ms_since(begun)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            answers = list(pool.map(ask, range(AT_ONCE)))
        wrong = [number for number, answer, _ in answers if answer[0] != str(number)]
        check(not wrong, f"{len(wrong)} of {AT_ONCE} clients got the answer of somebody else", DB)
        servers = {answer[1] for _, answer, _ in answers}
        check(len(servers) == 1, f"{len(servers)} PostgreSQLs answered: {servers}", DB)
        check(self.starts(DB) == starts + 1, f"{DB} was started {self.starts(DB) - starts} times", DB)
        slowest_ms = max(ms for _, _, ms in answers)
        self.say.line(f"{AT_ONCE} answers of one PostgreSQL, the slowest after", "one start", slowest_ms)
        self.facts.append((f"{AT_ONCE} clients while it is stopped, the slowest", ms_text(slowest_ms)))

    def chapter_restart(self) -> None:
        self.say.chapter("kill -9 of Byname: a session goes on, and new ones are served when it is back")
        session = self.open_session()
        backend, pid, starts = session.ask("SELECT pg_backend_pid()"), self.pid(DB), self.starts(DB)
        session.tell("CREATE TEMPORARY TABLE mine AS SELECT 42 AS answer")
        self.say.line("a psql session is open, with a temporary table", f"served by pid {backend}")
        self.server.kill()
        self.say.line("kill -9 of byname")
        begun = time.monotonic()
        check(session.ask("SELECT answer FROM mine") == "42", "the session lost its temporary table", DB)
        self.say.line("the session answers while Byname is away", "42", ms_since(begun))
        ready_ms = self.server.start()
        self.say.line("byname dev on the same data: ready", ms=ready_ms)
        self.psql("SELECT text FROM notes", "kept", "a new one")
        check((session.ask("SELECT pg_backend_pid()"), session.ask("SELECT answer FROM mine")) == (backend, "42"), "the session is not the same any more", DB)
        check((self.pid(DB), self.starts(DB)) == (pid, starts), f"{DB} was pid {pid} and is pid {self.pid(DB)}: it was not adopted", DB)
        self.say.line("the session goes on, the database kept its process", f"pid {pid}")
        session.close()
        self.until_stopped(DB)
        self.say.line("and when nobody uses it, the new Byname stops it")
        self.facts.append(("byname after kill -9, from exec to ready", ms_text(ready_ms)))

    def chapter_end(self) -> None:
        self.say.chapter("The end")
        self.cli("delete", "--stop", PAGE, DB, shown=f"byname delete --stop {PAGE} {DB}")
        for port in (self.page_port, self.db_port):
            check(wait_until(lambda: not listens(port), END_S_MAX), f"port {port} still listens after its service was deleted")
        status = self.server.terminate()
        check(status == 0, f"byname ended with status {status} after SIGTERM")
        gone = wait_until(lambda: not processes_of(self.server.folder), END_S_MAX)
        check(gone, f"processes are left: {processes_of(self.server.folder)}")
        self.say.line("both sockets are closed, byname ended with status 0, no process is left")

    # Tools.

    def prepare(self) -> Path:
        """The example with the demo's ports, data and times put in; the folder of it. Root's programs run as another
        user, who must be able to read them and to keep the data."""
        files, data = self.server.folder / "files", self.server.folder / "cluster"
        files.mkdir()
        data.mkdir(mode=0o700)
        text = (HERE / "postgres.toml").read_text()
        for old, new in (
            (DB_SOCKET, f"127.0.0.1:{self.db_port}"), (PAGE_SOCKET, f"127.0.0.1:{self.page_port}"), (DATA, str(data)), (IDLE, f'"{IDLE_S}s"'),
        ):
            check(old in text, f"postgres.toml does not say {old}")
            text = text.replace(old, new)
        if self.user:
            text = text.replace("start_timeout", f'user          = "{self.user.pw_name}"\nstart_timeout')
            os.chown(data, self.user.pw_uid, self.user.pw_gid)
            self.server.folder.chmod(0o711)
            files.chmod(0o755)
        (files / "postgres.toml").write_text(text)
        for program in PROGRAMS:
            shutil.copyfile(HERE / program, files / program)
            (files / program).chmod(0o755)
        return files

    def psql(self, sql: str, expected: str, shown: str) -> float:
        """A psql of its own for a query, on the stable socket; how long it took in ms."""
        begun = time.monotonic()
        done = subprocess.run([self.psql_program, "-XqAt", self.url, "-c", sql], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=ANSWER_S_MAX)
        ms = ms_since(begun)
        check(done.returncode == 0, f"psql ended with status {done.returncode}: {done.stderr.strip()}", DB)
        check(done.stdout.strip() == expected and not done.stderr, f"psql gave {done.stdout!r} {done.stderr!r}, and not {expected!r}", DB)
        self.say.line(f"psql, {shown}", expected, ms)
        return ms

    def curl(self, expected: str, shown: str) -> float:
        begun = time.monotonic()
        command = ["curl", "-sS", "--noproxy", "*", "--max-time", str(ANSWER_S_MAX), f"http://127.0.0.1:{self.page_port}/"]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=ANSWER_S_MAX + 5)
        ms = ms_since(begun)
        check(done.returncode == 0, f"curl ended with status {done.returncode}: {done.stderr.strip()}", PAGE)
        check(done.stdout.strip() == expected, f"the page says {done.stdout!r}, and not {expected!r}", PAGE)
        self.say.line(f"curl, {shown}", expected, ms)
        return ms

    def open_session(self) -> Session:
        session = Session([self.psql_program, "-XqAt", "-v", "ON_ERROR_STOP=1", self.url])
        self.sessions.append(session)
        session.ask("SELECT 1")
        return session

    def until_stopped(self, name: str) -> float:
        """Waits until the service has stopped for want of use; ms from now."""
        begun = time.monotonic()
        stopped = wait_until(lambda: self.state(name) == "stopped", IDLE_S + END_S_MAX)
        check(stopped, f"{name} is {self.state(name)} {IDLE_S + END_S_MAX:.0f} s after its last connection", name)
        return ms_since(begun)

    def postgres_runs(self) -> bool:
        """Whether any process works in the cluster."""
        return bool(processes_of(self.server.folder / "cluster"))

    def status(self, name: str) -> dict:
        return json.loads(self.server.cli("show", "-o", "json", name)).get("status") or {}

    def state(self, name: str) -> str:
        return self.status(name).get("state", "")

    def starts(self, name: str) -> int:
        """How often the service was started in all."""
        return self.status(name).get("starts") or 0

    def pid(self, name: str) -> Optional[int]:
        instances = self.status(name).get("instances") or []
        check(len(instances) == 1, f"{name} has {len(instances)} copies, and should have one", name)
        return instances[0].get("pid")

    def cli(self, *args: str, shown: str) -> str:
        """Runs the command line; `shown` is how the narration writes it."""
        self.say.command(shown)
        return self.server.cli(*args)

    def explain(self, error: Exception) -> None:
        """What an operator would look at."""
        name = getattr(error, "name", None)
        if name and self.server.running():
            for command in (["why", name], ["logs", name]):
                try:
                    self.say.quote(tail(self.server.cli(*command)), title=f"byname {' '.join(command)}")
                except (Failure, OSError) as other:
                    self.say.quote(str(other), title=f"byname {' '.join(command)}")
        log = self.server.log.read_text(errors="replace") if self.server.log.exists() else ""
        self.say.quote(tail(log) or "(empty)", title="the end of the server's log")

    def clean_up(self) -> None:
        """Whatever happened: none of our processes stays."""
        for session in self.sessions:
            session.kill()
        if self.server.running():
            try:
                self.server.cli("delete", "--stop", PAGE, DB)
            except (Failure, OSError):
                pass  # they were deleted, or are killed below
            self.server.terminate()
        end_processes_of(self.server.folder)


class Session:
    """A psql that stays open, and is told one query after another."""

    def __init__(self, command: list):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0)

    def tell(self, sql: str) -> None:
        self.process.stdin.write(f"{sql};\n".encode())

    def ask(self, sql: str) -> str:
        """The one line that a query gives."""
        self.tell(sql)
        line, until = b"", time.monotonic() + ANSWER_S_MAX
        while not line.endswith(b"\n"):
            ready = select.select([self.process.stdout], [], [], max(0.0, until - time.monotonic()))[0]
            check(bool(ready), f"an open psql did not answer within {ANSWER_S_MAX} s", DB)
            piece = os.read(self.process.stdout.fileno(), 4096)
            check(bool(piece), f"an open psql ended: {line.decode(errors='replace')!r}", DB)
            line += piece
        return line.decode(errors="replace").strip()

    def close(self) -> None:
        """Ends it in order."""
        self.process.stdin.close()
        status = self.process.wait(END_S_MAX)
        check(status == 0, f"an open psql ended with status {status}", DB)

    def kill(self) -> None:
        """Whatever state it is in."""
        if self.process.poll() is None:
            self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            pipe.close()
        self.process.wait()


def query(port: int, sql: str) -> list:
    """The columns of the one row that a query gives, by PostgreSQL's own protocol (version 3): a hundred clients that
    are threads come at once, and a hundred psqls would come one after another."""
    with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_S_MAX) as link, link.makefile("rb") as replies:
        hello = struct.pack("!i", 3 << 16) + b"user\0guest\0database\0guest\0\0"
        link.sendall(struct.pack("!i", 4 + len(hello)) + hello)
        columns, asked = [], False
        while True:
            head = replies.read(5)
            check(len(head) == 5, "the connection was closed before the answer", DB)
            kind, size = struct.unpack("!ci", head)
            body = replies.read(size - 4)
            check(kind != b"E", f"PostgreSQL refused: {body.decode(errors='replace')}", DB)
            if kind == b"D":
                columns = row_of(body)
            elif kind == b"Z" and asked:
                link.sendall(b"X" + struct.pack("!i", 4))
                return columns
            elif kind == b"Z":
                text, asked = sql.encode() + b"\0", True
                link.sendall(b"Q" + struct.pack("!i", 4 + len(text)) + text)


def row_of(body: bytes) -> list:
    """The columns of a DataRow, as text."""
    (count,), at, columns = struct.unpack_from("!h", body), 2, []
    for _ in range(count):
        (size,) = struct.unpack_from("!i", body, at)
        columns.append(body[at + 4:at + 4 + max(size, 0)].decode())
        at += 4 + max(size, 0)
    return columns


def free_ports(count: int) -> list:
    """Ports of 127.0.0.1 on which nobody listens."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def listens(port: int) -> bool:
    """Whether somebody listens on the port of 127.0.0.1. Who connects to find out would wake the service."""
    place = "{:08X}:{:04X}".format(struct.unpack("=I", socket.inet_aton("127.0.0.1"))[0], port)
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return any(row[1] == place and row[3] == "0A" for row in rows)


def ms_text(ms: float) -> str:
    return f"{ms:,.0f} ms"


if __name__ == "__main__":
    sys.exit(main())
