"""Size on disk of `bertonnx[cpu]` beyond NumPy.

    python benchmarks/install_size.py [--extras cpu]

Builds two virtual environments, one with NumPy alone, one with this project's wheel and its `cpu` extra,
and adds up their files as pip leaves them, compiled bytecode included; pip itself is left out of both. Bar:
at most 150 MB (10^6 bytes) more than NumPy. Needs a package index.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from common import ROOT, parser, publish, table, verdict

BAR = 150e6
SHOWN = 14


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--extras", default="cpu", help="extras to install (default cpu)")
    extras = options.parse_args().extras
    with tempfile.TemporaryDirectory(prefix="bertonnx-size-") as work:
        numpy = _environment(Path(work, "numpy"), ["numpy"])
        ours = _environment(Path(work, "bertonnx"), [f"{_wheel(Path(work, 'wheel'))}[{extras}]"])
        body, more = _body(extras, numpy, ours), _more(numpy, ours)
    title = f"Size of `bertonnx[{extras}]` on disk"
    publish("install_size", title=title, body=body, packages=(), figures={"megabytes": more / 1e6})


def _wheel(folder: Path) -> Path:
    # From a copy: a build leaves its folder in the sources, and would pick up an older one's files.
    sources = folder / "sources"
    shutil.copytree(
        ROOT, sources, symlinks=True, ignore=shutil.ignore_patterns(".*", "build", "*.egg-info", "*.whl")
    )
    _call([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, sources])
    return next(folder.glob("bertonnx-*.whl"))


def _environment(folder: Path, requirements: list[str]) -> Path:
    """Make a virtual environment and return its folder of packages."""
    _call([sys.executable, "-m", "venv", folder])
    binaries = folder / ("Scripts" if os.name == "nt" else "bin")
    _call([binaries / "python", "-m", "pip", "install", "--quiet", *requirements])
    purelib = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return Path(_call([binaries / "python", "-c", purelib]).strip())


def _call(command: list[str | Path]) -> str:
    return subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE, text=True).stdout


def _sizes(packages: Path) -> dict[str, int]:
    """Return bytes by entry of a folder of packages; shared libraries beside a package count with it."""
    sizes: dict[str, int] = {}
    for file in packages.rglob("*"):
        name = file.relative_to(packages).parts[0].split("-")[0].removesuffix(".libs")
        if name not in ("pip", "setuptools", "_distutils_hack") and file.is_file():
            sizes[name] = sizes.get(name, 0) + file.stat().st_size
    return sizes


def _versions(packages: Path) -> str:
    folders = sorted(packages.glob("*.dist-info"), key=lambda folder: folder.name.lower())
    return ", ".join(folder.name.removesuffix(".dist-info").replace("-", " ") for folder in folders)


def _body(extras: str, numpy: Path, ours: Path) -> str:
    base, total = _sizes(numpy), _sizes(ours)
    more = _more(numpy, ours)
    added = {name: size - base.get(name, 0) for name, size in total.items()}
    biggest = sorted(added.items(), key=lambda item: -item[1])[:SHOWN]
    rows = [("NumPy alone", _mb(sum(base.values()))), (f"bertonnx[{extras}]", _mb(sum(total.values())))]
    summary = table(("environment", "MB"), [*rows, ("difference", _mb(more))])
    parts = table(
        ("package", "MB beyond the first environment"), [(name, _mb(size)) for name, size in biggest]
    )
    said = verdict(more <= BAR, f"at most {BAR / 1e6:.0f} MB more than NumPy", f"{_mb(more)} MB")
    return f"{summary}\n\n{parts}\n\n{said}\n\nInstalled: {_versions(ours)}."


def _more(numpy: Path, ours: Path) -> int:
    """Return bytes of the second environment beyond the first."""
    return sum(_sizes(ours).values()) - sum(_sizes(numpy).values())


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f}"


if __name__ == "__main__":
    main()
