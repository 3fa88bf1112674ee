"""`dev.py fresh`: install the pack as a user does, and let Detect Pose find somebody.

For every version of Python: an environment with the newest packages that ComfyUI requires, and no
MediaPipe; then what ComfyUI-Manager does, `requirements.txt` and `install.py`; then ComfyUI itself
with the archive that the registry publishes. No package that was there may change.
"""

import argparse
import json
import re
import shutil
import subprocess
import tempfile
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

from ...batch.vitruvian_batch.trouble import Trouble
from .. import paths
from ..environments import (
    UNDECLARED,
    again_inside,
    find_version,
    has_packages,
    pins_environment,
    set_up,
    site_packages,
)
from ..examples import sample_photo
from ..hosts import find_host, make_folders

VERSIONS = ("3.10", "3.12", "3.13")
GIGABYTES = 5.0
# of ComfyUI's requirements: large, and not needed to run a workflow
LEFT_OUT = ("comfyui-workflow-templates", "comfyui-embedded-docs")
TORCH = ("torch==", "torchvision==", "torchaudio==")
CUDA = ("nvidia*", "cuda*", "triton-*.dist-info")  # what torch requires and needs a card for
# in what ComfyUI prints; its list of packs and their seconds is no complaint
COMPLAINT = re.compile(r"^(?!.* seconds).*(vitruvian|IMPORT FAILED|Traceback)", re.IGNORECASE)
WORKFLOW: dict[str, Any] = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "photograph.png"}},
    "2": {
        "class_type": "VitruvianDetectPose",
        "inputs": {
            "image": ["1", 0],
            "max_people": 4,
            "min_confidence": 0.5,
            "include_hands": True,
            "if_nobody": "stop with an error",
        },
    },
    "3": {
        "class_type": "VitruvianSavePose",
        "inputs": {"pose": ["2", 0], "filename_prefix": "poses/fresh"},
    },
}


class Answer(NamedTuple):
    """What became of one environment. The lists are those of `pip freeze`."""

    before: list[str]
    after: list[str]
    installed: str  # what install.py said
    people: list[int]  # the number of points of every person that Detect Pose found
    import_seconds: str  # of the pack, as ComfyUI counts them
    complaints: list[str]

    def changed(self) -> list[str]:
        """List the packages that were there and are not, or in another version."""
        return sorted({*self.before} - {*self.after})


def run(options: argparse.Namespace) -> int:
    """Try the versions of Python of the command line; 0 if the pack works in each."""
    if not has_packages():
        again_inside(pins_environment())
    versions = options.pythons or VERSIONS
    absent = [version for version in versions if not find_version(version)]
    if absent:
        raise Trouble(
            f"There is no Python {' and no '.join(absent)} on this machine: install it (pyenv "
            "install does, or the system's packages), or name the versions to try."
        )
    host = find_host(options.host)
    return max([_try(version, host, options.renew) for version in versions])


def _try(version: str, host: Path, renew: bool) -> int:
    """Print what happens with one version of Python; 0 if all is well."""
    python = _users_environment(version, host, renew)
    with tempfile.TemporaryDirectory(prefix="vitruvian-fresh-") as folder:
        answer = _install_and_detect(python, host, Path(folder))
    numpy = next(line for line in answer.after if line.startswith("numpy=="))
    print(f"\nPython {version}, {numpy}, {len(answer.before)} packages before")
    print(f"  added: {', '.join(sorted({*answer.after} - {*answer.before})) or 'nothing'}")
    print(f"  changed: {', '.join(answer.changed()) or 'nothing'}")
    print(f"  install.py: {answer.installed}")
    points = ", ".join(f"{count} points" for count in answer.people)
    print(f"  import of the pack: {answer.import_seconds}")
    print(f"  Detect Pose: {len(answer.people)} people ({points})", flush=True)
    for complaint in answer.complaints:
        print(f"  WRONG: {complaint}")
    return int(bool(answer.complaints or answer.changed() or not answer.people))


# The environment of a user


