"""The pose editor's library, own poses, files, prompts and view, on the real front end."""

import json
import math
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from playwright.sync_api import expect
from vitruvian.models import pose_editor
from vitruvian.tests.browser.pose_editor_page import WRIST, is_old, joint, settle

ROOT = Path(__file__).parents[2]
FRAMES = {frame["name"]: frame for frame in json.loads(pose_editor.POSE_LIBRARY.read_text())}
BOTH = re.compile("chosen hovered|hovered chosen")
OWN = "/userdata?dir=vitruvian%2Fposes&recurse=true"
DROP = """async ([files, text]) => {
    const target = document.querySelector('.vitruvian-pose .canvas')
    const transfer = new DataTransfer()
    for (const [name, type, bytes] of files)
        transfer.items.add(new File([new Uint8Array(bytes)], name, { type }))
    if (text) transfer.setData('text/plain', text)
    const options = { bubbles: true, cancelable: true }
    if (text) {
        target.focus()
        target.dispatchEvent(new ClipboardEvent('paste', { ...options, clipboardData: transfer }))
    } else target.dispatchEvent(new DragEvent('drop', { ...options, dataTransfer: transfer }))
}"""
NODES = "() => app.graph.nodes.map(n => n.type)"


def drop(page, name, kind, content):
    page.evaluate(DROP, [[[name, kind, list(content)]], ""])


def wait_for_people(editor, page, count):
    page.wait_for_function(
        "n => document.querySelectorAll('.vitruvian-pose textarea').length === n", arg=count
    )
    page.wait_for_timeout(60)
    return editor.people()


def edges(person):
    xs = [x for key in person if key != "prompt" for x in person[key][::3]]
    return min(xs), max(xs)


def forget_refusals(said):
    """The console's lines of requests that were meant to be refused."""
    said[:] = [line for line in said if "the server responded with a status of" not in line]


def panel(page):
    return page.locator(".vitruvian-pose .library")


def test_one_click_adds_people_beside_the_others(editor, page):
    editor.add("waving")
    first, second = editor.people()
    assert edges(first)[1] < edges(second)[0], "nobody is touched"
    editor.press("Control+z")
    page.wait_for_timeout(600)
    editor.use("add")
    search = panel(page).get_by_label("Search poses")
    search.fill("hug")
    names = panel(page).locator(".poses .tool").all_inner_texts()
    assert [name.strip() for name in names] == ["hugging the knees", "hug"]
    search.fill("no such pose")
    expect(panel(page)).to_contain_text("No pose is called so.")
    editor.press("Escape")
    expect(panel(page)).to_be_hidden()
    editor.press("a")
    assert panel(page).locator(".poses .tool").count() >= len(FRAMES)
    panel(page).get_by_label("Add: handshake").click()
    page.wait_for_timeout(100)
    people = editor.people()
    assert len(people) == 2, "a pair takes the place of people whom nobody has posed"
    hands = [joint(person, WRIST) for person in people]
    assert math.dist(*hands) < 60 and edges(people[0])[0] > 0 and edges(people[1])[1] < 512


def test_a_pose_replaces_a_persons(editor, page):
    editor.prompts.nth(0).fill("a man")
    (before,) = editor.people()
    editor.press("Enter")
    editor.use("add")
    panel(page).get_by_text("Replace the chosen person").click()
    panel(page).get_by_label("Replace: sitting", exact=True).click()
    page.wait_for_timeout(100)
    (after,) = editor.people()
    assert after["prompt"] == "a man"
    assert after["pose_keypoints_2d"] != before["pose_keypoints_2d"]
    assert max(after["pose_keypoints_2d"][1::3]) <= max(before["pose_keypoints_2d"][1::3]) + 40
    editor.undo()
    assert editor.people() == [before]


def test_own_poses(editor, page, server, renderer, said):
    name = f"my pose {renderer}"

    def ask(button, text):
        panel(page).get_by_text(button, exact=True).click()
        page.locator(".vitruvian-pose form input").fill(text)
        page.keyboard.press("Enter")

    editor.use("mirror")
    editor.use("add")
    ask("Save the chosen person", name)
    saved_pose = panel(page).get_by_label(f"Add: {name}", exact=True)
    expect(saved_pose).to_be_visible()
    saved = json.dumps(server.get(OWN))
    assert name in saved
    ask("Save everybody", name)
    expect(panel(page)).to_contain_text(f"There is a pose “{name}” already. Replace it?")
    panel(page).get_by_text("No", exact=True).click()
    with page.expect_download() as download:
        panel(page).get_by_label(f"Export: {name}").click()
    frame = json.loads(Path(download.value.path()).read_text())
    assert pose_editor.read_state(json.dumps(frame)).prompts == ("a person",)
    assert download.value.suggested_filename == f"{name}.json"
    panel(page).get_by_label(f"Rename: {name}").click()
    page.locator(".vitruvian-pose form input").fill(f"{name} 2")
    page.keyboard.press("Enter")
    expect(panel(page).get_by_label(f"Add: {name} 2")).to_be_visible()
    expect(saved_pose).to_have_count(0)

    page.route("**/userdata/**", lambda route: route.fulfill(status=500, body="broken"))
    ask("Save the chosen person", "another")
    expect(panel(page)).to_contain_text("another: the server says 500")
    page.unroute("**/userdata/**")
    panel(page).get_by_label(f"Delete: {name} 2").click()
    panel(page).get_by_text("Yes", exact=True).click()
    expect(panel(page).get_by_label(f"Add: {name} 2")).to_have_count(0)
    assert name not in json.dumps(server.get(OWN))
    forget_refusals(said)
    editor.press("Escape")


