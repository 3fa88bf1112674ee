"""A batch on real hosts: nothing is lost and nothing is done twice, whatever is killed."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from vitruvian.batch.vitruvian_batch import needs, workflow
from vitruvian.tests.shipped import skip_older
from vitruvian.tools.hosts import prepare_base
from vitruvian.tools.server import Server

ROOT = Path(__file__).parents[2]
HOST = Path(os.environ["COMFYUI_PATH"])
# the full-size trial is 200, with three kills of each
ROWS = int(os.environ.get("VITRUVIAN_BATCH_ROWS", 12))
KILLS = 1 if ROWS < 50 else 3
NODES = json.loads((ROOT / "workflows" / "api" / "text_to_person.json").read_text())
PROMPT = NODES["2"]["_meta"]["title"] + ".text"


@pytest.fixture
def flow(tmp_path, api):
    """A workflow on the mini weights of a fraction of a second: one step of 64 x 64 pixels."""
    workflow = api("text_to_person")
    for node in workflow.values():
        if node["class_type"] == "EmptyLatentImage":
            node["inputs"].update(width=64, height=64)
        if node["class_type"] == "KSampler":
            node["inputs"].update(steps=1)
        if node["class_type"] == "SaveImage":
            node["inputs"]["filename_prefix"] = f"{tmp_path.name}/person"
    path = tmp_path / "person.json"
    path.write_text(json.dumps(workflow))
    return path


@pytest.fixture
def table(tmp_path):
    lines = [f"a person number {n},{1000 + n}" for n in range(1, ROWS + 1)]
    path = tmp_path / "people.csv"
    path.write_text("\n".join([f"{PROMPT},KSampler.seed", *lines]) + "\n")
    return path


def host_options(base):
    """Options that let the batch start a host with its folders below `base`."""
    prepare_base(base)
    line = f"--cpu --disable-api-nodes --base-directory {base}"
    return ["--comfyui", HOST, "--python", sys.executable, f"--host-options={line}"]


@pytest.fixture
def begin():
    """Starts the command in a process of its own; none outlives its test."""
    processes = []

    def start(*arguments):
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "batch"), "OMP_NUM_THREADS": "1"}
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "vitruvian_batch", *map(str, arguments)],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
        return processes[-1]

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.wait()


def finish(process, code=0):
    output = process.communicate(timeout=600)[0]
    assert process.returncode == code, output
    return output


def lines(out):
    """The complete lines of the manifest so far."""
    path = out / "manifest.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def until_busy(process, out, done):
    """Wait until so many rows are done and one more runs."""
    deadline = time.monotonic() + 300  # a busy machine starts slowly
    while time.monotonic() < deadline:
        events = [line.get("event") for line in lines(out)]
        if events.count("done") >= done and events[-1] == "queued":
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    pytest.fail("the batch does not go on")


def kill(number):
    os.kill(number, signal.SIGKILL)


def host_of(runner):
    """The process of the ComfyUI that a runner has started: its keeper's child."""
    (keeper,) = children(runner.pid)
    (host,) = children(keeper)
    return host


def children(parent):
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True)
    return [int(number) for number in listed.stdout.split()]


def check(out):
    """Every row has one complete image of its seed and prompt, as the manifest says."""
    images = sorted(out.glob("*.png"))
    assert [path.name for path in images] == [f"{n:03}_person.png" for n in range(1, ROWS + 1)]
    for n, path in enumerate(images, 1):
        with Image.open(path) as image:
            image.load()
            nodes = json.loads(image.info["prompt"])
        assert nodes["5"]["inputs"]["seed"] == 1000 + n
        assert nodes["2"]["inputs"]["text"] == f"a person number {n}"
    done = [line for line in lines(out) if line.get("event") == "done"]
    assert sorted(line["number"] for line in done) == list(range(1, ROWS + 1))
    assert len({file["sha256"] for line in done for file in line["files"]}) == ROWS


def test_host_and_runner_killed(tmp_path, begin, server, mini_weights, flow, table):
    out = tmp_path / "out"
    command = [flow, "--table", table, "--out", out, *host_options(tmp_path / "base"), "--resume"]
    step = ROWS // (2 * KILLS + 1)
    for number in range(KILLS):
        runner = begin(*command)
        until_busy(runner, out, 2 * step * number + step)
        kill(host_of(runner))
        until_busy(runner, out, 2 * step * number + 2 * step)
        host = host_of(runner)
        kill(runner.pid)
        runner.wait()
        for _ in range(100):
            if not Path(f"/proc/{host}").exists():
                break
            time.sleep(0.1)
        else:
            pytest.fail("the killed runner's host lives on")
    output = finish(begin(*command))
    assert f"{ROWS} done, 0 failed" in output
    check(out)
    again = finish(begin(*command[:5], "--host", server.url, "--resume"))
    assert f"{ROWS} rows, {ROWS} done before" in again
    check(out)


