"""The pose editor's modules in Node, without a browser: each file of tests/house/editor is run."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((Path(__file__).parent / "editor").glob("*.test.js"))


@pytest.fixture(scope="module")
def node():
    """The machine's Node, or the one that Playwright brings."""
    if program := shutil.which("node"):
        return program
    playwright = pytest.importorskip("playwright", reason="there is no Node")
    return Path(playwright.__file__).parent / "driver" / "node"


@pytest.fixture(scope="module")
def modules(tmp_path_factory):
    """A copy of the editor that Node reads as modules, as browsers do."""
    folder = tmp_path_factory.mktemp("modules")
    shutil.copytree(ROOT / "web" / "editor", folder / "editor")
    shutil.copy(ROOT / "web" / "poses.json", folder)
    (folder / "package.json").write_text(json.dumps({"type": "module"}))
    for helper in (Path(__file__).parent / "editor").glob("*.js"):
        shutil.copy(helper, folder)
    return folder


@pytest.mark.parametrize("file", [file.name for file in FILES])
def test_in_node(modules, node, file):
    run = subprocess.run(
        [node, "--test", file], cwd=modules, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stdout + run.stderr
