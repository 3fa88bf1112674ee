"""What the registry gets: the archive's files, what a scanner reads in them, the metadata.

The archive is what `comfy node pack` makes: the files that git tracks, without those that
.comfyignore names. Nothing here needs ComfyUI; tests/server/test_archive.py installs it.
"""

import ast
import json
import re
import struct
import subprocess
from pathlib import Path

import pytest
import tomllib

pytest.importorskip("pathspec")
from vitruvian.tools import archive  # noqa: E402

ROOT = Path(__file__).parents[2]
MIB = 2**20
LARGEST_FILE = 25 * MIB  # what a code host takes through its web page; our checkpoint has 16.8
LARGEST_ARCHIVE = 60 * MIB  # it is 44, of which the weights are 42: a minute on a slow line

RUN = (
    "nodes",
    "host",
    "models",
    "web",
    "workflows",
    "subgraphs",
    "locales",
)  # rooms that ship whole
WEIGHTS = ("checkpoints", "clip_vision", "controlnet", "loras", "vitruvian")
UNPUBLISHED = {".ci", "assets", "batch", "lab", "tests", "tools"}
ROOT_FILES = {
    "__init__.py",
    "install.py",
    "pyproject.toml",
    "requirements.txt",
    "LICENSE",
    "README.md",
    "CHANGELOG.md",
}

NETWORK = {"socket", "ssl", "requests", "urllib", "http", "httpx", "aiohttp", "ftplib", "websocket"}
UNSAFE_MODULES = NETWORK | {
    "pickle", "cPickle", "dill", "marshal", "shelve", "subprocess", "ctypes", "pip", "base64",
    "codecs", "importlib", "huggingface_hub",
}  # fmt: skip
MAY_IMPORT = {
    "install.py": {"subprocess"},  # calls pip, when the pack is installed
    "host/routes.py": {"aiohttp"},  # answers the pose editor through ComfyUI's own server
}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__", "globals", "breakpoint"}
UNSAFE_METHODS = {
    "os.system", "os.popen", "os.fork", "os.execv", "os.execve", "os.spawnl", "os.spawnv",
    "torch.load", "torch.hub.load", "torch.hub.load_state_dict_from_url",
    "torch.hub.download_url_to_file", "zlib.decompress", "numpy.load", "np.load",
}  # fmt: skip
BLOB = re.compile(r"[A-Za-z0-9+/=_-]{160,}|(?:\\x[0-9a-fA-F]{2}){16}")
SCRIPT = re.compile(r"\beval\s*\(|\bnew\s+Function\b|\bdocument\.write\s*\(")
SOCKETS = re.compile(r"\.(?:bind|connect)\s*\(")  # what scanners take for Python's
FEW = 5

SYSTEMS = ("OS Independent", "Microsoft", "POSIX", "MacOS")
ACCELERATORS = {
    "GPU :: NVIDIA CUDA",
    "GPU :: AMD ROCm",
    "GPU :: Intel Arc",
    "GPU :: Apple Metal",
    "NPU :: Huawei Ascend",
}

# Nodes that no example workflow shows. The list may only become shorter.
WITHOUT_EXAMPLE: set[str] = set()


try:
    TRACKED = archive.tracked_files()
except (OSError, subprocess.CalledProcessError):
    pytest.skip("This is not a git checkout.", allow_module_level=True)

ARCHIVE = archive.archived_files()
PYTHON = [file for file in ARCHIVE if file.endswith(".py")]
SCRIPTS = [file for file in ARCHIVE if file.endswith((".js", ".mjs"))]
VENDORED = [file for file in SCRIPTS if file.startswith("web/vendor/")]
OURS = sorted({*SCRIPTS} - {*VENDORED})
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def read(file: str) -> str:
    return (ROOT / file).read_text(encoding="utf-8")


def room(file: str) -> str:
    return file.split("/", 1)[0]


# what is in the archive


def test_what_no_node_reads_is_left_out():
    unneeded = [
        file
        for file in ARCHIVE
        if room(file) in UNPUBLISHED
        or file == "dev.py"
        or "__pycache__" in file
        or file.endswith((".pyc", ".pyo", ".so", ".pyd", ".dll", ".exe", ".zip", ".pkl", ".ckpt"))
    ]
    assert not unneeded


