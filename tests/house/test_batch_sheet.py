"""The page with all images of a batch, without a host: what stands below which image."""

import html.parser

import pytest
from vitruvian.batch.vitruvian_batch import jobs, sheet
from vitruvian.batch.vitruvian_batch.manifest import Manifest
from vitruvian.batch.vitruvian_batch.table import Row
from vitruvian.batch.vitruvian_batch.workflow import Workflow

NODES = {
    "1": {
        "class_type": "Encode",
        "inputs": {"text": "a red hat"},
        "_meta": {"title": "Good"},
    },
    "2": {"class_type": "Encode", "inputs": {"text": "blurry"}, "_meta": {"title": "Bad"}},
    "3": {"class_type": "Sample", "inputs": {"seed": 7, "steps": 4, "positive": ["1", 0]}},
    "4": {"class_type": "Pose", "inputs": {"prompt": '{"people": []}'}},
}

FLOWS = [Workflow("flow", NODES)]


class Page(html.parser.HTMLParser):
    """Reads a page: its figures in order, each {id, class, addresses, text}."""

    def __init__(self, text):
        super().__init__()
        self.figures, self.open, self.addresses = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "figure":
            self.figures.append({**attributes, "addresses": [], "text": ""})
        if self.figures and "src" in attributes:
            self.figures[-1]["addresses"].append(attributes["src"])
            assert tag not in ("img",) or attributes["loading"] == "lazy"
        assert tag not in ("script", "link", "iframe")
        if tag in ("figure", "figcaption", "p", "b", "a", "span", "div", "main"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in ("figure", "figcaption", "p", "b", "a", "span", "div", "main"):
            assert self.open.pop() == tag

    def handle_data(self, text):
        if self.figures:
            self.figures[-1]["text"] += text


@pytest.fixture
def write(tmp_path):
    """Writes the sheet of rows (lists of cells) of which some ended: {number: line}."""

    def start(rows, lines, flows=FLOWS, name="out/sheet.html", extra=()):
        numbered = [Row(n, f"t.csv, row {n}", cells) for n, cells in enumerate(rows, 1)]
        plan = jobs.plan([*flows], numbered, tmp_path)
        manifest = Manifest(tmp_path / "out" / "manifest.jsonl", tmp_path / "out", False)
        for line in extra:
            manifest.write(line)
        for number, line in lines.items():
            manifest.write({"number": number, "key": plan.keys[number - 1], "seconds": 1.5, **line})
        manifest.close()
        sheet.write_sheet(tmp_path / name, plan, manifest)
        text = (tmp_path / name).read_text(encoding="utf-8")
        return Page(text).figures, text

    return start


def done(*names):
    return {"event": "done", "files": [{"file": name, "bytes": 1} for name in names]}


def test_every_row_has_its_image_seed_and_prompt(write):
    figures, text = write(
        [{"Good.text": "a cat", "seed": 11}, {"Good.text": "a dog"}, {"Sample.steps": 9}],
        {
            1: done("001_p.png"),
            2: {"event": "failed", "error": "no <memory>"},
            3: {"event": "queued"},
        },
    )
    first, second, third = figures
    assert [figure["id"] for figure in figures] == ["row-1", "row-2", "row-3"]
    assert [figure["class"] for figure in figures] == ["done", "failed", "not-run"]
    assert first["addresses"] == ["001_p.png"] and second["addresses"] == third["addresses"] == []
    assert (
        "seed 11" in first["text"] and "Good: a cat" in first["text"] and "1.5 s" in first["text"]
    )
    assert "blurry" not in first["text"] and "seed: 11" not in first["text"]
    assert "no <memory>" in second["text"] and "seed 7" in second["text"]
    # a row that fills no prompt has those of the workflow, without data that is no text
    assert "Good: a red hat" in third["text"] and "Bad: blurry" in third["text"]
    assert "Sample.steps: 9" in third["text"] and "people" not in third["text"]
    assert "3 rows: 1 done, 1 failed, 1 not run." in text


def test_names_and_texts_are_no_markup(write):
    nasty = "\"><script>alert(1)</script>&amp; '\u2028\ud800"
    figures, text = write([{"Good.text": nasty, "_note": "<i>mine"}], {1: done('001_a #%"<b>.png')})
    assert "<script" not in text and "<i>" not in text
    assert figures[0]["addresses"] == ["001_a%20%23%25%22%3Cb%3E.png"]
    assert "alert(1)</script>&amp;" in figures[0]["text"] and "note: <i>mine" in figures[0]["text"]


def test_a_row_that_was_tried_again_and_one_that_was_corrected(write):
    failure = {"event": "failed", "number": 1, "key": "earlier", "error": "old", "seconds": 1}
    figures, _ = write(
        [{"Good.text": "a"}, {"Good.text": "b"}],
        {1: done("001_p.png", "001_p_2.png"), 2: done("002_p.mp4", "002_p.flac", "002_p.glb")},
        extra=[failure, {**failure, "event": "again"}],
    )
    assert [figure["class"] for figure in figures] == ["done", "done"]
    assert figures[0]["addresses"] == ["001_p.png", "001_p_2.png"]
    assert (
        figures[1]["addresses"] == ["002_p.mp4", "002_p.flac"] and "002_p.glb" in figures[1]["text"]
    )
    assert "old" not in figures[0]["text"]


def test_images_are_found_from_another_folder_and_workflows_are_named(write):
    flows = [Workflow("first", NODES), Workflow("second", NODES)]
    figures, _ = write([{"seed": 1}], {1: done("001_p.png"), 2: done("002_p.png")}, flows, "a.html")
    assert [figure["addresses"] for figure in figures] == [["out/001_p.png"], ["out/002_p.png"]]
    assert ["first" in figures[0]["text"], "second" in figures[1]["text"]] == [True, True]


def test_an_interrupted_sheet_leaves_the_old_one(write, tmp_path, monkeypatch):
    write([{"seed": 1}], {1: done("001_p.png")})
    before = (tmp_path / "out" / "sheet.html").read_text()
    monkeypatch.setattr(sheet, "_figure", lambda *_: 1 / 0)
    (tmp_path / "out" / "manifest.jsonl").unlink()
    with pytest.raises(ZeroDivisionError):
        write([{"seed": 2}], {})
    assert (tmp_path / "out" / "sheet.html").read_text() == before
    assert not [path for path in (tmp_path / "out").iterdir() if path.suffix == ".part"]
