"""Ask pip-audit about the installed packages: a known vulnerability fails, data that cannot be had here is said.

pip-audit skips a package that its index does not know, and ends with success: where it skips all, none was audited.
"""

import json
import subprocess
import sys

LIMIT_S = 30
ACCEPTED: dict[str, str] = {}
"""Vulnerabilities that do not touch this project, by their id, each with the reason."""

UNREACHABLE = ("ConnectionError", "Could not connect", "ConnectTimeout", "ReadTimeout", "NameResolutionError")


def main() -> None:
    """Audit, and end with status 1 where a vulnerability is known or pip-audit failed by itself."""
    accepted = [f"--ignore-vuln={name}" for name in ACCEPTED]
    command = [sys.executable, "-m", "pip_audit", "--local", "--skip-editable", "--timeout", "5", "--format", "json"]
    try:
        audit = subprocess.run([*command, *accepted], capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        print(f"pip-audit: its data cannot be reached within {LIMIT_S} s: nothing was audited")
        return
    if not audit.stdout:
        if any(name in audit.stderr for name in UNREACHABLE):
            print("pip-audit: its data cannot be reached: nothing was audited")
            return
        sys.exit(f"pip-audit failed: {audit.stderr[-2000:]}")
    packages = json.loads(audit.stdout)["dependencies"]
    found = [f"{package['name']}: {flaw['id']}" for package in packages for flaw in package.get("vulns", ())]
    skipped = sum("skip_reason" in package for package in packages)
    if skipped == len(packages):
        print(f"pip-audit: its data cannot be reached (none of {skipped} packages is known there): nothing was audited")
    else:
        print(f"pip-audit: {len(packages) - skipped} packages audited, {skipped} unknown, {len(found)} vulnerabilities")
    sys.exit("\n".join(found) or None)


if __name__ == "__main__":
    main()
