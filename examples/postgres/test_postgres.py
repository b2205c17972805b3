"""The programs of the example without Byname: `python3 -m unittest -v test_postgres`."""

from __future__ import annotations

import http.client
import os
import pwd
import re
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import demo  # noqa: E402
import installation  # noqa: E402
import postgres  # noqa: E402
import visits  # noqa: E402

WAIT_S = 60
PROGRAMS = ("postgres.py", "visits.py", "installation.py")


class Case(unittest.TestCase):
    """A temporary folder with the programs and a folder for data, where a user can reach them who may run PostgreSQL."""

    def setUp(self):
        # Not TMPDIR: a unix socket's path has little room.
        self.folder = Path(tempfile.mkdtemp(prefix="pg-test-", dir="/tmp"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.data = self.folder / "data"
        self.data.mkdir(mode=0o700)
        self.user = {}
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            self.user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": [user.pw_gid]}
            self.folder.chmod(0o711)
            os.chown(self.data, user.pw_uid, user.pw_gid)
        for program in PROGRAMS:
            shutil.copyfile(HERE / program, self.folder / program)
            (self.folder / program).chmod(0o755)

    def start(self, script: str, *args: str, env: dict | None = None, **more) -> subprocess.Popen:
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("BYNAME_", "NOTIFY_", "LISTEN_", "PG"))}
        process = subprocess.Popen(
            [self.python(more), "-B", str(self.folder / script), *args], cwd="/", env={**clean, **(env or {})},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more,
        )
        self.addCleanup(self.end, process)
        return process

    @staticmethod
    def python(user: dict) -> str:
        """This very interpreter; for another user, who may be unable to reach it, the first in the path that can be."""
        return "python3" if user else sys.executable

    def end(self, process: subprocess.Popen) -> None:
        """SIGTERM first: a script that was killed could not end what it runs."""
        with process:
            if process.poll() is None:
                process.terminate()
                try:
                    process.communicate(timeout=WAIT_S)
                except subprocess.TimeoutExpired:
                    process.kill()

    def line(self, process: subprocess.Popen) -> str:
        self.assertTrue(select.select([process.stdout], [], [], WAIT_S)[0], "the program says nothing")
        return process.stdout.readline().strip()


class Database(Case):
    def setUp(self):
        super().setUp()
        if installation.program("postgres") is None:
            self.skipTest("PostgreSQL is not installed")
        self.port = demo.free_ports(1)[0]
        self.url = f"postgresql://guest@127.0.0.1:{self.port}/guest"

    def database(self) -> subprocess.Popen:
        """A PostgreSQL that has said that it is ready."""
        at = f"@pg-test-{os.getpid()}-{self.port}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
            receiver.bind(at.replace("@", "\0"))
            receiver.settimeout(WAIT_S)
            process = self.start("postgres.py", "--data", str(self.data), "--port", str(self.port), env={"NOTIFY_SOCKET": at}, **self.user)
            # Read on, so that what it writes can never hold it up.
            self.output = []
            threading.Thread(target=lambda: self.output.extend(process.stdout), daemon=True).start()
            said = ""
            while "READY=1" not in said:
                said += receiver.recv(4096).decode()
        return process

    def stop(self, process: subprocess.Popen) -> int:
        process.terminate()
        return process.wait(WAIT_S)

    def psql(self, sql: str, url: str = "", **more) -> subprocess.CompletedProcess:
        command = [str(installation.program("psql")), "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", url or self.url, "-c", sql]
        return subprocess.run(command, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=WAIT_S, **more)

    def test_it_serves_from_the_moment_that_it_is_ready_ends_fast_and_keeps_its_data(self):
        first = self.database()
        self.assertEqual(self.psql("CREATE TABLE t AS SELECT 'kept' AS x").stderr, "")
        made = self.data.joinpath("cluster").stat().st_ino
        session = demo.Session([str(installation.program("psql")), "-XqAt", self.url])
        self.addCleanup(session.kill)
        self.assertEqual(session.ask("SELECT 1"), "1")
        self.assertEqual(self.stop(first), 0, "it waits for the open session, or was not ended in order")
        self.assertTrue(any("fast shutdown" in line for line in self.output), self.output)
        second = self.database()
        self.assertEqual(self.psql("SELECT x FROM t").stdout, "kept\n")
        self.assertEqual(self.psql("SHOW server_encoding").stdout, "UTF8\n")
        self.assertEqual(self.data.joinpath("cluster").stat().st_ino, made)
        self.assertEqual(self.stop(second), 0)

    def test_a_guest_has_no_power_and_nobody_else_comes_in_over_tcp(self):
        self.database()
        self.assertEqual(self.psql("SELECT usesuper, usecreatedb FROM pg_user WHERE usename = 'guest'").stdout, "f|f\n")
        self.assertIn("permission denied", self.psql("COPY (SELECT 1) TO PROGRAM 'true'").stderr)
        owner = pwd.getpwuid(self.user.get("user", os.getuid())).pw_name
        for user, base in [(owner, "postgres"), ("guest", "postgres"), (owner, "guest")]:
            self.assertIn("no pg_hba.conf entry", self.psql("SELECT 1", f"postgresql://{user}@127.0.0.1:{self.port}/{base}").stderr)
        local = f"postgresql://{owner}@/postgres?host={self.data}&port={self.port}"
        self.assertEqual(self.psql("SELECT current_setting('is_superuser')", local, **self.user).stdout, "on\n")

    def test_what_a_start_left_half_made_is_made_anew(self):
        new = self.data / "cluster.new"
        new.mkdir()
        (new / "PG_VERSION").write_text("15\n")
        if self.user:
            os.chown(new, self.user["user"], self.user["group"])
        self.database()
        self.assertEqual(self.psql("SELECT 1").stdout, "1\n")
        self.assertFalse(new.exists())

    def test_the_page_counts_its_visits_one_by_one(self):
        self.database()
        process = self.start("visits.py", "--database", self.url)
        port = int(re.search(r":(\d+)$", self.line(process))[1])
        with ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(lambda _: get(port, "/"), range(20)))
        self.assertEqual({status for status, _ in answers}, {200})
        self.assertEqual({text for _, text in answers}, {f"This is visit {n}.\n" for n in range(1, 21)})