def test_a_dropped_pose_of_any_form(editor, page, said):
    drop(page, "pair.json", "application/json", json.dumps(FRAMES["fight"]).encode())
    assert len(wait_for_people(editor, page, 2)) == 2
    foreign = (ROOT / "tests/poses/coco_annotations.json").read_bytes()  # the server reads this
    drop(page, "coco.json", "application/json", foreign)
    page.wait_for_function("() => document.querySelectorAll('.vitruvian-pose textarea').length > 2")
    count = editor.prompts.count()
    drop(page, "words.json", "application/json", (ROOT / "tests/poses/words.json").read_bytes())
    page.wait_for_function(
        "() => document.querySelector('.vitruvian-pose .status').textContent.includes('words.json')"
    )
    assert editor.prompts.count() == count
    assert page.evaluate(NODES) == ["VitruvianPoseEditor"], "the front end took nothing of it"
    forget_refusals(said)


def test_copy_and_paste_of_a_person(editor, page):
    editor.canvas.focus()
    editor.press("c")
    page.wait_for_timeout(100)
    assert "copied" in editor.status()
    editor.use("mirror")
    page.evaluate(DROP, [[], json.dumps(FRAMES["dancing"])])
    assert len(wait_for_people(editor, page, 2)) == 2
    page.evaluate(DROP, [[], "a text of no interest"])
    page.wait_for_timeout(200)
    assert len(editor.people()) == 2
    if not is_old(page):  # the old front end's own paste is the graph's canvas's alone
        editor.press("c")
        editor.press("Control+v")
        assert len(wait_for_people(editor, page, 3)) == 3
        assert page.evaluate(NODES) == ["VitruvianPoseEditor"]


def test_a_photograph_is_behind_the_canvas_before_any_run(editor, page, server):
    picture = np.full((96, 96, 3), (0, 128, 255), np.uint8)
    drop(page, "photo.png", "image/png", cv2.imencode(".png", picture)[1].tobytes())
    slider = page.get_by_title("How much of the photograph is seen")
    expect(slider).to_be_visible()
    assert sorted(page.evaluate(NODES)) == ["LoadImage", "VitruvianPoseEditor"]
    assert any("photo" in file.name for file in (server.base / "input").iterdir())
    middle = """() => {
        const canvas = document.querySelector('.vitruvian-pose .canvas canvas')
        const { width, height } = canvas
        const x = width / 2 - 0.4 * Math.min(width, height)  // beside the person
        return [...canvas.getContext('2d').getImageData(x, height / 2, 1, 1).data]
    }"""
    page.wait_for_function(f"() => ({middle})()[0] > 100")
    red, green, blue, _ = page.evaluate(middle)
    assert red > green > blue, "the photograph's orange shines through"
    page.evaluate("""() => {
        const editor = app.graph.nodes.find(n => n.type === 'VitruvianPoseEditor')
        editor.disconnectInput(editor.inputs.findIndex(i => i.name === 'background_image'))
    }""")
    expect(slider).to_be_hidden()


def test_prompt_and_person_are_highlighted_together(fresh_editor, page):
    editor = fresh_editor
    rows = page.locator(".vitruvian-pose .prompt")
    editor.prompts.nth(1).click()
    expect(rows.nth(1)).to_have_class(BOTH)
    assert editor.status() == "person 2"
    page.mouse.move(*editor.on_screen(256 * 0.6, 178))  # the first person's shoulder
    expect(rows.nth(0)).to_have_class("prompt hovered")
    editor.canvas.focus()
    editor.press("1")
    expect(rows.nth(0)).to_have_class(BOTH)
    editor.press("p")
    expect(editor.prompts.nth(0)).to_be_focused()
    page.keyboard.type("a woman in red")
    assert editor.people()[0]["prompt"] == "a woman in red"


