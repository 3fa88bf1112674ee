"""The progress bar of `dev.py demo` on a running server, and without one."""

import time

from vitruvian.tools.progress import Progress

WORKFLOW = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1}},
    "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
}


def test_the_nodes_that_run_are_named(server, capsys):
    workflow = {name: {**node, "inputs": dict(node["inputs"])} for name, node in WORKFLOW.items()}
    workflow["1"]["inputs"]["color"] = time.time_ns() % 0xFFFFFF  # so that nothing is cached
    with Progress(server.url, {"1": "Make it", "2": "Show it"}) as progress:
        server.wait(server.queue(workflow, client=progress.client))
        output, deadline = "", time.monotonic() + 60
        while "Show it" not in output and time.monotonic() < deadline:
            time.sleep(0.1)
            output += capsys.readouterr().out
    assert output.split("\n")[:2] == ["  Make it", "  Show it"]


def test_without_a_server_there_is_no_bar(capsys):
    with Progress("http://127.0.0.1:9", {"1": "Make it"}):  # the port of discard
        pass
    assert capsys.readouterr().out == ""
