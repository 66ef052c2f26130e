"""Branch coverage of what decides about data: the pure modules of volume, pair and link.

Owns the choice of tests and modules, and the bar. Which modules are pure is read from the import
contract that keeps them so. Fails with exit code 1 when a test fails or a package is below the bar.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("controller.volume", "controller.pair", "controller.link")
TESTS = (
    "tests/unit/volume",
    "tests/unit/pair",
    "tests/unit/link",
    "tests/integration/pairs",
)
BAR_PERCENT = 95


def pure_modules() -> list[str]:
    """Every module below `PACKAGES` that the contract "pure modules …" names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    pure = next(each for each in contracts if each["name"].startswith("pure modules"))
    return [name for name in pure["source_modules"] if name.startswith(PACKAGES)]


def main() -> int:
    """Run the tests, print the table; the exit code."""
    with tempfile.TemporaryDirectory() as directory:
        environment = {**os.environ, "COVERAGE_FILE": f"{directory}/coverage"}
        run = [sys.executable, "-m", "coverage", "run", "-m", "pytest", "-q"]
        ran = subprocess.run([*run, "-p", "no:cacheprovider", *TESTS], cwd=ROOT, env=environment)
        code = ran.returncode
        for package in PACKAGES:
            files = [f"{name.replace('.', '/')}.py" for name in pure_modules() if package in name]
            report = [sys.executable, "-m", "coverage", "report", f"--fail-under={BAR_PERCENT}"]
            told = subprocess.run(
                [*report, "--show-missing", f"--include={','.join(files)}"],
                cwd=ROOT,
                env=environment,
            )
            code = code or told.returncode
    return code


if __name__ == "__main__":
    sys.exit(main())
