"""Help pages: what a page's tables name is what its node has, and every page shows a picture."""

import asyncio
import re
from pathlib import Path

import pytest
import vitruvian

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "web" / "docs"
PICTURES = sorted(path for path in PAGES.iterdir() if path.suffix in {".jpg", ".png"})
README_PICTURE = "demo.png"  # the README's, of no node
LARGEST = 60_000  # bytes: all pictures together are downloaded with the pack
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
    assert sorted(named(text, "input")) == sorted(put.id for put in schema.inputs)
    assert sorted(named(text, "output")) == sorted(
        put.display_name or put.id for put in schema.outputs
    )


def test_a_page_bears_the_node_s_name(node):
    assert page(node).splitlines()[0] == f"# {SCHEMAS[node].display_name}"


def test_a_page_shows_its_picture_and_says_what_is_seen(node):
    links = dict((picture, words) for words, picture in LINK.findall(page(node)))
    assert f"{node}.jpg" in links
    assert all(len(words.split()) > 3 for words in links.values())
    assert [picture for picture in links if not (PAGES / picture).is_file()] == []


def test_no_picture_is_left_over():
    pages = [path.read_text(encoding="utf-8") for path in PAGES.glob("*.md")]
    linked = {picture for text in pages for _, picture in LINK.findall(text)}
    assert {path.name for path in PICTURES} == linked | {README_PICTURE}


def test_pictures_are_small():
    assert [path.name for path in PICTURES if path.stat().st_size > LARGEST] == [README_PICTURE]
