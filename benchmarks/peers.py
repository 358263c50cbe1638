"""Peers that are not among our packages: in an environment of their own (.bench-venv/NAME, made on first use) they are
installed beside ours, at the versions that we pin; nothing is installed into ours."""

import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]


def python_with(name: str, packages: Sequence[str]) -> str:
    """The interpreter of .bench-venv/`name`, which has `packages` (name==version). Raises RuntimeError with pip's last
    line where they can't be had."""
    folder = ROOT / ".bench-venv" / name
    python, done = folder / "bin" / "python", folder / "installed.txt"
    if done.is_file() and done.read_text().split() == list(packages):
        return str(python)
    print(f"installing {', '.join(packages)} into {folder} (a minute, once)", file=sys.stderr)
    venv.create(folder, clear=True, with_pip=False)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "ours.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    pip = [str(python), "-m", "pip", "install", "-qq", "-c", str(ROOT / "constraints.txt"), *packages]
    installed = subprocess.run(pip, stderr=subprocess.PIPE, stdout=sys.stderr, text=True)
    if installed.returncode:
        lines = [line for line in installed.stderr.splitlines() if line.startswith("ERROR")] or ["pip failed"]
        raise RuntimeError(f"{', '.join(packages)} can't be installed: {lines[-1]}")
    done.write_text("\n".join(packages))
    return str(python)
