"""What the project says of itself to PyPI, to CI and to its tools agrees."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml", reason="pyyaml is missing: pip install -e '.[test]'")

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_pythons_of_the_classifiers_are_tested() -> None:
    found = [re.fullmatch(r".* :: Python :: (3\.\d+)", text) for text in PROJECT["classifiers"]]
    claimed = [match[1] for match in found if match]
    [tested] = [
        job["strategy"]["matrix"]["python"]
        for name, job in read(".github/workflows/tests.yml")["jobs"].items()
        if name == "tests"
    ]
    # CI may be ahead of what is claimed.
    assert tested[: len(claimed)] == claimed
    assert str(tested).replace("'", '"') in (ROOT / "noxfile.py").read_text(encoding="utf-8")
    assert PROJECT["requires-python"] == f">={claimed[0]}"


@pytest.mark.parametrize("name", ["tests", "scanning", "release"])
def test_workflows_may_do_no_more_than_they_have_to(name: str) -> None:
    workflow = read(f".github/workflows/{name}.yml")
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step), step
            assert "@" in step.get("uses", "@"), step
    extras = set(PROJECT["optional-dependencies"])
    text = (ROOT / f".github/workflows/{name}.yml").read_text(encoding="utf-8")
    named = {extra for found in re.findall(r"\.\[([a-z,]+)\]", text) for extra in found.split(",")}
    assert named | set(re.findall(r"--extra=(\w+)", text)) <= extras


def test_release_publishes_without_a_token() -> None:
    publish = read(".github/workflows/release.yml")["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"}
    assert not [step for step in publish["steps"] if "password" in step.get("with", {})]


def test_release_locks_what_users_may_install() -> None:
    text = (ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8")
    locked = set(re.findall(r"--extra=(\w+)", text))
    assert locked == set(PROJECT["optional-dependencies"]) - {
        "bench",
        "dev",
        "docs",
        "fuzz",
        "test",
    }


def test_pre_commit_runs_the_ruff_of_ci() -> None:
    [pin] = [name for name in PROJECT["optional-dependencies"]["dev"] if name.startswith("ruff")]
    [local] = read(".pre-commit-config.yaml")["repos"]
    assert all(hook["additional_dependencies"] == [pin] for hook in local["hooks"])


def test_read_the_docs_builds_as_ci_does() -> None:
    settings = read(".readthedocs.yaml")
    assert settings["python"]["install"][0]["extra_requirements"] == ["docs"]
    assert settings["sphinx"] == {"configuration": "docs/conf.py", "fail_on_warning": True}


def requirements(extra: str) -> set[str]:
    """Return the distributions of an extra, including those of extras in it."""
    found: set[str] = set()
    for line in PROJECT["optional-dependencies"][extra]:
        match = re.match(r"([\w.-]+)(?:\[([\w,]+)\])?", line)
        assert match is not None
        name, extras = match.groups()
        if name == PROJECT["name"]:
            found |= {item for inner in extras.split(",") for item in requirements(inner)}
        else:
            found.add(name.lower())
    return found


def test_extra_for_docs_brings_what_the_reference_imports() -> None:
    pages = (ROOT / "docs" / "reference").glob("*.md")
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    brought = requirements("docs") | {"h11"}
    distributions = packages_distributions()
    for module in re.findall(r"automodule:: (\S+)", text):
        path = (ROOT / module.replace(".", "/")).with_suffix(".py")
        path = path if path.is_file() else path.with_suffix("") / "__init__.py"
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            for name in {name.partition(".")[0] for name in names} - sys.stdlib_module_names:
                needed = {item.lower() for item in distributions[name]}
                assert needed & brought, f"{module} needs {name}"


def test_source_distribution_has_what_its_tests_and_pages_read() -> None:
    included = set(PYPROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"])
    folders = ("docs", "examples", "tests", "fuzz", "deploy", "benchmarks", ".github")
    files = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "noxfile.py")
    assert {f"/{name}" for name in (*folders, *files)} <= included
    assert all((ROOT / name.lstrip("/")).exists() for name in included)


def test_skips_show_their_reasons() -> None:
    assert "-rs" in PYPROJECT["tool"]["pytest"]["ini_options"]["addopts"]
