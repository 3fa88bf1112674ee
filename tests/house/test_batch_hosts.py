"""The batch runner and hosts that misbehave: a ComfyUI of a few lines, with faults on demand."""

import base64
import json
import shutil
import socket
import ssl
import subprocess
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
from vitruvian.batch.vitruvian_batch import cli, connection, host

PNG = b"\x89PNG\r\n\x1a\n" + b"pixels"
PAGE = (200, "text/html", b"<!DOCTYPE html><html>Please log in</html>")
SAMPLE = {
    "input": {
        "required": {
            "text": ["STRING", {}],
            "seed": ["INT", {"min": 0, "max": 2**64 - 1}],
            "model": [["a.safetensors"], {}],
        }
    },
    "python_module": "custom_nodes.sample",
}
INFO = {
    "Sample": SAMPLE,
    "LoadImage": {
        "input": {"required": {"image": [["there.png"], {"image_upload": True}]}},
        "python_module": "nodes",
    },
    "SaveImage": {"output_node": True, "python_module": "nodes", "input": {}},
    "PreviewImage": {"output_node": True, "python_module": "nodes", "input": {}},
}


def flow(**more):
    inputs = {"text": "a", "seed": 1, "model": "a.safetensors"}
    return {
        "1": {"class_type": "Sample", "inputs": inputs},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "p"}},
        **more,
    }


class Comfy:
    """What the routes answer. `faults`: (start of the path, status, kind, body), each used once."""

    def __init__(self):
        self.faults = deque()
        self.requests = []  # (method, path, headers)
        self.accepted = {}  # id -> the posted content
        self.finished = {}  # id -> the record in the history
        self.cancelled = []
        self.errors = {}  # beside a prompt_id
        self.info = INFO
        self.inputs = {"there.png"}
        self.files = [{"filename": "p_00001_.png", "subfolder": "", "type": "output"}]
        self.image = (200, "image/png", PNG)
        self.ends = True

    def answer(self, method, path, query, body):
        for fault in list(self.faults):
            if path.startswith(fault[0]):
                self.faults.remove(fault)
                return fault[1:]
        return getattr(self, f"on_{path.strip('/').split('/')[0]}")(method, path, query, body)

    def on_system_stats(self, *_):
        return reply({"system": {"os": "test"}})

    def on_object_info(self, *_):
        return reply(self.info)

    def on_prompt(self, method, path, query, body):
        content = json.loads(body)
        names = [content["prompt"][key]["inputs"].get("image") for key in content["prompt"]]
        if missing := [name for name in names if name and name not in self.inputs]:
            error = {"message": "Invalid image file", "details": missing[0]}
            errors = {"1": {"class_type": "LoadImage", "errors": [error]}}
            return reply({"error": error, "node_errors": errors}, 400)
        self.accept(content)
        return reply({"prompt_id": content["prompt_id"], "node_errors": self.errors})

    def accept(self, content):
        prompt = content["prompt_id"]
        assert prompt not in self.accepted, "handed in twice"
        self.accepted[prompt] = content
        if self.ends:
            self.finish(prompt)

    def finish(self, prompt, outputs=("2",)):
        status = {"status_str": "success", "messages": []}
        item = [1, prompt, {}, {}, list(outputs)]
        files = {"2": {"images": self.files}}
        self.finished[prompt] = {"prompt": item, "status": status, "outputs": files}

    def on_queue(self, method, path, query, body):
        if method == "POST":
            self.cancelled += json.loads(body)["delete"]
            return 200, "", b""
        running = [[1, prompt] for prompt in self.accepted if prompt not in self.finished]
        return reply({"queue_running": running, "queue_pending": []})

    def on_interrupt(self, method, path, query, body):
        prompt = json.loads(body)["prompt_id"]
        status = {"status_str": "error", "messages": []}
        self.finished[prompt] = {"status": status, "outputs": {}}
        return 200, "", b""

    def on_history(self, method, path, query, body):
        prompt = path.split("/")[-1]
        return reply({prompt: self.finished[prompt]} if prompt in self.finished else {})

    def on_view(self, method, path, query, body):
        if query["type"] == ["input"]:
            return self.image if query["filename"][0] in self.inputs else (404, "", b"")
        return self.image

    def on_upload(self, method, path, query, body):
        name = body.split(b'filename="')[1].split(b'"')[0].decode()
        self.inputs.add(name)
        return reply({"name": name, "subfolder": "", "type": "input"})

    def on_free(self, *_):
        return 200, "", b""


