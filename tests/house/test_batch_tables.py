"""Tables as spreadsheets, scripts and people write them: read right, or refused with the line."""

import json
import tracemalloc

import pytest
from vitruvian.batch.vitruvian_batch import cli, jobs, values
from vitruvian.batch.vitruvian_batch.table import Table
from vitruvian.batch.vitruvian_batch.trouble import BadInput
from vitruvian.batch.vitruvian_batch.workflow import Workflow

NOBODY = "http://127.0.0.1:9"  # the port of discard: nothing listens there


def flow(**inputs):
    sampler = {"text": "", "seed": 7, "steps": 20, "cfg": 4.5, "tile": True, **inputs}
    return Workflow("flow", {"1": {"class_type": "Sample", "inputs": sampler}})


@pytest.fixture
def read(tmp_path):
    """Writes a table and reads it: the rows' cells."""

    def start(content, name="t.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return [row.cells for row in Table(path)]

    return start


@pytest.fixture
def plan(tmp_path):
    """Writes a table and plans its jobs on a workflow."""

    def start(content, name="t.csv", on=None, seed=None):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return list(jobs.plan([on or flow()], Table(path), tmp_path, seed))

    return start


# Lines and separators

NO_ENDS = ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e"]


@pytest.mark.parametrize("sign", NO_ENDS, ids=ascii)
def test_rows_end_at_line_ends_only(read, sign):
    text = f"a woman{sign}in red"
    assert read(f"A.text,seed\n{text},1\na man,2\n") == [
        {"A.text": text, "seed": "1"},
        {"A.text": "a man", "seed": "2"},
    ]
    line = json.dumps({"A.text": text}, ensure_ascii=False)
    if sign < " ":  # JSON writes these as escapes only
        line = json.dumps({"A.text": text})
    assert read(f"{line}\n", "t.jsonl") == [{"A.text": text}]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=ascii)
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "mark"])
def test_line_ends_of_every_system_and_a_byte_order_mark(read, end, mark):
    table = end.join(["A.text,seed", 'one,"1"', "", ",,", '"two', 'lines",2', ""])
    expected = [{"A.text": "one", "seed": "1"}, {"A.text": "two\nlines", "seed": "2"}]
    assert read(mark + table) == expected
    lines = [json.dumps({"A.text": "one"}), "", json.dumps({"seed": 2}), ""]
    assert read(mark + end.join(lines), "t.jsonl") == [{"A.text": "one"}, {"seed": 2}]


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "mark"])
@pytest.mark.parametrize(
    ("first", "separator"),
    [("sep=;", ";"), ("SEP=,", ","), ("sep=\t", "\t"), ("sep=|", "|"), ('"sep=;"', ";")],
)
def test_a_spreadsheets_line_of_the_separator(tmp_path, read, mark, first, separator):
    text = f'{mark}{first}\r\nA.text{separator}seed\r\n"a, b; c"{separator}1\r\n'
    assert read(text) == [{"A.text": "a, b; c", "seed": "1"}]
    (row,) = Table(tmp_path / "t.csv")
    assert row.where == "t.csv, row 1 (line 3)"


def test_the_separator_is_found_outside_of_quotes(read):
    assert read('"What, where, when.text";seed\n"a";1\n') == [
        {"What, where, when.text": "a", "seed": "1"}
    ]
    assert read("A.text\tseed\na, b, c\t1\n") == [{"A.text": "a, b, c", "seed": "1"}]


def test_columns_that_a_spreadsheet_adds_are_empty(read):
    assert read("A.text; seed ;;\na;1;;\n;2; ;\n") == [
        {"A.text": "a", "seed": "1"},
        {"seed": "2"},
    ]
    with pytest.raises(BadInput, match="row 1 .*4 cells for 2 columns"):
        read("A.text;seed;;\na;1;;lost\n")


