"""The film library: which films there are, which parts they have, and the parts themselves.

Everything is computed from the tables below with whole numbers, so every process on every machine gets the same bytes.
The query server indexes it, the media sources write their share of it to disk, and the demo checks what it was given
against it.

240 films are known; of the first 12 the parts are on line: the picture on one file server, the sound on the other.
"""

from __future__ import annotations

import hashlib
import io
import struct
import wave
from typing import Iterator, NamedTuple, Tuple

VERSION = 1  # raise it when a film or a byte of a clip changes: indexes and clips of older versions are made anew

WIDTH, HEIGHT, FRAMES, FRAMES_PER_S = 96, 64, 24, 12
RATE_HZ = 8_000
SECONDS = FRAMES // FRAMES_PER_S
ON_LINE = 12

SUBJECTS = [
    ("Tides", "sea water"), ("Bread", "food craft"), ("Lanterns", "light night"), ("Trams", "city transport"),
    ("Bees", "insects nature"), ("Snow", "winter weather"), ("Clocks", "craft time"), ("Kites", "wind play"),
    ("Rivers", "water nature"), ("Trains", "transport steel"), ("Gardens", "plants nature"), ("Markets", "city trade"),
    ("Bridges", "steel city"), ("Storms", "weather wind"), ("Looms", "craft cloth"), ("Orchards", "plants food"),
]
PLACES = [
    ("at the Harbour", "harbour"), ("before Dawn", "morning"), ("in the Valley", "valley"), ("of the North", "north"),
    ("by the Mill", "mill"), ("under Glass", "glass"), ("on the Hill", "hill"), ("after the Rain", "rain"),
    ("beyond the Wall", "wall"), ("across the Plain", "plain"), ("in Slow Motion", "motion"), ("from Above", "aerial"),
    ("without Words", "silent"), ("at Midsummer", "summer"), ("in Black and White", "monochrome"),
]


class Component(NamedTuple):
    """A part of a film. `server` is the name under which BVODS finds the file server that holds it."""

    kind: str  # video | audio
    server: str
    volume: str
    file: str
    seed: int

    def data(self) -> bytes:
        """The whole file."""
        return clip(self.seed) if self.kind == "video" else tone(self.seed)


class Film(NamedTuple):
    """A film. `year` is part of the fiction, as is the rest."""

    id: str
    title: str
    year: int
    keywords: Tuple[str, ...]
    components: Tuple[Component, ...]


def films() -> Iterator[Film]:
    """The library, in a fixed order."""
    for n in range(len(SUBJECTS) * len(PLACES)):
        # 16 and 15 have no common divisor, so that this walks through every pair once.
        subject, subject_words = SUBJECTS[n % len(SUBJECTS)]
        place, place_words = PLACES[n % len(PLACES)]
        film_id = f"film-{n + 1:03}"
        keywords = (*subject_words.split(), *place_words.split())
        yield Film(film_id, f"{subject} {place}", 1950 + n * 7 % 46, keywords, components(film_id, n))


def components(film_id: str, n: int) -> Tuple[Component, ...]:
    """The parts of the n-th film: picture and sound on different file servers, in turn."""
    if n >= ON_LINE:
        return ()
    video, audio = ("1", "2") if n % 2 == 0 else ("2", "1")
    return (
        Component("video", f"/BVODS/VFS{video}/CMS", f"vfs{video}", f"{film_id}.y4m", n),
        Component("audio", f"/BVODS/VFS{audio}/CMS", f"vfs{audio}", f"{film_id}.wav", n),
    )


def volume(name: str) -> list:
    """The components that one file server holds."""
    return [part for film in films() for part in film.components if part.volume == name]


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def clip(seed: int) -> bytes:
    """A picture that moves: diagonal bands that drift, as YUV4MPEG2 4:2:0 (any player shows it)."""
    out = io.BytesIO()
    out.write(b"YUV4MPEG2 W%d H%d F%d:1 Ip A1:1 C420jpeg\n" % (WIDTH, HEIGHT, FRAMES_PER_S))
    step = 2 + seed % 5
    luma = bytes(16 + (x * step % 220) for x in range(1024)) * 2
    chroma = bytes(64 + (x * 3 + seed * 17) % 128 for x in range(512)) * 2
    for frame in range(FRAMES):
        out.write(b"FRAME\n")
        for y in range(HEIGHT):
            at = (seed * 31 + frame * step + y) % 1024
            out.write(luma[at:at + WIDTH])
        for plane in range(2):
            for y in range(HEIGHT // 2):
                at = (seed * 13 + frame * (plane + 1) + y) % 512
                out.write(chroma[at:at + WIDTH // 2])
    return out.getvalue()


def tone(seed: int) -> bytes:
    """A triangle wave that fades, 16 bits mono, as WAV."""
    period = 18 + seed * 3
    samples = []
    for n in range(RATE_HZ * SECONDS):
        phase = n % period
        height = abs(4 * phase - 2 * period) - period  # -period .. period
        samples.append(height * 12_000 // period * (RATE_HZ * SECONDS - n) // (RATE_HZ * SECONDS))
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(struct.pack(f"<{len(samples)}h", *samples))
    return out.getvalue()