def test_what_the_nodes_read_is_in_it():
    weights = tuple(f"weights/{folder}/" for folder in WEIGHTS)
    needed = {file for file in TRACKED if room(file) in RUN or file.startswith(weights)}
    assert {file for file in needed | ROOT_FILES if (ROOT / file).exists()} <= {*ARCHIVE}
    assert {*ROOT_FILES} <= {*TRACKED}
    assert {"models/human_words.txt", "models/clothing_words.txt"} <= {*ARCHIVE}
    assert all(any(file.startswith(folder) for file in ARCHIVE) for folder in weights)


@pytest.mark.parametrize("file", PYTHON)
def test_imports_of_our_own_are_in_the_archive(file):
    for node in ast.walk(ast.parse(read(file))):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        above = (ROOT / file).parents[node.level - 1]
        target = above.joinpath(*(node.module or "").split("."))
        places = [target, *(target / name.name for name in node.names)]
        targets = [
            path.relative_to(ROOT).as_posix()
            for place in places
            for path in (place.with_suffix(".py"), place / "__init__.py")
            if path.exists()
        ]
        assert targets, f"{file}:{node.lineno} imports what does not exist"
        assert {*targets} & {*TRACKED} <= {*ARCHIVE}


def test_examples_name_our_weights_as_they_are_called():
    mentioned = {
        name
        for file in ARCHIVE
        if re.fullmatch(r"workflows/api/[^/]+\.json", file)
        for name in re.findall(r"vitruvian_\w+\.safetensors", read(file))
    }
    assert mentioned and mentioned <= {Path(file).name for file in ARCHIVE}


def test_names_links_and_sizes(record_property):
    # git writes other names in quotes, which the packer takes for files that are not there
    assert all(re.fullmatch(r"[\x20-\x7e]+", file) and '"' not in file for file in TRACKED)
    modes = subprocess.check_output(["git", "-C", ROOT, "ls-files", "-s"], text=True)
    assert not [line for line in modes.splitlines() if line.startswith(("120000", "160000"))]
    assert not [file for file in ARCHIVE if (ROOT / file).is_symlink()]
    sizes = {file: (ROOT / file).stat().st_size for file in ARCHIVE}
    record_property("files", len(sizes))
    record_property("bytes", sum(sizes.values()))
    assert not {file: size for file, size in sizes.items() if size > LARGEST_FILE}
    assert sum(sizes.values()) <= LARGEST_ARCHIVE, f"{sum(sizes.values()) / MIB:.1f} MiB"


# what a scanner reads


@pytest.mark.parametrize("file", PYTHON)
def test_python_does_nothing_that_a_scanner_looks_for(file):
    unsafe: list[str] = []
    for node in ast.walk(ast.parse(read(file))):
        if isinstance(node, ast.Import):
            unsafe += [
                name.name for name in node.names if name.name.split(".")[0] in UNSAFE_MODULES
            ]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            unsafe += [node.module] if node.module.split(".")[0] in UNSAFE_MODULES else []
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            unsafe += [node.func.id] if node.func.id in UNSAFE_CALLS else []
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            unsafe += [ast.unparse(node.func)] if ast.unparse(node.func) in UNSAFE_METHODS else []
        elif isinstance(node, ast.keyword) and node.arg in ("allow_pickle", "trust_remote_code"):
            unsafe.append(node.arg)
    assert not {*unsafe} - MAY_IMPORT.get(file, set())
    assert not BLOB.search(read(file))
    assert not SOCKETS.search(read(file))


def test_our_scripts_do_nothing_that_a_scanner_looks_for(record_property):
    counts = {file: len(SOCKETS.findall(read(file))) for file in OURS}
    record_property("bind_and_connect", counts)
    assert not [file for file in OURS if SCRIPT.search(read(file)) or BLOB.search(read(file))]
    assert sum(counts.values()) <= FEW, counts


def test_other_peoples_scripts_come_with_their_licence(record_property):
    """Minified code is not ours to change, but it must not make code out of text either."""
    record_property("vendored", {f: len(SOCKETS.findall(read(f))) for f in VENDORED})
    for file in VENDORED:
        assert not SCRIPT.search(read(file)), file
        beside = [other for other in ARCHIVE if Path(other).parent == Path(file).parent]
        assert any("LICENSE" in other for other in beside), f"{file} has no licence beside it"


