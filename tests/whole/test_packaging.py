"""What is shipped: every module, the types, one version."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

import bertonnx
from bertonnx.models.onnxruntimes import SLOW
from bertonnx.runtime.session.session import OLDEST_ONNXRUNTIME
from tests.jobs import ROOT

FOLDERS = {"bertonnx": "src/bertonnx", **{f"bertonnx.{n}": n for n in ("exporters", "runtime", "models")}}


@pytest.fixture(scope="module")
def settings() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def _folders_of_modules() -> set[str]:
    """Return the names that folders with modules have as packages, subfolders included."""
    found = set()
    for package, place in FOLDERS.items():
        top = ROOT / place
        for file in top.rglob("*.py"):
            inner = file.parent.relative_to(top)
            # src/bertonnx holds links to the other three, for type checkers; setuptools maps the folders.
            if not any((top / part).is_symlink() for part in inner.parts[:1]):
                found.add(".".join([package, *inner.parts]))
    return found


def test_packages_are_the_folders(settings: dict[str, Any]) -> None:
    table = settings["tool"]["setuptools"]
    assert set(table["packages"]) == _folders_of_modules()
    assert len(table["packages"]) == len(set(table["packages"]))
    assert {name: table["package-dir"][name] for name in FOLDERS} == FOLDERS


def test_one_version(settings: dict[str, Any]) -> None:
    assert settings["project"]["version"] == bertonnx.__version__


def test_one_oldest_onnxruntime_and_python(settings: dict[str, Any]) -> None:
    """ONNX Runtime of this version has no wheels for older Pythons; its GPU build comes after the CPU's."""
    project, oldest = settings["project"], ".".join(map(str, OLDEST_ONNXRUNTIME))
    slow = [f"!=1.{minor}.*" for (_, first), (_, end) in SLOW for minor in range(first, end)]
    assert slow
    allowed = ",".join([f">={oldest}", *slow])
    assert project["optional-dependencies"]["cpu"] == [f"onnxruntime{allowed}"]
    # Batches on CPU run in it as well.
    assert project["optional-dependencies"]["gpu"] == [f"onnxruntime-gpu[cuda,cudnn]{allowed}"]
    assert project["requires-python"] == ">=3.11"
    assert "Python (>= 3.11)" in (ROOT / "r/DESCRIPTION").read_text(encoding="utf-8")
    assert "Python 3.11 or later" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"from version {oldest} " in (ROOT / "docs/model-file.md").read_text(encoding="utf-8")


def test_the_types_are_shipped(settings: dict[str, Any]) -> None:
    assert (ROOT / "src" / "bertonnx" / "py.typed").is_file()
    assert "py.typed" in settings["tool"]["setuptools"]["package-data"]["bertonnx"]


def test_data_files_are_shipped(settings: dict[str, Any]) -> None:
    for place in DATA:
        package, _, name = place.rpartition("/")
        patterns = settings["tool"]["setuptools"]["package-data"][package.replace("/", ".")]
        assert any(fnmatch(name, pattern) for pattern in patterns)
        assert (ROOT / place.removeprefix("bertonnx/")).is_file()


def test_the_command_is_the_main_function(settings: dict[str, Any]) -> None:
    assert settings["project"]["scripts"] == {"bertonnx": "bertonnx.__main__:main"}


DATA = {
    *(f"bertonnx/exporters/int8/{name}.txt" for name in ("questions", "texts")),
    *(f"bertonnx/exporters/checkpoint/{name}.json" for name in ("config_keys", "tokenizer_classes")),
    "bertonnx/runtime/serving/page.html",
}
"""Files that are no modules, by their place in a wheel."""


def _modules(folder: Path) -> set[str]:
    """Return the places in a wheel of all modules; links in src/bertonnx are not followed."""
    return {
        f"{package.replace('.', '/')}/{file.relative_to(folder / place).as_posix()}"
        for package, place in FOLDERS.items()
        for file in (folder / place).rglob("*.py")
        if not any(
            (folder / place / part).is_symlink() for part in file.relative_to(folder / place).parts[:1]
        )
    }


