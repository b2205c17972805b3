"""The programs of BVODS one by one, against a small name server of our own: `python3 -m unittest -v test_bvods`."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import re
import select
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import unittest
import wave
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from pathlib import Path
from unittest import mock
from urllib.parse import unquote

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import byname_client  # noqa: E402
import catalogue  # noqa: E402
import cms  # noqa: E402
import service  # noqa: E402

PROGRAM_HALF, SERVER_HALF = "ab" * 32, "0f" * 32
WAIT_S = 20


class NameServer:
    """A name server that knows what it was told. `proof` is what it answers to an advertisement."""

    def __init__(self, folder: Path):
        self.endpoints: dict = {}
        self.advertised: list = []
        self.finds: list = []
        self.proof = hashlib.sha256(bytes.fromhex(SERVER_HALF)).hexdigest()
        self.told = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                path, _, query = self.path.partition("?")
                name = unquote(path[len("/v1/find"):])
                outer.finds.append((name, query))
                if name not in outer.endpoints:
                    return self.reply(404, {"type": "about:blank", "status": 404, "code": "not-found", "detail": f"there is no {name}"})
                address, port = outer.endpoints[name]
                at = {"protocol": "tcp", "address": address, "port": port}
                self.reply(200, {"name": name, "instances": [{"id": "i1", "pid": 7, "state": "running", "endpoints": [at]}]})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.advertised.append((unquote(self.path), body))
                if body["ticket"] != PROGRAM_HALF:
                    return self.reply(403, {"type": "about:blank", "status": 403, "code": "denied", "detail": "wrong ticket"})
                self.reply(200, {"proof": outer.proof, "credential": "c0ffee"})
                outer.told.set()

            def reply(self, status, body):
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json" if status < 400 else "application/problem+json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def address_string(self):
                return "test"

            def log_message(self, *_):
                pass

        class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
            daemon_threads = True

        self.url = f"unix://{folder}/names.sock"
        self.server = Server(f"{folder}/names.sock", Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class Case(unittest.TestCase):
    """A temporary folder, a name server, and programs that are ended with the test."""

    def setUp(self):
        # Not TMPDIR: a unix socket's path has little room.
        self.folder = Path(tempfile.mkdtemp(prefix="bvods-test-", dir="/tmp"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.names = NameServer(self.folder)
        self.addCleanup(self.names.close)

    def start(self, script: str, *args: str, env: dict | None = None, pass_fds: tuple = ()) -> subprocess.Popen:
        """A program on a port of its own choice."""
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("BYNAME_", "NOTIFY_")) and key != "PORT"}
        process = subprocess.Popen(
            [sys.executable, "-B", str(HERE / script), "--port", "0", "--data", str(self.folder / "data"), *args],
            env={**clean, "BYNAME_SERVER": self.names.url, **(env or {})},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, pass_fds=pass_fds,
        )
        self.addCleanup(self.end, process)
        return process

    def end(self, process: subprocess.Popen) -> None:
        with process:
            if process.poll() is None:
                process.kill()

    def run_at(self, name: str, script: str, *args: str, **more) -> int:
        """Starts a program, waits until it listens, enters it under `name`, and returns its port."""
        process = self.start(script, *args, **more)
        self.assertTrue(select.select([process.stdout], [], [], WAIT_S)[0], f"{script} does not start")
        line = process.stdout.readline()
        match = re.search(r"listening on (\S+):(\d+)$", line.strip())
        self.assertIsNotNone(match, f"{script} said {line!r}")
        self.names.endpoints[name] = (match[1], int(match[2]))
        return int(match[2])

    def get(self, port: int, path: str, headers: dict | None = None, method: str = "GET"):
        """Status, headers and body of one request."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
        with contextlib.closing(connection):
            connection.request(method, path, headers=headers or {})
            response = connection.getresponse()
            return response.status, response.headers, response.read()

    def get_json(self, port: int, path: str):
        status, _, body = self.get(port, path)
        return status, json.loads(body)


