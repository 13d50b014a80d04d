"""Streams that several files of tests read."""

import pytest

from tests.support.stream_files import SIZES, write_parquet, write_tars


@pytest.fixture(scope="session")
def streams(tmp_path_factory):
    """The same 41 samples as tars and as parquet, and 12 others."""
    root = tmp_path_factory.mktemp("streams")
    return {
        "tar": write_tars(root / "tar", SIZES),
        "parquet": write_parquet(root / "parquet", SIZES),
        "other": write_tars(root / "other", [5, 7], first=1000),
        "large": write_parquet(root / "large", [150, 3]),
    }
