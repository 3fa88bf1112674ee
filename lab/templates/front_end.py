"""What ComfyUI's front end makes of a workflow: the sizes of its nodes, and where slots are."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...tools.examples import copy_images
from ...tools.hosts import device_options, prepare_base
from ...tools.server import Server
from ..benchmarks.templates import FLAGS, SETTINGS

VIEW: Any = {"width": 1440, "height": 900}
OPEN = """async ([saved, name]) => {
    await app.loadGraphData(saved, true, true, name, {openSource: 'template'})
    await new Promise(done => setTimeout(done, 500))
    const texts = node => (node.widgets ?? []).filter(w => w.element?.tagName === 'TEXTAREA')
    const words = node => {
        const copy = node.widgets[0].element.cloneNode(true)
        copy.setAttribute('style', `position: fixed; width: ${node.size[0] - 20}px; height: auto`)
        document.body.append(copy)
        const height = copy.querySelector('.tiptap').scrollHeight
        copy.remove()
        return height
    }
    const nodes = app.graph._nodes.map(node => ({
        id: Number(node.id), type: node.type, title: node.title, size: [...node.size],
        least: [...node.computeSize()],
        box: [...node.boundingRect],
        collapsed: Boolean(node.flags.collapsed),
        texts: texts(node).map(w => String(w.value)),
        inputs: (node.inputs ?? []).map((_, i) => [...node.getInputPos(i)]),
        outputs: (node.outputs ?? []).map((_, i) => [...node.getOutputPos(i)]),
        words: node.type === 'MarkdownNote' ? words(node) : 0,
    }))
    return {scale: app.canvas.ds.scale, offset: [...app.canvas.ds.offset], nodes}
}"""


@contextlib.contextmanager
def started(host: Path) -> Iterator[Server]:
    """Start a host on folders of its own, with the images that examples begin with."""
    with tempfile.TemporaryDirectory() as folder:
        base, python = Path(folder), Path(sys.executable)
        prepare_base(base)
        copy_images(base)
        with Server(python, host, base, *device_options(python)) as server:
            yield server


@contextlib.contextmanager
def opened(host: Path, new_renderer: bool = False) -> Iterator[Any]:
    """Start a host and open its front end in a fresh Chromium of the size of a small laptop."""
    with started(host) as server, page_of(server, new_renderer) as page:
        yield page


@contextlib.contextmanager
def page_of(server: Server, new_renderer: bool = False) -> Iterator[Any]:
    """Open a running host's front end in a fresh Chromium of the size of a small laptop."""
    from playwright.sync_api import TimeoutError, sync_playwright

    server.post("/settings", {**SETTINGS, "Comfy.VueNodes.Enabled": new_renderer})
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as profile:
        context = playwright.chromium.launch_persistent_context(
            profile, executable_path=shutil.which("chromium"), args=FLAGS, viewport=VIEW
        )
        page = context.new_page()
        page.goto(server.url)
        page.wait_for_function("window.app?.graph && window.LiteGraph", timeout=120_000)
        with contextlib.suppress(TimeoutError):  # a first workflow of its own, late
            page.wait_for_function("app.graph._nodes.length > 0", timeout=8_000)
        yield page
        context.close()


def open_template(page: Any, saved: dict[str, Any], name: str) -> dict[str, Any]:
    """Open a workflow as the front end opens a template; say scale, sizes, and slots."""
    measured: dict[str, Any] = page.evaluate(OPEN, [saved, name])
    return measured
