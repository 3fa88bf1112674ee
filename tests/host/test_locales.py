"""What artists read: every node explained in English, and in each language of locales/."""

import asyncio
import json
import re
from pathlib import Path

import pytest
import vitruvian

ROOT = Path(__file__).parents[2]
LANGUAGES = sorted(folder.name for folder in (ROOT / "locales").iterdir())
FILES = {"main.json", "nodeDefs.json"}
PAGES = ROOT / "web" / "docs"
UNCHANGED = {"CLIP", "VAE", "RGB", "ControlNet", "gamma", "top_k", "Checkpoint", "Latent"}
FOREIGN_LETTER = re.compile(r"[\u3041-\u30ff\u4e00-\u9fff]")  # kana and Chinese characters
SYNTAX = re.compile(r"[{}@|$]")  # the front end's message compiler would act on these


@pytest.fixture(scope="module")
def schemas():
    extension = asyncio.run(vitruvian.comfy_entrypoint())
    nodes = asyncio.run(extension.get_node_list())
    return {schema.node_id: schema for schema in (node.define_schema() for node in nodes)}


@pytest.fixture(params=LANGUAGES)
def language(request):
    return request.param


def read(language, file):
    return json.loads((ROOT / "locales" / language / file).read_text(encoding="utf-8"))


def english(schema):
    """One node's texts, in the shape that the front end wants of its translation."""
    return {
        "display_name": schema.display_name,
        "description": schema.description,
        "inputs": {socket.id: _words(socket) for socket in schema.inputs},
        "outputs": {str(i): _words(socket) for i, socket in enumerate(schema.outputs)},
    }


def _words(socket):
    return {"name": socket.display_name or socket.id, "tooltip": socket.tooltip}


def flat(texts, prefix=""):
    """Nested texts as path -> text."""
    if not isinstance(texts, dict):
        return {prefix: texts}
    return {
        path: text
        for key, value in texts.items()
        for path, text in flat(value, f"{prefix}/{key}").items()
    }


def test_every_text_is_there_in_english(schemas):
    texts = flat({node: english(schema) for node, schema in schemas.items()})
    assert [path for path, text in texts.items() if not text] == []


def test_every_node_has_a_help_page_that_explains_its_inputs_and_outputs(schemas):
    assert {page.stem for page in PAGES.glob("*.md")} == set(schemas)
    unexplained = [
        f"{node}: {socket.display_name or socket.id}"
        for node, schema in schemas.items()
        for socket in [*schema.inputs, *schema.outputs]
        if not re.search(
            rf"\b{socket.display_name or socket.id}\b", (PAGES / f"{node}.md").read_text()
        )
    ]
    assert unexplained == []


def test_there_are_languages():
    assert {"zh", "ja"} <= set(LANGUAGES)


def test_a_language_has_the_files_that_the_host_reads(language):
    assert {file.name for file in (ROOT / "locales" / language).iterdir()} == FILES


def test_every_text_is_translated_and_nothing_else(schemas, language):
    expected = flat({node: english(schema) for node, schema in schemas.items()})
    translated = flat(read(language, "nodeDefs.json"))
    assert sorted(expected.keys() - translated.keys()) == []
    assert sorted(translated.keys() - expected.keys()) == []


def test_every_category_is_translated_and_nothing_else(schemas, language):
    parts = {part for schema in schemas.values() for part in schema.category.split("/")}
    assert set(read(language, "main.json")["nodeCategories"]) == parts - {"Vitruvian"}


def editor_texts():
    """What the pose editor and its menus say: literals in say(...), the tools and keys, and the
    names of the library.
    """
    files = [*(ROOT / "web").glob("*.js"), *(ROOT / "web/editor").glob("*.js")]
    scripts = [file.read_text("utf-8") for file in files]
    said = re.findall(r'say\(\s*"([^"]+)"', "".join(scripts))
    titled = re.findall(r'\["\w+",\s*"([^"]+)", \(', "".join(scripts))
    poses = json.loads((ROOT / "web/poses.json").read_text("utf-8"))
    return {*said, *titled, *(pose[key] for pose in poses for key in ("name", "group"))}


def test_the_pose_editors_words_are_translated(language):
    translated = read(language, "main.json")["poseEditor"]
    assert sorted(editor_texts() - translated.keys()) == []
    lost = [
        english
        for english, text in translated.items()
        if sorted(re.findall(r"<\w+>", english)) != sorted(re.findall(r"<\w+>", text))
    ]
    assert lost == []


def test_every_language_has_the_same_words_of_the_editor():
    words = [read(language, "main.json")["poseEditor"].keys() for language in LANGUAGES]
    assert all(keys == words[0] for keys in words)


def test_no_english_is_left(language):
    texts = flat({file: read(language, file) for file in FILES})
    untranslated = [
        path
        for path, text in texts.items()
        if text not in UNCHANGED and not FOREIGN_LETTER.search(text)
    ]
    assert untranslated == []


def test_no_text_upsets_the_front_end(language):
    texts = flat({file: read(language, file) for file in FILES})
    assert [path for path, text in texts.items() if SYNTAX.search(text)] == []


def test_combo_values_stand_in_tooltips_as_they_are(schemas, language):
    """Values are not translated, so a tooltip that explains one must name it as the menu does."""
    translated = read(language, "nodeDefs.json")
    lost = [
        f"{node}/{socket.id}: {value}"
        for node, schema in schemas.items()
        for socket in schema.inputs
        for value in getattr(socket, "options", None) or []
        if re.search(rf"'{re.escape(value)}'|\b{re.escape(value)}: ", socket.tooltip)
        and value not in translated[node]["inputs"][socket.id]["tooltip"]
    ]
    assert lost == []
