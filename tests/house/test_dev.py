"""The set-up that dev.py does, without doing it."""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections import namedtuple

import pytest
from vitruvian.batch.vitruvian_batch import host
from vitruvian.batch.vitruvian_batch.trouble import Trouble
from vitruvian.tools import environments, examples, hosts, paths
from vitruvian.tools.commands import bench, fresh
from vitruvian.tools.server import Server

MODULES = sorted(
    path.stem for path in (paths.ROOT / "tools/commands").glob("*.py") if path.stem != "__init__"
)
COMMANDS = [module.replace("_", "-") for module in MODULES]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "CACHE", tmp_path)
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    return tmp_path


def fake_venv(folder, interpreter):
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").touch()
    (folder / "lib" / "python3.11" / "site-packages").mkdir(parents=True)


@pytest.fixture
def installs(monkeypatch):
    """The lists of packages that pip was to install, so far."""
    package_lists = []
    monkeypatch.setattr(environments, "_make_venv", fake_venv)
    monkeypatch.setattr(
        environments, "_pip", lambda python, packages: package_lists.append(packages)
    )
    return package_lists


def test_an_environment_is_set_up_once(cache, installs):
    first, second = (environments.set_up("env", ["one"], 0) for _ in range(2))
    assert first == second == cache / "env" / "bin" / "python"
    assert installs == [["one"]]


def test_a_version_of_python_is_one_that_runs(tmp_path, monkeypatch):
    """pyenv puts a script on the path for versions that it does not have, too."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / name).write_text("#!/bin/sh\nexit 127\n")
    (tmp_path / name).chmod(0o755)
    assert environments.find_version(name.removeprefix("python")) is None
    made_by_pyenv = tmp_path / ".pyenv" / "versions" / f"{name.removeprefix('python')}.9" / "bin"
    made_by_pyenv.mkdir(parents=True)
    (made_by_pyenv / "python").symlink_to(sys.executable)
    assert environments.find_version(name.removeprefix("python")) == str(made_by_pyenv / "python")


def test_a_fresh_installation_that_changes_a_package_fails(monkeypatch, tmp_path, capsys):
    """Whatever else was added, and although Detect Pose finds somebody."""
    before = ["numpy==2.5.5", "opencv-python==4.9"]
    answers = {
        "added": fresh.Answer(before, [*before, "mediapipe==1.2"], "", [9], "0.1 seconds", []),
        "lowered": fresh.Answer(before, ["numpy==1.26", before[1]], "", [9], "0.1 seconds", []),
        "nobody": fresh.Answer(before, before, "", [], "0.1 seconds", []),
    }
    monkeypatch.setattr(fresh, "_users_environment", lambda version, host, renew: version)
    monkeypatch.setattr(fresh, "_install_and_detect", lambda version, host, base: answers[version])
    exits = {version: fresh._try(version, tmp_path, False) for version in answers}
    assert exits == {"added": 0, "lowered": 1, "nobody": 1}
    assert "changed: numpy==2.5.5\n" in capsys.readouterr().out


def test_a_python_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(fresh, "has_packages", lambda: True)
    with pytest.raises(Trouble, match="no Python 3.99 on this machine: install it"):
        fresh.run(argparse.Namespace(pythons=["3.99"], host=None, renew=False))


def test_a_benchmark_checks_where_its_numbers_go_before_it_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "has_packages", lambda: pytest.fail("the benchmark began"))
    (tmp_path / "file").write_text("no folder")
    for target in (tmp_path, tmp_path / "file" / "a.json", "/proc/nowhere/a.json"):
        options = argparse.Namespace(name="batch", json=str(target), quick=True, host=None)
        with pytest.raises(Trouble, match="^--json .* can not be written: "):
            bench.run(options)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_incomplete_environment_is_set_up_again(cache, installs, monkeypatch):
    def fail(python, packages):
        (python.parent / "leftover").touch()
        raise Trouble("no connection")

    with monkeypatch.context() as patch, pytest.raises(Trouble, match="no connection"):
        patch.setattr(environments, "_pip", fail)
        environments.set_up("env", ["one"], 0)
    python = environments.set_up("env", ["one"], 0)
    assert installs == [["one"]]
    assert not (python.parent / "leftover").exists()


def test_a_layer_sees_the_packages_below(cache, installs):
    below = environments.set_up("below", ["torch"], 0)
    above = environments.set_up("above", ["host"], 0, visible=environments.site_packages(below))
    (link,) = above.parent.parent.rglob("*.pth")
    assert str(below.parent.parent / "lib") in link.read_text()


def test_the_environments_interpreter_replaces_the_process(tmp_path):
    """A parent that waits would kill it soon after Ctrl-C, while a trainer saves its weights."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho $$ $VITRUVIAN_INSIDE "$@"\n')
    python.chmod(0o755)
    code = (
        "import sys; from pathlib import Path; import dev; dev.load_pack()\n"
        "from vitruvian.tools.environments import again_inside; again_inside(Path(sys.argv[1]))"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, python],
        cwd=paths.ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={k: v for k, v in os.environ.items() if k != "VITRUVIAN_INSIDE"},
    )
    output = child.communicate()[0].split()
    assert output == [str(child.pid), "1", str(paths.ROOT / "dev.py"), str(python)]


