"""Small untrained checkpoints of Transformers' CLIP and SigLIP, with their processors."""

import sys
from pathlib import Path

from conftest import COLORS
from transformers import CLIPImageProcessor, CLIPProcessor, SiglipImageProcessor, SiglipProcessor

from modeling_clip_vit.data.tokenizer import train_tokenizer

sys.path.append(str(Path(__file__).parent.parent / "conversion"))
from models import NARROW, hf_clip, hf_siglip, stir

TEXTS = [f"a {name} square {chinese}方块" for name, chinese in COLORS.items()]


def save_hf_clip(folder: Path):
    """CLIP: an attention mask, padding to the longest, a centre crop."""
    model = stir(hf_clip(2, NARROW))
    tokenizer = train_tokenizer(TEXTS, vocab_size=300, max_length=77)
    model.config.text_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    CLIPProcessor(CLIPImageProcessor(**sizes), tokenizer).save_pretrained(folder)


def save_hf_siglip(folder: Path):
    """SigLIP: no attention mask, padding to full length, a logit bias."""
    stir(hf_siglip(2, NARROW)).save_pretrained(folder)
    tokenizer = train_tokenizer(TEXTS, vocab_size=300, max_length=12)
    tokenizer.model_input_names = ["input_ids"]
    image_processor = SiglipImageProcessor(size={"height": 32, "width": 32})
    SiglipProcessor(image_processor, tokenizer).save_pretrained(folder)
