"""The tests of clip-vit."""

import pytest

pytest.register_assert_rewrite("tests.support")