def test_quotes_in_the_middle_of_a_cell_are_text(read):
    (row,) = read('A.text,B.text\n5" nails,"say ""yes"""\n')
    assert row == {"A.text": '5" nails', "B.text": 'say "yes"'}


def test_a_long_cell(read):
    text = "word " * 60_000
    assert read(f'A.text\n"{text}"\n') == [{"A.text": text}]


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ('A.text\na\n"a man, waving\na dog\na cat\n', 3, "never closed"),
        ('sep=;\nA.text;seed\n"a man;1\n', 3, "never closed"),
        ('A.text\na\n"a man, waving\na dog\n"a cat"\n', 3, "quote"),
        ('A.text\n"a" b\n', 2, "quote"),
        ('"A.text\na\n', 1, "never closed"),
    ],
)
def test_a_quote_that_is_not_closed_is_refused_with_its_line(read, text, line, reason):
    with pytest.raises(BadInput, match=rf"t\.csv, line {line}: .*{reason}"):
        read(text)


# Encodings

TEXT = "A.text,seed\nthe caf\xe9,1\n"


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (TEXT.encode("utf-16"), "UTF-16"),
        (TEXT.encode("utf-16-le"), "UTF-16"),
        (TEXT.encode("utf-16-be"), "UTF-16"),
        (TEXT.encode("utf-32"), "UTF-32"),
        (TEXT.encode("latin-1"), r"line 2: the byte 0xE9 is not UTF-8.*Latin-1"),
        (b"PK\x03\x04\x14\x00", "a spreadsheet"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "no text"),
    ],
)
def test_another_encoding_is_named(read, content, name):
    for table in ("t.csv", "t.jsonl"):
        with pytest.raises(BadInput, match=f"{name}.*UTF-8"):
            read(content, table)


def test_a_list_of_rows_is_no_table(read):
    with pytest.raises(BadInput, match="a table is JSON lines"):
        read('[{"seed": 1}]', "t.json")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"seed": 1, "seed": 2}', "'seed' occurs twice"),
        ('{"seed": 1, " seed": 2}', "'seed' occurs twice"),
        ("[" * 100_000, "nested more than 100 deep"),
        ('{"a": ' * 101 + "1" + "}" * 101, "nested more than 100 deep"),
        ("null", "must be an object"),
        ('"text"', "must be an object"),
        ("{'seed': 1}", "not JSON"),
    ],
    ids=range(7),
)
def test_a_line_that_is_no_row(read, line, reason):
    with pytest.raises(BadInput, match=rf"row 2 \(line 2\): .*{reason}"):
        read('{"seed": 1}\n' + line, "t.jsonl")


# Values

ROUNDED = ["1.23457E+14", "1,23457E+14", "1.12590E+15", "1E5", "1.8e19"]


@pytest.mark.parametrize("column", ["seed", "Sample.seed", "Sample.steps"])
@pytest.mark.parametrize("cell", ROUNDED)
def test_a_number_that_a_spreadsheet_rounded_is_refused(plan, column, cell):
    with pytest.raises(BadInput, match="row 1 .*its last digits are lost"):
        plan(f"{column};_note\n{cell};x\n")
    if "," not in cell:
        with pytest.raises(BadInput, match="row 1 .*its last digits are lost"):
            plan(f'{{"{column}": {cell}}}', "t.jsonl")


def test_a_power_of_ten_is_a_number_where_fractions_are(plan):
    assert plan("Sample.cfg\n1.5e1\n")[0].nodes()["1"]["inputs"]["cfg"] == 15
    assert plan('{"Sample.cfg": 1.5e1}', "t.jsonl")[0].nodes()["1"]["inputs"]["cfg"] == 15


@pytest.mark.parametrize("seed", [2**53 + 1, 2**64 - 1, 0])
def test_long_seeds_are_exact(plan, seed):
    assert plan(f"seed\n{seed}\n")[0].seeds() == [seed]
    assert plan(f"seed\n {seed}.0 \n")[0].seeds() == [seed]
    assert plan(json.dumps({"seed": seed}), "t.jsonl")[0].seeds() == [seed]


