"""Judge a report of pip-audit: ``audit_verdict.py REPORT [required]``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def verdict(report: str, *, required: bool) -> tuple[int, str]:
    """Return the exit code and what to say.

    Args:
        report: what pip-audit wrote as JSON; empty where it wrote nothing.
        required: whether an audit that could not be made is a failure.
    """
    packages: list[dict[str, Any]] = json.loads(report)["dependencies"] if report else []
    asked = [package for package in packages if "vulns" in package]
    if not asked:
        return int(required), "NOT AUDITED: PyPI cannot be asked about vulnerabilities from here; nothing is known."
    findings = [
        f"{package['name']} {package['version']}: {each['id']}, fixed in {', '.join(each['fix_versions']) or 'nothing'}"
        for package in asked
        for each in package["vulns"]
    ]
    findings += [f"{each['name']}: not audited, {each['skip_reason']}" for each in packages if each not in asked]
    return int(bool(findings)), "\n".join([*findings, f"{len(asked)} packages audited, {len(findings)} findings."])


if __name__ == "__main__":
    code, said = verdict(Path(sys.argv[1]).read_text(encoding="utf-8"), required="required" in sys.argv[2:])
    sys.stdout.write(f"audit: {said}\n")
    sys.exit(code)