class Page(Case):
    """Without a database: nobody listens where it looks for one."""

    NOWHERE = "postgresql://guest@127.0.0.1:1/guest"

    def setUp(self):
        super().setUp()
        if installation.program("psql") is None:
            self.skipTest("psql is not installed")

    def test_it_serves_the_socket_that_it_is_handed_and_leaves_it_open(self):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            # LISTEN_PID is the process's own, which a shell knows before it becomes the program.
            shell = f'LISTEN_FDS=1 LISTEN_PID=$$ exec "$@" 3<&{listener.fileno()}'
            process = subprocess.Popen(
                ["sh", "-c", shell, "sh", sys.executable, "-B", str(self.folder / "visits.py"), "--database", self.NOWHERE],
                pass_fds=(listener.fileno(),), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )
            self.addCleanup(self.end, process)
            port = listener.getsockname()[1]
            self.assertEqual(self.line(process), f"visits: serving 127.0.0.1:{port}")
            self.assertEqual(get(port, "/healthz"), (200, "ok\n"))
            process.terminate()
            self.assertEqual(process.wait(WAIT_S), 0)
            # Whoever connects now waits for the next copy.
            with socket.create_connection(("127.0.0.1", port)):
                listener.settimeout(WAIT_S)
                listener.accept()[0].close()

    def test_a_socket_for_another_process_is_not_taken(self):
        process = self.start("visits.py", "--database", self.NOWHERE, env={"LISTEN_FDS": "1", "LISTEN_PID": "1"})
        port = int(re.search(r":(\d+)$", self.line(process))[1])
        self.assertEqual(get(port, "/healthz"), (200, "ok\n"))

    def test_without_a_database_a_visit_is_unavailable_and_the_log_says_why(self):
        process = self.start("visits.py", "--database", self.NOWHERE)
        port = int(re.search(r":(\d+)$", self.line(process))[1])
        self.assertEqual(get(port, "/")[0], 503)
        self.assertIn("was not counted", self.line(process))
        self.assertEqual(get(port, "/nothing")[0], 404)
        self.assertEqual(get(port, "/healthz"), (200, "ok\n"))


class Refusals(Case):
    def test_root_is_told_to_name_a_user(self):
        with mock.patch.object(os, "geteuid", return_value=0):
            self.refused("--user postgres", "--data", str(self.data), "--port", "1")

    def test_a_folder_whose_socket_would_have_no_room_is_refused(self):
        with mock.patch.object(os, "geteuid", return_value=1000):
            self.refused("give --data one of", "--data", str(self.data / ("x" * 90)), "--port", "1")

    def test_a_folder_that_cannot_be_made_is_refused(self):
        (self.folder / "file").write_text("")
        with mock.patch.object(os, "geteuid", return_value=1000):
            self.refused("give another folder", "--data", str(self.folder / "file/data"), "--port", "1")

    def test_a_cluster_of_a_version_that_is_not_installed_says_which(self):
        (self.data / "cluster").mkdir()
        (self.data / "cluster/PG_VERSION").write_text("8\n")
        with mock.patch.object(os, "geteuid", return_value=1000), mock.patch.object(shutil, "which", return_value=None):
            self.refused("apt-get install postgresql-8", "--data", str(self.data), "--port", "1")

    def refused(self, why: str, *args: str) -> None:
        with mock.patch.object(sys, "argv", ["postgres.py", *args]), self.assertRaises(SystemExit) as caught:
            postgres.main()
        self.assertIn(why, str(caught.exception.code))


class Installation(unittest.TestCase):
    def test_the_newest_version_counts_and_a_version_can_be_asked_for(self):
        with tempfile.TemporaryDirectory() as folder, mock.patch.object(installation, "DEBIAN", Path(folder)):
            for version in ("9.6", "13", "9.10", "9"):
                path = Path(folder, version, "bin/postgres")
                path.parent.mkdir(parents=True)
                path.touch()
            self.assertEqual(installation.program("postgres").parts[-3], "13")
            self.assertEqual(installation.program("postgres", "9.6").parts[-3], "9.6")
            with mock.patch.object(shutil, "which", return_value=None):
                self.assertIsNone(installation.program("postgres", "14"))
                self.assertIsNone(installation.program("psql"))


class Files(unittest.TestCase):
    def test_the_tree_is_as_the_demo_and_the_readme_know_it(self):
        text = (HERE / "postgres.toml").read_text()
        for word in (demo.DB_SOCKET, demo.PAGE_SOCKET, demo.DATA, demo.IDLE, demo.DB, demo.PAGE):
            self.assertIn(word, text)
        self.assertEqual(text.count(demo.IDLE), 2)
        try:
            import tomllib
        except ImportError:
            self.skipTest("needs tomllib of Python 3.11")
        tree = tomllib.loads(text)
        self.assertEqual(set(tree), {demo.DB, demo.PAGE})
        for one in tree.values():
            for argument in one["launch"]["command"]:
                self.assertTrue(not argument.startswith("./") or (HERE / argument).is_file(), argument)
        self.assertIn(demo.DB_SOCKET, tree[demo.PAGE]["launch"]["command"][-1])


def get(port: int, path: str) -> tuple:
    """Status and body of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


if __name__ == "__main__":
    unittest.main()
