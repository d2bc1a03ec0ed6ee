"""What the doctor says of a data folder that cannot be written, and the web of its token: each with its own remedy."""

import subprocess
import sys
from pathlib import Path

from triage.config.schema import Configuration
from triage.doctor import Verdict, run_checks

_WITHOUT_ROOM = """
import resource, sys
from pathlib import Path
from triage.config.schema import Configuration
from triage.doctor import run_checks
from triage.errors import ConfigurationError
from triage.web.auth import ensure_token
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
config = Configuration(data_dir=Path(sys.argv[1]))
print(next(run_checks(config)).remedy)
try:
    ensure_token(config)
except ConfigurationError as error:
    print(error.remedy)
"""


def test_a_folder_that_cannot_be_made_is_no_bug_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    config = Configuration(data_dir=tmp_path / "file" / "data")
    checks = {check.part: check for check in run_checks(config)}
    for part, remedy in (("data folder", "set data_dir"), ("ledger", "see data_dir")):
        assert checks[part].verdict is Verdict.FAIL
        assert "Not a directory" in checks[part].detail
        assert remedy in checks[part].remedy


def test_where_there_is_no_room_the_remedy_is_to_make_some(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _WITHOUT_ROOM, str(tmp_path)]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    assert told == ["make room on that disk"] * 2
