#!/usr/bin/env python3
"""VMGR, the manager of BVODS: knows where the parts of a film can be had at this moment.

    GET /locate?film=ID    for each component the machine, the address and the path, or why it is not available
    GET /healthz

It asks the query server what the film consists of, and each file server whether it has the part. It reaches all of them
by their names only, so asking it starts whatever is not running.
"""

from __future__ import annotations

import os
from urllib.parse import quote

import byname_client
import service

QS = "/BVODS/QS"


def locate(client: byname_client.Byname, film_id: str) -> dict:
    """Where the parts of a film are."""
    answer = client.fetch(QS, f"/film?id={quote(film_id, safe='')}")
    if answer.status == 404:
        raise service.Problem(404, "not-found", f"there is no film {film_id!r}")
    if answer.status != 200:
        raise service.Problem(502, "unavailable", f"{QS} answered with HTTP {answer.status}")
    film = answer.json()
    parts = [component(client, part) for part in film["components"]]
    return {
        "film": film["id"],
        "title": film["title"],
        "available": bool(parts) and all(part["available"] for part in parts),
        "components": parts,
    }


def component(client: byname_client.Byname, part: dict) -> dict:
    """One part: where it is, if its file server has it whole."""
    out = {"kind": part["kind"], "server": part["server"], "file": part["file"], "available": False}
    try:
        answer = client.fetch(part["server"], "/list")
    except byname_client.BynameError as error:
        return {**out, "reason": str(error)}
    if answer.status != 200:
        return {**out, "reason": f"{part['server']} answered with HTTP {answer.status}"}
    listing = answer.json()
    held = next((one for one in listing["files"] if one["file"] == part["file"]), None)
    if held is None:
        return {**out, "reason": f"{part['server']} does not have {part['file']}"}
    if (held["bytes"], held["sha256"]) != (part["bytes"], part["sha256"]):
        return {**out, "reason": f"{part['server']} has another {part['file']} than the index knows"}
    return {
        **out,
        "available": True,
        "service": listing["name"] or answer.found.name,
        "machine": answer.found.computer or answer.found.address,
        "address": answer.found.host_port,
        "path": held["path"],
        "bytes": held["bytes"],
        "sha256": held["sha256"],
    }


class Manager(service.Request):
    def answer(self, path: str, query: dict) -> dict:
        if path == "/locate":
            if not query.get("film"):
                raise service.Problem(400, "invalid-argument", "film: say which one, as in /locate?film=film-001")
            return locate(byname_client.Byname(), query["film"])
        if path in ("/", "/healthz"):
            return {"ok": True, "name": os.environ.get("BYNAME_NAME"), "pid": os.getpid()}
        raise service.Problem(404, "not-found", f"there is no {path}: ask for /locate?film= or /healthz")


def main() -> None:
    args = service.arguments("The manager of BVODS.").parse_args()
    service.serve("VMGR", args, Manager, lambda address, port: byname_client.notify("READY=1"))


if __name__ == "__main__":
    main()
