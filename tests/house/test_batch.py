"""The batch runner without a host: tables, titles, values, the manifest and messages."""

import argparse
import errno
import json
import os
import threading
import time
from pathlib import Path

import pytest
from vitruvian.batch.vitruvian_batch import cli, collect, jobs, run, table, values, workflow
from vitruvian.batch.vitruvian_batch.host import Saved
from vitruvian.batch.vitruvian_batch.manifest import Manifest
from vitruvian.batch.vitruvian_batch.trouble import (
    BadInput,
    DiskFull,
    HostGone,
    RowFailed,
    Trouble,
    TryAgain,
)
from vitruvian.batch.vitruvian_batch.workflow import Target, Workflow
from vitruvian.tools.commands import batch as dev_batch

SHIPPED = Path(__file__).parents[2] / "workflows"


@pytest.fixture
def flow():
    return Workflow("text_to_person", read("text_to_person"))


def read(name):
    return json.loads((SHIPPED / "api" / f"{name}.json").read_text())


PROMPT = read("text_to_person")["2"]["_meta"]["title"] + ".text"


def csv(folder, text, name="t.csv"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def plan(flow, path, seed=None):
    return jobs.plan([flow], table.Table(path), path.parent, seed)


# Tables


def test_csv_with_quotes_semicolons_and_a_byte_order_mark(tmp_path):
    rows = list(table.Table(csv(tmp_path, '\ufeffA.text;B.steps\n"one; ""two""";3\n\n;4\n')))
    assert [row.cells for row in rows] == [
        {"A.text": 'one; "two"', "B.steps": "3"},
        {"B.steps": "4"},
    ]
    assert rows[1].where == "t.csv, row 2 (line 4)"


def test_json_lines_keep_their_kinds(tmp_path):
    rows = table.Table(csv(tmp_path, '{"A.x": 1, "B.y": null}\n\n{"A.x": ""}\n', "t.jsonl"))
    assert [row.cells for row in rows] == [{"A.x": 1}, {"A.x": ""}]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "A.text,A.text\n1,2\n", "'A.text' is empty or occurs twice"),
        ("t.csv", "A.text\na woman, waving\n", r"row 1 \(line 2\): 2 cells for 1 columns.*quotes"),
        ("t.jsonl", '{"A.x": 1}\n{"A', r"row 2 \(line 2\): this is not JSON"),
        ("t.jsonl", "[1]\n", "must be an object"),
    ],
)
def test_a_bad_table(tmp_path, name, text, message):
    with pytest.raises(BadInput, match=message):
        list(table.Table(csv(tmp_path, text, name)))


@pytest.mark.parametrize(
    ("name", "text"), [("t.csv", "A.text\n"), ("t.csv", ""), ("t.jsonl", "\n")]
)
def test_a_table_without_rows(tmp_path, name, text):
    flow = Workflow("flow", {"1": {"class_type": "A", "inputs": {"text": ""}}})
    with pytest.raises(BadInput, match="has no rows"):
        plan(flow, csv(tmp_path, text, name))


def test_a_missing_table():
    with pytest.raises(BadInput, match="nowhere.csv cannot be read: No such file"):
        table.Table(Path("nowhere.csv"))


# Titles and values


def test_values_take_the_kind_that_the_workflow_holds(tmp_path, flow):
    head = f"{PROMPT},KSampler.seed,KSampler.cfg,#4.width,_note"
    text = f"{head}\nwaving,12,5,256.0,mine\n,,,,\nx,,,,\n"
    first, second = plan(flow, csv(tmp_path, text))
    values = {name: node["inputs"] for name, node in first.nodes().items()}
    assert (values["2"]["text"], values["5"]["seed"], values["4"]["width"]) == ("waving", 12, 256)
    assert values["4"]["height"] == 192
    assert second.nodes()["5"]["inputs"]["seed"] == flow.nodes["5"]["inputs"]["seed"]
    assert first.seeds() == [12]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (f"{PROMPT[1:]}", r"no node of text_to_person is called .*\. Did you mean"),
        (PROMPT.replace(".text", ".prompt"), r"has no input 'prompt'\. Its values: text"),
        ("KSampler.model", "wired to 'CheckpointLoaderSimple'"),
        ("CLIPTextEncode.text", r"2 nodes of text_to_person are called .*#2\.text or #3\.text"),
        ("steps", "write it as title.input, for example 'CheckpointLoaderSimple.ckpt_name'"),
    ],
)
def test_a_bad_column(tmp_path, flow, column, message):
    with pytest.raises(BadInput, match=message):
        plan(flow, csv(tmp_path, f"{column}\n1\n"))