@pytest.mark.parametrize("cell", ["1.5", "1_000", "1,000", "\uff11", "x", "0x10", "9" * 50, "--1"])
def test_what_is_no_whole_number(plan, cell):
    with pytest.raises(BadInput, match="is not a whole number"):
        plan(f"seed\n{json.dumps(cell)}\n")


@pytest.mark.parametrize("cell", ["0,5", "1_0.5", "inf", "nan", "\uff11", "1e999", "9" * 400])
def test_what_is_no_number(plan, cell):
    with pytest.raises(BadInput, match="is not a number"):
        plan(json.dumps({"Sample.cfg": cell}), "t.jsonl")
    with pytest.raises(BadInput, match="is not a number"):
        plan(json.dumps({"Sample.cfg": int("9" * 400)}), "t.jsonl")


@pytest.mark.parametrize(
    ("cell", "truth"),
    [("TRUE", True), ("true", True), (" Yes ", True), ("1", True), ("on", True)]
    + [("FALSE", False), ("no", False), ("0", False), ("Off", False)],
)
def test_spellings_of_true_and_false(plan, cell, truth):
    assert plan(f"Sample.tile\n{cell}\n")[0].nodes()["1"]["inputs"]["tile"] is truth


def test_choices_with_spaces_and_of_numbers():
    assert values.fit(" euler ", ["euler", "heun"], {}) == "euler"
    assert values.fit("512", [256, 512], {}) == 512
    with pytest.raises(ValueError, match="does not offer 'Euler'"):
        values.fit("Euler", ["euler"], {})


def test_a_nested_value_is_not_one_value(plan):
    with pytest.raises(BadInput, match=r"column 'Sample.text': '\[1, 2\]' is not one value"):
        plan('{"Sample.text": [1, 2]}', "t.jsonl")


def test_a_column_of_a_node_that_is_not_there_is_named_even_if_it_is_empty(plan):
    with pytest.raises(BadInput, match="Column 'Nobody.text': no node"):
        plan("seed,Nobody.text\n1,\n")
    with pytest.raises(BadInput, match="Column 'Nobody.text': no node"):
        plan('{"seed": 1}\n{"Nobody.text": "a"}', "t.jsonl")


# Seeds over wires


def wired(source, **more):
    nodes = {
        "1": {"class_type": "KSampler", "inputs": {"seed": ["2", 0], "steps": 5}},
        "2": source,
        **more,
    }
    return Workflow("wired", nodes)


NUMBER = {"class_type": "PrimitiveInt", "inputs": {"value": 3}, "_meta": {"title": "Number"}}


def test_a_seed_that_a_primitive_brings_is_set(plan):
    on = wired(NUMBER, **{"3": {"class_type": "Noise", "inputs": {"noise_seed": ["2", 0]}}})
    assert [job.nodes()["2"]["inputs"]["value"] for job in plan("seed\n8\n9\n", on=on)] == [8, 9]
    (job,) = plan("_note\nx\n", on=on, seed=100)
    assert job.nodes()["2"]["inputs"]["value"] == 100
    assert job.nodes()["1"]["inputs"]["seed"] == ["2", 0]
    assert job.seeds() == [100]
    (job,) = plan("Number.value\n5\n", on=on, seed=100)
    assert job.seeds() == [5]


def test_a_pack_node_with_a_seed_of_its_own(plan):
    source = {"class_type": "Seed Everywhere", "inputs": {"seed": 4, "mode": "x"}}
    assert plan("seed\n8\n", on=wired(source))[0].nodes()["2"]["inputs"]["seed"] == 8


