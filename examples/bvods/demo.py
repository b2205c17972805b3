#!/usr/bin/env python3
"""The video-on-demand system of the paper, found, used, killed and found again by name.

    python3 examples/bvods/demo.py --byname target/release/byname

Starts a name server of its own in a temporary folder, and stops everything again. Ends with status 0 when all that is
told was so, and otherwise with 1, the reason and the end of the server's log.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Optional
from urllib.parse import quote

HERE = Path(__file__).resolve().parent
sys.dont_write_bytecode = True
sys.path[:0] = [str(HERE), str(HERE.parent)]

import catalogue  # noqa: E402
from byname_client import Byname, BynameError, Found, fetch_at  # noqa: E402
from demo_server import END_S_MAX, Failure, Server, alive, check, end_processes_of, ms_since, processes, processes_of, tail, wait_until  # noqa: E402
from narration import Screen  # noqa: E402

QS, VMGR, CACHE, VFS1, VFS2 = "/BVODS/QS", "/BVODS/VMGR", "/BVODS/CACHE", "/BVODS/VFS1/CMS", "/BVODS/VFS2/CMS"
ALIASES = {VFS1: "/CMS/Host1", VFS2: "/CMS/Host2"}
READY = {QS: "advertise", VFS1: "http", VFS2: "http", CACHE: "port", VMGR: "notify"}
AT_ONCE = 50
AGAIN_MS_MAX = 10.0  # a find of a running service, over HTTP on the unix socket
STALE_MS_MAX = 250.0  # so long may a killed process be named after its end


def main() -> int:
    parser = argparse.ArgumentParser(description="Finds, uses, kills and finds again the services of a video-on-demand system.")
    parser.add_argument("--byname", required=True, type=Path, help="the byname binary")
    args = parser.parse_args()
    say = Screen()
    binary = shutil.which(args.byname) or shutil.which(args.byname.resolve())
    if binary is None:
        return say.refuse(f"{args.byname} is not a program: build it first (cargo build), or give another with --byname")
    if shutil.which("redis-server") is None:
        return say.refuse("redis-server is not in PATH, and the demo starts it by name: apt-get install redis-server")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("demo: ended by SIGTERM"))
    folder = Path(tempfile.mkdtemp(prefix="byname-demo-")).resolve()
    demo = Demo(say, Server(os.path.abspath(binary), folder))
    try:
        demo.run()
        say.good("Everything was as told.")
        return 0
    except (Failure, BynameError, OSError, ValueError, LookupError) as error:
        say.bad(f"Not as told: {error if isinstance(error, (Failure, BynameError)) else repr(error)}")
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

    def __init__(self, say: Screen, server: Server):
        self.say = say
        self.server = server
        self.found: dict = {}  # name -> Found, where each service is now
        self.seen: dict = {}  # pid -> pidfd of every program that was found
        self.rows = {name: Row(ready) for name, ready in READY.items()}
        self.facts: list = []

    def run(self) -> None:
        begun = time.monotonic()
        self.chapter_server()
        self.chapter_first_find()
        self.chapter_kill()
        self.chapter_chain()
        self.chapter_at_once()
        self.chapter_restart()
        self.chapter_end()
        self.summary(time.monotonic() - begun)

    # The chapters.

    def chapter_server(self) -> None:
        self.say.chapter("A name server, and the tree of the paper's figure 4")
        self.say.command("byname dev --data DIR --listen 127.0.0.1:0")
        ready_ms = self.server.start()
        self.say.line("ready", ms=ready_ms)
        self.facts.append(("byname dev, from exec to ready", f"{ready_ms:.0f} ms"))
        self.cli("apply", "-f", str(HERE), shown="byname apply -f examples/bvods")
        self.say.quote(self.cli("list", "/BVODS/**", shown="byname list '/BVODS/**'"))
        listed = set(self.cli("list", "/{BVODS,CMS}/**", "-o", "name").split())
        missing = ({*READY, *ALIASES.values()}) - listed
        check(not missing, f"the list lacks {', '.join(sorted(missing))}")

    def chapter_first_find(self) -> None:
        self.say.chapter("The first find of a name starts what it names")
        for name, row in self.rows.items():
            found, row.first_ms = self.find(name)
            self.say.line(f"find {name}", f"pid {found.pid} at {found.host_port}", row.first_ms)
            self.use(name)
            row.again_ms = self.find_again(name)
            self.say.line("  find again, median of 5", "the same process", row.again_ms)
        for alias, target in ALIASES.items():
            check(self.find(target)[0].pid == self.found[alias].pid, f"{target} and its alias {alias} are not the same process", alias)
        self.say.line("/CMS/Host1 and /CMS/Host2 are the same processes as their aliases")
        told = json.loads(self.cli("find", "-o", "json", QS, shown=f"byname find -o json {QS}"))
        instance = told["instances"][0]
        same = (instance["pid"], instance["endpoints"][0]["port"]) == (self.found[QS].pid, self.found[QS].port)
        check(same, f"the command line found {instance}, and HTTP found {self.found[QS]}", QS)
        self.say.line("the command line gives the same pid and port")

    def chapter_kill(self) -> None:
        self.say.chapter("kill -9, and the next find starts it anew")
        for name, row in self.rows.items():
            old = self.found[name].pid
            self.kill(name)
            found, row.anew_ms, stale = self.find_other(name, old)
            late = f" ({stale} answers still named the dead one)" if stale else ""
            self.say.line(f"kill -9 {old}; find {name}", f"pid {found.pid} at {found.host_port}{late}", row.anew_ms)
            self.use(name)

    def chapter_chain(self) -> None:
        self.say.chapter("A started program finds, and so starts, the ones that it needs")
        old = {name: self.found[name].pid for name in (QS, VFS1, VFS2)}
        self.stop(QS, *ALIASES.values())
        begun = time.monotonic()
        where = locate(self.found[VMGR], "film-002")
        self.say.line("ask VMGR for film-002: it finds all three", "", ms_since(begun))
        check(where["available"], f"VMGR cannot locate film-002: {where}", VMGR)
        for name in old:
            check(self.find(name, start=False)[0].pid != old[name], f"{name} was stopped and has its old pid", name)
        self.say.line("all three run again", ", ".join(f"pid {self.found[name].pid}" for name in old))

    def chapter_at_once(self) -> None:
        self.say.chapter(f"{AT_ONCE} finds at once of a stopped service start it once")
        old = self.found[QS].pid
        self.stop(QS)
        starts = self.starts(QS)
        gate = threading.Barrier(AT_ONCE)

        def ask(_: int) -> tuple:
            gate.wait(END_S_MAX)
            begun = time.monotonic()
            return self.client().find(QS), ms_since(begun)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            answers = list(pool.map(ask, range(AT_ONCE)))
        pids = {found.pid for found, _ in answers}
        slowest_ms = max(ms for _, ms in answers)
        check(len(pids) == 1, f"{AT_ONCE} finds at once gave {len(pids)} processes: {sorted(map(str, pids))}", QS)
        check(old not in pids, f"{QS} was stopped, and its old process {old} was found", QS)
        self.remember(QS, answers[0][0])
        copies = copies_of(self.found[QS].pid)
        check(copies == [self.found[QS].pid], f"these processes of {QS} run: {copies}", QS)
        now = self.starts(QS)
        check(starts is None or now == starts + 1, f"{QS} was started {now} times in all, {starts} times before", QS)
        self.say.line(f"{AT_ONCE} answers, the slowest after", f"all of them pid {self.found[QS].pid}", slowest_ms)
        self.use(QS)
        self.facts.append((f"{AT_ONCE} finds at once: processes started", "1"))
        self.facts.append((f"{AT_ONCE} finds at once: the slowest answer", f"{slowest_ms:.0f} ms"))

    def chapter_restart(self) -> None:
        self.say.chapter("kill -9 of Byname itself: the programs go on, and are found again")
        old = {name: self.found[name].pid for name in READY}
        self.server.kill()
        self.say.line("kill -9 of byname")
        for name, pid in old.items():
            check(alive(self.seen[pid]), f"{name} (pid {pid}) ended with Byname", name)
        answer = search(self.found[QS], "harbour")
        self.say.line("all five still run; QS answers without Byname", f"{answer['count']} films")
        ready_ms = self.server.start()
        self.say.line("byname dev on the same data: ready", ms=ready_ms)
        for name, pid in old.items():
            found, ms = self.find(name)
            check(found.pid == pid, f"{name} was pid {pid} and is pid {found.pid}: it was not adopted", name)
            self.say.line(f"find {name}", f"still pid {pid}", ms)
            self.use(name)
        self.facts.append(("byname after kill -9, from exec to ready", f"{ready_ms:.0f} ms"))
        self.facts.append(("programs adopted with their pids", f"{len(old)} of {len(old)}"))

    def chapter_end(self) -> None:
        self.say.chapter("The end")
        self.stop(*(ALIASES.get(name, name) for name in READY))
        status = self.server.terminate()
        check(status == 0, f"byname ended with status {status} after SIGTERM")
        gone = wait_until(lambda: not processes_of(self.server.folder), END_S_MAX)
        check(gone, f"processes are left: {processes_of(self.server.folder)}")
        self.say.line("every program is stopped, byname ended with status 0, no process is left")

    def summary(self, seconds: float) -> None:
        self.say.chapter("Summary")
        table = [("name", "ready by", "first find", "again", "after kill -9", "pids")]
        for name, row in self.rows.items():
            times = (f"{row.first_ms:.0f} ms", f"{row.again_ms:.1f} ms", f"{row.anew_ms:.0f} ms")
            table.append((name, row.ready, *times, " ".join(map(str, row.pids))))
        self.say.table(table, right={2, 3, 4})
        for what, value in [*self.facts, ("the whole demo", f"{seconds:.1f} s")]:
            self.say.line(what, value)

    # Uses: each takes the service's real work and checks what it got.

    def use(self, name: str) -> None:
        {QS: self.use_qs, VMGR: self.use_vmgr, CACHE: self.use_cache}.get(name, self.use_cms)(name)

    def use_qs(self, name: str) -> None:
        begun = time.monotonic()
        answer = search(self.found[name], "harbour")
        expected = sum("harbour" in film.keywords for film in catalogue.films())
        check(answer["count"] == min(expected, 20), f"QS found {answer['count']} films about harbours of {expected}", name)
        title = answer["films"][0]["title"]
        self.say.line("  search for `harbour`", f"{answer['count']} films, the first is “{title}”", ms_since(begun))

    def use_vmgr(self, name: str) -> None:
        begun = time.monotonic()
        where = locate(self.found[name], "film-001")
        check(where["available"], f"VMGR cannot locate film-001: {where}", name)
        services = {part["service"] for part in where["components"]}
        check(services == set(ALIASES.values()), f"VMGR named {services} as the holders of film-001", name)
        parts = ", ".join(f"{part['kind']} at {part['address']}" for part in where["components"])
        self.say.line("  locate film-001", parts, ms_since(begun))

    def use_cms(self, name: str) -> None:
        """Plays a little of a film: the head by a range, then the whole, checked against the catalogue."""
        part = next(part for film in catalogue.films() for part in film.components if part.server == name)
        expected, begun = part.data(), time.monotonic()
        head = fetch_at(self.found[name], f"/media/{part.file}", {"Range": "bytes=0-63"})
        check((head.status, head.body) == (206, expected[:64]), f"{name} sent a wrong range of {part.file} (HTTP {head.status})", name)
        whole = fetch_at(self.found[name], f"/media/{part.file}")
        check((whole.status, len(whole.body)) == (200, len(expected)), f"{name} sent {len(whole.body)} bytes of {len(expected)} (HTTP {whole.status})", name)
        digest = hashlib.sha256(whole.body).hexdigest()
        check(digest == catalogue.digest(expected), f"{name} sent other bytes of {part.file} than the film has", name)
        self.say.line(f"  fetch {part.file}", f"{len(whole.body):,} bytes, sha256 {digest[:12]}… is right", ms_since(begun))

    def use_cache(self, name: str) -> None:
        begun, value = time.monotonic(), os.urandom(8).hex()
        with socket.create_connection((self.found[name].address, self.found[name].port), timeout=10) as link, link.makefile("rb") as replies:
            check(resp(link, replies, "SET", "last-film", value) == "OK", "redis did not take a value", name)
            check(resp(link, replies, "GET", "last-film") == value, "redis gave another value back", name)
        self.say.line("  SET and GET last-film", f"“{value}” came back", ms_since(begun))

    # Tools.

    def client(self) -> Byname:
        return Byname(self.server.url)

    def find(self, name: str, start: bool = True) -> tuple:
        """Finds over HTTP on the unix socket: what was found, and how long it took in ms."""
        begun = time.monotonic()
        try:
            found = self.client().find(name, start)
        except BynameError as error:
            raise Failure(f"find {name}: {error}", name) from error
        ms = ms_since(begun)
        self.remember(name, found)
        return found, ms

    def find_again(self, name: str) -> float:
        """The median of five finds of a running service, which must name the same process."""
        before, times = self.found[name], []
        for _ in range(5):
            found, ms = self.find(name)
            check(found.pid == before.pid, f"{name} was pid {before.pid} and is now pid {found.pid}, without any cause", name)
            times.append(ms)
        median = sorted(times)[2]
        check(median < AGAIN_MS_MAX, f"a find of {name}, which runs, took {median:.1f} ms, and not less than {AGAIN_MS_MAX:.0f} ms", name)
        return median

    def find_other(self, name: str, old: int) -> tuple:
        """Finds a service whose process has just ended: what was found, ms, and how many answers were out of date."""
        begun, stale = time.monotonic(), 0
        while True:
            asked_ms = ms_since(begun)
            try:
                found = self.client().find(name)
            except BynameError as error:
                raise Failure(f"find {name} after kill -9: {error}", name) from error
            if found.pid != old:
                self.remember(name, found)
                return found, ms_since(begun), stale
            check(asked_ms < STALE_MS_MAX, f"{name}: {asked_ms:.0f} ms after its end, find still gives the dead process {old}", name)
            stale += 1

    def remember(self, name: str, found: Found) -> None:
        check(found.pid is not None, f"find {name} gave no pid", name)
        self.found[name] = found
        if name in self.rows and found.pid not in self.rows[name].pids:
            self.rows[name].pids.append(found.pid)
        if found.pid not in self.seen:
            try:
                self.seen[found.pid] = os.pidfd_open(found.pid)
            except ProcessLookupError:
                raise Failure(f"find {name} gave pid {found.pid}, and there is no such process", name) from None

    def kill(self, name: str) -> None:
        """SIGKILL, and waits for the end of the process."""
        handle = self.seen[self.found[name].pid]
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        check(not alive(handle, END_S_MAX), f"{name} did not end by SIGKILL", name)

    def stop(self, *names: str) -> None:
        """`byname stop`, and waits for the ends of the processes."""
        self.cli("stop", *names, shown=f"byname stop {' '.join(names)}")
        back = {target: alias for alias, target in ALIASES.items()}
        for name in (back.get(name, name) for name in names):
            pid = self.found[name].pid
            check(not alive(self.seen[pid], END_S_MAX), f"{name} (pid {pid}) was stopped and still runs", name)

    def starts(self, name: str) -> Optional[int]:
        """How often the service was started in all, if the server tells."""
        shown = self.client().call("GET", f"/v1/names{quote(name)}")
        return (shown.get("status") or {}).get("starts")

    def cli(self, *args: str, shown: str = "") -> str:
        """Runs the command line; `shown` is how the narration writes it."""
        if shown:
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
        if self.server.running():
            try:
                self.server.cli("stop", *(ALIASES.get(name, name) for name in READY))
            except (Failure, OSError):
                pass  # they are killed below
            self.server.terminate()
        for handle in self.seen.values():
            try:
                signal.pidfd_send_signal(handle, signal.SIGKILL)
            except ProcessLookupError:
                pass
            os.close(handle)
        end_processes_of(self.server.folder)


class Row:
    """What the summary tells about one service."""

    def __init__(self, ready: str):
        self.ready = ready
        self.first_ms = self.again_ms = self.anew_ms = 0.0
        self.pids: list = []


def search(at: Found, text: str) -> dict:
    answer = fetch_at(at, f"/search?q={quote(text)}")
    check(answer.status == 200, f"QS answered with HTTP {answer.status}: {answer.body!r}", QS)
    return answer.json()


def locate(at: Found, film: str) -> dict:
    answer = fetch_at(at, f"/locate?film={quote(film)}", timeout_s=60)  # it may have to start three programs
    check(answer.status == 200, f"VMGR answered with HTTP {answer.status}: {answer.body!r}", VMGR)
    return answer.json()


def resp(link: socket.socket, replies, *words: str) -> Optional[str]:
    """One command to redis in its own protocol, RESP2, and its answer."""
    encoded = [word.encode() for word in words]
    link.sendall(b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded))
    line = replies.readline().rstrip(b"\r\n").decode()
    if line.startswith("$"):
        size = int(line[1:])
        return None if size < 0 else replies.read(size + 2)[:-2].decode()
    check(line.startswith("+"), f"redis answered {line!r}", CACHE)
    return line[1:]


def copies_of(pid: int) -> list:
    """The processes that are started from the same name, by the same server, and run the same program."""
    every = processes()
    model = next((one for one in every if one.pid == pid), None)
    check(model is not None, f"pid {pid} ended")

    def same(one: Program) -> bool:
        return one.exe == model.exe and all(one.env.get(key) == model.env.get(key) for key in ("BYNAME_NAME", "BYNAME_SERVER"))

    return sorted(one.pid for one in every if same(one))


if __name__ == "__main__":
    sys.exit(main())
