"""A page with all images of a batch, prompt and seed below each: an HTML file without scripts."""

import contextlib
import html
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .jobs import Job, Plan
from .manifest import Manifest, full_disk
from .values import shorten
from .workflow import Target, is_link, spec_of, title_of

NAME = "sheet.html"
PROMPTS = ("text", "prompt", "prompts", "positive", "negative", "sentence")
IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".avif", ".bmp")
VIDEOS, SOUNDS = (".mp4", ".webm", ".mov"), (".mp3", ".wav", ".flac", ".opus", ".ogg", ".m4a")
MESSAGE = 600  # characters of an error

HEAD = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --line: #8884; --wrong: #c22; }}
body {{ margin: 0 auto; padding: 1rem; max-width: 110rem; font: 1rem/1.4 system-ui, sans-serif; }}
main {{ display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr)); }}
figure {{ margin: 0; border: 1px solid var(--line); border-radius: .5rem; overflow: hidden;
  content-visibility: auto; contain-intrinsic-size: auto 26rem; }}
.files {{ display: grid; gap: 2px; grid-template-columns: repeat(auto-fit, minmax(45%, 1fr)); }}
img, video {{ display: block; width: 100%; aspect-ratio: 1; object-fit: contain;
  background: #8882; }}
audio {{ width: 100%; }}
figcaption {{ padding: .5rem .75rem; overflow-wrap: anywhere; }}
figcaption p {{ margin: .25rem 0; max-height: 12em; overflow: auto; white-space: pre-wrap; }}
.row {{ opacity: .75; font-variant-numeric: tabular-nums; }}
b {{ font-weight: 600; }}
.failed {{ border-color: var(--wrong); }}
.failed .what, .failed > header {{ color: var(--wrong); }}
.nothing {{ display: grid; margin: 0; place-items: center; aspect-ratio: 2; background: #8882; }}
</style>
"""


def write_sheet(path: Path, plan: Plan, manifest: Manifest) -> None:
    """Write the page of a batch: its rows in order, also those that failed or did not run.

    It appears complete or not at all. Images are named by their path from the page.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with full_disk(path.parent), contextlib.ExitStack() as stack:
        stack.callback(part.unlink, missing_ok=True)
        with part.open("w", encoding="utf-8", errors="backslashreplace") as page:
            page.writelines(_page(plan, manifest, path.parent))
        os.replace(part, path)


def _page(plan: Plan, manifest: Manifest, folder: Path) -> Iterator[str]:
    lines = _last_lines(manifest.path)
    states = [lines.get(key, {}).get("event") for key in plan.keys]
    failed = [number for number, state in enumerate(states, 1) if state == "failed"]
    counts = {"done": states.count("done"), "failed": len(failed)}
    counts["not run"] = len(states) - sum(counts.values())
    summary = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    yield HEAD.format(title=_text(manifest.out.name))
    yield f"<h1>{_text(manifest.out.name)}</h1>\n<p>{len(plan)} rows: {summary}.</p>\n"
    if failed:
        links = ", ".join(f'<a href="#row-{number}">{number}</a>' for number in failed)
        yield f'<p class="failed"><span class="what">Failed: {links}.</span></p>\n'
    yield "<main>\n"
    several = len({id(job.flow) for job in plan}) > 1
    place = Path(os.path.relpath(manifest.out, folder))
    for job in plan:
        yield _figure(job, lines.get(job.key, {}), place, several)
    yield "</main>\n</html>\n"


def _last_lines(path: Path) -> dict[str, dict[str, Any]]:
    """Read the last line of the manifest on every row that ended: key -> line."""
    with path.open("rb") as file:
        lines = (json.loads(line) for line in file)
        return {line["key"]: line for line in lines if line.get("event") in ("done", "failed")}


def _figure(job: Job, line: dict[str, Any], place: Path, several: bool) -> str:
    """Show one row. place: where the images lie, from the page."""
    event = line.get("event", "not run")
    if event == "done":
        files = "".join(_file(place, file["file"], job.number) for file in line["files"])
        files = files or '<p class="nothing">no file</p>'
    else:
        files = f'<p class="nothing what">{event}</p>'
    facts = [f"<b>{job.number}</b>", *([_text(job.flow.name)] if several else [])]
    facts += [f"seed {', '.join(map(str, job.seeds()))}"] if job.seeds() else []
    facts += [f"{line['seconds']:.1f} s"] if event == "done" else []
    if event == "failed":
        facts.append(f'<span class="what">{_text(shorten(line["error"], MESSAGE))}</span>')
    texts = "".join(f"<p><b>{_text(name)}:</b> {_text(text)}</p>" for name, text in _texts(job))
    return (
        f'<figure id="row-{job.number}" class="{event.replace(" ", "-")}">'
        f'<div class="files">{files}</div>'
        f'<figcaption><p class="row">{" &middot; ".join(facts)}</p>{texts}</figcaption></figure>\n'
    )


def _file(place: Path, name: str, number: int) -> str:
    """Show a file of a row, or link to it if browsers show none of its kind."""
    address, suffix = quote((place / name).as_posix()), Path(name).suffix.lower()
    if suffix in IMAGES:
        image = f'<img loading="lazy" decoding="async" src="{address}" alt="Row {number}">'
        return f'<a href="{address}">{image}</a>'
    if suffix in VIDEOS:
        return f'<video controls preload="none" src="{address}"></video>'
    if suffix in SOUNDS:
        return f'<audio controls preload="none" src="{address}"></audio>'
    return f'<a class="nothing" href="{address}">{_text(name)}</a>'


def _texts(job: Job) -> list[tuple[str, str]]:
    """List the prompts of a row, and what else its cells say: (name, text).

    Of a workflow's prompts, those that the row fills are enough, if there are any.
    """
    prompts = _prompts(job)
    filled = {target: prompt for target, prompt in prompts.items() if target in job.values}
    texts = [
        (title_of(job.flow.nodes[target.node]), prompt)
        for target, prompt in (filled or prompts).items()
    ]
    seeds = {str(seed) for seed in job.seeds()}
    above = {str(job.values[target]) for target in filled} | seeds  # what the page says already
    cells = [(name.lstrip("_"), str(cell)) for name, cell in job.cells.items()]
    return texts + [(name, cell) for name, cell in cells if cell not in above]


def _prompts(job: Job) -> dict[Target, str]:
    """Find the texts that a node takes in several lines, as they were queued, choices made."""
    return {
        target: value
        for node, content in job.nodes().items()
        for key, value in content["inputs"].items()
        if isinstance(value, str) and value.strip() and not is_link(value)
        if _is_prompt(job, target := Target(node, key)) and not _is_json(value)
    }


def _is_prompt(job: Job, target: Target) -> bool:
    if target.input not in job.flow.nodes.get(target.node, {"inputs": {}})["inputs"]:
        return False
    return target.input in PROMPTS or bool(spec_of(job.flow, target)[1].get("multiline"))


def _is_json(text: str) -> bool:
    with contextlib.suppress(ValueError):
        return isinstance(json.loads(text), (dict, list))
    return False


def _text(text: str) -> str:
    return html.escape(text)
