"""The methods of explanation.

To add one: write a file with `explain_picture`, and `explain_text` if it can explain words, and add
a line to `METHODS`.
"""

from . import integrated_gradients, legrad, occlusion, shares
from .method import Method

#: `method` -> what it computes.
METHODS: dict[str, Method] = {
    "integrated_gradients": Method(
        integrated_gradients.explain_picture, integrated_gradients.explain_text
    ),
    "occlusion": Method(occlusion.explain_picture, occlusion.explain_text, needs_torch=False),
    "shares": Method(shares.explain_picture, shares.explain_text, takes_grid=False),
    "legrad": Method(legrad.explain_picture, None, takes_grid=False),
}
