#!/usr/bin/env python3
"""QS, the query server of BVODS: answers questions about films from an SQLite index over HTTP/JSON.

    GET /search?q=WORDS[&limit=N]   films that have every word (or its beginning) in the title or the keywords
    GET /film?id=ID                 one film with its components: which file server holds which file
    GET /healthz

The index is built on the first start. When Byname started this program it advertises itself with its ticket.
"""

from __future__ import annotations

import os
import re
import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import byname_client
import catalogue
import service

LIMIT_MAX = 100
QUERY_WORDS_MAX = 16

SCHEMA = """
create table film (id text primary key, title text not null, year integer not null, keywords text not null) without rowid;
create table component (film text not null references film, kind text not null, server text not null,
                        file text not null, bytes integer not null, sha256 text not null,
                        primary key (film, kind)) without rowid;
create table word (word text not null, film text not null references film, title integer not null,
                   primary key (word, film)) without rowid;
"""


class Index:
    """The films in SQLite. Each question opens the file for itself, so any number of threads may ask."""

    def __init__(self, path: Path):
        self.path = path
        if not self.is_current():
            self.build()

    def is_current(self) -> bool:
        """Whether the file is whole and of this version of the catalogue."""
        try:
            with closing(self.open()) as db:
                return db.execute("pragma user_version").fetchone()[0] == catalogue.VERSION
        except sqlite3.Error:
            return False

    def build(self) -> None:
        """Builds it beside its place and then moves it there: nobody ever sees half an index."""
        handle, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=".new-")
        os.close(handle)
        try:
            with closing(sqlite3.connect(temporary, isolation_level=None)) as db:
                db.execute("pragma journal_mode = off")
                db.execute("pragma synchronous = off")  # it can be built again at any time
                db.executescript(SCHEMA)
                db.execute("begin")
                for film in catalogue.films():
                    self.add(db, film)
                db.execute("commit")
                db.execute(f"pragma user_version = {catalogue.VERSION:d}")
            os.replace(temporary, self.path)
        except BaseException:
            os.unlink(temporary)
            raise

    @staticmethod
    def add(db: sqlite3.Connection, film: catalogue.Film) -> None:
        db.execute("insert into film values (?, ?, ?, ?)", (film.id, film.title, film.year, " ".join(film.keywords)))
        for part in film.components:
            data = part.data()
            row = (film.id, part.kind, part.server, part.file, len(data), catalogue.digest(data))
            db.execute("insert into component values (?, ?, ?, ?, ?, ?)", row)
        found = {word: 0 for word in film.keywords}
        found.update((word, 1) for word in words(film.title))
        db.executemany("insert into word values (?, ?, ?)", [(word, film.id, title) for word, title in found.items()])

    def open(self) -> sqlite3.Connection:
        db = sqlite3.connect(f"{self.path.resolve().as_uri()}?mode=ro", uri=True)
        db.row_factory = sqlite3.Row
        return db

    def count(self) -> int:
        with closing(self.open()) as db:
            return db.execute("select count(*) from film").fetchone()[0]

    def search(self, asked: list, limit: int) -> list:
        """Films with all of the words, those with more of them in the title first."""
        one = "select film, max(title) as title from word where word >= ? and word < ? group by film"
        sql = f"""select film.*, sum(hit.title) as score,
                         exists (select 1 from component where component.film = film.id) as on_line
                  from ({" union all ".join([one] * len(asked))}) as hit join film on film.id = hit.film
                  group by film.id having count(*) = ? order by score desc, on_line desc, film.id limit ?"""
        bounds = [bound for word in asked for bound in (word, word + "\U0010ffff")]
        with closing(self.open()) as db:
            return [{**film_json(row), "on_line": bool(row["on_line"])} for row in db.execute(sql, (*bounds, len(asked), limit))]

    def film(self, film_id: str) -> dict:
        with closing(self.open()) as db:
            row = db.execute("select * from film where id = ?", (film_id,)).fetchone()
            if row is None:
                raise service.Problem(404, "not-found", f"there is no film {film_id!r}")
            parts = db.execute("select kind, server, file, bytes, sha256 from component where film = ? order by kind desc", (film_id,))
            return {**film_json(row), "components": [dict(part) for part in parts]}


def film_json(row: sqlite3.Row) -> dict:
    return {"id": row["id"], "title": row["title"], "year": row["year"], "keywords": row["keywords"].split()}


def words(text: str) -> list:
    """The words of a text, each once, as they are compared."""
    return list(dict.fromkeys(re.findall(r"\w+", text.casefold())))


def handler(index: Index) -> type:
    class Query(service.Request):
        def answer(self, path: str, query: dict) -> dict:
            if path == "/search":
                asked = words(query.get("q", ""))
                if not 1 <= len(asked) <= QUERY_WORDS_MAX:
                    raise service.Problem(400, "invalid-argument", f"q: give 1 to {QUERY_WORDS_MAX} words to search for")
                films = index.search(asked, limit_of(query))
                return {"query": " ".join(asked), "count": len(films), "films": films}
            if path == "/film":
                return index.film(query.get("id", ""))
            if path in ("/", "/healthz"):
                return {"ok": True, "name": os.environ.get("BYNAME_NAME"), "pid": os.getpid(), "films": index.count()}
            raise service.Problem(404, "not-found", f"there is no {path}: ask for /search?q=, /film?id= or /healthz")

    return Query


def limit_of(query: dict) -> int:
    text = query.get("limit", "20")
    if not text.isdecimal() or not 1 <= int(text[:6]) <= LIMIT_MAX:
        raise service.Problem(400, "invalid-argument", f"limit: must be a number from 1 to {LIMIT_MAX}")
    return int(text[:6])


def advertise(address: str, port: int) -> None:
    """Tells the name server where we are; by hand, without one, there is nobody to tell."""
    if byname_client.launched():
        client = byname_client.Byname(timeout_s=10)
        client.advertise(os.environ["BYNAME_NAME"], [byname_client.endpoint(address, port)])


def main() -> None:
    args = service.arguments("The query server of BVODS.").parse_args()
    try:
        index = Index(service.data_dir(args.data) / "films.sqlite")
    except (OSError, sqlite3.Error) as error:
        sys.exit(f"QS: the index cannot be built: {error}")
    service.serve("QS", args, handler(index), advertise)


if __name__ == "__main__":
    main()