@pytest.mark.parametrize(
    ("column", "cell", "message"),
    [
        ("KSampler.steps", "many", "'many' is not a whole number"),
        ("KSampler.steps", "2.5", "'2.5' is not a whole number"),
        ("KSampler.steps", "true", "'true' is not a whole number"),
        ("KSampler.cfg", "4;5", "is not a number"),
        ("KSampler.cfg", "nan", "is not a number"),
        ("seed", "x", "'x' is not a whole number"),
    ],
)
def test_a_value_that_does_not_fit(tmp_path, flow, column, cell, message):
    flow.nodes["5"]["inputs"]["cfg"] = 4.0
    with pytest.raises(BadInput, match=f"t.jsonl, row 2 .line 2., column .*{message}"):
        lines = [{column: 1}, {column: cell}]
        plan(flow, csv(tmp_path, "\n".join(map(json.dumps, lines)), "t.jsonl"))


def test_ten_mistakes_are_listed_at_once(tmp_path, flow):
    text = "KSampler.steps\n" + "many\n" * 12
    with pytest.raises(BadInput) as error:
        plan(flow, csv(tmp_path, text))
    lines = str(error.value).splitlines()
    assert len(lines) == 11
    assert lines[-1] == "... and 2 more."


def test_the_host_knows_choices_and_limits():
    assert values.fit("euler", ["euler", "heun"], {}) == "euler"
    assert values.fit("1", [1, 2], {}) == 1
    assert values.fit("mine.json [output]", ["a"], {}) == "mine.json [output]"
    assert values.fit("no", "BOOLEAN", {}) is False
    assert values.fit(7, "STRING", {}) == "7"
    with pytest.raises(ValueError, match=r"Did you mean 'euler'\? It offers: euler, heun"):
        values.fit("eulr", ["euler", "heun"], {})
    with pytest.raises(ValueError, match="0 is below 1"):
        values.fit("0", "INT", {"min": 1, "max": 9})
    with pytest.raises(ValueError, match="neither true nor false"):
        values.fit("perhaps", "BOOLEAN", {})


def test_seeds(tmp_path, flow):
    """--seed counts up, `seed` is for all seeds, a title goes before both."""
    flow.nodes["8"] = {"class_type": "Noise", "inputs": {"noise_seed": 5}}
    path = csv(tmp_path, f"{PROMPT}\na\nb\n")
    assert [job.seeds() for job in plan(flow, path, seed=100)] == [[100, 100], [101, 101]]
    path = csv(tmp_path, "seed,KSampler.seed\n1,2\n3,\n")
    assert [job.seeds() for job in plan(flow, path)] == [[2, 1], [3, 3]]
    assert [job.seeds() for job in plan(flow, path, seed=50)] == [[2, 1], [3, 3]]


# Files


@pytest.fixture
def photos(tmp_path):
    for folder in ("photos", "masks"):
        (tmp_path / folder).mkdir()
        for n in (1, 2, 10):
            (tmp_path / folder / f"{n}.png").touch()
    return tmp_path


@pytest.fixture
def pair():
    nodes = {
        name: {
            "class_type": "LoadImage",
            "inputs": {"image": "a.png"},
            "_meta": {"title": title},
        }
        for name, title in (("1", "Photo"), ("2", "Mask"))
    }
    return Workflow("pair", nodes)


