"""Chromium on the running server's front end."""

import contextlib
import shutil

import pytest
from vitruvian.tests.browser.pose_editor_page import NOTHING, OPEN, Editor, is_old, settle

FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()

AS_BEFORE_ALL_TESTS = {  # the server keeps the settings that other modules have left
    "Comfy.TutorialCompleted": True,
    "Comfy.Workflow.Persist": False,
    "Comfy.VueNodes.Enabled": False,
}


@pytest.fixture(scope="module")  # no longer: playwright's event loop would be in others' way
def page(server, tmp_path_factory):
    """The front end, loaded, in a browser that has never been used."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("there is no Chromium (apt-get install chromium)")
    from playwright.sync_api import TimeoutError, sync_playwright

    server.post("/settings", AS_BEFORE_ALL_TESTS)
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("chromium"),
            executable_path=chromium,
            args=FLAGS,
            viewport={"width": 1600, "height": 1000},
        )
        page = context.new_page()
        page.goto(server.url)
        page.wait_for_function("window.app?.graph && window.LiteGraph", timeout=120_000)
        # newer front ends open a first workflow of their own, late, over what a test has opened
        with contextlib.suppress(TimeoutError):
            page.wait_for_function("app.graph._nodes.length > 0", timeout=8_000)
        yield page
        context.close()


NOT_OURS = (
    "404",
    "Content Security Policy",
    "deprecated",
    "before initialization",
    "subgraphNavigation",
    "graph that was never set up",
    "not part of the public API",
)


@pytest.fixture(scope="module")
def said(page):
    """What the console says that is not the front end's own affair."""
    lines = []
    page.on("console", lambda m: m.type in ("error", "warning") and lines.append(m.text))
    page.on("pageerror", lambda error: lines.append(str(error.stack)))
    page.set_default_timeout(10_000)
    return lines


@pytest.fixture(params=("classic", "new"))
def renderer(page, request):
    """Whether nodes are drawn by the new renderer; a front end that has none is skipped."""
    new = request.param == "new"
    if new and is_old(page):
        pytest.skip("this front end has only the classic canvas")
    page.evaluate("v => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', v)", new)
    page.wait_for_timeout(400)
    return request.param


@pytest.fixture
def editor(page, said, renderer):
    """An editor with one standing person, alone on the graph, in this renderer."""
    yield from opened_editor(page, said, fresh=False)


@pytest.fixture
def fresh_editor(page, said, renderer):
    """An editor as the front end makes a new one, alone on the graph, in this renderer."""
    yield from opened_editor(page, said, fresh=True)


def opened_editor(page, said, fresh):
    """Yield the editor; nobody complains while it is used."""
    said.clear()
    page.evaluate(OPEN, [NOTHING, fresh])
    settle(page)
    yield Editor(page)
    assert [line for line in said if not any(other in line for other in NOT_OURS)] == []
