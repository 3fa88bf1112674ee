"""install.py: MediaPipe's weights come out of one wheel into models/vitruvian, or it says why not.

pip takes the wheel from a folder here, so that nothing needs a connection.
"""

import hashlib
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from vitruvian import install
from vitruvian.models.detectors import mediapipe_files

ROOT = Path(__file__).parents[2]
METADATA = "Metadata-Version: 2.1\nName: mediapipe\nVersion: 0.10.21\n"
WHEEL = "mediapipe-0.10.21-cp312-cp312-manylinux_2_28_x86_64.whl"
RECORD = "mediapipe-0.10.21.dist-info"
NAMES = [*mediapipe_files.TASKS]


@pytest.fixture(scope="module")
def package():
    mediapipe = pytest.importorskip("mediapipe")
    folder = Path(mediapipe.__file__).parent
    if not (folder / "modules").is_dir():
        pytest.skip("this MediaPipe brings no weights")
    return folder


def write_wheel(path, files):
    """Write a wheel that pip accepts, with these files {name in it: path}."""
    with zipfile.ZipFile(path, "w") as wheel:
        for name, source in files.items():
            wheel.write(source, name)
        wheel.writestr(f"{RECORD}/METADATA", METADATA)
        wheel.writestr(f"{RECORD}/WHEEL", "Wheel-Version: 1.0\n")
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def wheels(package, tmp_path, monkeypatch):
    """A folder in which pip finds a wheel with the weights, and no other place to look."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    paths = sorted({path for bundle in mediapipe_files.TASKS.values() for path in bundle.values()})
    sha256 = write_wheel(folder / WHEEL, {f"mediapipe/{path}": package / path for path in paths})
    monkeypatch.setattr(install, "WHEEL_SHA256", sha256)
    only_from(folder, monkeypatch)
    monkeypatch.setattr(install, "brings_weights", lambda: False)  # as with MediaPipe 1.x
    return folder


def only_from(folder, monkeypatch):
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def test_the_files_are_those_that_the_package_gives(wheels, package, tmp_path, capsys):
    folder = tmp_path / "models" / "vitruvian"
    install.main([str(folder)])
    said = capsys.readouterr()
    assert contents(folder) == {
        name: mediapipe_files.assemble(name, lambda path: (package / path).read_bytes())
        for name in NAMES
    }
    assert said.err == "" and said.out.count("\n") == 1
    assert all(part in said.out for part in (str(folder), *NAMES))


def test_files_that_are_there_stay_and_nothing_is_said(wheels, tmp_path, capsys):
    folder = tmp_path / "vitruvian"
    folder.mkdir()
    (folder / NAMES[0]).write_bytes(b"the user's own")
    install.main([str(folder)])
    assert sorted(contents(folder)) == sorted(NAMES)
    assert (folder / NAMES[0]).read_bytes() == b"the user's own"
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    (wheels / WHEEL).unlink()
    capsys.readouterr()
    install.main([str(folder)])
    assert capsys.readouterr() == ("", "")
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def damage(wheel, kind):
    content = wheel.read_bytes()
    wheel.write_bytes(content[: len(content) // 2] if kind == "truncated" else content + b"\0")


@pytest.mark.parametrize("kind", ["truncated", "another"])
def test_a_wrong_wheel_is_refused(wheels, tmp_path, capsys, kind):
    damage(wheels / WHEEL, kind)
    install.main([str(tmp_path / "vitruvian")])
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "mediapipe==0.10.21" in said
    assert contents(tmp_path / "vitruvian") == {}


def test_a_wheel_without_a_network_is_refused(wheels, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(install, "WHEEL_SHA256", write_wheel(wheels / WHEEL, {}))
    install.main([str(tmp_path / "vitruvian")])
    assert "does not hold what it should" in capsys.readouterr().out
    assert contents(tmp_path / "vitruvian") == {}


def test_no_half_written_file_remains(wheels, tmp_path, capsys, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device", "here")

    monkeypatch.setattr(install.os, "fsync", fail)
    install.main([str(tmp_path / "vitruvian")])
    assert "here: No space left on device" in capsys.readouterr().out
    assert contents(tmp_path / "vitruvian") == {}


def test_a_place_that_takes_no_files(wheels, tmp_path, capsys):
    (tmp_path / "models").write_text("not a folder")
    install.main([str(tmp_path / "models" / "vitruvian")])
    said = capsys.readouterr().out
    assert str(tmp_path / "models") in said and "run: " in said


def test_a_mediapipe_with_weights_needs_none(wheels, tmp_path, capsys, monkeypatch):
    monkeypatch.undo()
    install.main([str(tmp_path / "vitruvian")])
    assert capsys.readouterr() == ("", "") and not (tmp_path / "vitruvian").exists()


# where


def test_the_folder_beside_custom_nodes(tmp_path, monkeypatch):
    pack, host = tmp_path / "custom_nodes" / "vitruvian", tmp_path / "host"
    for folder in (pack, host / "models"):
        folder.mkdir(parents=True)
    monkeypatch.setattr(install, "PACK", pack)
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    assert install.models_folder() == pack / "weights" / "vitruvian"
    monkeypatch.setenv("COMFYUI_PATH", str(host))
    assert install.models_folder() == host / "models" / "vitruvian"
    (tmp_path / "models").mkdir()
    assert install.models_folder() == tmp_path / "models" / "vitruvian"
    monkeypatch.setattr(install, "PACK", tmp_path / "checkouts" / "vitruvian")
    assert install.models_folder() == host / "models" / "vitruvian"


# as a program, with a Python that has nothing else


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A Python without any package, pip included."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.check_call([sys.executable, "-m", "venv", "--without-pip", str(folder)])
    return folder / "bin" / "python"


def run(python, pack, *options):
    """Run install.py as ComfyUI-Manager does: in the pack's folder."""
    command = [str(python), *options, "install.py"]
    return subprocess.run(command, cwd=pack, capture_output=True, text=True, timeout=120)


def pack_in(tmp_path):
    """A ComfyUI folder with the files of the pack that the installation reads."""
    pack = tmp_path / "Comfy UI" / "custom_nodes" / "vitruvian"
    for file in ("install.py", "models/detectors/mediapipe_files.py"):
        (pack / file).parent.mkdir(parents=True, exist_ok=True)
        (pack / file).write_bytes((ROOT / file).read_bytes())
    (tmp_path / "Comfy UI" / "models").mkdir()
    return pack


def test_pip_comes_with_python_where_it_is_not_installed(bare, wheels, tmp_path):
    pack = pack_in(tmp_path)
    script = pack / "install.py"
    text = re.sub(
        r'WHEEL_SHA256 = "\w+"', f'WHEEL_SHA256 = "{install.WHEEL_SHA256}"', script.read_text()
    )
    script.write_text(text)
    ran = run(bare, pack, "-I")  # without the script's folder on the path, as portable Pythons are
    assert (ran.returncode, ran.stderr) == (0, "")
    assert sorted(contents(tmp_path / "Comfy UI" / "models" / "vitruvian")) == sorted(NAMES)


def test_offline_the_installation_goes_on_and_names_one_command(tmp_path, monkeypatch, bare):
    only_from(tmp_path, monkeypatch)
    pack = pack_in(tmp_path)
    ran = run(bare, pack)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.count("\n") == 1 and "No matching distribution" in ran.stdout
    assert ran.stdout.endswith(f'{bare} "{pack / "install.py"}"\n')
    assert not (tmp_path / "Comfy UI" / "models" / "vitruvian").exists()