def test_wildcards_go_together_in_the_order_that_people_count(photos, pair):
    planned_jobs = plan(pair, csv(photos, "Photo.image,Mask.image\nphotos/*.png,masks/*.png\n"))
    files = [[str(path.relative_to(photos)) for path in job.files.values()] for job in planned_jobs]
    assert files == [[f"photos/{n}.png", f"masks/{n}.png"] for n in (1, 2, 10)]


def test_wildcards_that_find_different_numbers_of_files(photos, pair):
    (photos / "masks" / "2.png").unlink()
    with pytest.raises(BadInput, match="row 1 .*'Photo.image' 3, 'Mask.image' 2"):
        plan(pair, csv(photos, "Photo.image,Mask.image\nphotos/*.png,masks/*.png\n"))


@pytest.mark.parametrize("cell", ["photos/99.png", "photos/9*.png"])
def test_a_missing_file(photos, pair, cell):
    info = {"LoadImage": {"input": {"required": {"image": [["a.png"], {"image_upload": True}]}}}}
    pair.kinds.update(info)
    with pytest.raises(BadInput, match=r"t.csv, row 1 \(line 2\), column 'Photo.image': .*9"):
        plan(pair, csv(photos, f"Photo.image\n{cell}\n"))
    assert next(iter(plan(pair, csv(photos, "Photo.image\na.png\n")))).files == {}


def test_the_hosts_word_for_a_folder_is_no_wildcard(photos, pair):
    (job,) = plan(pair, csv(photos, "Photo.image\nsaved.png [output]\n"))
    assert job.values == {Target("1", "image"): "saved.png [output]"}


def test_a_prompt_may_hold_stars(tmp_path, flow):
    (job,) = plan(flow, csv(tmp_path, f"{PROMPT}\nstars * on [red] silk?\n"))
    assert job.nodes()["2"]["inputs"]["text"] == "stars * on [red] silk?"


# Keys


def test_keys_name_what_is_run(tmp_path, flow):
    """Equal rows are told apart; a row keeps its key wherever it stands."""
    path = csv(tmp_path, f"{PROMPT}\na\nb\na\n")
    a, b, second = (job.key for job in plan(flow, path))
    assert len({a, b, second}) == 3
    assert [job.key for job in plan(flow, csv(tmp_path, f"{PROMPT}\nb\na\n"))] == [b, a]
    flow.nodes["5"]["inputs"]["steps"] = 3
    assert a not in [job.key for job in plan(flow, path)]


def test_two_hosts_with_one_output_folder_never_write_the_same_name(tmp_path, flow):
    planned_jobs = plan(flow, csv(tmp_path, f"{PROMPT}\na\nb\n"))
    prefixes = [job.nodes()["7"]["inputs"]["filename_prefix"] for job in planned_jobs]
    assert prefixes == ["vitruvian/text_to_person_r0001", "vitruvian/text_to_person_r0002"]
    (alone,) = plan(flow, csv(tmp_path, f"{PROMPT}\na\n"))
    assert alone.nodes()["7"]["inputs"]["filename_prefix"] == "vitruvian/text_to_person"


# The UI format


