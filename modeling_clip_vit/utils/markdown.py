"""Texts of a user in Markdown."""


def escape_cell(text: str) -> str:
    """A text as a cell of a table."""
    return " ".join(text.replace("|", "\\|").split())