# metadata


def test_name_version_and_licence():
    project, comfy = PROJECT["project"], PROJECT["tool"]["comfy"]
    assert re.fullmatch(r"[A-Za-z][A-Za-z0-9]*(?:[-_.][A-Za-z0-9]+)*", project["name"])
    assert len(project["name"]) < 100 and "comfyui" not in project["name"].lower()
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    top = re.search(r"^## (\S+)", read("CHANGELOG.md"), re.MULTILINE)
    assert top and top[1] == project["version"]
    assert project["license"]["file"] in ARCHIVE and project["readme"] in ARCHIVE
    assert 20 <= len(project["description"]) <= 200
    assert re.fullmatch(r">=3\.\d+", project["requires-python"])
    assert project["dependencies"] == read("requirements.txt").split()
    assert comfy["PublisherId"] and comfy["DisplayName"]
    assert re.fullmatch(r">=\d+\.\d+\.\d+", comfy["requires-comfyui"])


def test_classifiers_are_those_that_the_registry_knows():
    for classifier in PROJECT["project"]["classifiers"]:
        kind, _, value = classifier.partition(" :: ")
        if kind == "Environment":
            assert value in ACCELERATORS, classifier
        elif kind == "Operating System":
            assert value.startswith(SYSTEMS), classifier


def test_the_icon_is_a_square_image_of_at_most_400_pixels():
    head = (ROOT / "assets" / "icon.png").read_bytes()[:24]
    width, height = struct.unpack(">II", head[16:24])
    assert head.startswith(b"\x89PNG") and width == height <= 400


# the nodes, and what the README says of them


def calls(*methods: str) -> list[ast.Call]:
    """Calls like `io.Int.Input(...)` in nodes/."""
    return [
        node
        for file in sorted((ROOT / "nodes").glob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in methods
    ]


def words(call: ast.Call) -> dict[str | None, ast.expr]:
    return {word.arg: word.value for word in call.keywords}


SCHEMAS = [words(call) for call in calls("Schema")]
IDS = [ast.literal_eval(schema["node_id"]) for schema in SCHEMAS]


def example_nodes() -> set[str]:
    files = (ROOT / "workflows").glob("*.json")
    return {node["type"] for file in files for node in json.loads(file.read_text())["nodes"]}


def test_every_new_node_has_an_example():
    assert {*IDS} - example_nodes() <= WITHOUT_EXAMPLE


def test_every_node_follows_the_conventions():
    """A tooltip everywhere, a description, a help page, the pack's prefix, a schema of its own."""
    assert not [call for call in calls("Input", "Output") if "tooltip" not in words(call)]
    assert all("description" in schema for schema in SCHEMAS)
    assert not [name for name in IDS if not (ROOT / "web" / "docs" / f"{name}.md").exists()]
    assert all(name.startswith("Vitruvian") for name in IDS) and len({*IDS}) == len(IDS)
    assert len(calls("Schema")) == len(IDS)


def test_the_readme_names_every_example_and_no_other():
    section = read("README.md").split("\n## Examples\n", 1)[1].split("\n## ", 1)[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    examples = {path.stem for path in (ROOT / "workflows").glob("*.json")}
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == examples


def test_the_readme_says_what_the_pack_needs():
    version = PROJECT["tool"]["comfy"]["requires-comfyui"].lstrip(">=")
    assert f"ComfyUI {version} or newer" in read("README.md")
    assert "The one package it adds is MediaPipe" in read("README.md")
    assert PROJECT["project"]["dependencies"] == ["mediapipe"]


def test_comfy_test_runs_every_example_that_brings_its_images_and_weights():
    left_out = set()
    for path in (ROOT / "workflows").glob("*.json"):
        nodes = json.loads(path.read_text(encoding="utf-8"))["nodes"]
        files = [
            value
            for node in nodes
            for value in node.get("widgets_values") or ()
            if str(value).endswith(".safetensors")
        ]
        needs_image = any(node["type"].startswith("LoadImage") for node in nodes)
        if needs_image or not all(file.startswith("vitruvian_mini") for file in files):
            left_out.add(f"!{path.stem}")
    settings = tomllib.loads(read("comfy-test.toml"))
    assert {*settings["test"]["workflows"]["cpu"]} == left_out
