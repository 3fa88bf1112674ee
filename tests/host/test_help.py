"""Help pages: what a page's tables name is what its node has, and every page shows an image."""

import asyncio
import re
from pathlib import Path

import pytest
import vitruvian

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "web" / "docs"
IMAGES = sorted(path for path in PAGES.iterdir() if path.suffix in {".jpg", ".png"})
README_IMAGE = "demo.jpg"  # the README's, of no node
LARGEST = 60_000  # bytes: all images together are downloaded with the pack
TABLE = re.compile(r"^\| (input|output) \| meaning \|\n\|[-|]+\|\n((?:\|.*\n?)+)", re.MULTILINE)
LINK = re.compile(r"!\[([^\]]+)\]\(([^)]+)\)")


def _schemas():
    extension = asyncio.run(vitruvian.comfy_entrypoint())
    nodes = asyncio.run(extension.get_node_list())
    return {schema.node_id: schema for schema in (node.define_schema() for node in nodes)}


SCHEMAS = _schemas()


@pytest.fixture(params=sorted(SCHEMAS))
def node(request):
    return request.param


def page(node):
    return (PAGES / f"{node}.md").read_text(encoding="utf-8")


def named(text, kind):
    """The names in the first column of a page's tables of inputs or outputs, as they stand."""
    return [
        name.strip()
        for of, rows in TABLE.findall(text)
        if of == kind
        for row in rows.splitlines()
        for name in row.split("|")[1].split(",")
    ]


def test_tables_name_all_that_a_node_has_and_nothing_else(node):
    schema, text = SCHEMAS[node], page(node)
    assert sorted(named(text, "input")) == sorted(socket.id for socket in schema.inputs)
    assert sorted(named(text, "output")) == sorted(
        socket.display_name or socket.id for socket in schema.outputs
    )


def test_a_page_bears_the_node_s_name(node):
    assert page(node).splitlines()[0] == f"# {SCHEMAS[node].display_name}"


def test_a_page_shows_its_image_and_describes_it(node):
    links = dict((image, words) for words, image in LINK.findall(page(node)))
    assert f"{node}.jpg" in links
    assert all(len(words.split()) > 3 for words in links.values())
    assert [image for image in links if not (PAGES / image).is_file()] == []


def test_no_image_is_left_over():
    pages = [path.read_text(encoding="utf-8") for path in PAGES.glob("*.md")]
    linked = {image for text in pages for _, image in LINK.findall(text)}
    assert {path.name for path in IMAGES} == linked | {README_IMAGE}


def test_images_are_small():
    assert [path.name for path in IMAGES if path.stat().st_size > LARGEST] == []