def reply(content, status=200):
    return status, "application/json", json.dumps(content).encode()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.respond("GET")

    def do_POST(self):
        self.respond("POST")

    def respond(self, method):
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        parts = urlsplit(self.path)
        path = parts.path.removeprefix("/behind/proxy")
        comfy = self.server.comfy
        comfy.requests.append((method, path, dict(self.headers)))
        status, kind, content, *more = comfy.answer(method, path, parse_qs(parts.query), body)
        headers = dict(more[0]) if more else {}
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", headers.pop("content-length", str(len(content))))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
        if more:
            self.close_connection = True

    def log_message(self, *_):
        pass


class QuietServer(ThreadingHTTPServer):
    def handle_error(self, *_):
        """Say nothing of a client that went away."""


class V6Server(QuietServer):
    address_family = socket.AF_INET6


@pytest.fixture
def begin(monkeypatch):
    """Starts ComfyUIs: () -> (Comfy, its address)."""
    monkeypatch.setattr(connection, "PAUSES", (0.0, 0.0, 0.0))
    servers = []

    def start(address="127.0.0.1", context=None):
        kind = V6Server if ":" in address else QuietServer
        server = kind((address, 0), Handler)
        if context:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        server.comfy = Comfy()
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        name = f"[{address}]" if ":" in address else address
        return server.comfy, f"{name}:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def comfy(begin):
    return begin()


@pytest.fixture
def batch(tmp_path, capsys):
    """Runs the command: (exit code, output). `nodes` and `rows` are written into files."""

    def start(address, *options, nodes=None, rows=None):
        path = tmp_path / "flow.json"
        path.write_text(json.dumps(flow() if nodes is None else nodes))
        line = [path, "--out", tmp_path / "out", "--timeout", "2"]
        for one in [address] if isinstance(address, str) else address:
            line += ["--host", one]
        if rows is not None:
            table = tmp_path / "rows.csv"
            table.write_text(rows)
            line += ["--table", table]
        code = cli.main([str(part) for part in (*line, *options)])
        printed = capsys.readouterr()
        assert "Traceback" not in printed.out + printed.err
        return code, printed.out + printed.err

    return start


@pytest.fixture
def run_command(capsys):
    """Runs the command with these words: (exit code, output)."""

    def start(line):
        code = cli.main(line)
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return start


def images(tmp_path):
    return sorted(path.name for path in (tmp_path / "out").glob("[0-9]*"))


# What passes


PASSING = [
    *((status, "text/plain", b"busy") for status in (404, 408, 425, 429, 500, 502, 503, 504)),
    *((status, "text/html", b"<html>away</html>") for status in (502, 520, 522, 524, 530)),
    (429, "text/plain", b"slowly", {"retry-after": "0"}),
    PAGE,
    (200, "application/json", b"not JSON"),
    (200, "application/json", b""),
]


@pytest.mark.parametrize("path", ["/history", "/queue", "/prompt"])
@pytest.mark.parametrize("fault", PASSING, ids=lambda fault: f"{fault[0]}-{fault[1]}-{fault[2]!r}")
def test_an_answer_that_passes_is_asked_for_again(tmp_path, comfy, batch, path, fault):
    server, address = comfy
    server.faults.append((path, *fault))
    code, output = batch(address)
    assert (code, images(tmp_path)) == (0, ["001_p.png"]), output
    assert not server.faults
    assert len(server.accepted) == 1


@pytest.mark.parametrize("fault", [(503, "text/plain", b"busy"), (429, "", b""), PAGE])
def test_an_image_is_asked_for_again(tmp_path, comfy, batch, fault):
    server, address = comfy
    server.faults.append(("/view", *fault))
    assert batch(address)[0] == 0
    assert (tmp_path / "out" / "001_p.png").read_bytes() == PNG


