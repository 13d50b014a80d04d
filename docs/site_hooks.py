"""What the documents need to become pages of the site: they are written to be read as files, too.

The theme has a menu of languages and mkdocs-static-i18n one page for both, so that the line with
the languages is left out and links lose the suffix of the language. Files outside of docs are no
pages: a link there goes to the repository, if `extra.source_url` of mkdocs.yml says where it is,
and is otherwise the words alone.
"""

import posixpath
import re
from pathlib import Path

#: [words](target), but no picture.
LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
#: The line at the top of a document with the languages that it is written in.
LANGUAGES = re.compile(
    r"^(?:English · \[中文\]|\[English\]\(.*\) · \*\*中文\*\*).*\n", re.MULTILINE
)
SUFFIX = ".zh-CN.md"


def on_page_markdown(markdown: str, page, config, files) -> str:
    """The text of a page, with links that the site can follow."""
    folder = posixpath.dirname(page.file.src_uri)
    source_url = config.extra.get("source_url", "")

    def rewrite(match: re.Match) -> str:
        words, target = match.groups()
        path, mark, anchor = target.partition("#")
        if "://" in target or not path:
            return match.group(0)
        place = posixpath.normpath(posixpath.join("docs", folder, path))
        file = files.get_file_from_path(place.removeprefix("docs/"))
        if place.startswith("docs/") and file and file.inclusion.is_included():
            plain = path.removesuffix(SUFFIX) + ".md" if path.endswith(SUFFIX) else path
            if words == path:  # a file's name says little to who reads pages
                words = title_of(Path(config.docs_dir, folder, path)) or words
            return f"[{words}]({plain}{mark}{anchor})"
        if source_url:
            return f"[{words}]({source_url.rstrip('/')}/{place}{mark}{anchor})"
        return words

    return LINK.sub(rewrite, LANGUAGES.sub("", markdown, count=1))


def title_of(document: Path) -> str:
    """The first heading of a document; empty where it begins otherwise."""
    first = document.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("# ") if first.startswith("# ") else ""
