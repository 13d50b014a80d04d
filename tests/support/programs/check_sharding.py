"""Launched in two processes: a model that FSDP2 shards, in bfloat16; its evaluation and checkpoint.

Prepares a model as a run does on GPUs, in the folder that the command names. Prints a line for each
thing that is right.
"""

import sys
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor

from modeling_clip_vit.data.sources import open_dataset
from modeling_clip_vit.data.tokenizer import train_tokenizer
from modeling_clip_vit.evaluation.evaluate import open_evaluation
from modeling_clip_vit.evaluation.images import ImagesInMemory
from modeling_clip_vit.evaluation.metrics import as_dict
from modeling_clip_vit.evaluation.options import EvaluationOptions
from modeling_clip_vit.inference.loading import TorchEncoder
from modeling_clip_vit.losses import ClipLoss
from modeling_clip_vit.training.checkpoints import check_whole
from modeling_clip_vit.training.models import build_processor
from modeling_clip_vit.training.sharding import embedding_sharded, set_sharded_precision
from modeling_clip_vit.training.states import model_tensors, optimizer_tensors
from modeling_clip_vit.training.trainer import Trainer
from modeling_clip_vit.utils.processes import full_tensor
from tests.support.datasets import write_squares
from tests.support.models import make_images, make_texts, small_model
from tests.support.pictures import COLORS
from tests.support.trainers import build, make_batch

SCALE, BIAS = 99.98, -9.97


def start_sharded(mixed_precision: str = "bf16") -> Accelerator:
    """Accelerate as on GPUs that share a model: on a CPU, it does not shard by itself."""
    accelerator = Accelerator(cpu=True, mixed_precision=mixed_precision)
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=["ClipVitEncoderLayer"],
        reshard_after_forward=True,
        state_dict_type="FULL_STATE_DICT",
        cpu_ram_efficient_loading=False,
    )
    if mixed_precision != "no":
        plugin.set_mixed_precision(mixed_precision)
    accelerator.state.fsdp_plugin = plugin
    for state in (accelerator.state, PartialState()):  # the first is refreshed from the second
        state.distributed_type = DistributedType.FSDP
    return accelerator


def say(accelerator: Accelerator, what: str):
    """Print that something is right, once both processes have found it so."""
    accelerator.wait_for_everyone()
    accelerator.print(f"right: {what}", flush=True)


def make_model():
    """One with a bias, whose scale and bias bfloat16 would round to 99 and -10."""
    model = small_model(logit_bias_init_value=BIAS)
    with torch.no_grad():
        model.similarity.logit_scale.fill_(SCALE).log_()
    return model


def check_precision(accelerator: Accelerator):
    """Scale, bias, embeddings and sums of gradients are float32; blocks are not."""
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
    say(accelerator, "scale and bias")
    embeds = outputs.image_embeds, outputs.text_embeds
    assert all(one.dtype == torch.float32 for one in embeds), [one.dtype for one in embeds]
    lengths = torch.cat(embeds).norm(dim=1)
    assert (lengths - 1).abs().max() < 1e-6, lengths
    say(accelerator, "embeddings")
    block = model.vision_model.encoder.layers[0]
    assert block.attention.out_proj.weight.dtype == torch.float32, "the sharded weights"
    inside = []
    block.attention.out_proj.register_forward_hook(
        lambda module, args, output: inside.append((module.weight.dtype, output.dtype))
    )
    outputs = model(pixel_values=make_images(8)[part], **inputs, return_logits=False)
    assert inside == [(torch.bfloat16, torch.bfloat16)], inside
    say(accelerator, "blocks compute in bfloat16")
    loss = ClipLoss()(outputs.image_embeds, outputs.text_embeds, model.get_logit_scale())
    accelerator.backward(loss)
    weight = model.vision_model.encoder.layers[1].feed_forward.fc2.weight
    gradient = full_tensor(weight.grad)
    # A sum over processes in bfloat16 would be representable in it.
    assert not torch.equal(gradient, gradient.bfloat16().float())
    say(accelerator, "gradients are summed in float32")
    before = float(full_tensor(model.similarity.logit_scale))
    optimizer.step()
    assert float(full_tensor(model.similarity.logit_scale)) != before
    say(accelerator, "the scale learns")