@pytest.mark.parametrize("fault", [(502, "text/html", b"<html>"), (524, "", b""), PAGE])
def test_a_row_that_was_accepted_behind_an_error_is_not_handed_in_twice(comfy, batch, fault):
    server, address = comfy
    usual = server.on_prompt

    def accept_and_fail(*request):
        usual(*request)
        server.on_prompt = usual
        return fault

    server.on_prompt = accept_and_fail
    assert batch(address)[0] == 0
    assert len(server.accepted) == 1


# What stays


@pytest.mark.parametrize(
    "image",
    [PAGE, (200, "image/png", b"\n<html><body>sorry</body></html>"), (200, "image/png", b"")],
    ids=["page", "page called png", "empty"],
)
def test_a_web_page_is_never_saved_as_an_image(tmp_path, comfy, batch, image):
    server, address = comfy
    server.image = image
    code, output = batch(address, "--retries", "0")
    assert code == 1
    assert "web page instead of ComfyUI's data" in output or "incompletely" in output
    assert images(tmp_path) == []
    assert not list((tmp_path / "out").glob(".*.part"))


def test_an_image_that_is_cut_off_is_fetched_again(tmp_path, comfy, batch):
    server, address = comfy
    server.faults.append(("/view", 200, "image/png", PNG[:5], {"content-length": "14"}))
    assert batch(address)[0] == 0
    assert (tmp_path / "out" / "001_p.png").read_bytes() == PNG
    assert len(server.accepted) == 1


@pytest.mark.parametrize("status", [401, 403, 407])
def test_a_host_that_wants_credentials_says_so(comfy, batch, status):
    server, address = comfy
    server.faults.append(("/system_stats", status, "text/html", b"<html>who are you"))
    code, output = batch(address)
    assert code == 2
    assert f"answered {status}: it wants credentials. Give them as --header" in output


def test_a_redirect_is_named_and_not_followed(begin, batch):
    server, address = begin()
    other, elsewhere = begin()
    place = {"location": f"http://{elsewhere}/system_stats?key=secret"}
    server.faults.append(("/system_stats", 302, "", b"", place))
    code, output = batch(address, "--header", "Authorization: Bearer hush")
    assert code == 2
    assert f"redirects to http://{elsewhere}/system_stats: if that is the ComfyUI" in output
    assert not other.requests
    assert "secret" not in output


def test_a_row_that_is_too_large_fails_by_name(comfy, batch):
    server, address = comfy
    server.faults.append(("/prompt", 413, "text/html", b"<html>too large"))
    code, output = batch(address)
    assert code == 1
    assert "FAILED: 413: the row's files or values are larger than" in output


def test_a_500_that_stays_fails_the_row(tmp_path, comfy, batch):
    server, address = comfy
    server.faults += [("/prompt", 500, "text/plain", b"500 Internal\n\nServer Error")] * 9
    code, output = batch(address)
    assert code == 1
    assert "FAILED: the host answered 500: 500 Internal Server Error" in output


@pytest.mark.parametrize(
    "address",
    ["ftp://a", "http://", "http://a:port", "http://a:99999", "http://::1", "http://a/?x=1", "a#b"],
)
def test_what_is_no_address(batch, address):
    code, output = batch(address)
    assert code == 2
    assert len(output.splitlines()) == 1
    assert "address" in output


# A part is refused


def test_a_workflow_that_is_refused_in_part_fails_with_the_reason(tmp_path, comfy, batch):
    server, address = comfy
    server.ends = False
    error = {"message": "Value not in list", "details": "ckpt_name: 'x' not in []"}
    server.errors = {"3": {"class_type": "Loader", "errors": [error]}}
    code, output = batch(address)
    assert code == 1
    reason = "refused a part of the workflow: Loader (node 3): Value not in list: ckpt_name: 'x'"
    assert reason in output
    (prompt,) = server.accepted
    assert server.cancelled == [prompt]
    assert any(path == "/interrupt" for _, path, _ in server.requests)
    last = json.loads((tmp_path / "out" / "manifest.jsonl").read_text().splitlines()[-1])
    assert last["event"] == "failed"
    assert reason in last["error"]


