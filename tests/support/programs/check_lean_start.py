"""Launched in two processes: only the first has the weights of a new model that FSDP2 will shard.

As on GPUs with `fsdp_cpu_ram_efficient_loading: true`, in the folder that the command names. Prints
a line for each thing that is right.
"""

import os
import sys
from functools import partial

import torch
from accelerate import Accelerator
from torch import nn

from modeling_clip_vit import ClipVitForImageClassification, ClipVitModel
from modeling_clip_vit.losses import ClipLoss
from modeling_clip_vit.training.options import ModelOptions
from modeling_clip_vit.training.sharding import build_new, load_pretrained_whole
from modeling_clip_vit.utils.processes import full_tensor
from tests.support.models import make_images, make_texts, small_config, small_model

from .check_sharding import say, start_sharded

#: Bytes of the token embeddings, by far the largest weights.
LARGE = 400_000 * 24 * 4


def start_lean() -> Accelerator:
    """Accelerate as it is launched on GPUs to load models in the first process alone."""
    accelerator = start_sharded("no")
    os.environ["ACCELERATE_USE_FSDP"] = "true"
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "true"
    accelerator.state.fsdp_plugin.cpu_ram_efficient_loading = True
    return accelerator


def resident_bytes() -> int:
    """The memory that this process has."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """The whole weights of a model, which all processes gather."""
    return {name: full_tensor(p.detach()).clone() for name, p in model.named_parameters()}


def check_new(accelerator: Accelerator):
    """A new model has the weights of the first process, all of which learn."""
    config = small_config(text={"vocab_size": 400_000})
    torch.manual_seed(accelerator.process_index)  # no luck: each would make its own
    before = resident_bytes()
    model = build_new(partial(ClipVitModel, config), ModelOptions())
    grown = resident_bytes() - before
    assert grown > 0.9 * LARGE if accelerator.is_main_process else grown < 0.1 * LARGE, grown
    say(accelerator, "the second process has no weights of a new model")
    torch.manual_seed(0)
    expected = dict(ClipVitModel(config).named_parameters())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    model, optimizer = accelerator.prepare(model, optimizer)
    start = weights(model)
    own = {name: p.detach().to_local().clone() for name, p in model.named_parameters()}
    torch.testing.assert_close(start, expected, rtol=0, atol=0)
    say(accelerator, "both have the weights of the first")
    outputs = model(pixel_values=make_images(4), **make_texts([4, 6, 5, 3]), return_logits=False)
    scale = full_tensor(model.get_logit_scale())
    accelerator.backward(ClipLoss()(outputs.image_embeds, outputs.text_embeds, scale))
    optimizer.step()
    after = {name: p.detach().to_local() for name, p in model.named_parameters()}
    same = [name for name, part in after.items() if part.numel() and torch.equal(part, own[name])]
    assert not same, same
    say(accelerator, "the optimiser updates every weight")


def check_whole(accelerator: Accelerator, folder: str):
    """Models that processes use by themselves have weights in each of them."""
    expected = small_model().state_dict()
    tower = small_model().vision_model
    tower.save_pretrained(folder, is_main_process=accelerator.is_main_process)
    accelerator.wait_for_everyone()
    load_pretrained_whole(accelerator)
    loaded = ClipVitForImageClassification.from_pretrained(folder, num_labels=3)
    torch.testing.assert_close(loaded.vision_model.state_dict(), tower.state_dict(), rtol=0, atol=0)
    assert not any(parameter.is_meta for parameter in loaded.parameters())
    say(accelerator, "both have those of a pretrained model with a new head")
    frozen = build_new(small_model, ModelOptions(frozen_towers=["vision"]))
    torch.testing.assert_close(frozen.state_dict(), expected, rtol=0, atol=0)
    say(accelerator, "both have those of a frozen tower")


def main():
    accelerator = start_lean()
    assert accelerator.num_processes == 2
    check_whole(accelerator, sys.argv[1])
    check_new(accelerator)
    accelerator.end_training()


if __name__ == "__main__":
    main()
