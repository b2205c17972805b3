#!/usr/bin/env python3
"""Runs PostgreSQL in the foreground, on a cluster that it makes when there is none.

    postgres.py --data FOLDER --port PORT

The cluster is FOLDER/cluster. Its superuser is whoever runs it, by the unix socket in FOLDER and by no other way. The role
`guest`, which owns the database `guest` and nothing else, needs no password on 127.0.0.1.

SIGTERM and SIGINT end it fast: sessions are ended, nothing that was committed is lost. PostgreSQL itself, when it is
told of NOTIFY_SOCKET, says there when it takes queries.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import installation  # noqa: E402

# Who may come in, from where. Whoever can open a connection on this host's loopback is a guest; a superuser can run
# programs, so nobody is one without being known.
ACCESS = """\
local  all    all                  peer
host   guest  guest  127.0.0.1/32  trust
"""

SETTINGS = """
# Of the example.
max_connections = 500
"""

# The database belongs to the role, so that it can make tables there, in every version of PostgreSQL.
CONTENT = """\
CREATE ROLE guest LOGIN;
CREATE DATABASE guest OWNER guest;
"""

# A unix socket's path has 107 bytes, and ours ends in `/.s.PGSQL.65535`.
FOLDER_BYTES_MAX = 107 - len("/.s.PGSQL.65535")


def main() -> None:
    parser = argparse.ArgumentParser(description="Runs PostgreSQL on a cluster that it makes when there is none.")
    parser.add_argument("--data", required=True, type=lambda text: Path(text).expanduser().absolute(), help="the folder of the cluster")
    parser.add_argument("--port", required=True, type=int, help="the port on 127.0.0.1")
    args = parser.parse_args()
    if os.geteuid() == 0:
        sys.exit(
            "postgres: PostgreSQL refuses to run as root: name a user in the launch, as in "
            f"`byname edit {os.environ.get('BYNAME_NAME', '/db/postgres')} --user postgres`"
        )
    if len(os.fsencode(args.data)) > FOLDER_BYTES_MAX:
        sys.exit(f"postgres: {args.data} is too long for the path of a unix socket: give --data one of {FOLDER_BYTES_MAX} bytes at most")
    try:
        args.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(args.data) as lock:
            cluster = prepare(args.data, lock)
    except OSError as error:
        sys.exit(f"postgres: the data cannot be kept in {args.data}: {error}; give another folder with --data")
    version = (cluster / "PG_VERSION").read_text().strip()
    sys.exit(run([
        str(program("postgres", version)), "-D", str(cluster), "-p", str(args.port),
        "-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={args.data}", "-c", "unix_socket_permissions=0700",
    ]))


def prepare(data: Path, lock: int) -> Path:
    """The cluster, made when it is not there: whole or not at all. The caller holds the lock."""
    cluster, new = data / "cluster", data / "cluster.new"
    if (cluster / "PG_VERSION").exists():
        return cluster
    print(f"postgres: making a cluster in {cluster}", flush=True)
    if new.exists():
        shutil.rmtree(new)  # of a start that was broken off
    initdb = program("initdb")
    step(lock, [initdb, "-D", new, "--locale=C.UTF-8", "--encoding=UTF8", "--auth-local=peer", "--auth-host=reject"])
    (new / "pg_hba.conf").write_text(ACCESS)
    with open(new / "postgresql.conf", "a") as settings:
        settings.write(SETTINGS)
    step(lock, [initdb.with_name("postgres"), "--single", "-D", new, "-c", "exit_on_error=on", "postgres"], CONTENT)
    for path in (new / "pg_hba.conf", new / "postgresql.conf", new):
        sync(path)
    os.rename(new, cluster)
    sync(data)
    return cluster


def step(lock: int, command: list, text: str = "") -> None:
    """One program on the way to a cluster. It holds the lock as well, lest it go on beside a later start."""
    env = {key: value for key, value in os.environ.items() if key != "NOTIFY_SOCKET"}  # nothing is ready yet
    done = subprocess.run(list(map(str, command)), input=text, env=env, pass_fds=(lock,), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        sys.exit(f"{done.stdout.rstrip()}\npostgres: no cluster could be made: {Path(command[0]).name} ended with status {done.returncode}")


def run(command: list) -> int:
    """PostgreSQL, until it ends; its exit status. SIGTERM, which it would take for a request to wait for all sessions
    to end, becomes SIGINT, which ends them."""
    signals = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # PostgreSQL sets a mask of its own
    # In a session of its own, so that only our signals reach it.
    postgres = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    while postgres.poll() is None:
        if signal.sigwait(signals) != signal.SIGCHLD:
            postgres.send_signal(signal.SIGINT)
    return postgres.returncode if postgres.returncode >= 0 else 128 - postgres.returncode


def program(name: str, version: str = "") -> Path:
    """A program of PostgreSQL, of a major version if one is given; ends with a word on what to install."""
    found = installation.program(name, version or None)
    if found is None:
        wanted = f"postgresql-{version}" if version else "postgresql"
        sys.exit(f"postgres: `{name}` of PostgreSQL {version or ''} is not installed: apt-get install {wanted}".replace("  ", " "))
    return found


@contextlib.contextmanager
def locked(data: Path):
    """The lock of the folder, so that two starts do not make the cluster at once; its descriptor."""
    lock = os.open(data / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock
    finally:
        os.close(lock)


def sync(path: Path) -> None:
    """Waits until a file or folder is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


if __name__ == "__main__":
    main()
