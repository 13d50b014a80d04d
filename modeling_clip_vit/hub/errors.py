"""What the Hub and the network answer, as one sentence each."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
from huggingface_hub import constants
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ..utils.errors import UserError, first_line

LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


class HubError(UserError):
    """Something that the Hub or the network did not let happen; the message is one sentence."""


class RetryableError(HubError):
    """The same might work later: the network is down, the Hub is busy or has a fault."""


@contextmanager
def hub_errors(repo_id: str, what: str, hint: str = "") -> Iterator[None]:
    """Turn what the Hub and the network answer into one sentence.

    Args:
        repo_id: the repository.
        what: what failed, as in "WHAT failed".
        hint: what is left as it was, as in "…; HINT".

    Raises:
        HubError: that sentence.
    """
    try:
        yield
    except UserError:
        raise
    except HfHubHTTPError as error:
        reason, is_temporary = explain(error, repo_id)
    except OfflineModeIsEnabled:
        reason, is_temporary = "HF_HUB_OFFLINE is set, so nothing is sent to the Hub", False
    except (httpx2.HTTPError, ConnectionError) as error:
        reason = f"the Hub at {constants.ENDPOINT} cannot be reached ({first_line(error)})"
        is_temporary = True
    except LocalTokenNotFoundError:
        reason, is_temporary = f"there is no token of the Hub: {LOG_IN}", False
    except HFValidationError as error:
        reason, is_temporary = f"{repo_id!r} is not a valid name: {first_line(error)}", False
    except json.JSONDecodeError:
        reason, is_temporary = f"what answers at {constants.ENDPOINT} is not the Hub", True
    except ValueError as error:
        # What the Hub says of the metadata of a card comes as a plain ValueError.
        if "README.md" not in str(error):
            raise
        reason = "the Hub refuses the card README.md: " + "; ".join(
            line.lstrip("- ") for line in str(error).splitlines()[1:]
        )
        is_temporary = False
    else:
        return
    sentence = "; ".join(part for part in (f"{what} failed: {reason}", hint) if part)
    raise (RetryableError if is_temporary else HubError)(sentence)


def explain(error: HfHubHTTPError, repo_id: str) -> tuple[str, bool]:
    """A reason in words, and whether the same might work later."""
    status = error.response.status_code if error.response is not None else 0
    said = (error.server_message or "").strip().rstrip(".").split("\n")[0]
    if status == 401 and "credentials" in said:
        return f"the Hub does not accept the token, which may have expired: {LOG_IN}", False
    if isinstance(error, RevisionNotFoundError):
        return f"{repo_id!r} has no such branch or revision", False
    if isinstance(error, RepositoryNotFoundError):
        return f"there is no {repo_id!r} on the Hub, or the token may not see it", False
    reasons = {
        401: f"{repo_id!r} needs a token: {LOG_IN}",
        403: f"the token may not write to {repo_id!r}: it needs one with the right to write there",
        409: f"the name is taken ({said})",
        412: f"{repo_id!r} was changed on the Hub at the same time: try again",
    }
    if status in reasons:
        return reasons[status], False
    if status == 429:
        wait = error.response.headers.get("Retry-After")
        return f"the Hub asks to wait{f' {wait} seconds' if wait else ''} before trying again", True
    if status >= 500:
        return f"the Hub has a fault ({status}): try again later", True
    return f"the Hub answers {status}: {said or first_line(error)}", False
