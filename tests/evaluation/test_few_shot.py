"""The evaluation task `few_shot`: its metrics, its numbers of examples, and what it rejects."""

import json
from statistics import mean, stdev

import pytest
import torch
from torch.nn.functional import normalize

from modeling_clip_vit.cli import main
from modeling_clip_vit.evaluation.embedding import LabelledImages
from modeling_clip_vit.evaluation.tasks.few_shot import NUM_DRAWS, choose_shots, measure_few_shot
from modeling_clip_vit.evaluation.tasks.linear_probe import measure_linear_probe
from modeling_clip_vit.evaluation.tasks.zero_shot import measure_zero_shot
from modeling_clip_vit.inference.few_shot import METHODS, Examples, ZeroShot, draw_shots
from modeling_clip_vit.utils.errors import UserError


def around_classes(rows: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.arange(rows) % 4
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(rows, 8, generator=generator)
    return normalize(2 * torch.eye(8)[labels] + noise, dim=1), labels


def test_mean_and_deviation_are_over_draws_of_the_same_images_for_all_methods():
    train = Examples(*around_classes(80, 0))
    names = normalize(torch.randn(4, 8, generator=torch.Generator().manual_seed(3)), dim=1)
    embeds, labels = around_classes(60, 1)
    images = LabelledImages(embeds, labels, 4, names)
    found = measure_few_shot(train, images, (10.0, None), shots=2, seed=5)
    zero_shot = measure_zero_shot(embeds, names, labels)["accuracy"]
    assert found["zero_shot"] == {"accuracy": pytest.approx(zero_shot), "accuracy_std": 0}
    probes, adapters = [], []
    for draw in range(5, 5 + NUM_DRAWS):
        examples = train.take(draw_shots(train.labels, 4, 2, draw))
        probes.append(measure_linear_probe(*examples, embeds, labels, 4, draw)["accuracy"])
        adapter = METHODS["tip_adapter"](ZeroShot(names, 10.0), examples, draw)
        right = adapter.logits(embeds).argmax(dim=1) == labels
        adapters.append(right.float().mean().item())
    for method, values in {"linear_probe": probes, "tip_adapter": adapters}.items():
        expected = {"accuracy": mean(values), "accuracy_std": stdev(values)}
        assert found[method] == pytest.approx(expected, abs=1e-6)


def test_the_numbers_of_examples_are_those_that_every_class_has():
    assert choose_shots([9, 5, 30], ["a", "b", "c"], None) == [1, 2, 4]
    assert choose_shots([9, 5, 30], ["a", "b", "c"], [3, 5]) == [3, 5]


@pytest.mark.parametrize(
    ("counts", "wanted", "sentence"),
    [
        ([9, 5], [2, 6], "few_shot needs 6 training images of each class, and 'b' has 5"),
        ([9, 0], None, "few_shot needs 1 training images of each class, and 'b' has 0"),
    ],
)
def test_more_examples_than_a_class_has_are_rejected(counts, wanted, sentence):
    with pytest.raises(UserError, match=sentence):
        choose_shots(counts, ["a", "b"], wanted)


def test_the_command_measures_it_where_it_is_named(checkpoint, color_dataset, tmp_path):
    command = ["evaluate", str(checkpoint), "--dataset", str(color_dataset), "--num_workers", "0"]
    command += ["--tasks", "few_shot", "--shots", "1,4", "--output_dir", str(tmp_path)]
    assert main(command) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())["metrics"]
    assert set(metrics) == {
        f"few_shot/kind/{name}/{method}/{shots}-shot"
        for name in ("accuracy", "accuracy_std")
        for method in (*METHODS, "linear_probe")
        for shots in (1, 4)
        if (method, shots) != ("linear_probe", 1)  # two images are too few for a probe
    }
    table = (tmp_path / "evaluation.md").read_text()
    assert "| Few examples | 1-shot | 4-shot |" in table
    assert "kind, accuracy, tip_adapter |" in table
