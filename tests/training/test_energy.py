"""The energy of a run."""

import json

import pytest
from huggingface_hub import ModelCard

from modeling_clip_vit.training.energy import EnergyMeter
from modeling_clip_vit.utils.errors import UserError
from tests.support.runs import train, write_recipe


def test_a_country_that_is_none_is_rejected():
    with pytest.raises(UserError, match="energy_country='Germany' is not allowed"):
        EnergyMeter("Germany")


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_accelerate")
def test_the_card_has_the_energy_of_the_run(tmp_path, color_dataset, linear_config):
    recipe = write_recipe(tmp_path, color_dataset, linear_config, max_steps=2, save_steps=0)
    train(recipe, "--energy_country", "CHN")
    content = json.loads((tmp_path / "out" / "metrics.json").read_text())
    energy = content["card"]["environment"]["energy"]
    assert energy["energy_kwh"] > 0
    data = ModelCard.load(tmp_path / "out" / "README.md").data
    assert data.co2_eq_emissions["emissions"] == energy["emissions_g"]
    assert data.co2_eq_emissions["geographical_location"] == energy["country"] == "China"
