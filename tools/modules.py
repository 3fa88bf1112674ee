"""The trainers and benchmarks that the lab offers."""

from ..batch.vitruvian_batch.trouble import Trouble
from .paths import ROOT


def modules_with(room: str, function: str) -> dict[str, str]:
    """Map the names of a room's files that have this function to their modules."""
    files = sorted((ROOT / room).glob("*.py"))
    package = f"vitruvian.{room.replace('/', '.')}"
    return {
        file.stem: f"{package}.{file.stem}"
        for file in files
        if f"\ndef {function}(" in file.read_text()
    }


def pick(kind: str, name: str, modules: dict[str, str]) -> str:
    """Return the module of this name. Trouble, with the names that there are, if there is none."""
    if name not in modules:
        raise Trouble(f"There is no {kind} {name}. There are: {', '.join(modules) or 'none yet'}.")
    return modules[name]
