"""Launched in four processes: a model that pairs of processes shard, and both pairs have.

Prepares a model as a run does on machines of GPUs (HSDP). Prints a line if all is right.
"""

import torch
from accelerate import Accelerator, ParallelismConfig
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.nn import functional as F  # noqa: N812

from modeling_clip_vit.losses import ClipLoss
from modeling_clip_vit.training.sharding import set_sharded_precision
from modeling_clip_vit.utils.processes import full_tensor
from tests.support.models import make_images, make_texts, small_model

from .check_sharding import say, start_sharded

IMAGES, TEXTS = make_images(8), make_texts([4, 6, 5, 3, 6, 4, 5, 6])


def start_hybrid() -> Accelerator:
    """Accelerate as on two machines of two GPUs."""
    accelerator = start_sharded("no")
    config = ParallelismConfig(dp_replicate_size=2, dp_shard_size=2)
    accelerator.state.parallelism_config = config
    accelerator.state.device_mesh = config.get_device_mesh("cpu")
    return accelerator


def train_whole(updates: int) -> dict[str, torch.Tensor]:
    """The weights after updates on the whole batch, in one process, by the formula of the loss."""
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(updates):
        outputs = model(pixel_values=IMAGES, **TEXTS, return_logits=False)
        logits = model.get_logit_scale() * outputs.image_embeds @ outputs.text_embeds.t()
        pairs = torch.arange(8)
        loss = (F.cross_entropy(logits, pairs) + F.cross_entropy(logits.t(), pairs)) / 2
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return dict(model.named_parameters())


def train_sharded(accelerator: Accelerator, updates: int) -> torch.nn.Module:
    """The model after updates on this process's part of the batch."""
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    set_sharded_precision(accelerator, model)
    model, optimizer = accelerator.prepare(model, optimizer)
    part = slice(2 * accelerator.process_index, 2 * accelerator.process_index + 2)
    texts = {name: values[part] for name, values in TEXTS.items()}
    for _ in range(updates):
        outputs = model(pixel_values=IMAGES[part], **texts, return_logits=False)
        scale = full_tensor(model.get_logit_scale())
        accelerator.backward(ClipLoss()(outputs.image_embeds, outputs.text_embeds, scale))
        optimizer.step()
        optimizer.zero_grad()
    return model


def main():
    accelerator = start_hybrid()
    model = train_sharded(accelerator, updates=3)
    weight = model.vision_model.encoder.layers[0].feed_forward.fc1.weight
    assert isinstance(weight, DTensor)
    assert weight.device_mesh.mesh.tolist() == [[0, 1], [2, 3]], weight.device_mesh
    assert weight.placements == (Replicate(), Shard(0)), weight.placements
    expected = train_whole(updates=3)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            full_tensor(parameter.detach()), expected[name].detach(), atol=1e-5, rtol=0, msg=name
        )
    say(accelerator, "sharded in pairs, and trained as by one process")
    accelerator.end_training()


if __name__ == "__main__":
    main()
