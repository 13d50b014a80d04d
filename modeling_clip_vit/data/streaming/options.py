"""What to stream, and in which order."""

from dataclasses import dataclass, field

from ..errors import DataError, check_option
from .interleave import StoppingStrategy


@dataclass
class StreamOptions:
    """What to stream, and in which order.

    Args:
        stream_sources: folders, patterns (`data/*.tar`, `data/{000..331}.tar`) or dataset ids on
            the Hub that are read while training: Parquet, WebDataset tars and whatever else
            `datasets` streams.
        stream_weights: sampling weight of each source; empty weights all equally.
        stream_stopping_strategy: when a pass over several sources ends, as in
            `datasets.interleave_datasets`; ignored if samples_per_epoch is set.
        samples_per_epoch: samples per epoch over all processes; sources that end earlier start
            over. 0 makes an epoch one pass over the sources.
        shuffle_buffer_size: average number of encoded samples that each worker buffers for
            shuffling; 0 keeps the order of the shards.
        length_window: number of batches within which samples are sorted by text length, so that
            less padding is computed; 1 disables it.
    """

    stream_sources: list[str] = field(default_factory=list)
    stream_weights: list[float] = field(default_factory=list)
    stream_stopping_strategy: StoppingStrategy = "first_exhausted"
    samples_per_epoch: int = 0
    shuffle_buffer_size: int = 1000
    length_window: int = 1

    def __post_init__(self):
        weights, sources = self.stream_weights, self.stream_sources
        if weights and (len(weights) != len(sources) or min(weights) <= 0):
            raise DataError(
                f"stream_weights={weights} is not allowed: one number above 0 for each of "
                f"the {len(sources)} stream_sources"
            )
        for name, least in (
            ("samples_per_epoch", 0),
            ("shuffle_buffer_size", 0),
            ("length_window", 1),
        ):
            check_option(getattr(self, name) >= least, self, name, f"at least {least}")

    def weights(self) -> list[float]:
        """A weight for each source."""
        return self.stream_weights or [1.0] * len(self.stream_sources)
