"""
Run TRL's own tests of `GRPOTrainer` twice: with TRL's trainer, and with `WorkflowGRPOTrainer` in its place.

    python tests/trl_suite/run.py SUITE

`SUITE` is a checkout of TRL in the installed version. Tests that need what cannot be stood in (vision models, other
architectures, GPUs) fail or are skipped in both runs. The command fails unless the tests that pass with TRL's trainer
alone are exactly [`DIFFERENCES`].
"""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

HERE = Path(__file__).resolve().parent
TESTS = "tests/test_grpo_trainer.py"
PACKAGES = "packages"
"""Folder of the suite with packages that its tests need and ours do not."""
DIFFERENCES: dict[str, str] = {}
"""Tests that pass with TRL's trainer alone, with the reason."""
TEST_TIMEOUT_S = 300
"""A test that hangs fails, instead of holding up the command; the slowest takes 20 s."""


def passed(suite: Path, *plugins: str) -> set[str]:
    """Names of the tests that pass."""
    report = suite / f"report-{len(plugins)}.xml"
    # A run that dies early writes none, and must not be judged by the report of an earlier one.
    report.unlink(missing_ok=True)
    arguments = [sys.executable, "-m", "pytest", TESTS, "-q", "--tb=line", "-p", "no:cacheprovider"]
    arguments += [
        "--override-ini",
        "addopts=",
        f"--timeout={TEST_TIMEOUT_S}",
        f"--junitxml={report}",
        *(f"-p{plugin}" for plugin in plugins),
    ]
    path = os.pathsep.join(filter(None, (str(HERE), str(suite / PACKAGES), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": path, "OMP_WAIT_POLICY": "PASSIVE"}
    subprocess.run(arguments, cwd=suite, env=environment, stdout=sys.stderr)
    cases = ElementTree.parse(report).getroot().iter("testcase")
    return {f"{case.get('classname')}::{case.get('name')}" for case in cases if len(case) == 0}


def main() -> int:
    """Compare the two runs."""
    suite = Path(sys.argv[1]).resolve()
    sys.path.insert(0, str(HERE))
    from stand_ins import build

    build(suite)
    theirs, ours = passed(suite, "without_gpu"), passed(suite, "without_gpu", "replace_trainer")
    print(f"{len(theirs)} tests pass with TRL's trainer, {len(ours & theirs)} of them with ours")
    lost = sorted(theirs - ours)
    for name in lost:
        print(f"  {name}: {DIFFERENCES.get(name, 'UNEXPECTED')}")
    for name in sorted(DIFFERENCES.keys() - lost):
        print(f"  {name}: listed as a difference, but is none")
    return int(not theirs or lost != sorted(DIFFERENCES))


if __name__ == "__main__":
    sys.exit(main())
