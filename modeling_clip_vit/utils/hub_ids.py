"""Names of repositories on the Hub."""


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of a repository on the Hub, as a path may also have."""
    is_pattern = any(mark in name for mark in "*?[{")
    return name.count("/") == 1 and name[0] not in "./~" and name[-1] != "/" and not is_pattern
