"""Put MediaPipe's weights where Detect Pose looks for them: into ComfyUI's models/vitruvian.

ComfyUI-Manager runs this file after it has installed requirements.txt. By hand, run it with the
Python that runs ComfyUI:

    python install.py [FOLDER]

MediaPipe 1.x brings no weights. The package of version 0.10.21 has them, the same for every system:
pip fetches that one file, which is checked by its SHA-256 and not installed. Files that are there
already stay as they are, and an installed MediaPipe that brings its weights needs none. Without a
connection, or without the right to write, this says so in one sentence and may be run again later:
it never ends with an error, so that the installation of the pack goes on.
"""

import hashlib
import os
import runpy
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

PACK = Path(os.path.abspath(__file__)).parent  # as it lies in custom_nodes, be it a link
PACKAGE = "mediapipe==0.10.21"
# one wheel for everybody: the weights in it depend neither on the system nor on Python's version
WHEEL = ("--implementation=cp", "--python-version=3.12", "--platform=manylinux_2_28_x86_64")
WHEEL_SHA256 = "956eb1ebc275c629e61b085b2cab89c3a5b9e93bad1bb107348d98dafb5a4bb5"
NO_PIP = "No module named pip"
UNUSABLE = (OSError, ValueError, LookupError, zipfile.BadZipFile)


def main(arguments: list[str]) -> None:
    """Write the files that are missing, and say in one line what was done or why not."""
    folder = Path(arguments[0]) if arguments else models_folder()
    files = runpy.run_path(str(PACK / "models" / "detectors" / "mediapipe_files.py"))
    missing = [name for name in files["TASKS"] if not (folder / name).is_file()]
    if not missing or brings_weights():
        return
    try:
        with tempfile.TemporaryDirectory() as download, zipfile.ZipFile(fetch(download)) as wheel:
            contents = {
                name: files["assemble"](name, lambda path: wheel.read(f"mediapipe/{path}"))
                for name in missing
            }
        for name, content in contents.items():
            write(folder / name, content)
    except UNUSABLE as error:
        parts = (sys.executable, str(PACK / "install.py"), *arguments)
        again = " ".join(f'"{part}"' if " " in part else part for part in parts)
        say(
            f"Vitruvian is installed, but MediaPipe's weights are not, which Detect Pose needs "
            f"({reason_of(error)}). When that is mended, run: {again}"
        )
    else:
        say(f"Vitruvian: put MediaPipe's weights into {folder}: {', '.join(missing)}")


def models_folder() -> Path:
    """Find the folder `vitruvian` of ComfyUI's models, or else of this pack's own weights.

    The pack lies in custom_nodes, beside `models`. Elsewhere ComfyUI-Manager names ComfyUI's folder
    in COMFYUI_PATH. The nodes look into the pack's weights, too, wherever it lies.
    """
    parents = [PACK.parents[1], Path(os.environ.get("COMFYUI_PATH") or PACK)]
    if PACK.parent.name != "custom_nodes":
        parents.pop(0)
    for parent in parents:
        if (parent / "models").is_dir() and parent != PACK:
            return parent / "models" / "vitruvian"
    return PACK / "weights" / "vitruvian"


def brings_weights() -> bool:
    """Tell if the installed MediaPipe has its weights in the package, as those to 0.10.21 do."""
    places = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    weights = "mediapipe/modules/pose_landmark/pose_landmark_full.tflite"
    return any(Path(place, weights).is_file() for place in (*places, *sys.path))


def fetch(folder: str) -> Path:
    """Let pip download the wheel into a folder, as a file. ValueError says why it did not."""
    options = ["--no-deps", "--only-binary=:all:", *WHEEL, f"--dest={folder}"]
    manners = ["--quiet", "--no-input", "--disable-pip-version-check", "--retries=1"]
    for pip in pips():
        command = [sys.executable, *pip, "download", *manners, *options, PACKAGE]
        download = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if NO_PIP not in download.stderr:
            break
    wheels = list(Path(folder).glob("*.whl"))
    if download.returncode or not wheels:
        lines = [line for line in download.stderr.splitlines() if line and "WARNING" not in line]
        reason = lines[-1].removeprefix("ERROR: ") if lines else "no answer"
        raise ValueError(f"pip could not fetch {PACKAGE}: {reason}")
    if hashlib.sha256(wheels[0].read_bytes()).hexdigest() != WHEEL_SHA256:
        raise ValueError(f"the file that pip fetched for {PACKAGE} is damaged or another one")
    return wheels[0]


def pips() -> list[list[str]]:
    """List what runs pip: the installed one, and the one that Python brings to install it from."""
    bundled = Path(sysconfig.get_path("stdlib"), "ensurepip", "_bundled")
    return [["-m", "pip"], *([str(wheel / "pip")] for wheel in bundled.glob("pip-*.whl"))]


def write(path: Path, content: bytes) -> None:
    """Write a file that appears complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def reason_of(error: Exception) -> str:
    """Say in words why it did not work."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, (LookupError, zipfile.BadZipFile)):
        return f"the package {PACKAGE} does not hold what it should: {error}"
    return str(error)


def say(text: str) -> None:
    """Write one line, whatever letters the console knows."""
    encoding = sys.stdout.encoding or "ascii"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
