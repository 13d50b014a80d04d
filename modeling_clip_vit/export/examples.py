"""Write the example.py of an export: a short script without torch and Transformers.

A program of torch.export or ExecuTorch runs on those, so there the script imports them.
"""

from inspect import getsource

from ..data.grids import fit_size
from ..runtimes import Runtime

#: What a script prints.
PURPOSES = {
    "both": "The cosine of a picture with each text",
    "joint": "The logit of a picture with each text",
    "image": "The embedding of a picture",
    "text": "The embedding of each text",
}

HEADER = '''"""{purpose}: python example.py {arguments}."""

import argparse
import json
{standard_imports}from pathlib import Path

import numpy as np
{imports}
parser = argparse.ArgumentParser(description="{purpose}.")
{options}
options = parser.parse_args()
folder = Path(__file__).resolve().parent
export = json.loads((folder / "export.json").read_text())
'''
PICTURE_OPTION = 'parser.add_argument("picture")'
TEXTS_OPTION = 'parser.add_argument("texts", nargs="+", metavar="text")'

DECODE = """
image = ImageOps.exif_transpose(Image.open(options.picture))
if image.mode.startswith("I;16"):  # of 12 or 16 bits
    values = np.asarray(image)
    limit = next(limit for limit in (255, 4095, 65535) if values.max() <= limit)
    image = Image.fromarray((values * (255 / limit)).round().astype(np.uint8))
image = image.convert("RGBA")  # transparent becomes white
image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
"""

SQUARE = """size = (export["image_size"], export["image_size"])
resize = ImageOps.fit if export["crops_images"] else Image.Image.resize
pixels = np.asarray(resize(image, size, export["resample"]), np.float32) / 255
pixels = (pixels - np.float32(export["image_mean"])) / np.float32(export["image_std"])
pictures = {"pixel_values": np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])}
"""

#: For images in their own aspect ratio; the script then has the function `fit_size`.
PATCHES = """
side = export["patch_size"]
height, width = fit_size(image.height, image.width, side, export["max_num_patches"])
pixels = np.asarray(image.resize((width, height), export["resample"]), np.float32) / 255
pixels = (pixels - np.float32(export["image_mean"])) / np.float32(export["image_std"])
rows, columns = height // side, width // side
patches = pixels.reshape(rows, side, columns, side, -1).swapaxes(1, 2)
pictures = {
    "pixel_values": np.ascontiguousarray(patches.reshape(1, rows * columns, -1)),
    "pixel_attention_mask": np.ones((1, rows * columns), np.int64),
    "spatial_shapes": np.array([[rows, columns]]),
}
"""

TEXT = """
tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))  # it also truncates and pads
tokenizer.encode_special_tokens = True  # what is typed is text, "<eos>" too
tokens = tokenizer.encode_batch(options.texts)
texts = {
    "input_ids": np.array([token.ids for token in tokens]),
    "attention_mask": np.array([token.attention_mask for token in tokens]),
}
texts = {name: texts[name] for name in export["text_inputs"]}
"""

FINAL = {
    "both": """
scores = run("text", texts)[0] @ run("image", pictures)[0][0]
for score, text in zip(scores, options.texts):
    print(f"{score:.4f}  {text}")
""",
    "joint": """
logits = run("joint", {**pictures, **texts})[2][0]
for logit, text in zip(logits, options.texts):
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


def write_example(runtime: Runtime, part: str, is_native: bool = False) -> str:
    """The source of a script that runs an export.

    Args:
        runtime: what it was exported for.
        part: `both`, `joint`, `image` or `text`.
        is_native: whether images keep their aspect ratio.
    """
    imports = runtime.example_imports
    arguments, options, pieces = [], [], []
    if part != "text":
        imports += "from PIL import Image, ImageOps\n"
        arguments.append("PICTURE")
        options.append(PICTURE_OPTION)
        pieces += [DECODE, PATCHES if is_native else SQUARE]
        if is_native:
            # In the script itself: it needs nothing of this package.
            pieces.insert(0, f"\n\n{getsource(fit_size)}\n")
    if part != "image":
        imports += "from tokenizers import Tokenizer\n"
        arguments.append("TEXT [TEXT ...]")
        options.append(TEXTS_OPTION)
        pieces.append(TEXT)
    header = HEADER.format(
        purpose=PURPOSES[part],
        arguments=" ".join(arguments),
        standard_imports="import math\n" if is_native else "",
        imports=imports,
        options="\n".join(options),
    )
    return "".join([header, runtime.example_run, *pieces, FINAL[part]])