def test_a_part_that_an_earlier_runner_left_running_is_no_finished_row(tmp_path, comfy, batch):
    server, address = comfy
    server.info = {**INFO, "SaveText": {"output_node": True, "input": {}}}
    nodes = flow(**{"3": {"class_type": "SaveText", "inputs": {"filename_prefix": "t"}}})
    code, output = batch(address, nodes=nodes)  # accepted for node 2 alone, and nobody says so
    assert code == 1
    assert "the host refused a part of the workflow: node 3" in output


# What a workflow needs


def test_a_dry_run_names_every_node_and_file_that_is_missing(begin, batch):
    one, first = begin()
    two, second = begin()
    two.info = {name: kind for name, kind in INFO.items() if name != "Sample"}
    nodes = flow(
        **{
            "3": {"class_type": "Absent", "inputs": {}},
            "4": {"class_type": "Missing", "inputs": {}},
            "5": {"class_type": "LoadImage", "inputs": {"image": "gone.png"}},
            "6": {"class_type": "LoadImage", "inputs": {"image": "sub/there.png"}},
        }
    )
    nodes["1"]["inputs"]["model"] = "b.safetensors"
    code, output = batch([first, second], "--dry-run", nodes=nodes)
    assert code == 2
    assert f"http://{first} has no node Absent, Missing. Install the pack" in output
    assert f"http://{second} has no node Absent, Missing, Sample." in output
    assert f"{first} lacks for Sample (node 1): no 'b.safetensors' for model" in output
    for address in (first, second):
        assert f"{address} lacks for LoadImage (node 5): no 'gone.png' for image" in output
    assert "there.png" not in output
    assert not one.accepted


def test_check_says_all_that_would_go_wrong(tmp_path, comfy, run_command, monkeypatch):
    """In the workflow, in every row of the table, and in the folder: not one mistake at a time."""
    server, address = comfy
    server.info = {
        **INFO,
        "SaveImage": {"output_node": True, "input": {"required": {"images": ["IMAGE"]}}},
        "Sample": {**SAMPLE, "output": ["IMAGE", "MASK"]},
    }
    nodes = flow(
        **{
            "3": {"class_type": "SaveImage", "inputs": {"images": ["9", 0]}},
            "4": {"class_type": "SaveImage", "inputs": {"images": ["1", 1]}},
            "5": {"class_type": "SaveImage", "inputs": {}},
            "6": {"class_type": "Sample", "inputs": {}},  # which leads nowhere
        }
    )
    nodes["1"]["inputs"]["seed"] = -1
    rows = ["LoadImage.image,#1.model,#1.sead"] + ["x,y,1,too many"] + ["x,b.safetensors,1"] * 15
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "001_other.png").write_bytes(PNG)
    table = tmp_path / "rows.csv"
    table.write_text("\n".join(rows))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flow.json").write_text(json.dumps(nodes))
    line = ["check", "flow.json", "rows.csv", "--out", "out", "--host", address]
    code, output = run_command(line)
    assert code == 2
    for expected in (
        "would refuse SaveImage (node 3): images: it is wired to node 9, which is not there",
        "would refuse SaveImage (node 4): images: it takes IMAGE, and the wire brings MASK",
        "would refuse SaveImage (node 5): the input 'images' is missing",
        "would refuse Sample (node 1): seed: -1 is below 0",
        "no node of flow is called 'LoadImage'",
        "has no input 'sead'. Did you mean 'seed'?",
        "row 2 (line 3), column '#1.model': the host does not offer 'b.safetensors'",
        "row 16 (line 17), column '#1.model': the host does not offer 'b.safetensors'",
        "row 1 (line 2): 4 cells for 3 columns",
        "out holds images of another batch (001_other.png)",
    ):
        assert expected in output
    assert "node 6" not in output
    assert output.endswith("Nothing was run. To mend: 23.\n")
    assert not server.accepted and images(tmp_path) == ["001_other.png"]


def test_check_of_a_good_batch_shows_its_rows_and_notes_equal_ones(comfy, run_command, tmp_path):
    server, address = comfy
    (tmp_path / "flow.json").write_text(json.dumps(flow()))
    (tmp_path / "rows.csv").write_text("Sample.text,seed\na,1\nb,1\na,1\n")
    line = ["check", str(tmp_path / "flow.json"), str(tmp_path / "rows.csv"), "--host", address]
    code, output = run_command(line)
    assert code == 0
    assert "rows.csv, row 2 (line 3): Sample.text=b, seed=1  seeds: 1" in output
    assert "Note: rows.csv, row 3 (line 4) is as rows.csv, row 1 (line 2): give it" in output
    assert output.endswith("Nothing is wrong: 3 rows would run.\n")
    assert not server.accepted


