"""Saved workflows through the batch runner: the image is the row's, and so is what it holds."""

import json

from PIL import Image
from vitruvian.batch.vitruvian_batch import cli
from vitruvian.tests.browser.hard_workflows import workflows

RED = 16711680


def run(tmp_path, server, saved, table):
    """Run a workflow over a table; the images in order."""
    (tmp_path / "flow.json").write_text(json.dumps(saved), encoding="utf-8-sig")
    (tmp_path / "table.csv").write_text(table)
    out = tmp_path / "out"
    line = [tmp_path / "flow.json", "--table", tmp_path / "table.csv", "--host", server.url]
    assert cli.main([*map(str, line), "--out", str(out)]) == 0
    return [Image.open(path) for path in sorted(out.glob("*.png"))]


def test_a_primitive_shows_the_rows_value(tmp_path, server):
    table = f"EmptyImage.width,EmptyImage.color\n96,{RED}\n64,255\n"
    red, blue = run(tmp_path, server, workflows()["core_primitive"], table)
    assert red.size == (96, 64)
    assert red.getpixel((0, 0)) == (255, 0, 0)
    assert blue.size == (64, 64)
    assert blue.getpixel((0, 0)) == (0, 0, 255)
    widget_values = {node["id"]: node["widgets_values"] for node in opened(red)["nodes"]}
    assert widget_values[4][0] == RED
    assert widget_values[1][0] == 96


def test_a_subgraphs_node_shows_the_rows_value(tmp_path, server):
    saved = workflows()["shown_widgets"]
    del saved["nodes"][1], saved["nodes"][2]  # one of the two images
    table = f"#1:31.width,#1:31.height,#1:31.color,#1:31.batch_size\n80,80,{RED},1\n"
    (image,) = run(tmp_path, server, saved, table)
    assert image.size == (80, 80)
    assert image.getpixel((0, 0)) == (255, 0, 0)
    assert opened(image)["nodes"][0]["widgets_values"] == [80, 1, RED]


def test_a_bypassed_subgraph_passes_the_image_through(tmp_path, server):
    table = f"EmptyImage.color\n{RED}\n"
    (bypassed,) = run(tmp_path, server, workflows()["core_bypassed_subgraph"], table)
    assert bypassed.getpixel((0, 0)) == (255, 0, 0)


def test_tokens_take_the_rows_value(tmp_path, server):
    saved = workflows()["core_primitive"]
    save = next(node for node in saved["nodes"] if node["type"] == "SaveImage")
    save["widgets_values"] = ["wide_%EmptyImage.width%_"]
    (image,) = run(tmp_path, server, saved, "EmptyImage.width\n72\n")
    assert "wide_72_" in image.filename


def opened(image):
    """The workflow that ComfyUI opens when the image is dragged into it."""
    return json.loads(image.text["workflow"])
