"""The rule about skipped tests, tried on a pytest of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SKIPS = {
    "forgotten": "import pytest\ndef test_a():\n    pytest.skip('broken since Tuesday')\n",
    "marker": "import pytest\n@pytest.mark.skip\ndef test_a(): pass\n",
    "module": "import pytest\npytest.importorskip('no_such_module')\ndef test_a(): pass\n",
}
MACHINE = {
    "shared": "import pytest\ndef test_a():\n    pytest.skip('missing ../shared')\n",
    "gpu": "import pytest\n@pytest.mark.skipif(True, reason='needs a GPU')\ndef test_a(): pass\n",
    "net": "import pytest\n@pytest.fixture\ndef a(): pytest.skip('network')\ndef test_a(a): 0\n",
    "root": "import pytest\n@pytest.mark.skipif(True, reason='needs root')\ndef test_a(): pass\n",
    "expected": "import pytest\n@pytest.mark.xfail(reason='known')\ndef test_a(): assert False\n",
}

ALONE = {"PYTEST_ADDOPTS": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


def run_pytest(
    folder: Path, repository: Path, body: str, ci: str
) -> subprocess.CompletedProcess[str]:
    """Runs one test file in a fresh pytest that knows only our rule."""
    (folder / "conftest.py").write_text(
        "from tests.ci_skips import pytest_make_collect_report, pytest_runtest_makereport\n"
    )
    (folder / "test_one.py").write_text("def test_good(): pass\n" + body)
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--rootdir",
            str(folder),
            str(folder),
        ],
        cwd=folder,
        env=os.environ | {"CI": ci, "PYTHONPATH": str(repository)} | ALONE,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", SKIPS)
def test_under_ci_a_skip_without_a_reason_of_the_machine_fails(
    name: str, tmp_path: Path, repository: Path
) -> None:
    done = run_pytest(tmp_path, repository, SKIPS[name], ci="true")
    assert done.returncode != 0, done.stdout
    assert "under CI=true a skip needs" in done.stdout


@pytest.mark.parametrize("name", MACHINE)
def test_under_ci_a_reason_of_the_machine_is_a_skip(
    name: str, tmp_path: Path, repository: Path
) -> None:
    done = run_pytest(tmp_path, repository, MACHINE[name], ci="true")
    assert done.returncode == 0, done.stdout


def test_at_home_every_skip_is_a_skip(tmp_path: Path, repository: Path) -> None:
    done = run_pytest(tmp_path, repository, SKIPS["forgotten"], ci="")
    assert done.returncode == 0, done.stdout
    assert "1 skipped" in done.stdout
