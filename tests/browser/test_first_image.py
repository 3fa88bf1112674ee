"""From an empty canvas to an image of two people with prompts and poses of their own, by mouse and
keyboard alone: at most 6 nodes and 25 actions.

An action is a click (or a double click), a drag, or a typed text with the key that ends it. All of
them go through `Artist`, which counts.
"""

import contextlib
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import TimeoutError
from vitruvian.tests.browser.pose_editor_page import NECK, NOTHING, WRIST, Editor, joint, settle
from vitruvian.tools.hosts import prepare_base
from vitruvian.tools.server import Server

MOST_NODES, MOST_ACTIONS = 6, 25
# what a new installation has; a server with settings of its own counts as an older one
AS_INSTALLED = {"LinkRelease.Action": "search box", "LinkRelease.ActionShift": "context menu"}
EMPTY = """async ([nothing, settings]) => {
    for (const [name, value] of Object.entries(settings))
        await app.extensionManager.setting.set(`Comfy.${name}`, value)
    await app.loadGraphData(nothing)
    app.canvas.ds.scale = 1
    app.canvas.ds.offset = [0, 0]
    app.canvas.setDirty(true, true)
}"""
COUNT = "() => app.graph.nodes.length"
SLOT = """([type, kind, name]) => {
    const node = app.graph.nodes.find(n => n.type === type)
    const index = node[`${kind}puts`].findIndex(s => s.name === name)
    const dot = document.querySelector(`[data-slot-key='${node.id}-${kind}-${index}']`)
    if (dot) {
        const box = dot.getBoundingClientRect()
        return [box.x + box.width / 2, box.y + box.height / 2]
    }
    const [x, y] = node.getConnectionPos(kind === 'in', index)
    const canvas = app.canvas.canvas.getBoundingClientRect()
    return [canvas.x + x, canvas.y + y]
}"""
NEWEST = """() => {
    const node = app.graph.nodes.at(-1)
    return {place: [...node.pos], follows: !!node.flags.ghost}
}"""
WIDGET = """([type, name]) => {
    const node = app.graph.nodes.find(n => n.type === type)
    const y = node.widgets.find(w => w.name === name).last_y
    const canvas = app.canvas.canvas.getBoundingClientRect()
    return [canvas.x + node.pos[0] + node.size[0] / 2, canvas.y + node.pos[1] + y + 10]
}"""
SEED = """() => {
    const sampler = app.graph.nodes.find(n => n.type === 'KSampler')
    sampler.widgets.find(w => w.name === 'seed').value = 0  // as the first run had it
}"""
WIRES = """() => Object.fromEntries(app.graph.nodes.map(node =>
    [node.type, node.inputs.filter(i => i.link != null).map(i => i.name).sort()]))"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A new installation. The server of other tests has their checkpoints, first in the list."""
    base = tmp_path_factory.mktemp("new_installation")
    prepare_base(base)
    with Server(Path(sys.executable), Path(os.environ["COMFYUI_PATH"]), base, "--cpu") as running:
        yield running


class Artist:
    """Somebody at the mouse and the keyboard, whose actions are counted."""

    def __init__(self, page):
        self.page, self.actions, self.mouse = page, [], (0, 0)

    def acts(self, words):
        self.actions.append(words)

    def move(self, x, y):
        self.page.mouse.move(x, y, steps=6)
        self.mouse = (x, y)

    def drag(self, words, start, end):
        self.acts(words)
        self.move(*start)
        self.page.mouse.down()
        self.move(*end)
        self.page.mouse.up()

    def types(self, text, key):
        self.acts(f"type '{text}' and {key}")
        self.page.keyboard.type(text)
        self.page.wait_for_timeout(600)
        self.page.keyboard.press(key)

    def opens_search(self, x, y):
        self.acts("double click on the canvas")
        for _ in range(4):  # on a busy machine the canvas now and then misses a double click
            self.move(x, y)
            self.page.mouse.dblclick(x, y)
            with contextlib.suppress(TimeoutError):
                return self.wait_for_search(4_000)
        pytest.fail("a double click on the canvas opens no search")

    def wait_for_search(self, timeout=10_000):
        self.page.wait_for_function(
            "() => document.activeElement.matches('input[type=text]')", timeout=timeout
        )
        self.page.wait_for_timeout(300)

    def adds(self, name, place):
        """Chooses a node in the open search. Newer front ends let it follow the mouse, at some
        distance of it, until a click.
        """
        self.wait_for_search()
        count = self.page.evaluate(COUNT)
        self.types(name, "Enter")
        self.page.wait_for_function(f"({COUNT})() > {count}")
        self.page.wait_for_timeout(400)
        if not self.page.evaluate(NEWEST)["follows"]:
            return
        for _ in range(4):
            left, top = self.page.evaluate(NEWEST)["place"]
            if abs(left - place[0]) + abs(top - place[1]) < 4:
                break
            x, y = self.mouse
            self.move(x + place[0] - left, y + place[1] - top)
            self.page.wait_for_timeout(300)
        self.acts(f"click to place {name}")
        self.page.mouse.click(*self.mouse)
        self.page.wait_for_timeout(300)

    def wires(self, start, end):
        """Drags between two slots, or from a slot to an empty place of the canvas."""
        words = f"drag from {start[2]} of {start[0].removeprefix('Vitruvian')}"
        target = end if len(end) == 2 else self.slot(*end)
        self.drag(
            f"{words} to {'the canvas' if end is target else end[2]}", self.slot(*start), target
        )

    def chooses(self, start, end, kind):
        """Drags a wire with Shift to an empty place, and takes a node that is suggested there."""
        self.page.keyboard.down("Shift")
        self.wires(start, end)
        self.page.keyboard.up("Shift")
        entry = self.page.locator(".litecontextmenu .litemenu-entry").get_by_text(kind, exact=True)
        self.acts(f"choose {kind}")
        entry.click()

    def slot(self, node, kind, name):
        return self.page.evaluate(SLOT, [node, kind, name])