def test_a_muted_node_and_the_word_beside_a_seed():
    info = {
        "Make": {"input": {"required": {"seed": ["INT", {}], "name": ["STRING", {}]}}},
        "Show": {"input": {"required": {"made": ["MADE"]}, "optional": {"more": ["MADE"]}}},
    }
    slots = [
        {"name": "made", "type": "MADE", "link": 1},
        {"name": "more", "type": "MADE", "link": 2},
    ]
    ui = {
        "nodes": [
            {"id": 1, "type": "Make", "title": "One", "widgets_values": [7, "fixed", "fixed"]},
            {"id": 2, "type": "Make", "mode": 2, "widgets_values": [8, "fixed", "b"]},
            {"id": 3, "type": "Show", "inputs": slots},
            {"id": 4, "type": "Note", "widgets_values": ["read me"]},
        ],
        "links": [[1, 1, 0, 3, 0, "MADE"], [2, 2, 0, 3, 1, "MADE"]],
    }
    flow = workflow.build(Path("flow.json"), ui, info)
    inputs = {name: node["inputs"] for name, node in flow.nodes.items()}
    assert inputs == {"1": {"seed": 7, "name": "fixed"}, "3": {"made": ["1", 0]}}
    assert [node["_meta"]["title"] for node in flow.nodes.values()] == ["One", "Show"]
    filled = workflow.fill_ui(flow, {Target("1", "name"): "new", Target("1", "seed"): 9})
    assert filled["nodes"][0]["widgets_values"] == [9, "fixed", "new"]
    assert ui["nodes"][0]["widgets_values"] == [7, "fixed", "fixed"]


def test_a_node_that_the_host_lacks():
    ui = {"nodes": [{"id": 1, "type": "FromAPack", "widgets_values": []}], "links": []}
    with pytest.raises(BadInput, match=r"the host has no node FromAPack \(node 1\)\. Install"):
        workflow.build(Path("flow.json"), ui, {"Other": {}})


@pytest.mark.parametrize("content", ["{", "[]", '{"1": {"inputs": {}}}'])
def test_what_is_not_a_workflow(tmp_path, content):
    with pytest.raises(BadInput, match=r"not (JSON|a workflow)"):
        workflow.read(csv(tmp_path, content, "flow.json"))


# The manifest


@pytest.fixture
def three(tmp_path, flow):
    return plan(flow, csv(tmp_path, f"{PROMPT}\na\nb\nc\n"))


def diary(out, resume=True):
    return Manifest(out / "manifest.jsonl", out, resume)


def done(job, *files):
    listed = [{"file": name, "bytes": size} for name, size in files]
    return {"event": "done", "number": job.number, "key": job.key, "files": listed}


def test_what_is_done_and_still_there_is_left_out(tmp_path, three):
    first = diary(tmp_path / "out")
    for job in list(three)[:2]:
        (first.out / f"{job.number}.png").write_bytes(b"123")
        first.write(done(job, (f"{job.number}.png", 3)))
    ids = [first.prompt_id(key) for key in three.keys]
    first.close()
    (first.out / "2.png").write_bytes(b"12")  # cut short
    second = diary(first.out)
    assert second.remaining(three) == [2, 3]
    assert [second.prompt_id(key) for key in three.keys] == ids


def test_a_half_written_line_is_cut_off(tmp_path, three):
    first = diary(tmp_path / "out")
    first.write(done(three.job(1)))
    first.close()
    with first.path.open("a") as file:
        file.write('{"event": "done", "key": "')
    second = diary(first.out)
    assert second.remaining(three) == [2, 3]
    second.write(done(three.job(2)))
    second.close()
    assert diary(first.out).remaining(three) == [3]


def test_a_damaged_line_is_named(tmp_path):
    first = diary(tmp_path / "out")
    first.close()
    with first.path.open("a") as file:
        file.write("oh\n")
    with pytest.raises(BadInput, match="line 2 is damaged"):
        diary(first.out)


def test_a_batch_is_not_begun_twice_by_mistake(tmp_path, three):
    first = diary(tmp_path / "out")
    with pytest.raises(BadInput, match="Another vitruvian-batch works"):
        diary(first.out)
    first.write(done(three.job(1)))
    first.close()
    with pytest.raises(BadInput, match="1 rows are done. Add --resume"):
        diary(first.out, resume=False)
    (first.out / "001_person.png").touch()
    with pytest.raises(BadInput, match="holds images of another batch"):
        Manifest(tmp_path / "other.jsonl", first.out, False)


