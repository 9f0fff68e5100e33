"""An export directory, and the command that checks it: each way of tampering by its name and its exit code."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from holdfast.audit.__main__ import main
from holdfast.audit.export import read_manifest, verify_export, write_export
from holdfast.errors import AuditInvalid
from sdk_log_builder import Stream


@pytest.fixture
def streams() -> list[Stream]:
    first = Stream("a")
    first.consume(first.allow())
    first.add(seal=False)
    first.add()
    second = Stream("b", predecessor=first.close())
    second.add()
    second.add()
    return [first, second]


@pytest.fixture
def export(tmp_path, streams):
    directory = tmp_path / "export"
    write_export(directory, [(stream.name, stream.records) for stream in streams])
    return directory


def verdict(export, **options) -> tuple[int, list[str]]:
    report = verify_export(export, **options)
    return report.exit_code, [str(finding) for finding in report.findings if finding.fatal]


def records(export, stream):
    return export / "streams" / f"{stream.name}.records"


def seals(export, stream):
    return export / "streams" / f"{stream.name}.seals"


def edit_manifest(export, change):
    path = export / "manifest.json"
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document))


def cut(path, data):
    path.write_bytes(data)


def test_an_export_verifies(export, streams):
    assert verdict(export) == (0, [])
    assert [entry.records for entry in read_manifest(export)] == [6, 3]
    assert main(["verify", str(export), "--receipt", str(streams[1].head), "--require-anchor"]) == 0


def test_a_truncated_file_is_a_gap(export, streams):
    path = records(export, streams[1])
    cut(path, path.read_bytes()[:-1])

    code, (finding,) = verdict(export)
    assert code == 4
    assert "ends inside a record" in finding
    assert f"{streams[1].name}:2" in finding


def test_an_emptied_file_is_missing(export, streams):
    cut(records(export, streams[1]), b"")
    assert verdict(export)[0] == 4, "a seal is left for what is not there"

    cut(seals(export, streams[1]), b"")
    assert verdict(export) == (3, [f"MISSING {streams[1].name}: the stream has no records"])


def test_a_flipped_decision_is_invalid(export, streams):
    path = records(export, streams[0])
    cut(path, path.read_bytes().replace(b'"allow"', b'"block"'))

    code, (finding,) = verdict(export)
    assert (code, f"{streams[0].name}:1" in finding) == (1, True)


def test_a_removed_stream_is_missing(export, streams):
    records(export, streams[0]).unlink()

    assert verdict(export)[0] == 3


def test_a_stream_removed_from_the_manifest_too_is_missing(export, streams):
    """Its successor still names it."""
    records(export, streams[0]).unlink()
    seals(export, streams[0]).unlink()
    edit_manifest(export, lambda document: document["streams"].pop(0))

    assert verdict(export)[0] == 3


def test_a_tail_removed_at_a_batch_s_end_is_a_gap(export, streams):
    _remove_tail(export, streams[1])

    assert verdict(export) == (4, [f"GAP {streams[1].name}:2: the manifest lists 3 records, and there are 2"])


def test_a_tail_removed_from_the_manifest_too_is_found_by_a_receipt(export, streams):
    """Nothing inside the export tells; that is what receipts are for."""
    _remove_tail(export, streams[1])
    hash_of = verify_export(export).streams[1].head.hash
    edit_manifest(export, lambda document: document["streams"][1].update(records=2, head={"seq": 1, "hash": hash_of}))

    assert verdict(export)[0] == 0
    assert verdict(export, anchors=[streams[1].head])[0] == 4


def test_removed_seals_are_invalid(export, streams):
    seals(export, streams[1]).unlink()

    assert verdict(export)[0] == 1


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"{}\n", 1),
        (b"x\n", 1),
        (b'{"seq":0,"seal":"AA"}\n', 1),
        (b'{"seq":-1,"seal":""}\n', 1),
        (b'{"seq":0,"seal":"' + b"A" * 86, 4),
        (b'{"seq":true,"seal":"AA"}\n', 1),
    ],
)
def test_a_damaged_file_of_seals_is_found(export, streams, line, code):
    cut(seals(export, streams[1]), line)

    assert verdict(export)[0] == code


def test_a_record_without_bound_is_not_read(export, streams):
    cut(records(export, streams[1]), b"\xff\xff\xff\xff" + b"x" * 100)

    assert verdict(export)[0] == 1


def test_a_file_cut_inside_a_length_is_a_gap(export, streams):
    path = records(export, streams[1])
    cut(path, path.read_bytes() + b"\x00\x00")

    assert verdict(export)[0] == 4


def test_a_file_that_the_manifest_does_not_list_is_invalid(export):
    (export / "streams" / "extra").write_text("x")

    assert verdict(export)[0] == 1


def test_files_that_change_places_are_invalid(export, streams):
    one, two = records(export, streams[0]), records(export, streams[1])
    first, second = one.read_bytes(), two.read_bytes()
    cut(one, second)
    cut(two, first)

    assert verdict(export)[0] == 1


def test_a_head_that_is_not_the_manifest_s_is_invalid(export):
    edit_manifest(export, lambda document: document["streams"][1]["head"].update(hash="1" * 64))

    assert verdict(export)[0] == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document.update(format="holdfast-export/2"),
        lambda document: document.update(extra=1),
        lambda document: document.update(streams={}),
        lambda document: document["streams"].append(document["streams"][0]),
        lambda document: document["streams"][0].update(stream="../../etc/passwd"),
        lambda document: document["streams"][0].update(records=0),
        lambda document: document["streams"][0].update(records=True),
        lambda document: document["streams"][0].update(head=None),
        lambda document: document["streams"][0].update(head={"seq": 3, "hash": "x"}),
        lambda document: document["streams"][0].pop("head"),
    ],
)
def test_a_malformed_manifest_is_invalid(export, change):
    edit_manifest(export, change)

    assert verdict(export)[0] == 1


def test_a_manifest_that_is_not_there_is_missing(export):
    (export / "manifest.json").unlink()

    assert verdict(export)[0] == 3


def test_a_manifest_that_lists_nothing_is_missing(export, streams):
    edit_manifest(export, lambda document: document.update(streams=[]))
    assert verdict(export)[0] == 1, "the files are not listed"

    for stream in streams:
        records(export, stream).unlink()
        seals(export, stream).unlink()
    assert verdict(export)[0] == 3


def test_a_writer_refuses_what_no_reader_would_take(tmp_path, streams):
    with pytest.raises(AuditInvalid, match="name"):
        write_export(tmp_path / "1", [("../x", [])])
    with pytest.raises(AuditInvalid, match="without records"):
        write_export(tmp_path / "2", [(streams[0].name, [])])
    with pytest.raises(FileExistsError):
        write_export(tmp_path / "3", [(streams[0].name, streams[0].records)] * 2)
    with pytest.raises(FileExistsError):
        write_export(tmp_path / "1", [])
    assert not (tmp_path / "1" / "manifest.json").exists()


def test_the_command_speaks_json(export, streams, capsys):
    assert main(["verify", str(export), "--json", "--receipt", str(streams[0].head)]) == 0
    said = json.loads(capsys.readouterr().out)

    assert said["intact"] is True
    assert [stream["records"] for stream in said["streams"]] == [6, 3]
    assert said["streams"][0]["anchored"] == [str(streams[0].head)]


def test_the_command_names_the_first_bad_record(export, streams, capsys):
    path = records(export, streams[1])
    cut(path, path.read_bytes()[:-1])

    assert main(["verify", str(export)]) == 4
    assert f"GAP {streams[1].name}:2" in capsys.readouterr().out


def test_wrong_usage_is_its_own_exit_code(tmp_path, capsys):
    assert main(["verify", str(tmp_path / "none")]) == 2
    for arguments in ([], ["verify"], ["verify", str(tmp_path), "--receipt", "x"]):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2
    assert "receipt" in capsys.readouterr().err


def test_the_module_runs_as_a_command(export):
    done = subprocess.run(
        [sys.executable, "-m", "holdfast.audit", "verify", str(export), "--require-anchor"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 5
    assert "UNANCHORED" in done.stdout


def _remove_tail(export, stream):
    """Take the last record and its seal away, cleanly."""
    body = stream.records[-1][0]
    path = records(export, stream)
    cut(path, path.read_bytes()[: -len(body) - 4])
    lines = seals(export, stream).read_bytes().splitlines(keepends=True)
    cut(seals(export, stream), b"".join(lines[:-1]))
