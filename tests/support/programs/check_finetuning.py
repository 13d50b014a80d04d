"""Launched in two processes: an adapter and L2-SP under FSDP2 are those of one process.

One process makes some updates of a whole batch before the processes meet; then each has a part of
it, and of every weight. Prints a line for each thing that is equal.
"""

import copy

import torch
from accelerate import Accelerator
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard

from modeling_clip_vit import ClipVitModel
from modeling_clip_vit.losses import ClipLoss
from modeling_clip_vit.training.finetuning.adapters import Adapter
from modeling_clip_vit.training.finetuning.l2_sp import StartPenalty
from modeling_clip_vit.training.finetuning.options import AdapterOptions
from tests.support.models import make_images, make_texts, small_model

LORA = AdapterOptions(peft_type="LORA", lora_rank=2, modules_to_save=["similarity"])


def make_model():
    """The published model, in float64 so that the order of sums does not matter."""
    return small_model().double().train()


def update(model, base, part: slice, penalty: StartPenalty | None = None) -> float:
    """Three updates of this process's part of a batch; returns the penalty."""
    learning = [parameter for parameter in base.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=0.1)
    texts = make_texts([4, 6, 5, 3, 6, 4, 5, 6])
    inputs = {name: values[part] for name, values in texts.items()}
    inputs["pixel_values"] = make_images(8).double()[part]
    for _ in range(3):
        optimizer.zero_grad()
        outputs = model(**inputs)
        embeds = outputs.image_embeds, outputs.text_embeds
        ClipLoss()(*embeds, base.get_logit_scale()).backward()
        if penalty:
            penalty.add_gradient()
        optimizer.step()
    return penalty.value() if penalty else 0.0


def shard(model):
    """FSDP2, block by block."""
    for tower in (model.vision_model, model.text_model):
        for layer in tower.encoder.layers:
            fully_shard(layer)
    fully_shard(model)
    return model


def full_state(model) -> dict[str, torch.Tensor]:
    """Every weight of a sharded model, on all processes."""
    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))


def adapt(model) -> tuple[Adapter, ClipVitModel]:
    """The same adapter on every process."""
    torch.manual_seed(3)
    adapter = Adapter(LORA, model)
    return adapter, model.double()


def assert_close(state: dict, expected: dict, what: str):
    """Two models have the same weights."""
    assert state.keys() == expected.keys(), state.keys() ^ expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(state[name], value, atol=1e-10, rtol=1e-10, msg=name)
    print(f"equal: {what}", flush=True)


def main():
    everything = slice(0, 8)
    adapter, whole = adapt(make_model())
    update(whole, whole, everything)
    expected = {name: value.clone() for name, value in whole.state_dict().items()}
    merged = adapter.merge(whole).double().state_dict()
    held = make_model()
    penalty = StartPenalty(held.parameters(), 0.5)
    value = update(held, held, everything, penalty)
    held_state = copy.deepcopy(held.state_dict())

    accelerator = Accelerator(cpu=True)
    part = slice(4 * accelerator.process_index, 4 * accelerator.process_index + 4)
    adapter, model = adapt(make_model())
    shard(model)
    update(model, model, part)
    state = full_state(model)
    assert_close(state, expected, "the weights of an adapter")
    # As the trainer does to measure and to save.
    rebuilt = small_model()
    adapter.extend(rebuilt)
    rebuilt.double().load_state_dict(state)
    assert_close(adapter.merge(rebuilt).double().state_dict(), merged, "the merged model")

    model = shard(make_model())
    penalty = StartPenalty(model.parameters(), 0.5)
    sharded = update(model, model, part, penalty)
    assert_close(full_state(model), held_state, "weights that are pulled to the start")
    assert abs(sharded - value) < 1e-9 * value
    accelerator.end_training()


if __name__ == "__main__":
    main()