def test_snapping_grid_and_full_screen(editor, page):
    editor.use("mirror")
    editor.use("lengths")  # off: points are free
    editor.use("snaps")
    editor.use("grid")
    (before,) = editor.people()
    x, y = joint(before, 13)
    editor.drag(joint(before, WRIST), (x + 4, y - 3))
    assert joint(editor.people()[0], WRIST) == pytest.approx([x, y], abs=0.2), "on the ankle"
    editor.drag(joint(before, 7), (449, 131))
    assert joint(editor.people()[0], 7) == pytest.approx([448, 128], abs=0.2), "on the grid"
    editor.press("s")
    editor.press("g")
    expect(editor.tool("snaps")).to_have_attribute("aria-pressed", "false")
    editor.drag((448, 128), (430, 100))
    assert joint(editor.people()[0], 7) == pytest.approx([430, 100], abs=2)
    editor.use("lengths")

    editor.use("fullScreen")
    page.wait_for_function("() => document.fullscreenElement?.matches('.vitruvian-pose')")
    page.wait_for_timeout(300)
    width = editor.canvas.evaluate("e => e.getBoundingClientRect().width")
    assert width > 1000
    text = editor.text()
    editor.press("ArrowRight")
    assert editor.text() != text
    editor.press("f")
    page.wait_for_function("() => !document.fullscreenElement")
    settle(page)


def test_moving_the_view_and_the_person_by_keys(editor, page):
    editor.use("mirror")
    (before,) = editor.people()
    editor.press("]")
    (turned,) = editor.people()
    assert joint(turned, 0)[0] > joint(before, 0)[0] + 5, "to the right"
    editor.press("[")
    editor.press(".")
    (larger,) = editor.people()
    assert joint(larger, 10)[1] - joint(larger, 0)[1] == pytest.approx(
        1.05 * (joint(before, 10)[1] - joint(before, 0)[1]), rel=0.01
    )
    editor.press("0")
    x, y = editor.on_screen(*joint(larger, 1))
    text = editor.text()
    editor.canvas.focus()
    page.keyboard.down(" ")
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 40, y + 30)
    page.mouse.up()
    page.keyboard.up(" ")
    assert editor.text() == text, "with Space a drag moves the view and nobody"
    page.mouse.move(x + 40, y + 30)
    page.mouse.down()
    page.mouse.move(x + 80, y + 30)
    page.mouse.up()
    page.wait_for_timeout(60)
    assert editor.text() != text, "the neck is where the view was moved to"
    editor.press("0")


CROWD = """() => {
    const node = app.graph.nodes[0]
    node.setSize([320, node.size[1]])
    app.canvas.setDirty(true, true)
}"""
SMALL = """() => [...document.querySelectorAll('.vitruvian-pose button, .vitruvian-pose textarea')]
    .filter((e) => e.offsetParent && (e.offsetWidth < 24 || e.offsetHeight < 24))
    .map((e) => [e.title || e.className, e.offsetWidth, e.offsetHeight])"""
OUTSIDE = """() => {
    const editor = document.querySelector('.vitruvian-pose')
    const box = editor.getBoundingClientRect()
    return [...editor.querySelectorAll('button, textarea, .canvas')].filter((e) => {
        const { left, right } = e.getBoundingClientRect()
        return e.offsetParent && (left < box.left - 1 || right > box.right + 1)
    }).map((e) => e.title || e.className)
}"""


def test_twelve_people_in_a_narrow_node(editor, page, tmp_path):
    people = [person for name in list(FRAMES)[:12] for person in FRAMES[name]["people"]]
    for number, person in enumerate(people):
        for key in person:
            shift = [60 * (number - 5.5), 0, 0]
            person[key] = [v + shift[i % 3] for i, v in enumerate(person[key])]
    frame = {"canvas_width": 1000, "canvas_height": 1000, "people": people}
    drop(page, "crowd.json", "application/json", json.dumps(frame).encode())
    assert len(wait_for_people(editor, page, 12)) == 12
    page.evaluate(CROWD)
    settle(page)
    page.screenshot(path=tmp_path / "crowd.png")
    assert page.evaluate(OUTSIDE) == []
    assert page.evaluate(SMALL) == []
    assert editor.canvas.evaluate("e => e.clientHeight") >= 130
    last = editor.prompts.nth(11)
    last.scroll_into_view_if_needed()
    last.fill("the twelfth")
    assert [person["prompt"] for person in editor.people()].count("the twelfth") == 1
    editor.press("Enter")
    editor.use("add")
    assert page.evaluate(OUTSIDE) == []
    assert page.evaluate(SMALL) == []
    page.screenshot(path=tmp_path / "narrow_panel.png")
    editor.press("Escape")
