"""Launched in two processes: what FSDP2 keeps in float32 in a run in bfloat16.

Prepares a model as a run does on GPUs. Prints a line for each thing that is right.
"""

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

from modeling_clip_vit.losses import ClipLoss
from modeling_clip_vit.training.sharding import set_sharded_precision
from modeling_clip_vit.utils.processes import full_tensor
from tests.support.models import make_images, make_texts, small_model

SCALE, BIAS = 99.98, -9.97


def start_sharded() -> Accelerator:
    """Accelerate as on GPUs that share a model: on a CPU, it does not shard by itself."""
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=["ClipVitEncoderLayer"],
        reshard_after_forward=True,
        state_dict_type="FULL_STATE_DICT",
        cpu_ram_efficient_loading=False,
    )
    plugin.set_mixed_precision("bf16")
    accelerator.state.fsdp_plugin = plugin
    accelerator.state.distributed_type = DistributedType.FSDP
    return accelerator


def make_model():
    """One with a bias, whose scale and bias bfloat16 would round to 99 and -10."""
    model = small_model(logit_bias_init_value=BIAS)
    with torch.no_grad():
        model.similarity.logit_scale.fill_(SCALE).log_()
    return model


def main():
    accelerator = start_sharded()
    assert accelerator.num_processes == 2
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    set_sharded_precision(accelerator, model)
    model, optimizer = accelerator.prepare(model, optimizer)
    part = slice(4 * accelerator.process_index, 4 * accelerator.process_index + 4)
    inputs = {name: values[part] for name, values in make_texts([4, 6, 5, 3, 6, 4, 5, 6]).items()}
    outputs = model(pixel_values=make_images(8)[part], **inputs, return_logits=False)
    scale, bias = model.get_logit_scale(), model.get_logit_bias()
    assert abs(float(scale) - SCALE) < 1e-3, float(scale)
    assert abs(float(bias) - BIAS) < 1e-5, float(bias)
    print("right: scale and bias", flush=True)
    embeds = outputs.image_embeds, outputs.text_embeds
    assert all(one.dtype == torch.float32 for one in embeds), [one.dtype for one in embeds]
    lengths = torch.cat(embeds).norm(dim=1)
    assert (lengths - 1).abs().max() < 1e-6, lengths
    print("right: embeddings", flush=True)
    block = model.vision_model.encoder.layers[0]
    assert block.attention.out_proj.weight.dtype == torch.float32, "the sharded weights"
    inside = []
    block.attention.out_proj.register_forward_hook(
        lambda module, args, output: inside.append((module.weight.dtype, output.dtype))
    )
    outputs = model(pixel_values=make_images(8)[part], **inputs, return_logits=False)
    assert inside == [(torch.bfloat16, torch.bfloat16)], inside
    print("right: blocks compute in bfloat16", flush=True)
    loss = ClipLoss()(outputs.image_embeds, outputs.text_embeds, model.get_logit_scale())
    accelerator.backward(loss)
    weight = model.vision_model.encoder.layers[1].feed_forward.fc2.weight
    gradient = full_tensor(weight.grad)
    # A sum over processes in bfloat16 would be representable in it.
    assert not torch.equal(gradient, gradient.bfloat16().float())
    print("right: gradients are summed in float32", flush=True)
    before = float(full_tensor(model.similarity.logit_scale))
    optimizer.step()
    assert float(full_tensor(model.similarity.logit_scale)) != before
    print("right: the scale learns", flush=True)
    accelerator.end_training()


if __name__ == "__main__":
    main()
