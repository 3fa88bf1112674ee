"""Workflows in API format that once crashed or gave another image, node by node in this process."""

import asyncio
import json
import shutil
import sys
from pathlib import Path

import folder_paths
import pytest
import torch

CASES = Path(__file__).parent.parent / "cases" / "graphs"
POSES = Path(__file__).parent.parent / "poses"


@pytest.fixture(scope="module")
def classes(mini_weights):
    """The host's nodes and ours, by id."""
    from vitruvian.lab.neighbors.table import host_nodes

    extension = asyncio.run(sys.modules["vitruvian"].comfy_entrypoint())
    ours = asyncio.run(extension.get_node_list())
    return {**host_nodes(), **{node.define_schema().node_id: node for node in ours}}


@pytest.fixture
def run(classes):
    """(graph, node id) -> the first output of that node, with all that it needs."""

    def run_node(graph, wanted, cache=None):
        cache = {} if cache is None else cache
        if wanted not in cache:
            node, inputs = graph[wanted]["class_type"], {}
            for name, value in graph[wanted]["inputs"].items():
                if isinstance(value, list):
                    value = run_outputs(graph, value[0], cache)[value[1]]
                inputs[name] = value
            cls = classes[node]
            function = cls.execute if hasattr(cls, "execute") else getattr(cls(), cls.FUNCTION)
            outputs = function(**inputs)
            cache[wanted] = getattr(outputs, "result", outputs)
        return cache[wanted][0]

    def run_outputs(graph, node, cache):
        run_node(graph, node, cache)
        return cache[node]

    def run_graph(graph, wanted):
        with torch.inference_mode():
            return run_node(graph, wanted)

    return run_graph


def graph(name):
    return json.loads((CASES / f"{name}.json").read_text())


def latent_of(run, name, node="10"):
    output = run(graph(name), node)
    return output["samples"]


@pytest.mark.parametrize("name", ["g1_plain_negative", "g2_conditioning_combine", "g3_dual_cfg"])
def test_a_conditioning_that_is_not_composed_is_sampled(run, name):
    sampled = latent_of(run, name)
    assert sampled.isfinite().all() and sampled.std() > 0.1


def test_two_parts_are_the_whole(run):
    parts = graph("g5_two_parts")
    uncut = json.loads(json.dumps(parts))
    uncut["10"]["inputs"] = {
        **uncut["40"]["inputs"],
        "end_at_step": 10000,
        "return_with_leftover_noise": "disable",
    }
    for mode in ("exact", "layers", "couple"):
        for each in (parts, uncut):
            each["8"]["inputs"]["mode"] = mode
        first, second = (run(each, "10")["samples"] for each in (parts, uncut))
        assert float((first - second).norm() / second.norm()) < 1e-5


def test_frame_k_is_image_k(run):
    three = graph("g6_three_frames")
    shutil.copy(POSES / "three_frames.json", folder_paths.get_input_directory())
    sampled = run(three, "10")["samples"]
    assert len(sampled) == 3 and len(run(three, "50")) == 3
    assert not torch.allclose(sampled[0], sampled[2], atol=0.1)