class QueryServer(Case):
    def test_search_finds_films_by_the_beginning_of_every_word(self):
        port = self.run_at("/BVODS/QS", "query_server.py")
        status, answer = self.get_json(port, "/search?q=HARB%20tid")
        self.assertEqual(status, 200)
        self.assertEqual([film["title"] for film in answer["films"]], ["Tides at the Harbour"])
        self.assertTrue(answer["films"][0]["on_line"])
        self.assertEqual(self.get_json(port, "/search?q=harbour+zebra")[1]["films"], [])
        by_keyword = self.get_json(port, "/search?q=insects&limit=5")[1]["films"]
        self.assertEqual(len(by_keyword), 5)
        self.assertTrue(all("insects" in film["keywords"] for film in by_keyword))

    def test_a_film_names_its_components_and_their_true_digests(self):
        port = self.run_at("/BVODS/QS", "query_server.py")
        status, film = self.get_json(port, "/film?id=film-002")
        expected = next(film for film in catalogue.films() if film.id == "film-002")
        self.assertEqual((status, film["title"]), (200, expected.title))
        self.assertEqual(
            {part["kind"]: (part["server"], part["sha256"]) for part in film["components"]},
            {part.kind: (part.server, catalogue.digest(part.data())) for part in expected.components},
        )
        self.assertEqual({part["server"] for part in film["components"]}, {"/BVODS/VFS1/CMS", "/BVODS/VFS2/CMS"})

    def test_bad_questions_are_problems_that_name_the_field(self):
        port = self.run_at("/BVODS/QS", "query_server.py")
        for path, status, code, word in [
            ("/search?q=", 400, "invalid-argument", "q:"),
            ("/search?q=a&limit=0", 400, "invalid-argument", "limit:"),
            ("/search?q=a&limit=many", 400, "invalid-argument", "limit:"),
            ("/search?q=" + "+".join(f"w{n}" for n in range(17)), 400, "invalid-argument", "q:"),
            ("/film?id=%27%3B--", 404, "not-found", "film"),
            ("/nothing", 404, "not-found", "/search"),
        ]:
            got, problem = self.get_json(port, path)
            self.assertEqual((got, problem["code"]), (status, code), path)
            self.assertIn(word, problem["detail"])

    def test_a_damaged_index_is_built_again(self):
        (self.folder / "data").mkdir()
        (self.folder / "data/films.sqlite").write_bytes(b"no database" * 100)
        port = self.run_at("/BVODS/QS", "query_server.py")
        self.assertEqual(self.get_json(port, "/healthz")[1]["films"], len(list(catalogue.films())))

    def test_it_advertises_itself_with_the_ticket_from_the_descriptor(self):
        with ticket(f"{PROGRAM_HALF} {SERVER_HALF}\n") as fd:
            env = {"BYNAME_NAME": "/BVODS/QS", "BYNAME_INSTANCE": "i42", "BYNAME_TICKET_FD": str(fd)}
            port = self.run_at("/BVODS/QS", "query_server.py", env=env, pass_fds=(fd,))
        at = {"protocol": "tcp", "address": "127.0.0.1", "port": port}
        self.assertEqual(
            self.names.advertised,
            [("/v1/services/BVODS/QS:advertise", {"ticket": PROGRAM_HALF, "instance": "i42", "endpoints": [at]})],
        )

    def test_it_ends_when_the_server_cannot_prove_itself(self):
        self.names.proof = "00" * 32
        self.refused(f"{PROGRAM_HALF} {SERVER_HALF}\n", "does not prove")

    def test_it_ends_when_its_ticket_is_wrong(self):
        self.refused(f"{'cd' * 32} {SERVER_HALF}\n", "denied: wrong ticket")
        self.refused("half a ticket\n", "does not hold a ticket")

    def refused(self, text: str, why: str) -> None:
        with ticket(text) as fd:
            env = {"BYNAME_NAME": "/BVODS/QS", "BYNAME_INSTANCE": "i42", "BYNAME_TICKET_FD": str(fd)}
            process = self.start("query_server.py", env=env, pass_fds=(fd,))
        out, err = process.communicate(timeout=WAIT_S)
        self.assertEqual(process.returncode, 1, out)
        self.assertIn(why, err)
        self.assertNotIn(SERVER_HALF, out + err)

    def test_sigterm_ends_it_with_status_0(self):
        process = self.start("query_server.py")
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(WAIT_S), 0)