def test_a_row_that_ran_when_the_runner_was_killed_is_taken_over(
    tmp_path, begin, server, mini_weights, flow, table
):
    out = tmp_path / "out"
    command = [flow, "--table", table, "--out", out, "--host", server.url, "--resume"]
    for number in range(1, 4):
        runner = begin(*command)
        until_busy(runner, out, number * ROWS // 5)
        kill(runner.pid)
        runner.wait()
    finish(begin(*command))
    check(out)
    saved = list((server.base / "output" / tmp_path.name).glob("*.png"))
    assert len(saved) == ROWS, "the host saved an image twice"


def test_two_hosts_share_the_rows_and_one_takes_over_from_the_other(
    tmp_path, begin, server, mini_weights, flow, table
):
    out, base = tmp_path / "out", tmp_path / "base"
    prepare_base(base)
    with Server(Path(sys.executable), HOST, base, "--cpu") as second:
        hosts = ["--host", server.url, "--host", second.url, "--timeout", "1"]
        runner = begin(flow, "--table", table, "--out", out, *hosts)
        until_busy(runner, out, ROWS // 3)
        second.process.kill()
        output = finish(runner)
    assert f"{second.url} does not answer. Waiting for it" in output
    check(out)


def test_ui_format_and_files_of_this_machine(tmp_path, begin, server, mini_weights):
    """The shipped workflow as saved by the front end; photographs go to the host."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for n in (1, 2, 10):
        Image.new("RGB", (64, 64), (n, n, n)).save(photos / f"{n}.png")
    ui = ROOT / "workflows" / "photo_to_person.json"
    flow = json.loads(ui.read_text())
    kinds = {"LoadImage", "SaveImage"}
    flow["nodes"] = [node for node in flow["nodes"] if node["type"] in kinds]
    load, save = sorted(flow["nodes"], key=lambda node: node["type"])
    load["outputs"][0]["links"], save["inputs"][0]["link"] = [1], 1
    flow["links"] = [[1, load["id"], 0, save["id"], 0, "IMAGE"]]
    load["title"] = "Photograph"
    path = tmp_path / "copy.json"
    path.write_text(json.dumps(flow))
    table = tmp_path / "photos.csv"
    table.write_text("Photograph.image\nphotos/*.png\n")
    out = tmp_path / "out"
    finish(begin(path, "--table", table, "--out", out, "--host", server.url))
    images = sorted(out.glob("*.png"))
    assert [Image.open(image).getpixel((0, 0))[0] for image in images] == [1, 2, 10]
    opened = json.loads(Image.open(images[2]).info["workflow"])
    (loader,) = [node for node in opened["nodes"] if node["type"] == "LoadImage"]
    assert loader["widgets_values"][0] == "10.png"


def test_bad_rows_do_not_stop_the_rest(tmp_path, begin, server, mini_weights, flow):
    table = tmp_path / "rows.jsonl"
    rows = [{"KSampler.seed": 1}, {"SaveImage.filename_prefix": "../../out"}, {"KSampler.seed": 2}]
    table.write_text("\n".join(json.dumps(row) for row in rows))
    out = tmp_path / "out"
    output = finish(begin(flow, "--table", table, "--out", out, "--host", server.url), 1)
    assert "rows.jsonl, row 2 (line 2): FAILED: SaveImage (node 7)" in output
    assert "2 done, 1 failed" in output
    assert len(list(out.glob("*.png"))) == 2


def test_a_refused_workflow_shows_the_hosts_message(tmp_path, begin, server, api):
    flow = api("text_to_person")
    flow["1"]["inputs"]["ckpt_name"] = "none.safetensors"
    path = tmp_path / "none.json"
    path.write_text(json.dumps(flow))
    output = finish(begin(path, "--out", tmp_path / "out", "--host", server.url), 1)
    assert "FAILED: CheckpointLoaderSimple (node 1): Value not in list" in output
    assert "none.safetensors" in output


PARTIAL = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "good"}},
    "3": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "not_here.safetensors"}},
    "4": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64}},
    "5": {"class_type": "VAEDecode", "inputs": {"samples": ["4", 0], "vae": ["3", 2]}},
    "6": {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": "second"}},
}


@pytest.fixture
def partial(tmp_path):
    """A workflow with two outputs, of which the host refuses one."""
    nodes = json.loads(json.dumps(PARTIAL))
    nodes["1"]["inputs"]["color"] = 255
    nodes["4"]["inputs"]["batch_size"] = 1
    path = tmp_path / "partial.json"
    path.write_text(json.dumps(nodes))
    return path


def test_a_workflow_that_the_host_takes_in_part_fails_with_the_reason(
    tmp_path, begin, server, partial
):
    out = tmp_path / "out"
    for _ in range(2):
        output = finish(begin(partial, "--out", out, "--host", server.url, "--resume"), 1)
        assert "lacks for CheckpointLoaderSimple (node 3): no 'not_here.safetensors'" in output
        assert "FAILED: the host refused a part of the workflow: CheckpointLoaderSimple" in output
        assert "0 done, 1 failed" in output
    assert not list(out.glob("*.png"))


def test_a_dry_run_names_all_that_the_host_lacks(tmp_path, begin, server, partial):
    nodes = json.loads(partial.read_text())
    nodes |= {name: {"class_type": f"Absent{name}", "inputs": {}} for name in ("8", "9")}
    nodes["7"] = {"class_type": "LoadImage", "inputs": {"image": "not_here.png"}}
    nodes["10"] = {"class_type": "LoadImage", "inputs": {"image": "coffee.png"}}
    partial.write_text(json.dumps(nodes))
    out = tmp_path / "out"
    output = finish(begin(partial, "--out", out, "--host", server.url, "--dry-run"), 2)
    assert "has no node Absent8, Absent9." in output
    assert "CheckpointLoaderSimple (node 3): no 'not_here.safetensors' for ckpt_name" in output
    assert "LoadImage (node 7): no 'not_here.png' for image" in output
    assert len(output.splitlines()) == 4 and "To mend: 3." in output
    assert not out.exists()


def test_a_batch_is_checked_and_its_images_are_on_one_page(
    tmp_path, begin, server, mini_weights, flow
):
    table, out = tmp_path / "two.csv", tmp_path / "out"
    table.write_text(f"{PROMPT},seed\na woman & a hat,5\na man jumping,6\n")
    line = [flow, table, "--out", out, "--host", server.url]
    assert "Nothing is wrong: 2 rows would run." in finish(begin("check", *line))
    assert not out.exists()
    assert "100 % |" in (output := finish(begin(*line, "--sheet"))) and "left" in output
    page = (out / "sheet.html").read_text(encoding="utf-8")
    images = re.findall(r'<img [^>]*src="([^"]+)"', page)
    assert [Image.open(out / name).size for name in images] == [(64, 64)] * 2
    parts = page.split("<figure")[1:]
    assert ["seed 5" in parts[0], "a woman &amp; a hat" in parts[0]] == [True, True]
    assert ["seed 6" in parts[1], "a man jumping" in parts[1]] == [True, True]
    assert "To mend: 1." in finish(begin("check", *line), 2)  # a folder that holds a batch
    assert "Nothing is wrong" in finish(begin("check", *line, "--resume"))


def test_a_workflow_of_previews_is_refused_before_it_runs(tmp_path, begin, server, partial):
    nodes = json.loads(partial.read_text())
    previews = {
        "1": nodes["1"],
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    partial.write_text(json.dumps(previews))
    output = finish(begin(partial, "--out", tmp_path / "out", "--host", server.url), 2)
    assert "partial saves nothing" in output


def test_a_row_is_stopped_after_its_time(tmp_path, begin, server, mini_weights, flow):
    table = tmp_path / "rows.csv"
    table.write_text("KSampler.steps,seed\n10000,1\n1,2\n")
    out = tmp_path / "out"
    command = [flow, "--table", table, "--out", out, "--host", server.url, "--row-timeout", "8"]
    output = finish(begin(*command), 1)
    assert "row 1 (line 2): FAILED: it was not done after 8 seconds (--row-timeout)" in output
    assert [path.name for path in out.glob("*.png")] == ["002_person.png"]


def test_the_same_row_again_is_fetched_from_the_hosts_cache(tmp_path, begin, server, partial):
    nodes = json.loads(partial.read_text())
    partial.write_text(json.dumps({name: nodes[name] for name in ("1", "2")}))
    for name in ("first", "second"):
        finish(begin(partial, "--out", tmp_path / name, "--host", server.url))
    for image in (server.base / "output").glob("good_*.png"):
        image.unlink()  # the host's record still names it
    finish(begin(partial, "--out", tmp_path / "third", "--host", server.url))
    sums = {
        (tmp_path / name / "001_good.png").read_bytes() for name in ("first", "second", "third")
    }
    assert len(sums) == 1


def test_a_value_that_the_host_does_not_offer_is_an_error_before_anything_runs(
    tmp_path, begin, server, mini_weights, flow
):
    table = tmp_path / "rows.csv"
    table.write_text("KSampler.sampler_name,KSampler.cfg\neuler,4\neulr,400\n")
    out = tmp_path / "out"
    output = finish(begin(flow, "--table", table, "--out", out, "--host", server.url), 2)
    assert (
        "row 2 (line 3), column 'KSampler.sampler_name': the host does not offer 'eulr'" in output
    )
    assert "Did you mean 'euler'?" in output
    assert "400 is above 100.0" in output
    assert not out.exists()


def test_ctrl_c_finishes_the_row_and_resume_goes_on(
    tmp_path, begin, server, mini_weights, flow, table
):
    out = tmp_path / "out"
    command = [flow, "--table", table, "--out", out, "--host", server.url, "--resume"]
    runner = begin(*command)
    until_busy(runner, out, 2)
    runner.send_signal(signal.SIGINT)
    output = finish(runner, 130)
    assert "Finishing the rows that run" in output
    assert lines(out)[-1]["event"] == "done"
    finish(begin(*command))
    check(out)


def test_on_ray(tmp_path, begin, mini_weights, flow, table):
    pytest.importorskip("ray")
    out = tmp_path / "out"
    command = [flow, "--table", table, "--out", out, *host_options(tmp_path / "base"), "--ray"]
    runner = begin(*command, "--hosts", "1", "--resume")
    until_busy(runner, out, ROWS // 3)
    (host,) = hosts_below(tmp_path / "base")
    kill(host)
    until_busy(runner, out, 2 * ROWS // 3)
    kill(runner.pid)
    runner.wait()
    finish(begin(*command, "--resume"))
    check(out)
    assert not hosts_below(tmp_path / "base")


def hosts_below(base):
    """The processes of ComfyUIs with this base directory."""
    listed = subprocess.run(["ps", "-ewwo", "pid=,args="], capture_output=True, text=True).stdout
    processes = [line.split(None, 1) for line in listed.splitlines()]
    return [
        int(number)
        for number, line in processes
        if f"--base-directory {base}" in line
        and "main.py" in line
        and "keeper.py" not in line
        and "vitruvian_batch" not in line
    ]


NAMES = sorted(path.name for path in (ROOT / "workflows").glob("*.json"))
TO_DOWNLOAD = {  # their models do not come with the pack
    path.name
    for path in (ROOT / "workflows").glob("*.json")
    if any("models" in node["properties"] for node in json.loads(path.read_text())["nodes"])
}


@pytest.mark.parametrize("name", NAMES)
def test_the_ui_format_becomes_the_api_format(host_info, name):
    """Every shipped workflow, to the same nodes as its own file in the API format."""
    path = ROOT / "workflows" / name
    skip_older(path.stem, host_info)
    built = workflow.build(path, workflow.read(path), host_info)
    shipped = workflow.read(ROOT / "workflows" / "api" / name)
    assert bare(built.nodes) == bare(shipped)


@pytest.mark.parametrize("name", NAMES)
def test_a_host_with_the_pack_lacks_nothing_for_a_shipped_workflow(server, host_info, name):
    path = ROOT / "workflows" / name
    skip_older(path.stem, host_info)
    content = workflow.read(path)
    assert needs.missing_nodes(content, host_info) == []
    flow = workflow.build(path, content, host_info)
    missing = needs.missing_files(flow, set(), server.has_input)
    if name in TO_DOWNLOAD:
        missing = [line for line in missing if ".safetensors'" not in line]
    assert missing == []
    needs.check_saves(flow)
    assert needs.output_nodes(flow)


@pytest.mark.parametrize("name", NAMES)
def test_the_ui_workflow_in_an_image_holds_the_rows_values(host_info, name):
    """Filled at every value and converted again, it is what was run."""
    path = ROOT / "workflows" / name
    skip_older(path.stem, host_info)
    flow = workflow.build(path, workflow.read(path), host_info)
    values = {
        workflow.Target(node, key): value + 1 if isinstance(value, int) else f"{value} and more"
        for node, content in flow.nodes.items()
        for key, value in content["inputs"].items()
        if type(value) in (int, str)
    }
    opened = workflow.fill_ui(flow, values)
    rebuilt = workflow.build(path, opened, host_info)
    for target, value in values.items():
        assert rebuilt.nodes[target.node]["inputs"][target.input] == value


def bare(nodes):
    """Without the titles, which an export fills in differently."""
    return {name: (node["class_type"], node["inputs"]) for name, node in nodes.items()}


@pytest.fixture(scope="module")
def host_info(server):
    return server.get("/object_info")
