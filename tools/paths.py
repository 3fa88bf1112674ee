"""Where things are: this checkout, and what the tools keep in the user's cache."""

import hashlib
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vitruvian"
PINS = ROOT / "tests" / "requirements.txt"
WORKFLOWS = ROOT / "workflows" / "api"
EXAMPLE_IMAGES = ROOT / "workflows" / "images"


def digest(*texts: str) -> str:
    """Hash texts to ten hexadecimal digits, for the name of a folder."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:10]
