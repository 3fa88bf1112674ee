"""The folder of a batch: what is not its own stays, and nobody else works in it."""

import errno
import json
import os

import pytest
from vitruvian.batch.vitruvian_batch import cli, jobs, run
from vitruvian.batch.vitruvian_batch.host import Saved
from vitruvian.batch.vitruvian_batch.manifest import Manifest
from vitruvian.batch.vitruvian_batch.table import Row
from vitruvian.batch.vitruvian_batch.trouble import BadInput
from vitruvian.batch.vitruvian_batch.workflow import Workflow


def plan(*texts):
    flow = Workflow("flow", {"1": {"class_type": "Sample", "inputs": {"text": "", "seed": 1}}})
    rows = [Row(n, f"row {n}", {"Sample.text": text}) for n, text in enumerate(texts, 1)]
    return jobs.plan([flow], rows, None)


class Painter:
    """A host whose image is the row's text, `count` times, under the names `name`."""

    name = "painter"

    def __init__(self, count=1, names="image"):
        self.count, self.names, self.texts = count, names, []

    def perform(self, job, prompt):
        text = job.cells["Sample.text"]
        self.texts.append(text)
        content = text.encode(errors="replace")
        return [Saved(f"{self.names}_{n:05}_.png", lambda: [content]) for n in range(self.count)]

    def has(self, prompt):
        return False


def work(out, planned, painter, manifest=None):
    """Run what remains; all that was reported."""
    news = []
    book = Manifest(manifest or out / "manifest.jsonl", out, True)
    try:
        numbers = book.remaining(planned)
        batch = run.Run(planned, numbers, [painter], book, run.Patience(0, 1), news.append)
        for thread in batch.start():
            thread.join(20)
        if batch.fault:
            raise batch.fault
    finally:
        book.close()
    return [text for text in news if isinstance(text, str)]


def images(out):
    return {path.name: path.read_text() for path in sorted(out.glob("0*"))}


def lines(out):
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


# What is not the batch's own


