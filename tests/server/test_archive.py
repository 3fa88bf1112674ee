"""The registry's archive in a ComfyUI that has nothing else: all nodes load, all examples open."""

import json
import os
import sys
import zipfile
from pathlib import Path

import pytest
from vitruvian.batch.vitruvian_batch.workflow import NOTES
from vitruvian.tests import schemas
from vitruvian.tests.shipped import WORKFLOWS, skip_older
from vitruvian.tools.hosts import make_folders
from vitruvian.tools.server import Server

pytest.importorskip("pathspec")
from vitruvian.tools import archive  # noqa: E402

NAMES = sorted(path.stem for path in WORKFLOWS.glob("*.json"))


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The pack's folder in custom_nodes, as the registry's client unpacks it."""
    base = tmp_path_factory.mktemp("bare")
    make_folders(base)
    file, folder = base / "node.zip", base / "custom_nodes" / "vitruvian"
    archive.write_archive(file)
    with zipfile.ZipFile(file) as content:
        content.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def bare_server(installed):
    """A running ComfyUI with the archive and without the checkout."""
    base = installed.parents[1]
    with Server(Path(sys.executable), Path(os.environ["COMFYUI_PATH"]), base, "--cpu") as running:
        yield running


@pytest.fixture(scope="module")
def info(bare_server):
    return bare_server.info()


def test_every_node_loads(bare_server, info):
    assert schemas.read().keys() <= info.keys()
    assert "IMPORT FAILED" not in bare_server.log.read_text(errors="replace")


@pytest.mark.parametrize("name", NAMES)
def test_every_example_opens_without_a_missing_node(installed, info, name):
    skip_older(name, info)
    path = installed / "workflows" / f"{name}.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    subgraphs = content.get("definitions", {}).get("subgraphs", [])
    nodes = [node for graph in (content, *subgraphs) for node in graph["nodes"]]
    kinds = {node["type"] for node in nodes} - {graph["id"] for graph in subgraphs}
    assert kinds - {*NOTES} <= info.keys()


@pytest.mark.parametrize("name", NAMES)
def test_every_api_workflow_names_nodes_and_weights_that_are_installed(installed, info, name):
    skip_older(name, info)
    path = installed / "workflows" / "api" / f"{name}.json"
    for node in json.loads(path.read_text(encoding="utf-8")).values():
        inputs = info[node["class_type"]]["input"]
        for input_name, value in node["inputs"].items():
            if str(value).startswith("vitruvian_mini"):
                fields = {**inputs["required"], **inputs.get("optional", {})}
                choices, *options = fields[input_name]
                assert value in (choices if isinstance(choices, list) else options[0]["options"])


def test_the_weights_and_the_editor_come_from_the_archive(bare_server, installed):
    """Nothing outside the unpacked folder belongs to the pack."""
    assert not installed.is_symlink() and not list(installed.parent.glob("*/dev.py"))
    assert any("vitruvian" in path for path in bare_server.get("/extensions"))


def test_the_developers_rooms_are_not_in_it(installed):
    rooms = {path.name for path in installed.iterdir()}
    assert rooms.isdisjoint({"lab", "tests", "tools", "batch", "assets", "dev.py", ".ci"})
    assert {"install.py", "requirements.txt"} <= rooms  # what ComfyUI-Manager runs and reads
