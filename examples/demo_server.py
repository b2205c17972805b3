"""What the demos of the examples share: a name server of their own, conditions that are waited for, and the processes
that must not stay behind."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Callable, NamedTuple, Optional

END_S_MAX = 15.0


class Failure(Exception):
    """Something is not as told. `name` is the service that it is about."""

    def __init__(self, why: str, name: Optional[str] = None):
        super().__init__(why)
        self.name = name


class Server:
    """`byname dev` with its data in a folder of ours."""

    def __init__(self, binary: str, folder: Path):
        self.binary = binary
        self.folder = folder
        self.log = folder / "byname.log"
        self.process: Optional[subprocess.Popen] = None
        self.url = ""
        self.env = {key: value for key, value in os.environ.items() if not key.startswith("BYNAME_")}

    def start(self) -> float:
        """Starts it and waits for `ready` on its standard output; ms from the start to there."""
        data, begun = self.folder / "data", time.monotonic()
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [self.binary, "dev", "--data", str(data), "--listen", "127.0.0.1:0"],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, env=self.env, cwd=self.folder,
                start_new_session=True,  # so that ^C reaches us alone, and we clean up in order
            )
        self.wait_ready(begun + END_S_MAX)
        ms = ms_since(begun)
        threading.Thread(target=self.process.stdout.read, daemon=True).start()  # so that it can never block on the pipe
        try:
            told = json.loads((data / "endpoints.json").read_text())["socket"]
        except (OSError, ValueError, KeyError) as error:
            raise Failure(f"byname is ready, and endpoints.json is not: {error!r}") from error
        self.url = told if told.startswith("unix:") else f"unix://{told}"
        self.env["BYNAME_SERVER"] = self.url
        return ms

    def wait_ready(self, until: float) -> None:
        text, pipe = b"", self.process.stdout.fileno()
        while b"ready" not in text.split(b"\n")[:-1]:
            if not select.select([pipe], [], [], max(0.0, until - time.monotonic()))[0]:
                raise Failure(f"byname dev did not say `ready` within {END_S_MAX:.0f} s")
            piece = os.read(pipe, 4096)
            if not piece:
                raise Failure(f"byname dev ended with status {self.process.wait(END_S_MAX)} before it was ready")
            text += piece

    def cli(self, *args: str) -> str:
        """Standard output of a command; Failure when its status is not 0."""
        try:
            done = subprocess.run([self.binary, *args], env=self.env, capture_output=True, text=True, errors="replace", timeout=60)
        except subprocess.TimeoutExpired:
            raise Failure(f"byname {' '.join(args)} took more than 60 s") from None
        if done.returncode != 0:
            raise Failure(f"byname {' '.join(args)} ended with status {done.returncode}: {(done.stderr or done.stdout).strip()}")
        return done.stdout

    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(END_S_MAX)

    def terminate(self) -> int:
        """SIGTERM, then SIGKILL if that is not heeded; the exit status."""
        self.process.terminate()
        try:
            return self.process.wait(END_S_MAX)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.process.returncode


class Program(NamedTuple):
    """A process as /proc shows it."""

    pid: int
    exe: str
    env: dict


def check(good: bool, why: str, name: Optional[str] = None) -> None:
    if not good:
        raise Failure(why, name)


def ms_since(begun: float) -> float:
    return (time.monotonic() - begun) * 1000


def tail(text: str, lines: int = 30) -> str:
    return "\n".join(text.rstrip().splitlines()[-lines:])


def alive(pidfd: int, wait_s: float = 0.0) -> bool:
    """Whether the process runs, after waiting so long for its end."""
    return not select.select([pidfd], [], [], wait_s)[0]


def wait_until(true: Callable[[], bool], seconds: float) -> bool:
    until = time.monotonic() + seconds
    while not true():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def processes() -> list:
    """The processes that we may look into."""
    out = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                pairs = (one.partition("=") for one in (entry / "environ").read_text(errors="replace").split("\0"))
                out.append(Program(int(entry.name), os.readlink(entry / "exe"), {key: value for key, _, value in pairs}))
            except OSError:
                continue  # it has ended, or is not ours
    return out


def processes_of(folder: Path) -> list:
    """The processes, other than this one, that work in the folder or have it in their command line or environment."""
    out, text = [], str(folder)
    for one in processes():
        try:
            line = Path(f"/proc/{one.pid}/cmdline").read_text(errors="replace")
            place = os.readlink(f"/proc/{one.pid}/cwd")
        except OSError:
            continue
        if one.pid != os.getpid() and (text in line or f"{place}/".startswith(f"{text}/") or any(text in value for value in one.env.values())):
            out.append(one.pid)
    return sorted(out)


def end_processes_of(folder: Path) -> None:
    """Gives them a moment to end by themselves, and then kills them."""
    if not wait_until(lambda: not processes_of(folder), 2):
        for pid in processes_of(folder):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
