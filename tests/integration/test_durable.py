"""That what must be on the disk is brought there, and in which order: by what the kernel was asked for."""

import itertools
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.peers import find_program, wait_until
from tests.support.reception import make_ct, send_one, subprocess_listener

pytestmark = pytest.mark.strace

# A thread's number, then a call; or the end of one that another thread's lines came into.
_LINE = re.compile(r"(\d+) +(?:(?P<name>\w+)\((?P<arguments>.*)|<\.\.\. \w+ resumed>.*)")
_SYNCS = ("fsync", "fdatasync")


@dataclass
class Call:
    """A system call: its name, its arguments as strace writes them, the lines of the trace in which it began and ended.

    Those of one that failed or never ended are left out.
    """

    name: str
    arguments: str
    began: int
    ended: int


def strace(trace: Path) -> list[str]:
    """Return what to put before a command: it stays the child, and strace ends with it."""
    calls = ",".join((*_SYNCS, "rename", "renameat", "renameat2", "sendto", "sendmsg", "write"))
    return [find_program("strace"), "-D", "-f", "-y", "-o", str(trace), "-e", f"trace={calls}", "--"]


def calls_in(trace: Path) -> list[Call]:
    """Read a trace."""
    calls: list[Call] = []
    unfinished: dict[str, tuple[str, str, int]] = {}
    for number, line in enumerate(trace.read_text(errors="replace").splitlines()):
        found = _LINE.match(line)
        if found is None:
            continue
        began = (found["name"], found["arguments"], number) if found["name"] else unfinished.pop(found[1])
        if line.endswith("<unfinished ...>"):
            unfinished[found[1]] = began
        elif " = -1 " not in line:
            calls.append(Call(*began, ended=number))
    return calls


def first(calls: list[Call], names: tuple[str, ...], pattern: str) -> Call:
    """Return the first call of one of these names whose arguments match."""
    found = [call for call in calls if call.name in names and re.search(pattern, call.arguments)]
    assert found, f"no {' or '.join(names)} of {pattern}"
    return found[0]


def assert_in_order(*calls: Call) -> None:
    """Each call had ended before the next one began."""
    for one, other in itertools.pairwise(calls):
        assert one.ended < other.began, f"{one} did not come before {other}"


def test_a_c_store_is_answered_when_object_folder_and_ledger_are_on_the_disk(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    with subprocess_listener(tmp_path / "data", *strace(trace)) as (process, port):
        assert send_one(port, make_ct()).Status == 0x0000
    wait_until(
        lambda: f"{process.pid} +++ killed by SIGKILL" in " ".join(trace.read_text().split()), what="strace to end"
    )
    calls = calls_in(trace)
    # P-DATA-TF begins with 04 00 (PS3.8 section 9.3.5); C-ECHOs were answered before.
    response = [call for call in calls if call.name == "sendto" and r'"\4\0' in call.arguments][-1]
    kept = first(calls, ("rename", "renameat", "renameat2"), r"/objects/[0-9a-f]{2}/[0-9a-f]{64}\.dcm")
    digest = re.findall(r"/objects/([0-9a-f]{2})/", kept.arguments)[0]
    folder = first(calls, _SYNCS, rf"/data/objects/{digest}>")
    later = [call for call in calls if call.began > folder.ended]
    row = first(later, _SYNCS, r"/ledger\.sqlite3(-wal)?>")
    assert_in_order(first(calls, _SYNCS, r"/data/incoming/in-[^/]*>"), kept, folder, row, response)
    # The folders themselves, which no object may be lost with.
    for name in ("data/objects", "data", ""):
        assert_in_order(first(calls, _SYNCS, rf"<{(tmp_path / name)}>"), kept)


def test_a_file_written_whole_is_on_the_disk_before_it_has_its_name(tmp_path: Path) -> None:
    trace, path = tmp_path / "trace", tmp_path / "kept" / "file"
    program = (
        "import sys\nfrom pathlib import Path\nfrom triage.durable import replacing\n"
        "with replacing(Path(sys.argv[1])) as draft:\n    draft.write_text('whole')\n"
    )
    subprocess.run([*strace(trace), sys.executable, "-c", program, str(path)], check=True, timeout=60)
    assert path.read_text() == "whole"
    calls = calls_in(trace)
    assert_in_order(
        first(calls, ("write",), "whole"),
        first(calls, _SYNCS, rf"<{path}\.partial>"),
        first(calls, ("rename", "renameat", "renameat2"), f'{path}"'),
        first(calls, _SYNCS, rf"<{path.parent}>"),
    )
