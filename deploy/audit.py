"""`make audit`: known vulnerabilities of what constraints.txt names, by pip-audit; and whether its database was
reached.

Alone, pip-audit says "No known vulnerabilities found" and exits 0 where it could look nothing up. Exit status: 0 all
looked up and none known, 1 some known, 3 not all could be looked up.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def main(requirements: str) -> int:
    command = [
        str(Path(sys.executable).with_name("pip-audit")), "--requirement", requirements, "--no-deps", "--disable-pip",
        "--progress-spinner", "off", "--format", "json",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    try:
        dependencies = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        print(f"pip-audit could not look anything up: {done.stderr.strip()[-1000:]}\nNothing is known of any package.")
        return 3
    code, text = verdict(dependencies)
    print(text)
    return code


def verdict(dependencies: list[dict[str, Any]]) -> tuple[int, str]:
    """Exit status and words for pip-audit's JSON."""
    unknown = [d for d in dependencies if "skip_reason" in d]
    known = [(d, v) for d in dependencies for v in d.get("vulns", [])]
    lines = [f"{d['name']} {d['version']}: {v['id']}, fixed in {', '.join(v['fix_versions']) or '?'}" for d, v in known]
    if unknown:
        looked = len(dependencies) - len(unknown)
        lines.append(
            f"{len(unknown)} of {len(dependencies)} packages could not be looked up"
            + ("" if looked else ": the database of vulnerabilities can't be reached from here")
            + f"; nothing is known of them. First: {unknown[0]['name']}: {unknown[0]['skip_reason']}"
        )
    if not lines:
        return 0, f"{len(dependencies)} packages looked up, no known vulnerability"
    return 1 if known else 3, "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