@pytest.fixture
def artist(page, said, renderer):
    page.evaluate(EMPTY, [NOTHING, AS_INSTALLED])
    page.wait_for_timeout(800)
    return Artist(page)


EDITOR, PEOPLE = "VitruvianPoseEditor", "VitruvianComposePeople"
DROPS = {  # where wires are let go: for nodes that follow the mouse, and for those that do not
    True: ((700, 250), (1250, 480), (1100, 300), (1400, 500), (1100, 750)),
    False: ((610, 270), (610, 100), (1060, 100), (1060, 440), (1350, 100)),
}


def build(artist, follows):
    """Six nodes and their wires."""
    drops = iter(DROPS[follows])
    artist.opens_search(700, 500) if follows else artist.opens_search(100, 120)
    artist.adds("Pose Editor", (60, 90))
    artist.wires((EDITOR, "out", "pose"), next(drops))
    artist.adds("Compose People", (610, 270))
    artist.wires((PEOPLE, "in", "model"), next(drops))
    artist.adds("Load Checkpoint", (610, 100))
    artist.wires((PEOPLE, "out", "model"), next(drops))
    artist.adds("KSampler", (1060, 100))
    artist.wires(("KSampler", "out", "LATENT"), next(drops))
    artist.adds("VAE Decode", (1060, 440))
    artist.wires(("CheckpointLoaderSimple", "out", "VAE"), ("VAEDecode", "in", "vae"))
    artist.chooses(("VAEDecode", "out", "IMAGE"), (1350, 130), "SaveImage")


def describe(artist, editor, prompts):
    """A prompt for each person, and another pose for the first."""
    first, second = prompts
    artist.acts("click into the first prompt")
    editor.prompts.first.click()
    artist.types(first, "Tab")
    artist.types(second, "Escape")
    settle(artist.page)
    size = 512
    wrist = joint(editor.people()[0], WRIST)
    artist.drag(
        "drag a wrist", editor.on_screen(*wrist), editor.on_screen(wrist[0] - 40, size * 0.15)
    )


PROMPTS = ("a man wearing a red top and blue trousers", "a woman wearing a green dress")


def set_width(artist, renderer, width):
    """The size that the mini checkpoint is made for."""
    if renderer == "new":
        field = (
            artist.page.locator("[data-node-id]")
            .filter(has_text="Compose People")
            .get_by_label("output_width")
        )
        artist.acts("double click on output_width")
        field.dblclick()
    else:
        artist.acts("click on output_width")
        artist.page.mouse.click(*artist.page.evaluate(WIDGET, [PEOPLE, "output_width"]))
    artist.types(str(width), "Enter")


def press_run(artist):
    artist.acts("click on Run")
    artist.page.get_by_role("button", name="Run", exact=True).first.click()


def saved_image(page, server, before):
    """Waits for the run that is not in `before`; its one saved image, RGB."""
    for _ in range(600):
        page.wait_for_timeout(200)
        for prompt in set(server.get("/history")) - before:
            outputs = server.wait(prompt)
            (image,) = [
                image
                for output in outputs.values()
                for image in output.get("images", ())
                if image["type"] == "output"
            ]
            path = server.base / "output" / image["subfolder"] / image["filename"]
            return np.asarray(Image.open(path).convert("RGB")).astype(int)
    pytest.fail("nothing was run")


FOLLOWS = """() => {
    try {
        return !!app.extensionManager.setting.get('Comfy.NodeSearchBoxImpl.FollowCursor')
    } catch {
        return false  // not known to older front ends
    }
}"""


def test_two_people_from_an_empty_canvas(artist, page, server, mini_weights, tmp_path, renderer):
    editor = Editor(page)
    build(artist, page.evaluate(FOLLOWS))
    describe(artist, editor, PROMPTS)
    set_width(artist, renderer, 256)
    before = set(server.get("/history"))
    press_run(artist)
    image = saved_image(page, server, before)
    page.wait_for_timeout(1000)
    page.screenshot(path=tmp_path / "first_image.png")
    (tmp_path / "actions.txt").write_text("\n".join(artist.actions))

    assert page.evaluate(COUNT) <= MOST_NODES
    assert len(artist.actions) <= MOST_ACTIONS
    assert page.evaluate(WIRES)[PEOPLE] == ["clip", "model", "pose", "prompts", "vae"]
    assert page.evaluate(WIRES)["KSampler"] == ["latent_image", "model", "negative", "positive"]
    first, second = editor.people()
    assert (first["prompt"], second["prompt"]) == PROMPTS
    assert joint(first, WRIST)[1] < joint(first, NECK)[1] < joint(second, WRIST)[1]
    assert image.shape == (256, 256, 3)
    assert image.std() > 20

    editor.use("remove")  # the person whose wrist was dragged is chosen
    assert len(editor.people()) == 1
    before = set(server.get("/history"))
    page.evaluate(SEED)
    page.evaluate("() => app.queuePrompt(0)")
    alone = saved_image(page, server, before)
    changed = np.abs(image - alone).mean(-1)
    assert changed[:, :128].mean() > changed[:, 128:].mean()  # one person less, on the left
    assert changed[:, :128].mean() > 10
