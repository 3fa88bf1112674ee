"""Copies of the pack with a changed file, to prove what follows from one line of code."""

import importlib
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("models", "host", "nodes")


class PackCopy:
    """A copy of what ships, as a package of its own beside `vitruvian`."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name, self.root = name, folder / name
        ignored = shutil.ignore_patterns("__pycache__")
        for room in ROOMS:
            shutil.copytree(ROOT / room, self.root / room, ignore=ignored)
        (self.root / "__init__.py").touch()

    def insert_after(self, file: str, line_start: str, new_line: str) -> None:
        """Insert a line after the only one of a file that starts with `line_start`."""
        path = self.root / file
        lines = path.read_text("utf-8").splitlines()
        (place,) = (i for i, line in enumerate(lines) if line.startswith(line_start))
        path.write_text(
            "\n".join([*lines[: place + 1], new_line, *lines[place + 1 :], ""]), "utf-8"
        )

    def load(self, module: str):
        """Import a module of the copy, such as "models.memory"."""
        if str(self.root.parent) not in sys.path:
            sys.path.insert(0, str(self.root.parent))
        return importlib.import_module(f"{self.name}.{module}")

    def forget(self) -> None:
        """Leave nothing of the copy behind in this process."""
        sys.path.remove(str(self.root.parent))
        for name in [name for name in sys.modules if name.split(".")[0] == self.name]:
            del sys.modules[name]


def with_kimono(folder: Path) -> PackCopy:
    """Copy the pack and add a garment class, kimono, which is one line of one file."""
    copy = PackCopy(folder, "vitruvian_with_kimono")
    copy.insert_after(
        "models/semantic_map.py",
        "TIE = ",
        'KIMONO = _add("kimono", (0, 0, 85), shape=Shape.DRESS)',
    )
    return copy
