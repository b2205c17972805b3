"""Where PostgreSQL's programs are. Debian keeps them out of the path, in a folder for each major version."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Optional

DEBIAN = Path("/usr/lib/postgresql")


def program(name: str, version: Optional[str] = None) -> Optional[Path]:
    """The newest program of that name, or the one of a major version such as `15`; what is in the path counts when
    there is none in Debian's folders. None when it is not installed."""
    found = [path for path in DEBIAN.glob(f"*/bin/{name}") if version in (None, path.parts[-3])]
    if found:
        return max(found, key=lambda path: [int(part) if part.isdecimal() else -1 for part in path.parts[-3].split(".")])
    in_path = shutil.which(name)
    return Path(in_path).resolve() if in_path else None
