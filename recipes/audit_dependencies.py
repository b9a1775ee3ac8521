"""Looks up the pinned dependencies in databases of known vulnerabilities with pip-audit.

    python recipes/audit_dependencies.py constraints.txt

The exit status is 1 if a version has a known vulnerability. Versions that could not be looked up are counted and are no
failure, so that the check also runs without a connection.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

DATABASES, MAX_SECONDS = ("pypi", "osv"), 60


def audit(requirements: Path, database: str) -> list[dict] | None:
    """One entry per dependency: its name, version, and vulnerabilities; None if the database cannot be reached."""
    command = [sys.executable, "-m", "pip_audit", "--no-deps", "--disable-pip", "--progress-spinner", "off"]
    command += ["--vulnerability-service", database, "--format", "json", "--requirement", str(requirements)]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=MAX_SECONDS)
    except subprocess.TimeoutExpired:
        print(f"{database}: no answer within {MAX_SECONDS} seconds")
        return None
    try:
        return json.loads(answer.stdout)["dependencies"]
    except ValueError:
        print(f"{database}: {(answer.stderr.strip().splitlines() or ['no answer'])[-1][:150]}")
        return None


def main() -> int:
    requirements = Path(sys.argv[1])
    for database in DATABASES:
        found = audit(requirements, database) or []
        audited = [entry for entry in found if "vulns" in entry]
        for entry in audited:
            for vulnerability in entry["vulns"]:
                repaired = ", ".join(vulnerability["fix_versions"]) or "no version"
                print(f"{entry['name']} {entry['version']}: {vulnerability['id']}, repaired in {repaired}")
        if audited:
            print(f"{database}: {len(audited)} of {len(found)} versions were looked up")
            return int(any(entry["vulns"] for entry in audited))
    print("no version was looked up: no database of vulnerabilities has them, or none can be reached")
    return 0


if __name__ == "__main__":
    sys.exit(main())
