#!/usr/bin/env python3
"""CMS, the continuous media source of one host: serves the media files of its volume over HTTP.

    GET /media/FILE    the bytes; `Range: bytes=A-B` gives a part (RFC 9110 section 14)
    GET /list          what there is: file, kind, bytes, sha256
    GET /healthz

The files are made on the first start. A player seeks by asking for ranges.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import NamedTuple, Optional, Tuple

import catalogue
import service

TYPES = {".y4m": "video/x-yuv4mpeg", ".wav": "audio/x-wav"}
CHUNK_BYTES = 64 * 1024


class Media(NamedTuple):
    """One file of the volume."""

    path: Path
    kind: str
    size: int
    sha256: str


def prepare(folder: Path, volume: str) -> dict:
    """The volume's files by name. They are made when there are none of this version, or when one is damaged; a
    manifest, written last, tells what was made, so that a later start only has to compare."""
    manifest = folder / "manifest.json"
    try:
        told = json.loads(manifest.read_text())
        files = {name: Media(folder / name, *rest) for name, rest in told["files"].items()}
        if told["version"] == catalogue.VERSION and all(is_whole(media) for media in files.values()):
            return files
    except (FileNotFoundError, ValueError, LookupError, TypeError, AttributeError):
        pass  # there is none, or it is damaged
    files = {}
    for part in catalogue.volume(volume):
        data = part.data()
        service.put_file(folder / part.file, data)
        files[part.file] = Media(folder / part.file, part.kind, len(data), catalogue.digest(data))
    told = {"version": catalogue.VERSION, "files": {name: media[1:] for name, media in files.items()}}
    service.put_file(manifest, json.dumps(told).encode())
    return files


def is_whole(media: Media) -> bool:
    return catalogue.digest(media.path.read_bytes()) == media.sha256


def byte_range(text: Optional[str], size: int) -> Optional[Tuple[int, int]]:
    """First and last byte of the one range that is asked for. None when the whole file is to be sent: no range, a unit
    or form that we do not know, or several ranges, all of which a server may ignore."""
    match = re.fullmatch(r"bytes=\s*(\d{0,18})-(\d{0,18})\s*", text or "", re.ASCII)
    if match is None or match.group(0).count("-") != 1 or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if first == "":  # the last N bytes
        start, end = max(0, size - int(last)), size - 1
    else:
        start, end = int(first), min(int(last), size - 1) if last else size - 1
        if last and int(last) < int(first):
            return None  # not a valid range, so as if there were none
    if start >= size or start > end:
        raise service.Problem(416, "invalid-argument", f"Range: the file has {size} bytes")
    return start, end


def handler(files: dict, volume: str) -> type:
    class MediaSource(service.Request):
        def answer(self, path: str, query: dict) -> Optional[dict]:
            if path.startswith("/media/"):
                media = files.get(path[len("/media/"):])  # only what is in the table, so no path leads elsewhere
                if media is None:
                    raise service.Problem(404, "not-found", f"volume {volume} has no {path[len('/media/'):]!r}")
                return self.send_media(media)
            if path == "/list":
                return {
                    "name": os.environ.get("BYNAME_NAME"),
                    "volume": volume,
                    "files": [
                        {"file": name, "kind": m.kind, "path": f"/media/{name}", "bytes": m.size, "sha256": m.sha256}
                        for name, m in files.items()
                    ],
                }
            if path in ("/", "/healthz"):
                return {"ok": True, "name": os.environ.get("BYNAME_NAME"), "pid": os.getpid(), "volume": volume, "files": len(files)}
            raise service.Problem(404, "not-found", f"there is no {path}: ask for /media/FILE, /list or /healthz")

        def send_media(self, media: Media) -> None:
            etag = f'"{media.sha256[:32]}"'
            wanted = self.headers.get("Range") if self.headers.get("If-Range", etag) == etag else None
            with open(media.path, "rb") as source:
                try:
                    part = byte_range(wanted, media.size)
                except service.Problem as problem:
                    return self.refuse_range(problem, media.size)
                start, end = part or (0, media.size - 1)
                self.send_response(206 if part else 200)
                self.send_header("Content-Type", TYPES.get(media.path.suffix, "application/octet-stream"))
                self.send_header("Content-Length", str(end - start + 1))
                self.send_header("Accept-Ranges", "bytes")
                self.send_header("ETag", etag)
                if part:
                    self.send_header("Content-Range", f"bytes {start}-{end}/{media.size}")
                self.end_headers()
                if self.command == "HEAD":
                    return
                source.seek(start)
                left = end - start + 1
                while left > 0:
                    chunk = source.read(min(left, CHUNK_BYTES))
                    if not chunk:  # the file was cut while we sent it: a short answer must not pass for a whole one
                        self.close_connection = True
                        return
                    self.wfile.write(chunk)
                    left -= len(chunk)

        def refuse_range(self, problem: service.Problem, size: int) -> None:
            self.send_response(problem.status)
            self.send_header("Content-Range", f"bytes */{size}")
            self.send_header("Content-Length", "0")
            self.end_headers()

    return MediaSource


def main() -> None:
    parser = service.arguments("The continuous media source of one host.")
    parser.add_argument("--volume", required=True, choices=["vfs1", "vfs2"], help="which volume this host has")
    args = parser.parse_args()
    folder = service.data_dir(args.data, args.volume)
    try:
        files = prepare(folder, args.volume)
    except OSError as error:
        sys.exit(f"CMS {args.volume}: the media cannot be written: {error} ({shutil.disk_usage(folder).free} bytes are free)")
    service.serve(f"CMS {args.volume}", args, handler(files, args.volume), lambda address, port: None)


if __name__ == "__main__":
    main()