class MediaSource(Case):
    def setUp(self):
        super().setUp()
        self.port = self.run_at("/BVODS/VFS1/CMS", "cms.py", "--volume", "vfs1")
        self.part = catalogue.volume("vfs1")[0]
        self.data = self.part.data()
        self.path = f"/media/{self.part.file}"

    def test_a_file_comes_whole_and_head_sends_no_body(self):
        status, headers, body = self.get(self.port, self.path)
        self.assertEqual((status, body), (200, self.data))
        self.assertEqual((headers["Accept-Ranges"], headers["Content-Type"]), ("bytes", "video/x-yuv4mpeg"))
        status, headers, body = self.get(self.port, self.path, method="HEAD")
        self.assertEqual((status, headers["Content-Length"], body), (200, str(len(self.data)), b""))

    def test_ranges(self):
        size = len(self.data)
        for text, start, end in [
            ("bytes=0-0", 0, 0),
            ("bytes=100-299", 100, 299),
            (f"bytes={size - 5}-", size - 5, size - 1),
            ("bytes=-7", size - 7, size - 1),
            (f"bytes=-{size * 2}", 0, size - 1),
            (f"bytes=10-{size * 2}", 10, size - 1),
        ]:
            status, headers, body = self.get(self.port, self.path, {"Range": text})
            self.assertEqual((status, headers["Content-Range"]), (206, f"bytes {start}-{end}/{size}"), text)
            self.assertEqual(body, self.data[start:end + 1], text)

    def test_ranges_that_are_none_are_ignored_and_those_outside_are_refused(self):
        for text in ["bytes=5-2", "bytes=-", "lines=1-2", "bytes=0-1,5-6", "bytes=a-b"]:
            self.assertEqual(self.get(self.port, self.path, {"Range": text})[0], 200, text)
        for text in [f"bytes={len(self.data)}-", "bytes=-0"]:
            status, headers, body = self.get(self.port, self.path, {"Range": text})
            self.assertEqual((status, headers["Content-Range"], body), (416, f"bytes */{len(self.data)}", b""), text)

    def test_if_range_gives_the_whole_file_when_it_changed(self):
        etag = self.get(self.port, self.path)[1]["ETag"]
        self.assertEqual(self.get(self.port, self.path, {"Range": "bytes=0-9", "If-Range": etag})[0], 206)
        self.assertEqual(self.get(self.port, self.path, {"Range": "bytes=0-9", "If-Range": '"old"'})[0], 200)

    def test_the_list_is_what_is_served_and_nothing_else_is(self):
        listing = self.get_json(self.port, "/list")[1]
        self.assertEqual([one["file"] for one in listing["files"]], [part.file for part in catalogue.volume("vfs1")])
        for one in listing["files"]:
            self.assertEqual(hashlib.sha256(self.get(self.port, one["path"])[2]).hexdigest(), one["sha256"])
        for path in ["/media/../../films.sqlite", "/media/%2e%2e/%2e%2e/etc/passwd", "/media/", f"/media/{catalogue.volume('vfs2')[0].file}"]:
            self.assertEqual(self.get(self.port, path)[0], 404, path)

    def test_a_damaged_file_is_made_again(self):
        folder = self.folder / "data/vfs1"
        made = cms.prepare(folder, "vfs1")
        for name, damage in [(self.part.file, b"torn"), ("manifest.json", b'{"version": 1'), ("manifest.json", b"[]")]:
            (folder / name).write_bytes(damage)
            self.assertEqual(cms.prepare(folder, "vfs1"), made)
            self.assertEqual((folder / self.part.file).read_bytes(), self.data)
        (folder / self.part.file).unlink()
        self.assertEqual(cms.prepare(folder, "vfs1"), made)
        self.assertTrue((folder / self.part.file).exists())