def test_a_new_row_in_the_middle_does_not_overwrite_anothers_image(tmp_path, flow, three):
    book = diary(tmp_path / "out")
    for job in three:
        book.write(done(job))
    inserted = plan(flow, csv(tmp_path, f"{PROMPT}\na\nnew\nb\nc\n"))
    with pytest.raises(BadInput, match="row 2 .*is new, but its number 2 belongs to images"):
        book.remaining(inserted)
    corrected = plan(flow, csv(tmp_path, f"{PROMPT}\na\nnew\nc\nd\n"))
    assert book.remaining(corrected) == [2, 4]


def test_a_job_that_failed_gets_another_id(tmp_path, three):
    book = diary(tmp_path / "out")
    key = three.keys[0]
    before = book.prompt_id(key)
    book.write({"event": "failed", "key": key, "error": "no"})
    assert book.prompt_id(key) != before
    assert book.remaining(three) == [1, 2, 3]


# The queue


class FakeHost:
    """Saves one image per job, or calls `act` with the job's number, which may raise."""

    def __init__(self, name, act=lambda number: None):
        self.name, self.act, self.numbers, self.emptied = name, act, [], 0

    def perform(self, job, prompt):
        self.numbers.append(job.number)
        self.act(job.number)
        return [Saved("person_00012_.png", lambda: [b"image", str(job.number).encode()])]

    def has(self, prompt):
        return False

    def forget(self, prompt):
        pass

    def empty(self):
        self.emptied += 1

    def wait_back(self, seconds, is_stopped):
        return False


def work(jobs, workers, out, report=lambda news: None, retries=3):
    book = diary(out)
    patience = run.Patience(retries, 1)
    batch = run.Run(jobs, book.remaining(jobs), workers, book, patience, report)
    for thread in batch.start():
        thread.join(20)
        assert not thread.is_alive()
    book.close()
    return batch


def names(out):
    return sorted(path.name for path in out.glob("*.png"))


def test_a_failing_row_does_not_stop_the_rest(tmp_path, three):
    def fail(number):
        if number == 2:
            raise RowFailed("no such model")

    news = []
    batch = work(three, [FakeHost("a", fail)], tmp_path / "out", news.append)
    assert batch.failures == 1
    assert [line["event"] for line in news] == ["done", "failed", "done"]
    assert len(names(tmp_path / "out")) == 2


def test_memory_is_emptied_for_one_more_try(tmp_path, three):
    def full(number):
        if number == 2 and not host.emptied:
            raise TryAgain("out of memory")

    host = FakeHost("a", full)
    assert work(three, [host], tmp_path / "out").failures == 0
    assert host.numbers == [1, 2, 2, 3]


def test_another_host_takes_over(tmp_path, three):
    def away(number):
        raise HostGone("b does not answer.")

    news = []
    absent, good = FakeHost("b", away), FakeHost("a")
    batch = work(three, [absent, good], tmp_path / "out", news.append)
    assert (batch.failures, len(batch.waiting)) == (0, 0)
    assert sorted(good.numbers) == [1, 2, 3]
    assert "b did not come back; it gets no more rows." in news


def test_a_row_that_brings_its_host_down_ends_as_failed(tmp_path, three):
    def crash(number):
        if number == 2:
            raise HostGone("a does not answer.")

    host = FakeHost("a", crash)
    host.wait_back = lambda seconds, is_stopped: True
    batch = work(three, [host], tmp_path / "out", retries=1)
    assert (batch.failures, host.numbers) == (1, [1, 2, 2, 3])


def test_a_host_that_is_away_is_not_waited_for_when_nothing_is_left(tmp_path, three):
    b_began = threading.Event()

    def away(number):
        b_began.set()
        raise HostGone("b does not answer.")

    def wait(seconds, is_stopped):
        stop_requests.append(any(is_stopped() or time.sleep(0.01) for _ in range(1000)))
        return False

    stop_requests = []
    absent, good = FakeHost("b", away), FakeHost("a", lambda number: b_began.wait(10))
    absent.wait_back = wait
    news = []
    assert work(three, [absent, good], tmp_path / "out", news.append).failures == 0
    assert stop_requests == [True]
    assert "b did not come back; it gets no more rows." not in news


