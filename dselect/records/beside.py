"""What stands beside an output: its manifest, and while a folder is being written, its journal."""

from __future__ import annotations

from pathlib import Path


def manifest_path(output: Path) -> Path:
    """Return where the manifest of a file or folder is."""
    return output.with_name(f"{output.name}.manifest.json")


def journal_path(folder: Path) -> Path:
    """Return where the journal of a folder is; a folder that has one has not been finished."""
    return folder.with_name(f".{folder.name}.journal")
