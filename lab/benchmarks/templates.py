"""How many of ComfyUI's own workflow templates the batch runner converts as the front end does.

The truth about a saved workflow is the front end's own `graphToPrompt`, run in Chromium on a host
of its own, with the nodes for paid services. Compared are the classes of all nodes and all their
inputs. Not compared: titles (`_meta`), the order of keys, the kind of a number (1 or 1.0), nodes
that no output node needs, and the inputs of IGNORED, which hold what the front end only displays.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from ...batch.vitruvian_batch import workflow
from ...batch.vitruvian_batch.started_host import Installation, StartedHost
from ...batch.vitruvian_batch.trouble import BadInput, Trouble
from ...tools.hosts import prepare_base
from ...tools.paths import ROOT

Prompt = dict[str, dict[str, Any]]
START_SECONDS = 240
IGNORED = {  # class (* for all) -> inputs of displays, which the host does not read
    "*": {"audioUI", "preview", "preview_mode", "preview_text", "refresh"},
    "Preview3D": {"image"},
    "Preview3DAnimation": {"image"},
    "SaveGLB": {"image"},
}
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Workflow.Persist": False,
    "Comfy.Workflow.ShowMissingModelsWarning": False,
    "Comfy.Workflow.ShowMissingNodesWarning": False,
}
QUEUE = """async (saved) => {
    await app.loadGraphData(saved)
    try { return JSON.stringify({prompt: (await app.graphToPrompt()).output}) }
    catch (error) { return JSON.stringify({error: String(error)}) }
}"""


def run(quick: bool) -> dict[str, Any]:
    """Compare all templates, every tenth of them if quick, and all examples of the pack."""
    return compare_templates(quick)


def compare_templates(quick: bool = False) -> dict[str, Any]:
    """Count `templates_compared` and, of them, `templates_wrong`; `wrong` says what differs.

    `templates_refused` lists those that are not converted, by the reason that the runner gives.
    """
    files = templates()[:: 10 if quick else 1]
    compared = 0
    refused: dict[str, list[str]] = {}
    wrong: dict[str, list[str]] = {}
    with _host() as host, front_end(host) as page:
        info = host.get("/object_info")
        for file in [*files, *sorted((ROOT / "workflows").glob("*.json"))]:
            saved = json.loads(file.read_text(encoding="utf-8-sig"))
            try:
                flow = workflow.build(file, saved, info)
            except BadInput as error:
                reason = str(error).removeprefix(f"{file}: ").split(". ")[0]
                refused.setdefault(reason, []).append(file.stem)
                continue
            compared += 1
            different = compare(flow, queue(page, saved), info)
            if different:
                wrong[file.stem] = different
    return {
        "templates_compared": compared,
        "templates_wrong": len(wrong),
        "templates_refused": refused,
        "wrong": wrong,
    }


def templates() -> list[Path]:
    """List the workflows of the template packages that are installed beside the host."""
    packages = [
        name
        for name in {dist.metadata["Name"] or "" for dist in metadata.distributions()}
        if name.replace("_", "-").startswith("comfyui-workflow-templates")
    ]
    files = [
        Path(str(file.locate()))
        for name in packages
        for file in metadata.files(name) or ()
        if file.suffix == ".json" and "templates" in file.parts
    ]
    return sorted(file for file in set(files) if _is_workflow(file))


def _is_workflow(file: Path) -> bool:
    return workflow.is_ui(json.loads(file.read_text(encoding="utf-8-sig")))


@contextlib.contextmanager
def _host() -> Iterator[StartedHost]:
    """Start a host with every node that it has, also those for paid services."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        prepare_base(base)
        options = ("--base-directory", str(base), "--cpu")
        installation = Installation(Path(os.environ["COMFYUI_PATH"]), Path(sys.executable), options)
        host = StartedHost(installation, base / "server.log", START_SECONDS)
        try:
            host.start()
            yield host
        finally:
            host.close()


@contextlib.contextmanager
def front_end(host: Any) -> Iterator[Any]:
    """Open the front end of a running host in a browser that has never been used."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        raise Trouble("There is no Chromium. Install it (apt-get install chromium).")
    from playwright.sync_api import TimeoutError, sync_playwright

    host.post("/settings", SETTINGS)
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as profile:
        context = playwright.chromium.launch_persistent_context(
            profile, executable_path=chromium, args=FLAGS
        )
        page = context.new_page()
        page.goto(host.url)
        page.wait_for_function("window.app?.graph && window.LiteGraph", timeout=120_000)
        with contextlib.suppress(TimeoutError):  # newer front ends open a first workflow, late
            page.wait_for_function("app.graph._nodes.length > 0", timeout=8_000)
        yield page
        context.close()


def queue(page: Any, saved: dict[str, Any]) -> dict[str, Any]:
    """Return what the front end would queue: {prompt}, or {error} if it fails."""
    answer: dict[str, Any] = json.loads(page.evaluate(QUEUE, saved))
    return answer


def compare(flow: workflow.Workflow, truth: dict[str, Any], info: dict[str, Any]) -> list[str]:
    """List the differences between a converted workflow and the front end's answer."""
    if "error" in truth:
        return [f"the front end fails: {truth['error']}"]
    return differences(truth["prompt"], workflow.queued(flow, {}), info)


def differences(truth: Prompt, ours: Prompt, info: dict[str, Any]) -> list[str]:
    """List the differences of two workflows in the API format, as far as they are executed."""
    expected, converted = (_executed(prompt, info) for prompt in (truth, ours))
    lines = [f"node {name} is missing" for name in sorted(expected.keys() - converted.keys())]
    lines += [f"node {name} is too much" for name in sorted(converted.keys() - expected.keys())]
    for name in sorted(expected.keys() & converted.keys()):
        (kind, inputs), (our_kind, our_inputs) = expected[name], converted[name]
        lines += [f"node {name} is {our_kind}, not {kind}"] if kind != our_kind else []
        for key in sorted(inputs.keys() | our_inputs.keys()):
            values = inputs.get(key, "nothing"), our_inputs.get(key, "nothing")
            if not same(*values):
                lines.append(
                    f"{kind} (node {name}) {key}: {values[1]!r:.90}, not {values[0]!r:.90}"
                )
    return lines


def _executed(prompt: Prompt, info: dict[str, Any]) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Return class and inputs of the nodes that output nodes need; of all, if there are none."""
    kinds = {name: node.get("class_type") for name, node in prompt.items()}
    waiting = [name for name, kind in kinds.items() if info.get(kind or "", {}).get("output_node")]
    needed: set[str] = set() if waiting else set(prompt)
    while waiting:
        name = waiting.pop()
        if name in needed or name not in prompt:
            continue
        needed.add(name)
        inputs = prompt[name]["inputs"].values()
        waiting += [value[0] for value in inputs if workflow.is_link(value)]
    return {
        name: (kinds[name], _read(kinds[name], prompt[name]["inputs"])) for name in sorted(needed)
    }


def _read(kind: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """Leave out the inputs that only the front end displays."""
    ignored = IGNORED["*"] | IGNORED.get(kind, set())
    return {key: value for key, value in inputs.items() if key not in ignored}


def same(one: Any, other: Any) -> bool:
    """Tell if two values are the same JSON; 1 and 1.0 are."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)