@pytest.mark.parametrize(
    "on",
    [
        wired({"class_type": "Add", "inputs": {"a": 1, "b": 2}}),
        wired({"class_type": "Random", "inputs": {}}),
        wired({"class_type": "Follow", "inputs": {"value": ["1", 0]}}),
        wired(NUMBER, **{"3": {"class_type": "Cut", "inputs": {"length": ["2", 0]}}}),
        Workflow("none", {"1": {"class_type": "Other", "inputs": {"steps": 5}}}),
    ],
    ids=["two numbers", "no number", "wires", "not for seeds only", "no seed"],
)
def test_a_seed_that_cannot_be_set_is_refused(plan, on):
    reason = "(cannot set every seed|.* has no seed)"
    with pytest.raises(BadInput, match=f"--seed:? {reason}"):
        plan("_note\nx\n", on=on, seed=100)
    with pytest.raises(BadInput, match=f"Column 'seed':? {reason}"):
        plan("seed\n8\n", on=on)


def test_a_seed_beyond_the_inputs_range_is_refused(plan):
    on = flow()
    on.kinds["Sample"] = {"input": {"required": {"seed": ["INT", {"min": 0, "max": 100}]}}}
    for seed in (-5, 100):
        with pytest.raises(BadInput, match=r"row \d .*, --seed: .*(below 0|above 100)"):
            plan("_note\nx\ny\n", on=on, seed=seed)


# Length


def peak_bytes(path):
    tracemalloc.start()
    try:
        planned = jobs.plan([flow()], Table(path), path.parent)
        assert planned.job(len(planned)).number == len(planned)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_long_table_takes_no_more_memory_than_its_keys(tmp_path):
    def write(rows):
        path = tmp_path / f"{rows}.csv"
        lines = (f"{n} {'word ' * 800},{n}" for n in range(rows))
        path.write_text("\n".join(["Sample.text,seed", *lines]) + "\n")
        return path

    short, long = write(2000), write(4000)  # of 8 and of 16 MB
    assert peak_bytes(long) - peak_bytes(short) < 2_000_000


# The workflow's file


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"null", "is not a workflow"),
        (b"[]", "is not a workflow"),
        (b"[null]", "is not a workflow"),
        (b"{}", "is not a workflow"),
        (b'{"1": null}', "is not a workflow"),
        (b'{"1": {"class_type": null, "inputs": {}}}', "is not a workflow"),
        (b'{"1": {"class_type": "A"}}', "node 1 has no 'inputs'"),
        (b'{"1": {"class_type": "A", "inputs": null}}', "node 1 has no 'inputs'"),
        (b'{"1": {"class_type": "A", "inputs": []}}', "node 1 has no 'inputs'"),
        (b"[" * 100_000 + b"]" * 100_000, "nested more than 100 deep"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested more than 100 deep"),
        (b'{"1": ' + b"[" * 500 + b"]" * 500 + b"}", "nested more than 100 deep"),
        ('{"1": {}}'.encode("utf-16"), "it is UTF-16 and not UTF-8"),
        (b'{"caf\xe9": 1}', "Latin-1"),
        (b"", "is not JSON"),
        (b'{"1": ', "is not JSON"),
    ],
    ids=range(16),
)
def test_what_is_not_a_workflow_is_said_in_one_line(tmp_path, capsys, content, reason):
    path = tmp_path / "flow.json"
    path.write_bytes(content)
    assert cli.main([str(path), "--dry-run", "--host", NOBODY]) == 2
    message = capsys.readouterr().err
    assert len(message.splitlines()) == 1
    assert reason in message
    assert str(path) in message


def test_a_byte_order_mark_before_a_workflow_is_skipped(tmp_path, capsys):
    path = tmp_path / "flow.json"
    path.write_text("\ufeff" + json.dumps(flow().nodes), encoding="utf-8")
    assert cli.main([str(path), "--dry-run", "--host", NOBODY]) == 0


def test_what_a_workflow_out_of_an_image_remembers_is_not_sent(plan):
    on = flow()
    on.nodes["1"]["is_changed"] = [float("nan")]
    assert "is_changed" not in plan("seed\n1\n", on=on)[0].nodes()["1"]
