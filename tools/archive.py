"""The archive that the registry publishes, as `comfy node pack` makes it."""

import subprocess
import zipfile
from pathlib import Path

import pathspec  # mypy requires it, so the developers' pins have it

from .paths import ROOT


def tracked_files() -> list[str]:
    """List the files that git tracks, by their paths in the checkout."""
    command = ["git", "-C", str(ROOT), "ls-files"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def archived_files() -> list[str]:
    """List the files of the archive: those that git tracks, without what .comfyignore names."""
    lines = (ROOT / ".comfyignore").read_text(encoding="utf-8").splitlines()
    ignored = pathspec.GitIgnoreSpec.from_lines(lines)
    return [
        file for file in tracked_files() if not ignored.match_file(file) and (ROOT / file).exists()
    ]


def write_archive(path: Path) -> None:
    """Write the archive to `path`, a zip file."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for file in archived_files():
            archive.write(ROOT / file, file)
