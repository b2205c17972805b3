"""The narration of the demos: aligned, coloured on a terminal, plain in a pipe."""

from __future__ import annotations

import os
import sys
from typing import Optional


class Screen:
    """Standard output, chapter by chapter."""

    WIDE = 46

    def __init__(self):
        self.colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        self.chapters = 0
        sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show a letter is no reason to end

    def chapter(self, text: str) -> None:
        self.chapters += 1
        self.out(f"\n{self.paint('1;36', f'{self.chapters}  {text}')}")

    def command(self, text: str) -> None:
        self.out(f"   {self.paint('2', '$ ' + text)}")

    def line(self, what: str, result: str = "", ms: Optional[float] = None) -> None:
        """One thing that happened: what, how long it took, what came of it."""
        taken = "" if ms is None else f"{ms:,.1f} ms" if ms < 100 else f"{ms:,.0f} ms"
        text = f"   {what:<{self.WIDE}} {self.paint('1;32', f'{taken:>9}')}  {result}"
        self.out(text.rstrip() if taken or result else f"   {what}")

    def quote(self, text: str, title: str = "") -> None:
        if title:
            self.out(f"   {self.paint('1', title + ':')}")
        for one in text.rstrip().splitlines():
            self.out(f"   {self.paint('2', '|')} {one}")

    def table(self, rows: list, right: set) -> None:
        widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
        for at, row in enumerate(rows):
            cells = [cell.rjust(width) if n in right else cell.ljust(width) for n, (cell, width) in enumerate(zip(row, widths))]
            text = "  ".join(cells).rstrip()
            self.out("   " + (self.paint("1", text) if at == 0 else text))
        self.out("")

    def good(self, text: str) -> None:
        self.out(f"\n{self.paint('1;32', text)}")

    def bad(self, text: str) -> None:
        self.out(f"\n{self.paint('1;31', text)}")

    def refuse(self, text: str) -> int:
        """The demo cannot begin."""
        print(f"demo: {text}", file=sys.stderr)
        return 1

    def paint(self, code: str, text: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self.colour else text

    @staticmethod
    def out(text: str) -> None:
        print(text, flush=True)
