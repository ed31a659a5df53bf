"""What stands beside an output: its manifest, and while a folder is being written, its journal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def manifest_path(output: Path) -> Path:
    """Return where the manifest of a file or folder is."""
    return output.with_name(f"{output.name}.manifest.json")


def manifest_of(output: Path) -> dict[str, Any]:
    """Return the manifest beside an output; nothing where there is none, or none that can be read."""
    try:
        found = json.loads(manifest_path(output).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def written_into(folder: Path) -> list[Path]:
    """Return the files that should be in a folder by its manifest; none where there is no sound one."""
    found = manifest_of(folder)
    try:
        names = [entry["name"] for entry in (*found["inputs"], *found["others"]) if "output" in entry]
        return [folder / name for name in names]
    except (LookupError, TypeError):
        return []


def journal_path(folder: Path) -> Path:
    """Return where the journal of a folder is; a folder that has one has not been finished."""
    return folder.with_name(f".{folder.name}.journal")
