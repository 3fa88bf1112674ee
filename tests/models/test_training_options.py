"""What every trainer finds before it trains: bad values, files and folders, in one line each."""

import importlib
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from vitruvian.lab import recipes
from vitruvian.lab.training import image_folder, options, preview
from vitruvian.lab.training.loop import TrainingError

ROOT = Path(__file__).resolve().parents[2]
TRAINERS = ("human_prior", "hands", "structure", "refiner", "appearance")
SIDE = 64


def write_image(file, seed=0, side=SIDE):
    g = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (side, side, 3), generator=g).byte()
    Image.fromarray(pixels.numpy()).save(file)


@pytest.fixture
def folder(tmp_path):
    """Two images with pose images and captions."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    for i in range(2):
        write_image(folder / f"{i}.png", i)
        write_image(folder / f"{i}.pose.png", i + 10)
        (folder / f"{i}.txt").write_text("a man waving, in a park")
    return folder


@pytest.fixture
def error_of(folder, tmp_path, capsys, monkeypatch):
    """(trainer, arguments) -> the line that it prints instead of training."""

    def no_training(*_, **__):
        raise AssertionError("training began")

    def run(name, *more):
        module = importlib.import_module(f"vitruvian.lab.training.{name}")
        monkeypatch.setattr(module, "fit", no_training)
        paths = {
            "--images": folder, "--work": tmp_path / "work", "--out": tmp_path / "o.safetensors",
        }  # fmt: skip
        if name == "appearance":
            paths |= {"--vision": preview.CHECKPOINT, "--memory-out": tmp_path / "m.safetensors"}
        pairs = zip(more[::2], more[1::2], strict=True)
        values = {**{key: str(path) for key, path in paths.items()}, **dict(pairs)}
        with pytest.raises(SystemExit) as stop:
            module.main([text for pair in values.items() for text in pair])
        out, err = capsys.readouterr()
        assert stop.value.code == 2 and not out
        (line,) = [row for row in err.splitlines() if "error" in row]
        assert "Traceback" not in err and line.startswith(f"dev.py train {name}: error: ")
        assert not (tmp_path / "o.safetensors").exists()
        return line

    return run


@pytest.mark.parametrize("name", TRAINERS)
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--steps", "-5"),
        ("--steps", "0"),
        ("--steps", "many"),
        ("--steps", "1e3"),
        ("--batch", "0"),
        ("--batch", "-1"),
        ("--lr", "nan"),
        ("--lr", "inf"),
        ("--lr", "-0.001"),
        ("--lr", "100"),
        ("--lr", "fast"),
        ("--size", "0"),
        ("--size", "56"),
        ("--size", "100"),
        ("--size", "100000"),
        ("--precision", "fp8"),
    ],
)
def test_values_that_no_training_has(error_of, name, option, value):
    line = error_of(name, option, value)
    assert option in line and value in line and ("expected" in line or "choose from" in line)


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("hands", "--rank", "0"),
        ("hands", "--rank", "2.5"),
        ("human_prior", "--hidden", "0"),
        ("human_prior", "--gamma", "nan"),
        ("human_prior", "--gamma", "1.01"),
        ("human_prior", "--alpha", "inf"),
        ("human_prior", "--alpha", "-1"),
        ("human_prior", "--mask", "all"),
        ("structure", "--experts", "0"),
        ("structure", "--drop-pose", "nan"),
        ("structure", "--drop-text", "-0.1"),
        ("structure", "--fusion", "product"),
        ("refiner", "--drop", "nan"),
        ("refiner", "--drop-text", "2"),
        ("appearance", "--slots", "0"),
    ],
)
def test_values_of_one_trainer(error_of, name, option, value):
    line = error_of(name, option, value)
    assert option in line and value in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has what is asked for")
def test_a_precision_that_the_machine_lacks(error_of):
    assert "--precision fp16 needs a GPU: take bf16 or no" in error_of(
        "hands", "--precision", "fp16"
    )


@pytest.mark.parametrize("name", TRAINERS)
def test_outputs_that_can_not_be_written(error_of, name, tmp_path, folder):
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "taken.safetensors").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    for option, path, words in (
        ("--out", tmp_path / "taken.safetensors", "is a folder: give the name of a .safetensors"),
        ("--out", tmp_path / "mine.pt", "expected the name of a .safetensors file"),
        ("--out", tmp_path, "expected the name of a .safetensors file"),
        ("--out", tmp_path / "file" / "a.safetensors", "--out: nothing can be written in"),
        ("--out", Path("/proc/a.safetensors"), "--out: nothing can be written in /proc"),
        ("--out", Path("/proc/nowhere/a.safetensors"), "--out: nothing can be written in /proc"),
        ("--out", tmp_path / "loop" / "a.safetensors", "--out: nothing can be written in"),
        ("--out", tmp_path / f"{'x' * 250}.safetensors", "--out: nothing can be written in"),
        ("--work", tmp_path / "file", "--work: nothing can be written in"),
        ("--work", Path("/proc/nowhere"), "--work: nothing can be written in /proc"),
        ("--work", folder, "is the folder of --images"),
    ):
        assert words in error_of(name, option, str(path))
    assert {path.name for path in tmp_path.iterdir()} == {
        "file", "taken.safetensors", "loop", "photographs",
    }  # fmt: skip


def test_an_output_that_is_an_input_is_refused(error_of, tmp_path):
    """A copy of it, and none of the files that ship, in case the refusal fails."""
    base = tmp_path / "base.safetensors"
    base.write_bytes(preview.CHECKPOINT.read_bytes())
    line = error_of("hands", "--checkpoint", str(base), "--out", str(base))
    assert "is also --checkpoint, which it would destroy" in line
    start = tmp_path / "start.safetensors"
    start.write_bytes(b"an earlier one")
    (tmp_path / "same.safetensors").symlink_to(start)
    line = error_of("hands", "--start", str(start), "--out", str(tmp_path / "same.safetensors"))
    assert "is also --start" in line and start.read_bytes() == b"an earlier one"
    line = error_of("appearance", "--memory-out", str(start), "--out", str(start))
    assert "which it would destroy" in line


@pytest.mark.parametrize("name", TRAINERS)
def test_inputs_that_are_not_there(error_of, name, tmp_path):
    (tmp_path / "link.safetensors").symlink_to("nowhere")
    for option, file, words in (
        ("--checkpoint", "none.safetensors", "expected a file, found no file"),
        ("--checkpoint", "photographs", "expected a file, found a folder"),
        ("--start", "none.safetensors", "expected a file, found no file"),
        ("--start", "link.safetensors", "expected a file, found no file"),
        ("--images", "none", "is no folder"),
        ("--images", "photographs/0.png", "is no folder"),
    ):
        line = error_of(name, option, str(tmp_path / file))
        assert f"{option} {tmp_path / file}" in line and words in line


def test_checkpoints_that_are_none(error_of, tmp_path):
    file = tmp_path / "base.safetensors"
    for content in (b"", b"text", preview.CHECKPOINT.read_bytes()[:100_000]):
        file.write_bytes(content)
        assert f"{file}: expected a checkpoint" in error_of("hands", "--checkpoint", str(file))
    weights = ROOT / "weights" / "loras" / "vitruvian_mini_lora.safetensors"
    assert "is not a checkpoint of SD1.5's kind" in error_of("hands", "--checkpoint", str(weights))


def test_a_work_folder_of_other_inputs_is_refused(error_of, folder, tmp_path, monkeypatch):
    """Before anything is read; what changed is named by its option."""

    def claim(*more):
        with monkeypatch.context() as patch:
            patch.setattr("vitruvian.lab.training.human_prior._networks", stop)
            return error_of("human_prior", *more)

    def stop(_):
        raise ValueError("stopped after the claim")

    assert "stopped after the claim" in claim()
    (tmp_path / "work" / "checkpoint-000004").mkdir()
    assert "stopped after the claim" in claim("--steps", "8000")
    table = tmp_path / "table.json"
    table.write_text("{}")
    for more, words in (
        (("--lr", "0.5"), "--lr was 0.0001 and is 0.5"),
        (("--batch", "2"), "--batch was 8 and is 2"),
        (("--hidden", "8"), "--hidden was"),
        (("--size", "64"), "--size was not given and is 64"),
        (("--table", str(table)), "--table was not given and is other content"),
    ):
        line = claim(*more)
        assert f"--work {tmp_path / 'work'} belongs to another training: {words}" in line
        assert "Choose another --work" in line
    for file, kind in (("0.txt", "captions"), ("1.png", "images"), ("1.pose.png", "pose maps")):
        before = (folder / file).read_bytes()
        (folder / file).write_bytes(before[:-1] + b"!")
        assert f"another training: --images' {kind} changed. Choose" in claim()
        (folder / file).write_bytes(before)
    (folder / "0.png").rename(folder / "2.png")
    assert "--images' images changed" in claim()
    (folder / "2.png").rename(folder / "0.png")
    (folder / "notes.md").write_text("not read")
    assert "stopped after the claim" in claim()


def read(file):
    return image_folder.read_upright(file, "RGB")


def test_images_of_every_kind_are_read_right_or_refused_by_name(tmp_path, monkeypatch):
    ramp = np.linspace(0, 65535, SIDE).astype(np.uint16)[None].repeat(SIDE, 0)
    expected = torch.from_numpy(ramp / 65535).float()[..., None].expand(-1, -1, 3)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    assert (read(tmp_path / "deep.png") - expected).abs().max() < 1e-4
    gray = Image.fromarray((ramp >> 8).astype(np.uint8))
    for name, image in (
        ("cmyk.jpg", gray.convert("CMYK")),
        ("palette.png", gray.convert("P")),
        ("gray.png", gray),
        ("alpha.png", gray.convert("RGBA")),
    ):
        image.save(tmp_path / name)
        assert (read(tmp_path / name) - expected).abs().max() < 0.06, name
    gray.save(tmp_path / "one.gif")
    assert read(tmp_path / "one.gif").shape == (SIDE, SIDE, 3)
    gray.save(tmp_path / "moves.gif", save_all=True, append_images=[gray.rotate(90)])
    gray.save(tmp_path / "moves.webp", save_all=True, append_images=[gray.rotate(90)])
    for name in ("moves.gif", "moves.webp"):
        with pytest.raises(ValueError, match=f"{name} has 2 frames: save the one"):
            read(tmp_path / name)
    levels = np.full((2, 2), 70_000, np.int32)
    Image.fromarray(levels).save(tmp_path / "i.tiff")
    Image.fromarray(np.full((2, 2), np.nan, np.float32)).save(tmp_path / "f.tiff")
    for name in ("i.tiff", "f.tiff"):
        with pytest.raises(ValueError, match=f"{name} has levels beyond"):
            read(tmp_path / name)
    for limit in (SIDE * SIDE - 1, SIDE * SIDE // 4):  # where Pillow warns, and where it raises
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(ValueError, match=rf"gray.png has more than {limit} pixels: scale it"):
            read(tmp_path / "gray.png")


def test_captions_of_every_encoding_are_read_or_refused(tmp_path):
    file, text = tmp_path / "a.png", tmp_path / "a.txt"
    for content in (
        "eine Frau mit Hüten".encode(),
        b"\xef\xbb\xbf" + "eine Frau mit Hüten\r\n".encode(),
    ):
        text.write_bytes(content)
        assert image_folder.read_caption(file) == "eine Frau mit Hüten"
    for encoding in ("latin-1", "utf-16"):
        text.write_bytes("eine Frau mit Hüten".encode(encoding))
        with pytest.raises(ValueError, match="the caption a.txt is not UTF-8: save it as UTF-8"):
            image_folder.read_caption(file)


def test_captions_without_an_image_are_named(folder, caplog):
    (folder / "ghost.txt").write_text("a woman")
    image_folder.image_files(folder, SIDE)
    assert "1 captions belong to no image and are not read: ghost.txt" in caplog.text


def test_an_empty_folder_is_said(error_of, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("nothing else")
    line = error_of("human_prior", "--images", str(tmp_path / "empty"))
    assert f"--images {tmp_path / 'empty'} has no image in it" in line


def test_long_errors_become_one_line(capsys):
    parser = options.Parser(prog="dev.py train x")
    for error, code in ((ValueError("a\n  b" * 1000), 2), (TrainingError("a\nb"), 1)):
        with pytest.raises(SystemExit) as stop, options.plain_errors(parser):
            raise error
        err = capsys.readouterr().err
        assert stop.value.code == code and err.count("\n") == 1 and len(err) < 700


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["vae", "--steps", "-5"], "--steps: expected a whole number from 1"),
        (["vae", "--steps", "0"], "--steps: expected a whole number from 1"),
        (["--scenes", "0"], "--scenes: expected a whole number from 1"),
        (["nothing"], "there is no step nothing"),
        (["structure", "--start", "none.safetensors"], "--start none.safetensors: expected a file"),
        (["vae", "--work", "/proc/nowhere"], "--work: nothing can be written in /proc/nowhere"),
    ],
)
def test_the_recipes_find_bad_values_first(tmp_path, capsys, monkeypatch, arguments, words):
    def no_training(_):
        raise AssertionError("training began")

    stopped = [replace(recipe, train=no_training) for recipe in recipes.RECIPES]
    monkeypatch.setattr(recipes, "RECIPES", tuple(stopped))
    with pytest.raises(SystemExit):
        recipes.main(["--work", str(tmp_path / "work"), *arguments])
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1 and err.startswith("dev.py train mini: error")


def test_a_terminated_trainer_saves_and_goes_on(folder, mini_weights, tmp_path):
    """From its command line, as a job's manager ends it."""
    out = tmp_path / "prior.safetensors"
    command = [
        sys.executable, str(ROOT / "dev.py"), "train", "human_prior", "--images", str(folder),
        "--work", str(tmp_path / "work"), "--out", str(out), "--size", "64", "--batch", "1",
        "--precision", "no", "--hidden", "4", "--lr", "0.01",
    ]  # fmt: skip
    with (tmp_path / "said").open("w") as log:
        running = subprocess.Popen([*command, "--steps", "100000"], stderr=log)
    try:
        while running.poll() is None and not _trains(tmp_path / "said"):
            time.sleep(0.2)
        running.send_signal(signal.SIGTERM)
        assert running.wait() == 130
    finally:
        running.kill()
    (checkpoint,) = (tmp_path / "work").glob("checkpoint-*")
    step = int(checkpoint.name.rpartition("-")[2])
    assert step > 0 and out.is_file(), (tmp_path / "said").read_text()
    said = (tmp_path / "said").read_text()
    assert f"What was learned so far is in {out}" in said and "Traceback" not in said
    again = subprocess.run([*command, "--steps", str(step)], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    faster = [text if text != "0.01" else "0.02" for text in command]
    refused = subprocess.run(faster, capture_output=True, text=True)
    assert refused.returncode == 2 and "--lr was 0.01 and is 0.02" in refused.stderr
    assert "Traceback" not in refused.stderr


def _trains(log):
    """Tell whether a step was done: the bar of 100000 steps has moved."""
    return re.search(r" [1-9]\d*/100000", log.read_text(errors="replace"))
