"""Names of repositories on the Hub."""


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of a repository on the Hub, as a path may also have."""
    return name.count("/") == 1 and name[0] not in "./~" and not name.endswith("/")
