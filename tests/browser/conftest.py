"""Chromium on the running server's front end."""

import contextlib
import shutil

import pytest

FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()


@pytest.fixture(scope="module")  # no longer: playwright's event loop would be in others' way
def page(server, tmp_path_factory):
    """The front end, loaded, in a browser that has never been used."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("there is no Chromium (apt-get install chromium)")
    from playwright.sync_api import TimeoutError, sync_playwright

    server.post("/settings", {"Comfy.TutorialCompleted": True, "Comfy.Workflow.Persist": False})
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("chromium"),
            executable_path=chromium,
            args=FLAGS,
            viewport={"width": 1600, "height": 900},
        )
        page = context.new_page()
        page.goto(server.url)
        page.wait_for_function("window.app?.graph && window.LiteGraph", timeout=120_000)
        # newer front ends open a first workflow of their own, late, over what a test has opened
        with contextlib.suppress(TimeoutError):
            page.wait_for_function("app.graph._nodes.length > 0", timeout=8_000)
        yield page
        context.close()
