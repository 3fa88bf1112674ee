"""The images of the help pages, made of the examples by the table help_images.toml.

A strip is a row of what nodes of an example's graph output; a screen is some of its nodes in
ComfyUI's front end. The table says how either may differ from the example.
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tomllib
from PIL import Image, ImageDraw, ImageFont

from ...batch.vitruvian_batch.trouble import Trouble
from ...tools.examples import read_workflow
from ...tools.paths import ROOT
from ...tools.server import Server
from . import help_screens
from .thumbnails import jpeg

Graph = dict[str, dict[str, Any]]
TABLE = Path(__file__).with_suffix(".toml")
FOLDER = ROOT / "web" / "docs"
WIDTH, QUALITY, MOST_BYTES = 760, 76, 40_000
LARGEST = 3  # how much a panel is enlarged at most
GAP, LETTERS, LINE = 4, 14, 20  # pixels
PAPER, INK = (255, 255, 255), (30, 30, 30)
VIEWERS: dict[str, tuple[str, str, int]] = {  # type -> a class that shows it, its input and output
    "IMAGE": ("", "", 0),
    "MASK": ("MaskToImage", "mask", 0),
    "POSE_KEYPOINT": ("VitruvianDrawPose", "pose", 0),
    "VITRUVIAN_SEMANTIC_MAP": ("VitruvianShowSemanticMap", "semantic_map", 1),
}
Row = dict[str, Any]


@functools.cache
def table() -> dict[str, Row]:
    """Return the table: name of an image -> what it shows."""
    rows: dict[str, Row] = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    for row in rows.values():
        base = rows.get(row.get("like", ""), {})
        for key in ("add", "set"):
            row[key] = {**base.get(key, {}), **row.get(key, {})}
    return rows


def path(name: str) -> Path:
    """Return the file of an image of the table."""
    file = FOLDER / f"Vitruvian{name}.jpg"
    return file if name[0].isupper() else FOLDER / f"{name}.jpg"


def draw(server: Server, name: str, page: Any = None) -> bytes:
    """Make an image of the table, a JPEG file; a screen needs the front end's page."""
    row = table()[name]
    info = server.info()
    if "screen" in row:
        graph = with_defaults(edited(row), info)
        columns = [[find(graph, node) for node in column] for column in row["screen"]]
        heights = {find(graph, node): height for node, height in row.get("heights", {}).items()}
        run = [find(graph, node) for node in row["run"]] if "run" in row else None
        image = help_screens.draw(page, graph, columns, heights, run)
    else:
        image = _strip(server, row, info)
    return jpeg(image, MOST_BYTES, QUALITY)


def edited(row: Row, changes: dict[str, Any] | None = None) -> Graph:
    """Return the graph of a row's example with the nodes that it adds and all changes of inputs.

    A changed or added input "@NODE" or "@NODE:2" is wired to that node, output 2.
    """
    graph: Graph = copy.deepcopy(read_workflow(row["example"]))
    for title, inputs in row.get("add", {}).items():
        inputs = dict(inputs)
        if like := inputs.pop("like", None):
            model = graph[find(graph, like)]
            kind, inputs = model["class_type"], {**model["inputs"], **inputs}
        else:
            kind = inputs.pop("class")
        number = str(max(map(int, graph)) + 1)
        graph[number] = {"class_type": kind, "inputs": inputs, "_meta": {"title": title}}
    for place, value in {**row.get("set", {}), **(changes or {})}.items():
        node, _, name = place.rpartition(".")
        graph[find(graph, node)]["inputs"][name] = value
    for node in graph.values():
        for name, value in node["inputs"].items():
            if isinstance(value, str) and value.startswith("@"):
                source, output = split(value[1:])
                node["inputs"][name] = [find(graph, source), output or 0]
    return graph


def find(graph: Graph, name: str) -> str:
    """Return the id of a node by its class and number ("KSampler 2"), or else by its title."""
    kind, _, number = name.partition(" ")
    if not number or number.isdigit():
        classes = (kind, f"Vitruvian{kind}")
        ids = [id for id, node in graph.items() if node["class_type"] in classes]
        if len(ids) >= int(number or 1):
            return ids[int(number or 1) - 1]
    for id, node in graph.items():
        if node.get("_meta", {}).get("title") == name:
            return id
    raise Trouble(f"The graph has no node {name!r}.")


def split(reference: str) -> tuple[str, int | None]:
    """Split "NODE:2" into the node and the number of an output, None if there is none."""
    name, _, output = reference.partition(":")
    return name, int(output) if output else None


def with_defaults(graph: Graph, info: dict[str, Any]) -> Graph:
    """Give all nodes the inputs that they need and do not have, with ComfyUI's defaults."""
    for node in graph.values():
        for name, (kind, *options) in info[node["class_type"]]["input"]["required"].items():
            option = options[0] if options else {}
            choices = kind if isinstance(kind, list) else option.get("options", ())
            default = option.get("default", choices[0] if choices else None)
            if default is not None:
                node["inputs"].setdefault(name, default)
    return graph