def test_a_table_may_stand_behind_the_workflow(tmp_path, comfy, run_command):
    server, address = comfy
    (tmp_path / "rows.csv").write_text("Sample.text\na\nb\n")
    (tmp_path / "flow.json").write_text(json.dumps(flow()))
    line = [str(tmp_path / name) for name in ("flow.json", "rows.csv")]
    line += ["--out", str(tmp_path / "out"), "--host", address]
    assert run_command(line)[0] == 0
    assert images(tmp_path) == ["001_p.png", "002_p.png"]
    code, output = run_command([*line, "--table", "other.csv"])
    assert code == 2 and "Give one table" in output


def test_the_sheet_shows_what_was_saved_and_what_failed(tmp_path, comfy, batch):
    server, address = comfy
    nodes = flow(**{"3": {"class_type": "LoadImage", "inputs": {"image": "there.png"}}})
    rows = "Sample.text,seed,LoadImage.image\n<b>one</b>,5,there.png\ntwo,6,gone.png [output]\n"
    code, output = batch(address, "--sheet", nodes=nodes, rows=rows)
    assert code == 1
    page = (tmp_path / "out" / "sheet.html").read_text()
    assert f"All images on one page: {tmp_path / 'out' / 'sheet.html'}" in output
    assert 'src="001_p.png"' in page and "&lt;b&gt;one&lt;/b&gt;" in page and "seed 5" in page
    assert "2 rows: 1 done, 1 failed." in page and 'href="#row-2"' in page
    assert "Invalid image file" in page


def test_a_file_that_every_row_names_anew_is_not_missing(tmp_path, comfy, batch):
    nodes = flow()
    nodes["1"]["inputs"]["model"] = "b.safetensors"
    code, output = batch(comfy[1], "--dry-run", nodes=nodes, rows="Sample.model\na.safetensors\n")
    assert code == 0, output


@pytest.mark.parametrize("kind", [None, "PreviewImage"])
def test_a_workflow_that_saves_nothing_is_refused_before_the_first_row(
    tmp_path, comfy, batch, kind
):
    server, address = comfy
    nodes = flow()
    del nodes["2"]
    if kind:
        nodes["2"] = {"class_type": kind, "inputs": {"images": ["1", 0]}}
    for option in ([], ["--dry-run"]):
        code, output = batch(address, *option, nodes=nodes)
        assert code == 2
        assert "flow saves nothing: it has no node like Save Image" in output
    assert not server.accepted
    assert not (tmp_path / "out").exists()


def test_a_run_without_files_empties_the_cache_and_then_fails(comfy, batch):
    server, address = comfy
    server.files = []
    code, output = batch(address)
    assert code == 1
    assert "FAILED: the run saved no file" in output
    assert len(server.accepted) == 2
    assert any(path == "/free" for _, path, _ in server.requests)


def test_previews_texts_and_other_media():
    outputs = {
        "10": {"gifs": [{"filename": "v.mp4", "subfolder": "video", "type": "output"}]},
        "9": {"images": [{"filename": "seen.png", "type": "temp"}], "animated": [True]},
        "3:1": {"audio": [{"filename": "a.flac", "subfolder": None, "type": "output"}]},
        "2": {"text": ["a woman"], "string": "x", "bboxes": [[1, 2]]},
        "1": {"latents": [{"filename": "l.latent", "subfolder": "", "type": "output"}]},
        "0": None,
    }
    assert host.output_files(outputs) == [("l.latent", ""), ("a.flac", ""), ("v.mp4", "video")]


# Names


@pytest.mark.parametrize(
    ("name", "saved"),
    [
        ("../../evil.png", "001_evil.png"),
        ("/etc/evil.png", "001_evil.png"),
        ("..\\..\\C:\\evil?.png", "001_evil_.png"),
        ("a\nb.png", "001_a_b.png"),
        (".png", "001_.png"),
        ("ü" * 200 + ".png", "001_" + "ü" * 75 + ".png"),
    ],
)
def test_a_hosts_names_stay_in_the_folder(tmp_path, comfy, batch, name, saved):
    server, address = comfy
    server.files = [{"filename": name, "subfolder": "..", "type": "output"}]
    assert batch(address)[0] == 0
    assert images(tmp_path) == [saved]
    assert not list(tmp_path.glob("*.png"))