@pytest.mark.parametrize(
    "content",
    [
        b"my notes",
        b"my notes\n",
        b"\n",
        b"Sample.text,seed\na,1\n",
        b'{"batch": 5}\n',
        b'{"batch": "mine"}\n',
        b'{"batch": "mine"} and more',
        b'[{"batch": "x"}]\n',
        b"null\n",
        b"\x89PNG\r\n\x1a\n\0\0",
        b"\0" * 100,
        b"[" * 60_000,
    ],
    ids=range(12),
)
def test_a_file_that_is_no_manifest_is_refused_and_stays(tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    for resume in (False, True):
        with pytest.raises(BadInput, match="does not begin as a manifest: it stays as it is"):
            Manifest(path, tmp_path / "out", resume)
    assert path.read_bytes() == content
    assert not (tmp_path / "out").exists()
    with pytest.raises(BadInput, match="does not begin as a manifest"):
        Manifest(tmp_path, tmp_path / "out", True)


@pytest.mark.parametrize("content", [b"", b"{", b'{"batch": "', b'{"batch": "0c49-"', b'{"ba'])
def test_a_first_line_that_a_killed_runner_left_is_begun_anew(tmp_path, content):
    out = tmp_path / "out"
    out.mkdir()
    (out / "manifest.jsonl").write_bytes(content)
    work(out, plan("a"), Painter())
    assert images(out) == {"001_image.png": "a"}
    assert list(lines(out)[0]) == ["batch"]


def test_files_of_others_stay(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    others = [".film.mkv.part", "part", ".001_image.png.part", "manifest.jsonl.lock", "photo.png"]
    for name in others:
        (out / name).write_text("mine")
    work(out, plan("a"), Painter())
    batch = lines(out)[0]["batch"]
    (out / f".2-1.{batch[:8]}.part").write_text("half")
    work(out, plan("a", "b"), Painter())
    assert [(out / name).read_text() for name in others] == ["mine"] * len(others)
    assert not (out / f".2-1.{batch[:8]}.part").exists()


def test_an_image_that_is_not_of_this_batch_is_not_overwritten(tmp_path):
    out = tmp_path / "out"
    work(out, plan("a"), Painter())
    (out / "002_image.png").write_text("mine")
    with pytest.raises(BadInput, match=r"holds images of another batch \(002_image.png\)"):
        work(out, plan("a", "b"), Painter())
    assert (out / "002_image.png").read_text() == "mine"


def test_an_image_that_was_changed_is_set_aside_and_not_overwritten(tmp_path):
    out = tmp_path / "out"
    work(out, plan("a", "b"), Painter())
    (out / "002_image.png").write_text("retouched")
    news = work(out, plan("a", "b"), Painter())
    assert images(out) == {
        "001_image.png": "a",
        "002_image.png": "b",
        "002_image.png.changed1": "retouched",
    }
    assert news == [
        "row 2: 002_image.png was changed since it was saved: it is 002_image.png.changed1 now."
    ]
    (out / "002_image.png").unlink()
    assert work(out, plan("a", "b"), Painter()) == []


# Two runners


def test_two_runners_on_one_folder_are_refused_whatever_their_manifests(tmp_path):
    out, link = tmp_path / "out", tmp_path / "link"
    first = Manifest(out / "manifest.jsonl", out, False)
    link.symlink_to(out)
    with pytest.raises(BadInput, match="Another vitruvian-batch works on"):
        Manifest(tmp_path / "other.jsonl", out, False)
    with pytest.raises(BadInput, match="Another vitruvian-batch works on"):
        Manifest(tmp_path / "other.jsonl", link, False)
    with pytest.raises(BadInput, match="Another vitruvian-batch works on"):
        Manifest(first.path, tmp_path / "elsewhere", True)
    first.close()
    Manifest(tmp_path / "other.jsonl", out, False).close()


# Corrected rows


def test_a_corrected_row_replaces_its_images_and_says_so(tmp_path):
    out = tmp_path / "out"
    work(out, plan("a", "b", "c"), Painter(count=3))
    painter = Painter(count=1)
    news = work(out, plan("a", "new", "c"), painter)
    assert painter.texts == ["new"]
    assert [name for name in images(out) if name.startswith("002")] == ["002_image.png"]
    assert images(out)["002_image.png"] == "new"
    assert len(images(out)) == 7
    old = "002_image.png, 002_image_2.png, 002_image_3.png"
    assert news == [f"row 2: its images replace those of its earlier values: {old}"]
    assert [file["file"] for file in lines(out)[-1]["replaced"]] == old.split(", ")
    assert work(out, plan("a", "new", "c"), painter) == []
    assert painter.texts == ["new"]


def test_a_corrected_row_under_another_name(tmp_path):
    out = tmp_path / "out"
    work(out, plan("a", "b"), Painter())
    work(out, plan("a", "new"), Painter(names="portrait"))
    assert images(out) == {"001_image.png": "a", "002_portrait.png": "new"}


def test_images_that_a_killed_runner_did_not_delete_are_deleted_later(tmp_path):
    out = tmp_path / "out"
    work(out, plan("a", "b"), Painter(count=2))
    saved = (out / "002_image_2.png").read_text()
    work(out, plan("a", "new"), Painter())
    (out / "002_image_2.png").write_text(saved)  # as if the kill had been before
    (out / "002_image.png.changed1").write_text("mine")
    work(out, plan("a", "new"), Painter())
    assert "002_image_2.png" not in images(out)
    assert images(out)["002_image.png.changed1"] == "mine"


def test_an_image_that_a_killed_runner_saved_already_is_not_set_aside(tmp_path):
    out = tmp_path / "out"
    work(out, plan("a", "b"), Painter())
    (out / "002_image.png").write_text("new")  # of the corrected row, killed before its line
    work(out, plan("a", "new"), Painter())
    assert images(out) == {"001_image.png": "a", "002_image.png": "new"}


def test_an_image_of_a_corrected_row_that_somebody_changed_stays(tmp_path):
    out = tmp_path / "out"
    work(out, plan("a", "b"), Painter(count=2))
    for name in ("002_image.png", "002_image_2.png"):
        (out / name).write_text("retouched")
    work(out, plan("a", "new"), Painter())
    assert images(out) == {
        "001_image.png": "a",
        "001_image_2.png": "a",
        "002_image.png": "new",
        "002_image.png.changed1": "retouched",
        "002_image_2.png": "retouched",
    }


def test_another_table_does_not_replace_a_whole_batch(tmp_path):
    out = tmp_path / "out"
    work(out, plan("a", "b"), Painter())
    with pytest.raises(BadInput, match="None of the 2 rows that .* calls done is in this table"):
        work(out, plan("x", "y"), Painter())
    assert images(out) == {"001_image.png": "a", "002_image.png": "b"}


# The manifest's text


@pytest.mark.parametrize(
    "line",
    [
        "oh",
        "null",
        "[]",
        '{"event": "done"}',
        '{"event": "done", "number": 1, "files": null}',
        '{"event": "done", "number": 1, "files": [{"file": "../x.png", "bytes": 1}]}',
        "[" * 50_000,
    ],
    ids=range(7),
)
def test_a_damaged_line_is_named_in_one_line(tmp_path, line):
    out = tmp_path / "out"
    work(out, plan("a"), Painter())
    path = out / "manifest.jsonl"
    count = len(path.read_text().splitlines())
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(BadInput, match=f"line {count + 1} is damaged. Delete that line"):
        work(out, plan("a"), Painter())


def test_half_of_a_surrogate_pair_is_written_and_read_again(tmp_path):
    out = tmp_path / "out"
    text = "a \ud83d woman"
    work(out, plan(text), Painter())
    assert lines(out)[-1]["cells"] == {"Sample.text": text}
    painter = Painter()
    work(out, plan(text), painter)
    assert painter.texts == []


# Failures in one line


@pytest.fixture
def command(tmp_path, capsys, monkeypatch):
    """Runs the command on a host that is not asked: (exit code, output)."""

    class Nobody(Painter):
        def start(self):
            pass

        def close(self):
            pass

        def has_input(self, name):
            return False

        def info(self):
            return {"Sample": {"output_node": True, "python_module": "custom_nodes.sample"}}

        def perform(self, job, prompt):
            return [Saved("image.png", lambda: [b"a"])]

    def start(*options):
        flow = tmp_path / "flow.json"
        flow.write_text('{"1": {"class_type": "Sample", "inputs": {"text": "", "seed": 1}}}')
        monkeypatch.setattr(cli, "_workers", lambda options, out: [Nobody()])
        code = cli.main([str(flow), *map(str, options)])
        printed = capsys.readouterr()
        assert "Traceback" not in printed.out + printed.err
        return code, printed.out + printed.err

    return start


def test_a_folder_that_cannot_be_made_or_written(tmp_path, command):
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "out", "/proc/out", "/sys/out"):
        code, output = command("--out", out)
        assert code == 2
        assert "cannot be made" in output or "Nothing can be written" in output
        assert len(output.splitlines()) == 1


def test_a_table_that_is_no_file(tmp_path, command):
    os.mkfifo(tmp_path / "pipe.csv")
    for path in (tmp_path, tmp_path / "none.csv", "x" * 300, tmp_path / "pipe.csv"):
        code, output = command("--table", path)
        assert code == 2
        assert "cannot be read" in output or "is a pipe" in output
        assert len(output.splitlines()) == 1


def test_an_error_of_the_system_while_it_runs(tmp_path, command, monkeypatch):
    def fail(*_):
        raise OSError(30, "Read-only file system", "/out/image.png")

    monkeypatch.setattr(os, "replace", fail)
    code, output = command("--out", tmp_path / "out")
    assert code == 1
    assert output.splitlines()[-1].endswith("/out/image.png: Read-only file system.")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_disk_or_a_file_that_may_not_grow(tmp_path, command, monkeypatch, number):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        code, output = command("--out", tmp_path / "out")
    assert code == 1
    reason = f"is full ({os.strerror(number)}). What is done stays done: make room"
    assert reason in output.splitlines()[-1]
    assert command("--out", tmp_path / "out", "--resume")[0] == 0
    assert images(tmp_path / "out") == {"001_image.png": "a"}


def test_a_fault_of_the_program_is_one_line_too(tmp_path, command, monkeypatch):
    monkeypatch.setattr(cli, "plan", lambda *_: {}["no\nsuch"])
    code, output = command("--out", tmp_path / "out")
    assert code == 1
    assert "by a fault of its own: KeyError" in output
    assert len(output.splitlines()) == 1
