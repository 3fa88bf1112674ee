"""The pose editor stays one widget of small modules."""

from pathlib import Path

WEB = Path(__file__).parents[2] / "web"
SCRIPTS = [WEB / "pose_editor.js", *sorted((WEB / "editor").glob("*.js"))]


def code_lines(script):
    """The lines of a script without blank ones and those that are a comment alone."""
    lines = [line.strip() for line in script.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line and not line.startswith(("//", "/*", "*"))]


def test_the_editor_has_at_most_three_thousand_lines_of_code():
    assert sum(len(code_lines(script)) for script in SCRIPTS) <= 3000


def test_its_modules_are_small_and_its_lines_short():
    assert {
        script.name: len(code_lines(script)) for script in SCRIPTS if len(code_lines(script)) > 400
    } == {}
    long = [
        f"{script.name}:{number}"
        for script in SCRIPTS
        for number, line in enumerate(script.read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > 100
    ]
    assert long == []
