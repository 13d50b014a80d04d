"""A folder in which the documents' code runs: the bundled data in small, and what examples name."""

import json
import os
import shutil
import tarfile
from pathlib import Path

import pytest
from datasets import load_dataset
from huggingface_hub import constants
from transformers import BertConfig, BertModel

from modeling_clip_vit.cli import main
from modeling_clip_vit.data.tokenizer import train_tokenizer
from tests.support import REPOSITORY
from tests.support.hub import fill_hub_cache
from tests.support.peers import save_hf_clip, save_hf_siglip, save_open_clip, save_timm
from tests.support.pictures import COLORS, draw_picture

#: What makes any run short, and lets several documents train into one folder.
SHORT = ["--max_steps", "2", "--per_device_train_batch_size", "8", "--dataloader_num_workers", "0"]
SHORT += ["--save_steps", "2", "--eval_steps", "0", "--report_to", "none", "--bf16", "false"]
SHORT += ["--overwrite_output_dir", "true"]


def save_bert(folder: Path):
    """A text encoder of Transformers."""
    tokenizer = train_tokenizer([f"a {color} square" for color in COLORS], 300, 16)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=300, intermediate_size=64, **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


#: What examples take from the Hub -> what writes a small one.
PUBLISHED = {
    "openai/clip-vit-base-patch32": save_hf_clip,
    "google/siglip-base-patch16-224": save_hf_siglip,
    "laion/CLIP-ViT-B-32-laion2B-s34B-b79K": save_open_clip,
    "timm/vit_base_patch16_224.augreg_in21k": save_timm,
    "sentence-transformers/all-MiniLM-L6-v2": save_bert,
}
#: Rows of each split of data/emoji, and of data/digits.
ROWS = {"train": 600, "validation": 24, "test": 16}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Path:
    """The working directory of the documents' commands, on a machine without network."""
    folder = tmp_path_factory.mktemp("workshop")
    for name in ("configuration", "train.py", "clip_vit.py", "modeling_clip_vit", "benchmarks"):
        (folder / name).symlink_to(REPOSITORY / name)
    for name in ("emoji", "digits"):
        write_few_rows(REPOSITORY / "data" / name, folder / "data" / name)
    write_pictures(folder)
    before = os.getcwd(), constants.HF_HUB_OFFLINE, constants.HF_HUB_CACHE
    os.chdir(folder)
    constants.HF_HUB_OFFLINE, constants.HF_HUB_CACHE = True, str(folder / "hub")
    for name, save in PUBLISHED.items():
        place = folder / "published" / name.replace("/", "--")
        save(place)
        fill_hub_cache(folder / "hub", name, place)
    yield folder
    os.chdir(before[0])
    constants.HF_HUB_OFFLINE, constants.HF_HUB_CACHE = before[1:]


@pytest.fixture(scope="module")
def trained(workshop) -> Path:
    """The runs that the documents take as done."""
    train = ["train", "--config"]
    assert main([*train, "emoji", *SHORT]) == 0
    assert main([*train, "digits_classification", *SHORT]) == 0
    assert main([*train, "lora", *SHORT]) == 0
    for name in ("before", "finetuned", "classifier"):
        source = "digits_classification" if name == "classifier" else "emoji"
        (workshop / "outputs" / name).symlink_to(workshop / "outputs" / source)
    return workshop / "outputs"


def write_few_rows(source: Path, target: Path):
    """The first rows of every split of a bundled dataset."""
    target.mkdir(parents=True)
    for split, rows in load_dataset(str(source)).items():
        few = rows.select(range(min(ROWS[split], len(rows))))
        few.to_parquet(target / f"{split}.parquet")


def write_pictures(folder: Path):
    """Folders of pictures in every form that the documents name."""
    draw_picture("red", 0).save(folder / "picture.png")
    draw_picture("red", 1).save(folder / "mine.jpg")
    (folder / "drawings" / "food & drink").mkdir(parents=True)  # of the tutorial "Get started"
    draw_picture("red", 2).save(folder / "drawings" / "food & drink" / "pizza.png")
    (folder / "photos").mkdir()
    for number, color in enumerate(COLORS):
        draw_picture(color, number).save(folder / "photos" / f"{color}.png")
    for name in ("my_photos", "pictures"):
        for split, seeds in {"train": range(3), "validation": range(3, 4)}.items():
            write_captioned(folder / name / split, seeds)
    for name, splits in {"pets": ["train/", "validation/"], "sorted_photos": [""]}.items():
        for split in splits:
            write_sorted(folder / name / split)
    shutil.copy(REPOSITORY / "configuration" / "train" / "digits.yaml", folder / "my_recipe.yaml")
    (folder / "docs").mkdir()
    (folder / "logs" / "my_run" / "checkpoints").mkdir(parents=True)
    write_shards(folder)


def write_captioned(folder: Path, seeds: range):
    """Pictures with captions and classes in metadata.jsonl."""
    folder.mkdir(parents=True)
    lines = []
    for seed in seeds:
        for number, color in enumerate(COLORS):
            name = f"{color}{seed}.png"
            draw_picture(color, 10 * seed + number).save(folder / name)
            row = {"file_name": name, "caption": f"a {color} square", "label": color}
            lines.append(json.dumps(row))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")


def write_sorted(folder: Path):
    """A folder of pictures for each class."""
    for color in COLORS:
        (folder / color).mkdir(parents=True)
        for seed in range(8):
            draw_picture(color, seed).save(folder / color / f"{seed}.png")


def write_shards(folder: Path):
    """A tar of pictures with captions, as WebDataset writes it, and a folder of Parquet."""
    (folder / "shards").mkdir()
    with tarfile.open(folder / "shards" / "0.tar", "w") as tar:
        for path in sorted((folder / "photos").glob("*.png")):
            caption = path.with_suffix(".txt")
            caption.write_text(f"a {path.stem} square")
            tar.add(path, path.name)
            tar.add(caption, caption.name)
            caption.unlink()
    rows = load_dataset("imagefolder", data_dir=str(folder / "my_photos" / "train"), split="train")
    (folder / "more_parquet").mkdir()
    rows.to_parquet(folder / "more_parquet" / "train.parquet")
    (folder / "on_the_hub").mkdir()
    for split in ("train", "validation"):
        rows.rename_column("caption", "text").to_parquet(folder / "on_the_hub" / f"{split}.parquet")
