"""The documentation names what there is, and the versions that are pinned twice are the same."""

import re
from importlib.util import find_spec

import pytest
import yaml
from in_process import REPOSITORY
from packaging.requirements import Requirement

DOCS = REPOSITORY / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
# Modules of one page each, or of none: parts that only other modules use.
ROOMS = sorted(
    path.parent.name
    for path in (REPOSITORY / "fm_med").glob("*/__init__.py")
    if path.parent.name not in ("report",)
)


def pages_of(node):
    """Return the files of a navigation."""
    if isinstance(node, str):
        return [node]
    children = node.values() if isinstance(node, dict) else node
    return [page for child in children for page in pages_of(child)]


def documented():
    """Return the modules that the reference shows."""
    text = "\n".join(page.read_text() for page in (DOCS / "reference").glob("*.md"))
    return re.findall(r"^::: (\S+)$", text, re.MULTILINE)


def test_every_page_is_in_the_navigation_and_every_entry_is_a_page():
    navigation = pages_of(yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text())["nav"])
    assert sorted(navigation) == sorted(str(page.relative_to(DOCS)) for page in PAGES)


def test_every_room_has_its_page_and_every_name_is_a_module():
    names = documented()
    assert len(names) == len(set(names))
    assert [name for name in names if find_spec(name) is None] == []
    assert {f"fm_med.{room}" for room in ROOMS} <= set(names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).is_file(), target


def test_ruff_is_the_same_everywhere():
    """Of another version the hooks would undo what the checks ask for."""
    constraints = (REPOSITORY / "constraints.txt").read_text()
    pinned = re.search(r"^ruff==(\S+)$", constraints, re.MULTILINE)[1]
    hooks = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text())["repos"]
    (rev,) = [repo["rev"] for repo in hooks if "ruff-pre-commit" in repo["repo"]]
    assert rev == f"v{pinned}"
    project = (REPOSITORY / "pyproject.toml").read_text()
    asked = Requirement(re.search(r'"(ruff[^"]+)"', project)[1])
    assert asked.specifier.contains(pinned)


def test_the_workflow_runs_what_ci_runs():
    workflow = yaml.safe_load((REPOSITORY / ".github/workflows/ci.yml").read_text())
    job = workflow["jobs"]["ci"]
    assert ".ci/run" in [step.get("run") for step in job["steps"]]
    lowest = re.search(
        r'requires-python = ">=([\d.]+)"', (REPOSITORY / "pyproject.toml").read_text()
    )
    assert job["strategy"]["matrix"]["python"][0] == lowest[1]