def test_a_full_disk_stops_the_batch_and_resume_ends_it(tmp_path, three, monkeypatch):
    out, sync = tmp_path / "out", os.fsync

    def full(handle):
        if list(out.glob(".2-1.*.part")):
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(collect.os, "fsync", full)
        batch = work(three, [FakeHost("a")], out)
    assert isinstance(batch.disk_full, DiskFull)
    assert "is full" in str(batch.disk_full)
    assert "--resume" in str(batch.disk_full)
    assert names(out) == ["001_person.png"]
    assert not list(out.glob(".*.part"))
    host = FakeHost("a")
    assert work(three, [host], out).disk_full is None
    assert host.numbers == [2, 3]


def test_a_disk_that_fills_within_a_line_of_the_manifest(tmp_path, three, monkeypatch):
    book = diary(tmp_path / "out")
    book.write(done(three.job(1)))

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(DiskFull, match="--resume"):
        patch.setattr(os, "fsync", full)
        book.write(done(three.job(2)))
    book.write(done(three.job(3)))
    book.close()
    assert diary(tmp_path / "out").remaining(three) == [2]


def test_names_show_the_job_and_not_the_hosts_counter(tmp_path, three):
    saved = [
        Saved(name, lambda: [b"x"])
        for name in ("a/person_r0001_00007_.png", "person_r0001_00008_.png", "pose_00001.json")
    ]
    files, _ = collect.collect(saved, three.job(1), diary(tmp_path / "out"), 3)
    assert [f["file"] for f in files] == ["001_person.png", "001_person_2.png", "001_pose.json"]


# The command


def command(capsys, *arguments):
    """(exit code, all output)"""
    code = cli.main([str(argument) for argument in arguments])
    output = capsys.readouterr()
    return code, output.out + output.err


FLOW = SHIPPED / "api" / "text_to_person.json"
NOBODY = "http://127.0.0.1:9"  # the port of discard: nothing listens there


def test_an_unreachable_host_is_reported_before_anything_is_run(tmp_path, capsys):
    code, message = command(capsys, FLOW, "--out", tmp_path / "out", "--host", NOBODY)
    assert code == 2
    assert f"{NOBODY} does not answer. Start ComfyUI there" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.json"], "nowhere.json cannot be read"),
        ([FLOW, "--table", "nowhere.csv"], "nowhere.csv cannot be read"),
        ([FLOW, "--comfyui", "/nowhere"], "no main.py"),
        ([FLOW, "--comfyui", "/nowhere", "--host", NOBODY], "not both"),
        ([FLOW, "--hosts", "2"], "needs --comfyui"),
        ([FLOW, "--timeout", "0"], "--timeout more than 0"),
        ([FLOW, "--host", "http://"], "no address"),
        ([SHIPPED / "images"], "no .json files"),
    ],
)
def test_a_wrong_command(capsys, arguments, message):
    code, output = command(capsys, *arguments)
    assert code == 2
    assert message in output
    assert "Traceback" not in output


def test_a_dry_run_needs_no_host_for_the_api_format(tmp_path, capsys):
    path = csv(tmp_path, f"{PROMPT},seed\na,4\nb,5\n")
    code, message = command(capsys, FLOW, "--table", path, "--dry-run", "--host", NOBODY)
    assert code == 0
    assert f"t.csv, row 2 (line 3): {PROMPT}=b, seed=5  seeds: 5" in message
    assert "2 rows would run." in message
    path = csv(tmp_path, "KSampler.steps\nmany\n")
    code, message = command(capsys, FLOW, "--table", path, "--dry-run", "--host", NOBODY)
    assert code == 2
    assert "'many' is not a whole number" in message


def test_dev_batch_goes_on_only_with_a_named_folder():
    options = argparse.Namespace(host=None, arguments=["person.json", "--resume"])
    with pytest.raises(Trouble, match="--out FOLDER"):
        dev_batch.run(options)
