"""Check that an exported graph computes what its source does.

Shape legend: `B` batch, `L` tokens.
"""

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.functional import cosine_similarity, pad

from ..inference.exported import ExportError
from ..runtimes import Session
from ..runtimes.runtime import Inputs
from .parts import Shapes, make_images, make_texts

#: Minimum cosine between an embedding of an export and of its source. bfloat16 has 8 bits of
#: precision, int8 depends on calibration: below this, search finds other pictures.
LEAST_COSINE = {"fp32": 0.99999, "bf16": 0.99, "int8": 0.97}


def make_cases(
    shapes: Shapes, kinds: tuple[str, ...], samples: list[Inputs], is_static: bool
) -> list[Inputs]:
    """Inputs to compare with: several batch sizes and text lengths, padded and not.

    Args:
        shapes: the sizes of the model.
        kinds: `image`, `text` or both.
        samples: real inputs, which a calibrated graph must be checked with; without any, random
            ones are made.
        is_static: whether the batch is always one.
    """
    if samples:
        groups = [samples[:1], samples[:2], samples] if not is_static else [samples[:1]]
        return [stack(group) for group in groups]
    most = shapes.max_text_length
    # Batch of images; batch, length and padding of texts.
    plan = [(1, 1, most, False), (3, 2, min(5, most), True), (2, 4, most, True), (5, 1, 1, False)]
    if not shapes.has_mask:
        # Without a mask, a tokenizer pads to the full length (SigLIP).
        plan = [(images, texts, most, False) for images, texts, _, _ in plan]
    cases = []
    for seed, (images, texts, length, padded) in enumerate(plan[: 1 if is_static else None]):
        inputs: Inputs = {}
        if "image" in kinds:
            inputs |= make_images(shapes, images, seed)
        if "text" in kinds:
            inputs |= make_texts(shapes, texts, length, padded, seed)
        cases.append(inputs)
    return cases


def stack(samples: Iterable[Inputs]) -> Inputs:
    """Samples as one batch, their texts padded on the right to the longest."""
    samples = list(samples)
    batch = {}
    for name in samples[0]:
        values = [sample[name] for sample in samples]
        if values[0].ndim == 2:
            length = max(value.shape[1] for value in values)
            values = [pad(value, (0, length - value.shape[1])) for value in values]
        batch[name] = torch.cat(values)
    return batch


@torch.no_grad()
def expect(module: nn.Module, cases: list[Inputs]) -> list[Inputs]:
    """The outputs of the source for each case."""
    return [module(**case) for case in cases]


def compare(
    session: Session, cases: list[Inputs], expected: list[Inputs], precision: str, part: str
) -> dict[str, float]:
    """Run an exported graph on the cases.

    Returns:
        The least `cosine` of an embedding, the largest `max_difference` of an embedding's number,
        and the largest `max_logit_difference` where there are logits.

    Raises:
        ExportError: an embedding differs too much, or is not finite.
    """
    cosine, difference, logits = 1.0, 0.0, 0.0
    for inputs, outputs in zip(cases, expected, strict=True):
        results = session({name: value.numpy() for name, value in inputs.items()})
        for name, reference in outputs.items():
            value = torch.from_numpy(results[name]).float()
            if value.shape != reference.shape:
                raise ExportError(
                    f"the exported {part} gives {name} of shape {tuple(value.shape)} instead of "
                    f"{tuple(reference.shape)}, so it is not written"
                )
            largest = float((value - reference).abs().max())
            if name == "logits_per_image":
                logits = max(logits, largest)
                continue
            difference = max(difference, largest)
            # In float64: in float32, two equal vectors of 512 numbers may give 0.9999999.
            cosine = min(cosine, float(cosine_similarity(value.double(), reference.double()).min()))
    if not cosine >= LEAST_COSINE[precision]:
        raise ExportError(
            f"the exported {part} differs from its source: cosine {cosine:.6f}, and {precision} "
            f"must reach {LEAST_COSINE[precision]}, so it is not written"
        )
    differences = {"cosine": cosine, "max_difference": difference}
    if "logits_per_image" in expected[0]:
        differences["max_logit_difference"] = logits
    return differences
