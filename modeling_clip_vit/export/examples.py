"""Write the example.py of an export: a short script without torch and Transformers.

A program of torch.export or ExecuTorch runs on those, so there the script imports them.
"""

from ..runtimes import Runtime

USAGE = {
    "both": "PICTURE TEXT [TEXT ...]: the cosine of the picture with each text",
    "joint": "PICTURE TEXT [TEXT ...]: the logit of the picture with each text",
    "image": "PICTURE: its embedding",
    "text": "TEXT [TEXT ...]: the embedding of each",
}

IMPORTS = """import json
import sys
from pathlib import Path

import numpy as np
{imports}
folder = Path(__file__).resolve().parent
export = json.loads((folder / "export.json").read_text())
"""

IMAGE = """
size = (export["image_size"], export["image_size"])
image = ImageOps.exif_transpose(Image.open(sys.argv[1]))
if image.mode.startswith("I;16"):  # of 12 or 16 bits
    values = np.asarray(image)
    limit = next(limit for limit in (255, 4095, 65535) if values.max() <= limit)
    image = Image.fromarray((values * (255 / limit)).round().astype(np.uint8))
image = image.convert("RGBA")  # what is transparent lies on white
image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
resize = ImageOps.fit if export["crops_images"] else Image.Image.resize
pixels = np.asarray(resize(image, size, export["resample"]), np.float32) / 255
pixels = (pixels - np.float32(export["image_mean"])) / np.float32(export["image_std"])
pictures = {"pixel_values": np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])}
"""

TEXT = """
# tokenizer.json says how to cut and to pad.
tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
tokenizer.encode_special_tokens = True  # what is typed is text, "<eos>" too
tokens = tokenizer.encode_batch(sys.argv[{first}:])
texts = {{
    "input_ids": np.array([token.ids for token in tokens]),
    "attention_mask": np.array([token.attention_mask for token in tokens]),
}}
texts = {{name: texts[name] for name in export["text_inputs"]}}
"""

FINAL = {
    "both": """
scores = run("text", texts)[0] @ run("image", pictures)[0][0]
for score, text in zip(scores, sys.argv[2:]):
    print(f"{score:.4f}  {text}")
""",
    "joint": """
logits = run("joint", {**pictures, **texts})[2][0]
for logit, text in zip(logits, sys.argv[2:]):
    print(f"{logit:.4f}  {text}")
""",
    "image": """
print(run("image", pictures)[0][0].tolist())
""",
    "text": """
for embedding in run("text", texts)[0]:
    print(embedding.tolist())
""",
}


def write_example(runtime: Runtime, part: str) -> str:
    """The source of a script that runs an export.

    Args:
        runtime: what it was exported for.
        part: `both`, `joint`, `image` or `text`.
    """
    imports = runtime.example_imports
    pieces = []
    if part != "text":
        imports += "from PIL import Image, ImageOps\n"
        pieces.append(IMAGE)
    if part != "image":
        imports += "from tokenizers import Tokenizer\n"
        pieces.append(TEXT.format(first=1 if part == "text" else 2))
    usage = f'"""python example.py {USAGE[part]}."""\n\n'
    header = IMPORTS.format(imports=imports)
    return "".join([usage, header, runtime.example_run, *pieces, FINAL[part]])