def test_too_little_disk_is_reported_before_anything_is_set_up(cache, installs, monkeypatch):
    usage = namedtuple("usage", "free")(2e9)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(Trouble, match=r"needs 5 GB.*2\.0 GB are free"):
        environments.set_up("env", ["one"], 5)
    assert not (cache / "env").exists()


def test_a_wrong_comfyui_path_is_named(cache, monkeypatch):
    monkeypatch.setenv("COMFYUI_PATH", str(cache))
    with pytest.raises(Trouble, match="main.py"):
        hosts.find_host(None)


def test_a_version_on_the_command_line_goes_before_comfyui_path(cache, monkeypatch):
    monkeypatch.setenv("COMFYUI_PATH", "/nowhere")
    host = cache / "ComfyUI-v1"
    host.mkdir()
    (host / "main.py").touch()
    assert hosts.find_host("v1") == host


def test_a_failed_clone_leaves_nothing_and_says_what_to_do(cache, monkeypatch):
    monkeypatch.setattr(hosts, "HOST_REPOSITORY", str(cache / "no-such-repository"))
    with pytest.raises(Trouble, match="COMFYUI_PATH"):
        hosts.find_host("v1")
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ('{"nodes": [], "links": []}', "API format"),
        ("[]", "API format"),
    ],
)
def test_what_is_not_a_workflow_is_refused(tmp_path, content, message):
    file = tmp_path / "flow.json"
    file.write_text(content)
    with pytest.raises(Trouble, match=message):
        examples.read_workflow(str(file))


def test_an_unknown_workflow_names_the_known_ones():
    with pytest.raises(Trouble, match="text_to_person"):
        examples.read_workflow("nothing")


def test_the_refusal_of_a_workflow_names_the_nodes():
    error = {"message": "Value not in list", "details": "ckpt_name: 'a' not in []"}
    reply = {"node_errors": {"4": {"class_type": "Loader", "errors": [error]}}}
    assert host.refusal(reply) == "Loader (node 4): Value not in list: ckpt_name: 'a' not in []"


def test_a_server_that_dies_shows_the_end_of_its_log(tmp_path):
    (tmp_path / "main.py").write_text("raise SystemExit('no such option')")
    with pytest.raises(Trouble, match="no such option"):
        with Server(sys.executable, tmp_path, tmp_path):
            pass


@pytest.mark.parametrize("module", MODULES)
def test_every_command_begins_with_the_standard_library_alone(module):
    """No environment may be there yet: -S leaves out site-packages."""
    code = (
        f"import sys; sys.path.insert(0, {str(paths.ROOT)!r}); import dev; dev.load_pack()\n"
        f"import vitruvian.tools.commands.{module}"
    )
    assert subprocess.call([sys.executable, "-I", "-S", "-c", code]) == 0


def test_the_command_line_offers_every_command():
    import dev

    text = dev.parser().format_help()
    assert all(re.search(rf"^    {command}\s", text, re.MULTILINE) for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_an_example_that_its_parser_takes(command, capsys):
    import dev

    examples = [
        line.split("dev.py ", 1)[1] for line in dev.EXAMPLES.splitlines() if "dev.py" in line
    ]
    mine = [re.split(r"  +", line)[0] for line in examples if line.split()[0] == command]
    assert mine
    for line in mine:
        options, _ = dev.parser().parse_known_args(line.split())
        assert options.command == command
    if command != "batch":  # which hands --help on
        with pytest.raises(SystemExit):
            dev.parser().parse_args([command, "--help"])
        text = capsys.readouterr().out
        assert all(f"python3 dev.py {line}" in text for line in mine)