class Catalogue(unittest.TestCase):
    def test_the_volumes_share_out_the_parts_of_the_films_on_line(self):
        one, two = ({part.file for part in catalogue.volume(name)} for name in ("vfs1", "vfs2"))
        self.assertEqual(len(one | two), 2 * catalogue.ON_LINE)
        self.assertFalse(one & two)
        self.assertEqual({Path(file).suffix for file in one}, {".y4m", ".wav"})

    def test_clips_are_what_they_say(self):
        picture = catalogue.clip(3)
        header, _, rest = picture.partition(b"\n")
        self.assertTrue(header.startswith(b"YUV4MPEG2 W96 H64 F12:1 "))
        self.assertEqual(len(rest), catalogue.FRAMES * (len(b"FRAME\n") + catalogue.WIDTH * catalogue.HEIGHT * 3 // 2))
        with wave.open(BytesIO(catalogue.tone(3))) as sound:
            self.assertEqual((sound.getnchannels(), sound.getframerate()), (1, catalogue.RATE_HZ))
            self.assertEqual(sound.getnframes(), catalogue.RATE_HZ * catalogue.SECONDS)
        self.assertNotEqual(catalogue.clip(3), catalogue.clip(4))


class Manager(Case):
    def setUp(self):
        super().setUp()
        self.port = self.run_at("/BVODS/VMGR", "vmgr.py")
        self.run_at("/BVODS/QS", "query_server.py")
        self.run_at("/BVODS/VFS1/CMS", "cms.py", "--volume", "vfs1", env={"BYNAME_NAME": "/CMS/Host1"})

    def test_locate_says_where_every_part_is(self):
        second = self.run_at("/BVODS/VFS2/CMS", "cms.py", "--volume", "vfs2", env={"BYNAME_NAME": "/CMS/Host2"})
        status, answer = self.get_json(self.port, "/locate?film=film-001")
        self.assertEqual((status, answer["available"]), (200, True))
        video, audio = answer["components"]
        self.assertEqual((video["kind"], video["service"]), ("video", "/CMS/Host1"))
        self.assertEqual((audio["kind"], audio["service"], audio["address"]), ("audio", "/CMS/Host2", f"127.0.0.1:{second}"))
        body = self.get(second, audio["path"])[2]
        self.assertEqual((len(body), hashlib.sha256(body).hexdigest()), (audio["bytes"], audio["sha256"]))

    def test_a_part_whose_server_is_unknown_is_not_available_and_says_why(self):
        answer = self.get_json(self.port, "/locate?film=film-001")[1]
        self.assertEqual([part["available"] for part in answer["components"]], [True, False])
        self.assertFalse(answer["available"])
        self.assertIn("not-found", answer["components"][1]["reason"])

    def test_a_server_that_died_is_looked_for_again(self):
        self.names.endpoints["/BVODS/VFS2/CMS"] = ("127.0.0.1", closed_port())
        before = len(self.names.finds)
        answer = self.get_json(self.port, "/locate?film=film-001")[1]
        self.assertIn("unavailable", answer["components"][1]["reason"])
        self.assertEqual(sum(name == "/BVODS/VFS2/CMS" for name, _ in self.names.finds[before:]), 3)

    def test_a_server_without_the_part_is_told_apart(self):
        self.names.endpoints["/BVODS/VFS2/CMS"] = self.names.endpoints["/BVODS/VFS1/CMS"]
        answer = self.get_json(self.port, "/locate?film=film-001")[1]
        self.assertIn("does not have film-001.wav", answer["components"][1]["reason"])

    def test_films_that_are_not_on_line_or_not_known(self):
        status, answer = self.get_json(self.port, "/locate?film=film-200")
        self.assertEqual((status, answer["available"], answer["components"]), (200, False, []))
        self.assertEqual(self.get_json(self.port, "/locate?film=film-999")[0], 404)
        self.assertEqual(self.get_json(self.port, "/locate")[0], 400)

    def test_it_says_that_it_is_ready_on_notify_socket(self):
        for at in (str(self.folder / "notify"), "\0" + str(self.folder / "abstract")):
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
                receiver.bind(at)
                receiver.settimeout(WAIT_S)
                process = self.start("vmgr.py", env={"NOTIFY_SOCKET": at.replace("\0", "@")})
                self.assertEqual(receiver.recv(100), b"READY=1")
                process.stdout.readline()
                process.terminate()
                self.assertEqual(receiver.recv(100), b"STOPPING=1")


class Client(Case):
    def test_find_gives_the_first_endpoint_and_escapes_the_name(self):
        self.names.endpoints["/a b/x:y"] = ("127.0.0.1", 81)
        client = byname_client.Byname(self.names.url)
        found = client.find("/a b/x:y", start=False)
        self.assertEqual((found.host_port, found.pid, found.instance), ("127.0.0.1:81", 7, "i1"))
        self.assertEqual(self.names.finds, [("/a b/x:y", "start=false")])

    def test_a_problem_is_an_exception_with_its_code(self):
        with self.assertRaises(byname_client.BynameError) as caught:
            byname_client.Byname(self.names.url).find("/none")
        self.assertEqual((caught.exception.code, caught.exception.status), ("not-found", 404))

    def test_servers_are_tried_in_order(self):
        self.names.endpoints["/x"] = ("127.0.0.1", 81)
        servers = f"unix:///nonexistent/sock, http://127.0.0.1:{closed_port()},{self.names.url}"
        self.assertEqual(byname_client.Byname(servers).find("/x").port, 81)
        with self.assertRaises(byname_client.BynameError) as caught:
            byname_client.Byname("unix:///nonexistent/sock").find("/x")
        self.assertEqual(caught.exception.code, "unavailable")

    def test_bad_servers_and_names_say_what_is_wrong(self):
        for servers in ["tcp://localhost:1", "unix://relative", "http://no-port", "http://h:port"]:
            with self.assertRaisesRegex(byname_client.BynameError, "BYNAME_SERVER"):
                byname_client.Byname(servers).find("/x")
        with mock.patch.dict(os.environ, clear=True), self.assertRaisesRegex(byname_client.BynameError, "BYNAME_SERVER"):
            byname_client.Byname()
        with self.assertRaisesRegex(byname_client.BynameError, "invalid-name"):
            byname_client.Byname(self.names.url).find("x")

    def test_advertise_keeps_the_credential_only_from_the_true_server(self):
        client = byname_client.Byname(self.names.url)
        mine = byname_client.Ticket(PROGRAM_HALF, SERVER_HALF)
        at = [byname_client.endpoint("127.0.0.1", 1)]
        self.assertEqual(client.advertise("/x", at, mine), "c0ffee")
        for proof in ["", "é", SERVER_HALF, hashlib.sha256(SERVER_HALF.encode()).hexdigest()]:
            self.names.proof, other = proof, byname_client.Byname(self.names.url)
            with self.assertRaises(byname_client.ImpostorError):
                other.advertise("/x", at, mine)
            self.assertIsNone(other.credential)

    def test_a_ticket_is_read_once_and_is_not_shown(self):
        with ticket(f"{PROGRAM_HALF} {SERVER_HALF}\n") as fd, mock.patch.dict(os.environ, BYNAME_TICKET_FD=str(os.dup(fd))):
            mine = byname_client.inherited_ticket()
            self.assertEqual(mine.server, SERVER_HALF)
            self.assertNotIn(SERVER_HALF, repr(mine) + str(mine))
            with self.assertRaisesRegex(byname_client.BynameError, "read before"):
                byname_client.inherited_ticket()

    def test_notify_does_nothing_unasked_and_refuses_a_bad_address(self):
        with mock.patch.dict(os.environ):
            os.environ.pop("NOTIFY_SOCKET", None)
            self.assertFalse(byname_client.notify("READY=1"))
            os.environ["NOTIFY_SOCKET"] = "relative"
            with self.assertRaisesRegex(byname_client.BynameError, "NOTIFY_SOCKET"):
                byname_client.notify("READY=1")


class Files(unittest.TestCase):
    def test_the_tree_is_the_paper_s_and_its_programs_are_here(self):
        try:
            import tomllib
        except ImportError:
            self.skipTest("needs tomllib of Python 3.11")
        tree = tomllib.loads((HERE / "bvods.toml").read_text())
        services = {name for name, one in tree.items() if one["kind"] == "service"}
        self.assertEqual(services, {"/BVODS/QS", "/BVODS/VMGR", "/CMS/Host1", "/CMS/Host2", "/BVODS/CACHE"})
        aliases = {name: one["target"] for name, one in tree.items() if one["kind"] == "alias"}
        self.assertEqual(aliases, {"/BVODS/VFS1/CMS": "/CMS/Host1", "/BVODS/VFS2/CMS": "/CMS/Host2"})
        self.assertEqual({tree[name]["launch"]["ready"] for name in services}, {"advertise", "notify", "http", "port"})
        for name in services:
            for argument in tree[name]["launch"]["command"]:
                self.assertTrue(not argument.startswith("./") or (HERE / argument).is_file(), argument)

    def test_a_default_data_folder_of_somebody_else_is_refused(self):
        with tempfile.TemporaryDirectory() as folder, mock.patch.object(tempfile, "gettempdir", return_value=folder):
            own = service.data_dir(None)
            self.assertEqual((own.name, own.stat().st_mode & 0o777), (f"bvods-{os.getuid()}", 0o700))
            own.rmdir()
            own.symlink_to("/tmp")
            with self.assertRaisesRegex(SystemExit, "belongs to somebody else"):
                service.data_dir(None)


@contextlib.contextmanager
def ticket(text: str):
    """The reading end of a pipe that holds a ticket."""
    reader, writer = os.pipe()
    try:
        os.write(writer, text.encode())
        os.close(writer)
        yield reader
    finally:
        os.close(reader)


def closed_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    unittest.main()
