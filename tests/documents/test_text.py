"""Links, pictures and both languages of the documents."""

import ast
import re
from pathlib import Path

import pytest
import yaml

from modeling_clip_vit import __version__
from modeling_clip_vit.training.command import parse_arguments
from tests.support import REPOSITORY
from tests.support.documents import DOCUMENTS, Block, read_blocks, read_links, twin

BOTH = [path for path in DOCUMENTS if twin(path)]
EVERY = DOCUMENTS + [other for path in DOCUMENTS if (other := twin(path))]


def name_of(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def is_of_the_site(document: Path) -> bool:
    return REPOSITORY / "docs" in document.parents


def code_of(block: Block) -> object:
    """A block without its comments, which are in the language of the document."""
    if block.language in ("sh", "bash"):
        return [[word if is_code(word) else "TEXT" for word in line] for line in block.commands]
    if block.language in ("yaml", "json"):
        return yaml.safe_load(block.text)
    lines = [re.sub(r"\s*(?:#|//) .*$", "", line) for line in block.text.splitlines()]
    return "\n".join(line for line in lines if line.strip())


def is_code(word: str) -> bool:
    """Whether a word of a command line is no text to search for."""
    return word.isascii() and (" " not in word or word[0] in "[{")


@pytest.mark.parametrize("document", BOTH, ids=name_of)
def test_both_languages_have_the_same_code(document):
    blocks, others = read_blocks(document), read_blocks(twin(document))
    assert [block.language for block in blocks] == [block.language for block in others]
    for block, other in zip(blocks, others, strict=True):
        if block.language not in ("", "text", "python"):
            assert code_of(block) == code_of(other), block.number


@pytest.mark.parametrize("document", [path for path in BOTH if is_of_the_site(path)], ids=name_of)
def test_the_third_line_leads_to_the_other_language(document):
    name = document.stem
    assert document.read_text().splitlines()[2] == f"English · [中文]({name}.zh-CN.md)"
    other = twin(document).read_text().splitlines()[2]
    assert other == f"[English]({name}.md) · **中文**"


@pytest.mark.parametrize("document", EVERY, ids=name_of)
def test_links_and_pictures_are_there(document):
    for target in read_links(document):
        path, _, anchor = target.partition("#")
        place = (document.parent / path).resolve() if path else document
        assert place.exists(), target
        if anchor and place.suffix == ".md":
            assert anchor in anchors(place), target


def anchors(document: Path) -> set[str]:
    """The anchors of the headings, as the usual forges make them."""
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    names = {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings
    }
    return names | set(re.findall(r'<a id="([^"]+)"', document.read_text()))


@pytest.mark.parametrize("index", ["README.md", "README.zh-CN.md"])
def test_the_index_names_every_document(index):
    folder = REPOSITORY / "docs"
    linked = {
        (folder / target.partition("#")[0]).resolve() for target in read_links(folder / index)
    }
    pages = {path for path in DOCUMENTS if is_of_the_site(path)} - {folder / "README.md"}
    expected = {(twin(path) or path) if "zh" in index else path for path in pages}
    assert expected <= linked


def test_the_site_has_every_document_in_its_menu():
    text = (REPOSITORY / "mkdocs.yml").read_text()
    folder = REPOSITORY / "docs"
    pages = {str(path.relative_to(folder)) for path in DOCUMENTS if is_of_the_site(path)}
    menu = text.partition("\nnav:")[2]
    assert pages - {"design.md"} <= set(re.findall(r"[\w/-]+\.md", menu))


@pytest.mark.parametrize(
    "block",
    [block for path in EVERY for block in read_blocks(path) if block.language == "yaml"],
    ids=lambda block: block.name,
)
def test_the_lines_of_a_recipe_are_read(block, tmp_path):
    fields = yaml.safe_load(block.text)
    if "dataset" not in fields:
        fields["dataset"] = "data/emoji"
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(fields, allow_unicode=True))
    parse_arguments(["--config", str(path)])


def strings_of_the_package() -> str:
    """Every string of the package's code, with a line for each value that it leaves open."""
    texts = []
    for path in (REPOSITORY / "modeling_clip_vit").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = (
                    one.value if isinstance(one, ast.Constant) else "\n" for one in node.values
                )
                texts.append("".join(str(part) for part in parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return "\n".join(texts)


@pytest.mark.parametrize("name", ["troubleshooting.md", "troubleshooting.zh-CN.md"])
def test_messages_that_are_explained_exist(name):
    rows = re.findall(r"^\| `([^`]+)` \|", (REPOSITORY / "docs" / name).read_text(), re.MULTILINE)
    strings = strings_of_the_package()
    assert len(rows) > 10
    for row in rows:
        for part in re.split(r"\s*…[:;,]?\s*", row):
            assert part in strings, row


def test_the_citation_and_the_changelog_are_of_this_version():
    assert yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())["version"] == __version__
    assert f"\n## {__version__}\n" in (REPOSITORY / "CHANGELOG.md").read_text()