def check_evaluation(accelerator: Accelerator, folder: Path):
    """The sharded model has the metrics and embeddings of the whole one, and trains on after it."""
    # In float32, in which the main process measures the whole one.
    accelerator.state.fsdp_plugin.mixed_precision_policy = None
    write_squares(folder)
    tokenizer = train_tokenizer([f"a {name} square" for name in COLORS], 300, 16)
    processor = build_processor(tokenizer, 32)
    trainer = build(
        folder, small_model(), processor, accelerator=accelerator, ema_decay=0.5, learning_rate=0.1
    )
    options = EvaluationOptions(
        str(folder),
        split="train",
        tasks=["retrieval", "zero_shot", "calibration"],
        caption_columns=["caption_en"],
        label_columns=["kind"],
    )
    assert isinstance(next(trainer.unwrapped().parameters()), DTensor)
    images = partial(ImagesInMemory, size=32)
    trainer.preparation.evaluations = [open_evaluation(options, open_dataset(str(folder)), images)]
    for _ in range(3):
        trainer.train_step(make_batch())

    def embed(model) -> torch.Tensor:
        return TorchEncoder(model.eval(), processor).encode_text(["a red square", "a cat"])

    def embed_sharded() -> torch.Tensor:
        with embedding_sharded(trainer.unwrapped()):
            return embed(trainer.unwrapped())

    with trainer.average.applied():
        whole = trainer.whole_model()
        expected, averaged = as_dict(trainer.evaluate(whole, False)), embed_sharded()
        if accelerator.is_main_process:
            torch.testing.assert_close(averaged, embed(whole))
    say(accelerator, "embeddings of the sharded model")
    live = embed_sharded()
    assert (live - averaged).abs().max() > 1e-3
    whole = trainer.whole_model()
    if accelerator.is_main_process:  # weights that were gathered before are not used again
        torch.testing.assert_close(live, embed(whole))
    trainer.evaluate_on_the_way()
    if accelerator.is_main_process:
        assert len(expected) > 5
        (line,) = trainer.progress.history
        assert {name: line[name] for name in expected} == expected, (line, expected)
    say(accelerator, "metrics of the sharded model")
    torch.testing.assert_close(embed_sharded(), live, rtol=0, atol=0)
    trainer.set_training_mode()
    trainer.train_step(make_batch())
    say(accelerator, "it trains on with its own weights")
    check_checkpoint(accelerator, trainer, folder)


def whole_tensors(trainer: Trainer) -> dict[str, dict[str, torch.Tensor]]:
    """Weights, optimiser and running mean, gathered."""
    model, optimizer = trainer.unwrapped(), trainer.scheduler.optimizer
    kinds = {
        "model": model_tensors(model),
        "optimizer": optimizer_tensors(optimizer, model),
        "average": trainer.average.tensors(),
    }
    return {
        kind: {name: full_tensor(tensor.detach()).clone() for name, tensor in tensors.items()}
        for kind, tensors in kinds.items()
    }


def check_checkpoint(accelerator: Accelerator, trainer: Trainer, folder: Path):
    """A checkpoint in the background is that of its update, and no process wrote more than half."""
    expected = whole_tensors(trainer)
    trainer.progress.step = 4
    path = Path(trainer.save(is_awaited=False))
    trainer.train_step(make_batch(1))  # while it is written
    following = whole_tensors(trainer)
    trainer.writer.wait()
    state = check_whole(path)
    for kind, tensors in expected.items():
        files = [load_file(path / f"{kind}_{rank}.safetensors") for rank in range(2)]
        sizes = [sum(tensor.nbytes for tensor in file.values()) for file in files]
        whole = sum(tensor.nbytes for tensor in tensors.values())
        # Weights with a single row are not shared out.
        assert max(sizes) < 0.55 * whole, (kind, sizes, whole)
    say(accelerator, "each process writes its half of a checkpoint")
    accelerator.free_memory()  # it clips the gradients of one model
    options = {"ema_decay": 0.5, "learning_rate": 0.1}
    other = build(
        folder / "other", small_model(), trainer.processor, accelerator=accelerator, **options
    )
    other.load(path, state)
    torch.testing.assert_close(whole_tensors(other), expected, rtol=0, atol=0)
    say(accelerator, "a checkpoint has the weights of its update")
    other.set_training_mode()
    other.train_step(make_batch(1))
    torch.testing.assert_close(whole_tensors(other), following, rtol=0, atol=0)
    say(accelerator, "a resumed run goes on as the first")
    accelerator.save_state(str(folder / "gathered"))  # as older releases did
    if accelerator.is_main_process:
        for kind, tensors in expected.items():
            save_file(tensors, folder / f"expected_{kind}.safetensors")


def main():
    accelerator = start_sharded()
    assert accelerator.num_processes == 2
    check_precision(accelerator)
    check_evaluation(accelerator, Path(sys.argv[1]))
    accelerator.end_training()


if __name__ == "__main__":
    main()