def _strip(server: Server, row: Row, info: dict[str, Any]) -> Image.Image:
    """Run the graph once for each set of changes; put the panels into rows."""
    strips = [[as_dict(one) for one in strip] for strip in rows_of(row)]
    variants: dict[str, list[Row]] = {}
    for panel in (one for strip in strips for one in strip):
        variants.setdefault(json.dumps(panel.get("set")), []).append(panel)
    for same in variants.values():
        graph = edited(row, same[0].get("set"))
        batches = _run(server, graph, [panel["of"] for panel in same], info)
        for panel, images in zip(same, batches, strict=True):
            frames = panel.get("frames", range(len(images)))
            panel["images"] = [images[number] for number in frames]
    return compose(strips, row.get("width", WIDTH), row.get("to_scale", False))


def rows_of(row: Row) -> list[list[str | Row]]:
    """Return the rows of panels of an image, which may have only one."""
    rows: list[list[str | Row]] = row["rows"] if "rows" in row else [row["row"]]
    return rows


def as_dict(panel: str | Row) -> Row:
    """Return a panel of the table, which may be only what it is of, as a dict."""
    return {"of": panel} if isinstance(panel, str) else dict(panel)


def _run(
    server: Server, graph: Graph, references: Sequence[str], info: dict[str, Any]
) -> list[list[Image.Image]]:
    """Run what outputs need; return the images of each."""
    previews = [_append_preview(graph, reference, info) for reference in references]
    outputs = server.wait(server.queue(with_defaults(_needed(graph, previews), info)))
    folder = Path(server.base)
    return [
        [
            Image.open(folder / file["type"] / file["subfolder"] / file["filename"]).convert("RGB")
            for file in outputs[preview]["images"]
        ]
        for preview in previews
    ]


def _append_preview(graph: Graph, reference: str, info: dict[str, Any]) -> str:
    """Append the nodes that show an output; return the id of the last."""
    link = output_of(graph, reference, info)
    kind = info[graph[link[0]]["class_type"]]["output"][link[1]]
    viewer, name, output = VIEWERS[kind]
    steps = [(viewer, name, output)] if viewer else []
    for node, entry, after in [*steps, ("PreviewImage", "images", 0)]:
        number = str(max(map(int, graph)) + 1)
        graph[number] = {"class_type": node, "inputs": {entry: link}}
        link = [number, after]
    return str(link[0])


def output_of(graph: Graph, reference: str, info: dict[str, Any]) -> list[Any]:
    """Return the link to what "NODE:1" names; without a number the first that can be shown.

    Of a node without outputs, such as Save Image, it is what the node shows.
    """
    name, output = split(reference)
    id = find(graph, name)
    kinds = info[graph[id]["class_type"]]["output"]
    if output is None:
        visible = [number for number, kind in enumerate(kinds) if kind in VIEWERS]
        if not visible:
            link: list[Any] = graph[id]["inputs"]["images"]
            return link
        output = visible[0]
    if output >= len(kinds) or kinds[output] not in VIEWERS:
        raise Trouble(f"{reference}: this output can not be shown.")
    return [id, output]


def _needed(graph: Graph, ends: Sequence[str]) -> Graph:
    """Return the nodes that these need."""
    needed, waiting = {}, list(ends)
    while waiting:
        id = waiting.pop()
        needed[id] = graph[id]
        values = graph[id]["inputs"].values()
        waiting += [value[0] for value in values if isinstance(value, list) and len(value) == 2]
    return {id: graph[id] for id in graph if id in needed}


def compose(rows: Sequence[Sequence[Row]], width: int, to_scale: bool = False) -> Image.Image:
    """Put rows of panels with their captions onto white paper.

    All are as high as each other, or else (to_scale) enlarged by one factor.
    """
    every = [image for row in rows for one in row for image in one["images"]]
    tallest = max(image.height for image in every)
    scales = {id(image): 1.0 if to_scale else tallest / image.height for image in every}
    factor = LARGEST
    for row in rows:
        images = [image for one in row for image in one["images"]]
        widths = sum(image.width * scales[id(image)] for image in images)
        factor = min(factor, (width - GAP * (len(images) - 1)) / widths)
    strips = [
        _paste_row(row, {key: factor * scale for key, scale in scales.items()}) for row in rows
    ]
    height = sum(strip.height for strip in strips) + GAP * (len(strips) - 1)
    paper = Image.new("RGB", (max(strip.width for strip in strips), height), PAPER)
    top = 0
    for strip in strips:
        paper.paste(strip, (0, top))
        top += strip.height + GAP
    return paper


def _paste_row(row: Sequence[Row], scales: dict[int, float]) -> Image.Image:
    """Put panels side by side, level at their lower edges, each with its caption below."""
    columns = [[_scaled(image, scales[id(image)]) for image in one["images"]] for one in row]
    images = [image for column in columns for image in column]
    bottom = max(image.height for image in images)
    width = sum(image.width for image in images) + GAP * (len(images) - 1)
    is_labeled = any("caption" in one for one in row)
    paper = Image.new("RGB", (width, bottom + LINE * is_labeled), PAPER)
    pen, font, x = ImageDraw.Draw(paper), ImageFont.load_default(LETTERS), 0
    for one, column in zip(row, columns, strict=True):
        left = x
        for image in column:
            paper.paste(image, (x, bottom - image.height))
            x += image.width + GAP
        middle = (left + x - GAP) / 2
        pen.text((middle, bottom + 2), one.get("caption", ""), INK, font, anchor="ma")
    return paper


def _scaled(image: Image.Image, scale: float) -> Image.Image:
    size = round(image.width * scale), round(image.height * scale)
    return image.resize(size, Image.Resampling.LANCZOS)
