"""What ComfyUI gets when it imports the pack: nodes, no heavy package before its time, no word."""

import json
import os
import subprocess
import sys

import pytest
from vitruvian.tests import schemas
from vitruvian.tools.paths import ROOT

HEAVY = "mediapipe cv2 diffusers accelerate matplotlib skimage pandas"
MARK = "the pack's import"
CODE = """
import asyncio, importlib.util, json, sys
host, root, mark, heavy = sys.argv[1:]
sys.path.insert(0, host)
sys.argv[1:] = ["--cpu"]
import comfy.options
comfy.options.enable_args_parsing()
import comfy_api.latest, nodes

def say_mark():
    for stream in (sys.stdout, sys.stderr):
        print(mark, file=stream, flush=True)

async def load():
    spec = importlib.util.spec_from_file_location(
        "pack", root + "/__init__.py", submodule_search_locations=[root]
    )
    sys.modules["pack"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    extension = await module.comfy_entrypoint()
    return [node.GET_SCHEMA().node_id for node in await extension.get_node_list()]

sys.modules.update(dict.fromkeys(heavy.split()))  # whoever imports one of them fails from here on
say_mark()
ids = asyncio.run(load())
say_mark()
print(json.dumps(ids))
"""


@pytest.fixture(scope="module")
def imported():
    command = [sys.executable, "-c", CODE, os.environ["COMFYUI_PATH"], str(ROOT), MARK, HEAVY]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-2000:]
    return process


def test_it_brings_all_nodes_without_a_heavy_package(imported):
    assert {*json.loads(imported.stdout.splitlines()[-1])} == {*schemas.read()}


def test_it_says_nothing(imported):
    assert [text.split(MARK)[1].strip() for text in (imported.stdout, imported.stderr)] == ["", ""]
