"""The files with which Sentence Transformers loads a checkpoint, for texts and images."""

from pathlib import Path

from ..utils.folders import write_json

#: For each kind of input: the model's method that embeds it, and the field of its output.
TRANSFORMER = {
    "transformer_task": "feature-extraction",
    "modality_config": {
        kind: {"method": f"get_{kind}_features", "method_output_name": "pooler_output"}
        for kind in ("text", "image")
    },
    "module_output_name": "sentence_embedding",
}
#: The second module has no folder, because it has nothing to save.
MODULES = [
    {"path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"},
    {"path": "1_Normalize", "type": "sentence_transformers.base.modules.normalize.Normalize"},
]


def write_sentence_transformers_files(folder: Path):
    """Let `SentenceTransformer(folder)` embed texts and images as the joint model in it does.

    Args:
        folder: a saved joint model with its processor.

    The format is that of Sentence Transformers 6.2, which builds a module from each entry of
    `modules.json`: the model with its processor, then L2 normalisation.
    """
    modules = [{"idx": index, "name": str(index), **module} for index, module in enumerate(MODULES)]
    for name, content in {
        "modules.json": modules,
        "sentence_bert_config.json": TRANSFORMER,
    }.items():
        write_json(folder / name, content)