def test_names_that_differ_in_capitals_only(tmp_path, comfy, batch):
    server, address = comfy
    names = ("A.png", "a.png", "a.PNG")
    server.files = [{"filename": name, "type": "output"} for name in names]
    assert batch(address)[0] == 0
    assert images(tmp_path) == ["001_A.png", "001_a_2.png", "001_a_3.PNG"]


# Time and hosts that forget


def test_a_row_that_runs_too_long_is_stopped_and_the_rest_goes_on(tmp_path, comfy, batch):
    server, address = comfy
    usual = server.accept

    def accept(content):
        server.ends = content["prompt"]["1"]["inputs"]["seed"] != 1
        usual(content)

    server.accept = accept
    code, output = batch(address, "--row-timeout", "0.3", rows="seed\n1\n2\n")
    assert code == 1
    assert "row 1 (line 2): FAILED: it was not done after 0.3 seconds (--row-timeout)" in output
    assert any(path == "/interrupt" for _, path, _ in server.requests)
    assert images(tmp_path) == ["002_p.png"]


def test_a_host_that_does_not_obey_holds_up_no_row_for_ever(tmp_path, comfy, batch, monkeypatch):
    monkeypatch.setattr(host, "STOPPED_WITHIN", 0.1)
    server, address = comfy
    server.ends = False
    server.on_interrupt = lambda *_: (200, "", b"")
    code, output = batch(address, "--row-timeout", "0.2", rows="seed\n1\n2\n")
    assert code == 1
    assert output.count("FAILED: it was not done after 0.2 seconds") == 2


def test_the_time_behind_somebody_elses_rows_does_not_count(tmp_path, comfy, batch):
    server, address = comfy
    server.ends = False
    looks = []

    def busy(method, *request):
        if method == "POST":
            return 200, "", b""
        (prompt,) = server.accepted or (None,)
        if prompt is None:
            return reply({"queue_running": [], "queue_pending": []})
        looks.append(prompt)
        if len(looks) == 8:
            server.finish(prompt)
        return reply({"queue_running": [[1, "another's"]], "queue_pending": [[2, prompt]]})

    server.on_queue = busy
    code, output = batch(address, "--row-timeout", "0.3")
    assert (code, images(tmp_path)) == (0, ["001_p.png"]), output
    assert len(looks) >= 8


def test_a_host_that_gives_ids_of_its_own_is_named(comfy, batch):
    server, address = comfy
    server.on_prompt = lambda *_: reply({"prompt_id": "mine", "node_errors": {}})
    code, output = batch(address)
    assert code == 1
    assert "FAILED: the host gives runs ids of its own" in output
    assert server.cancelled == ["mine"]


def test_an_answer_of_another_shape_is_no_fault_of_the_program(comfy, batch):
    server, address = comfy
    for path in ("/queue", "/history"):
        server.faults.append((path, 200, "application/json", b"[1]"))
    code, output = batch(address)
    assert code == 0, output
    assert "with something that is not ComfyUI's. Waiting for it" in output


def test_a_host_that_forgets_a_run_runs_it_again(tmp_path, comfy, batch, monkeypatch):
    monkeypatch.setattr(host, "QUEUE_EVERY", 0.05)
    server, address = comfy
    usual, forgotten = server.accept, []

    def accept(content):
        if forgotten:
            return usual(content)
        forgotten.append(content["prompt_id"])

    server.accept = accept
    code, output = batch(address)
    assert (code, images(tmp_path)) == (0, ["001_p.png"]), output
    assert "was started anew and has forgotten the row" in output
    assert list(server.accepted) == forgotten