def test_a_wheel_has_every_module_and_works_from_elsewhere(tmp_path: Path) -> None:
    _require_setuptools()
    source = _copy_of_the_sources(tmp_path / "source")
    build = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*build, "-w", tmp_path / "wheels", "-q"], cwd=source, check=True, timeout=300)
    (wheel,) = (tmp_path / "wheels").iterdir()
    assert wheel.name == f"bertonnx-{bertonnx.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "target")
    shipped = {name for name in names if ".dist-info/" not in name}
    assert shipped == _modules(ROOT) | DATA | {"bertonnx/py.typed"}
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)

    # -S keeps the editable install out of the way; the packages it needs come by name.
    program = (
        "import sys; sys.path[:0] = sys.argv[1:]; import bertonnx, bertonnx.cli\n"
        "import bertonnx.runtime.model, bertonnx.models.card; print(bertonnx.runtime.model.__file__)"
    )
    site = Path(pytest.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-S", "-c", program, tmp_path / "target", site],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(tmp_path / "target")


def test_a_source_archive_has_the_data_files(tmp_path: Path) -> None:
    _require_setuptools()
    source = _copy_of_the_sources(tmp_path / "source")
    program = "import sys; from setuptools.build_meta import build_sdist; print(build_sdist(sys.argv[1]))"
    subprocess.run(
        [sys.executable, "-c", program, tmp_path], cwd=source, check=True, timeout=300, capture_output=True
    )
    with tarfile.open(tmp_path / f"bertonnx-{bertonnx.__version__}.tar.gz") as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {place.removeprefix("bertonnx/") for place in DATA} <= names


@pytest.mark.parametrize("links", ["absent", "text"])
def test_an_editable_install_needs_no_links(tmp_path: Path, links: str) -> None:
    """A zip may leave the links in src/bertonnx out, and Git on Windows writes files with their targets."""
    _require_setuptools()
    source = _copy_of_the_sources(tmp_path / "source")
    if links == "text":
        for name in ("exporters", "models", "runtime"):
            (source / "src" / "bertonnx" / name).write_text(f"../../{name}")
    program = "import sys; from setuptools.build_meta import build_editable; build_editable(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", program, tmp_path], cwd=source, check=True, timeout=300, capture_output=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    # The folder of this installation is added as Python adds one, so that its .pth file counts.
    program = (
        "import site, sys; site.addsitedir(sys.argv[1]); sys.path.append(sys.argv[2])\n"
        "import bertonnx.cli, bertonnx.models.card as a, bertonnx.runtime.engine.engine as b\n"
        "import bertonnx.exporters.quiet as c; print(a.__file__, b.__file__, c.__file__, sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", program, tmp_path / "site", Path(pytest.__file__).parent.parent],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [Path(line).relative_to(source.resolve()).as_posix() for line in done.stdout.splitlines()]
    assert found == ["models/card.py", "runtime/engine/engine.py", "exporters/quiet.py"]


def _require_setuptools() -> None:
    """Skip where nothing can be built without a network."""
    # By their metadata: to look for pip as a module makes setuptools leave distutils to Python for good, and
    # then nothing in this process can import setuptools.
    try:
        importlib.metadata.version("pip")
        known = int(importlib.metadata.version("setuptools").partition(".")[0])
    except importlib.metadata.PackageNotFoundError:
        known = 0
    if known < 77:
        pytest.skip("building without a network needs pip and setuptools 77 in this environment")


def _copy_of_the_sources(target: Path) -> Path:
    """Copy what a build reads, so that nothing is left behind in the sources."""
    import shutil

    target.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, target / name)
    if not (target / "README.md").is_file():
        (target / "README.md").write_text("bertonnx\n")
    for place in FOLDERS.values():
        # The links would become folders of their own in a copy.
        shutil.copytree(
            ROOT / place, target / place, ignore=lambda folder, names: _links(Path(folder), names)
        )
    return target


def _links(folder: Path, names: list[str]) -> list[str]:
    return [name for name in names if (folder / name).is_symlink() or name == "__pycache__"]