def _users_environment(version: str, host: Path, renew: bool) -> Path:
    """Set up what ComfyUI requires, its newest versions, and write down what there is.

    Torch has the developers' version: what it needs of CUDA is then shared with them, for that is
    most of the gigabytes.
    """
    lines = (host / "requirements.txt").read_text().splitlines()
    required = [line for line in lines if line and not line.startswith(("#", *LEFT_OUT))]
    pins = [line for line in paths.PINS.read_text().splitlines() if line.startswith(TORCH)]
    packages = [*pins, *(line for line in required if line not in _names(pins)), *UNDECLARED]
    name = f"fresh-{version}-{paths.digest(*packages, str(_cuda()))}"
    if renew:
        shutil.rmtree(paths.CACHE / name, ignore_errors=True)
    python = set_up(name, packages, GIGABYTES, _cuda(), find_version(version))
    before = paths.CACHE / name / "before.txt"
    if not before.exists():
        before.write_text("\n".join(_freeze(python)))
    return python


def _names(pins: list[str]) -> list[str]:
    return [pin.partition("==")[0] for pin in pins]


def _cuda() -> Path | None:
    """Make a folder of links to CUDA in the developers' environment, if it is there."""
    below = site_packages(pins_environment())
    sources = [path for pattern in CUDA for path in below.glob(pattern)]
    folder = paths.CACHE / f"cuda-{paths.digest(str(below))}"
    folder.mkdir(exist_ok=True)
    for source in sources:
        if not (folder / source.name).exists():
            (folder / source.name).symlink_to(source)
    return folder if sources else None


def _freeze(python: Path) -> list[str]:
    command = [str(python), "-m", "pip", "freeze", "--all"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


# The pack in it


def _install_and_detect(python: Path, host: Path, base: Path) -> Answer:
    """Do what ComfyUI-Manager does, then start ComfyUI and detect a pose. base: an empty folder."""
    from ..archive import write_archive

    make_folders(base)
    pack = base / "custom_nodes" / "vitruvian"
    write_archive(base / "node.zip")
    with zipfile.ZipFile(base / "node.zip") as archive:
        archive.extractall(pack)
    before = (python.parent.parent / "before.txt").read_text().splitlines()
    complaints = []
    for line in (["-m", "pip", "install", "-q", "-r", "requirements.txt"], ["install.py"]):
        ran = subprocess.run([str(python), *line], cwd=pack, capture_output=True, text=True)
        if ran.returncode or (ran.stderr and "install.py" in line):
            complaints.append(f"{' '.join(line)}: {ran.returncode} {ran.stderr[-2000:]}")
    if not list((base / "models" / "vitruvian").glob("*.task")):
        complaints.append(f"there are no weights: {ran.stdout}")
    people: list[int] = []
    try:
        people = _detect(python, host, base)
    except Trouble as trouble:
        complaints.append(str(trouble))
    log = (base / "server.log").read_text(errors="replace")
    seconds = re.search(rf"([0-9.]+ seconds).*: {pack}$", log, re.MULTILINE)
    log = log.replace(str(base), "").replace(str(paths.CACHE), "")
    complaints += [line for line in log.splitlines() if COMPLAINT.search(line)]
    import_seconds = seconds[1] if seconds else "unknown"
    return Answer(before, _freeze(python), ran.stdout.strip(), people, import_seconds, complaints)


def _detect(python: Path, host: Path, base: Path) -> list[int]:
    """Detect the pose of a photograph with a running ComfyUI; count the points of every person."""
    from ...batch.vitruvian_batch.host import output_files
    from ..server import Server

    shutil.copyfile(sample_photo(), base / "input" / "photograph.png")
    with Server(python, host, base, "--cpu") as server:
        ((name, subfolder),) = output_files(server.wait(server.queue(WORKFLOW)))
    frames = json.loads((base / "output" / subfolder / name).read_text())
    (frame,) = frames if isinstance(frames, list) else [frames]
    parts = [person["pose_keypoints_2d"] for person in frame["people"]]
    return [sum(confidence > 0 for confidence in part[2::3]) for part in parts]