def test_a_file_that_the_host_lost_is_sent_again(tmp_path, comfy, batch):
    server, address = comfy
    (tmp_path / "mine.png").write_bytes(PNG)
    nodes = flow(**{"3": {"class_type": "LoadImage", "inputs": {"image": "there.png"}}})
    usual = server.accept

    def accept(content):
        usual(content)
        server.inputs.discard("mine.png")

    server.accept = accept
    rows = "LoadImage.image,seed\nmine.png,1\nmine.png,2\n"
    code, output = batch(address, nodes=nodes, rows=rows)
    assert code == 0, output
    assert sum(path == "/upload/image" for _, path, _ in server.requests) == 2


def test_of_two_hosts_one_may_come_later(tmp_path, begin, batch):
    server, address = begin()
    late, later = begin()
    late.faults += [("/system_stats", 502, "", b"")] * 3
    begun, usual = threading.Event(), server.accept

    def accept(content):
        begun.wait(20)  # the second host does the other row meanwhile
        usual(content)

    def accept_late(content):
        begun.set()
        late_usual(content)

    server.accept, late_usual, late.accept = accept, late.accept, accept_late
    code, output = batch([address, later], "--timeout", "20", rows="seed\n1\n2\n")
    assert (code, len(images(tmp_path))) == (0, 2), output
    assert f"http://{later} answered 502: its host is away. It gets rows when it comes." in output
    assert len(late.accepted) == 1


# Proxies


def test_headers_and_passwords_are_sent_and_never_shown(tmp_path, comfy, batch):
    server, address = comfy
    (tmp_path / "headers").write_text("X-Team: hidden-team\n")
    server.faults.append(("/prompt", 400, "text/plain", b"hush hidden-team Bearer hush"))
    options = ["--header", "Authorization: Bearer hush", "--header", f"@{tmp_path}/headers"]
    code, output = batch(f"http://{address}/", *options)
    assert code == 1
    assert all(
        headers["Authorization"] == "Bearer hush" and headers["X-Team"] == "hidden-team"
        for _, _, headers in server.requests
    )
    code, more = batch(f"http://me:pass%25w%C3%B6rd@{address}", "--resume")
    assert code == 0, more
    basic = base64.b64encode("me:pass%wörd".encode()).decode()
    assert server.requests[-1][2]["Authorization"] == f"Basic {basic}"
    recorded = (tmp_path / "out" / "manifest.jsonl").read_text()
    for secret in ("hush", "hidden-team", "pass%wörd", "pass%25w", basic, "me:"):
        assert secret not in output + more + recorded


@pytest.mark.parametrize("header", ["", "x", ": y", "a b: c", "a: ", "a: b\nc: d", "@nowhere"])
def test_what_is_no_header(comfy, batch, header):
    code, output = batch(comfy[1], "--header", header)
    assert code == 2
    assert "--header" in output
    assert len(output.splitlines()) == 1


def test_a_path_behind_a_proxy_and_one_host_named_twice(tmp_path, comfy, batch):
    server, address = comfy
    names = [f"{address}/behind/proxy/", f"HTTP://{address}/behind/proxy"]
    code, output = batch(names, rows="seed\n1\n2\n")
    assert (code, len(server.accepted)) == (0, 2), output
    greetings = [path for _, path, _ in server.requests if path == "/system_stats"]
    assert len(greetings) == 1


def test_a_host_by_its_ipv6_address(tmp_path, begin, batch):
    try:
        _, address = begin("::1")
    except OSError:
        pytest.skip("this machine has no IPv6")
    assert batch(f"http://{address}")[0] == 0
    assert images(tmp_path) == ["001_p.png"]


def test_a_private_certificate(tmp_path, begin, batch):
    if not shutil.which("openssl"):
        pytest.skip("openssl makes the certificate")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    line = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    files = ["-keyout", key, "-out", certificate, "-addext", names]
    subprocess.run([*line.split(), *files], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    _, address = begin(context=context)
    code, output = batch(f"https://{address}")
    assert code == 2
    assert "nobody here vouches for" in output
    assert "--certificate" in output
    code, output = batch(f"https://{address}", "--certificate", certificate)
    assert (code, images(tmp_path)) == (0, ["001_p.png"]), output
    for wrong in (key, tmp_path / "none.pem", tmp_path):
        code, output = batch(f"https://{address}", "--certificate", wrong, "--resume")
        assert code == 2
        assert f"--certificate {wrong} cannot be used" in output
