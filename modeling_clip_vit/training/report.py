"""Write what a finished run leaves: model, metrics, pictures, card; and push it."""

import json
import shutil
from pathlib import Path

import torch
from transformers import PreTrainedModel

from ..data.errors import first_line
from ..evaluation.evaluator import EvaluationSet, Evaluator
from ..export.folder import export_clip
from ..hub.classifier_card import build_classifier_card
from ..hub.model_card import CardFacts, build_model_card, code_version
from ..hub.push import files_to_push, push
from ..hub.sentence_transformers import write_sentence_transformers_files
from ..inference.embedding import embed_pixels, embed_texts
from ..inference.pictures import Found, save_retrieval_grid
from ..quantization.folder import FACTS_FILE, weight_bytes, write_facts, write_quantized
from ..quantization.static import has_hooks
from .arguments import TrainArguments
from .checkpoints import SaveError, replace_files, replace_folder
from .curves import save_curves
from .loop import TrainingResult

#: Folder of the quantised model, within that of the float one.
QUANTIZED_FOLDER = "int8"


def write_outputs(args: TrainArguments, result: TrainingResult):
    """Write all files of a finished run to `output_dir`, and upload them where asked to.

    Everything is written to a folder beside its place first, so an error leaves what lay there.

    Raises:
        SaveError: something could not be written.
    """
    folder = Path(args.run.output_dir)
    partial = folder / ".outputs.partial"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write_files(partial, args, result)
        if result.quantized is not None:
            replace_folder(partial / QUANTIZED_FOLDER, folder / QUANTIZED_FOLDER)
        elif (folder / QUANTIZED_FOLDER / FACTS_FILE).is_file():
            shutil.rmtree(folder / QUANTIZED_FOLDER)  # of the model that is replaced
        replace_files(partial, folder)
    except Exception as error:  # safetensors and matplotlib have their own errors for a full disk
        shutil.rmtree(partial, ignore_errors=True)
        raise SaveError(
            f"cannot write the results to {folder}: {first_line(error)}; what lay there is "
            "untouched, so make room and go on with --resume_from_checkpoint latest"
        ) from error
    print_summary(folder, result.metrics)
    if result.quantized is not None:
        print_summary(folder / QUANTIZED_FOLDER, result.quantized_metrics)
    if args.run.push_to_hub:
        publish(folder, str(args.run.hub_model_id), args.run.hub_dry_run)


def write_files(folder: Path, args: TrainArguments, result: TrainingResult):
    """Write the checkpoint folder, metrics.json, the pictures and the model card."""
    model, processor = result.preparation.model.eval(), result.preparation.processor
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    metrics = {
        "metrics": result.metrics,
        "steps": result.progress.step,
        "train_seconds": result.progress.seconds,
        "images_per_second": result.progress.images / result.progress.seconds,
        "precision": result.precision,
        "code": code_version(),
        "recipe": args.to_flat_dict(),
    }
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2, ensure_ascii=False) + "\n")
    lines = [json.dumps(line) for line in result.progress.history]
    (folder / "training_log.jsonl").write_text("\n".join(lines) + "\n")
    save_curves(folder / "training_curves.png", result.progress.history)
    if args.run.task == "classification":
        card = build_classifier_card(card_facts(args, result, ""))
    else:
        write_sentence_transformers_files(folder)
        card = build_model_card(card_facts(args, result, draw_searches(folder, result)))
    card.save(folder / "README.md")
    if result.quantized is not None:
        facts = {
            **vars(args.quantization),
            "metrics": result.quantized_metrics,
            "float_metrics": result.metrics,
            "float_bytes": weight_bytes(folder),
        }
        write_integers(result.quantized, processor, folder / QUANTIZED_FOLDER, facts)


def write_integers(quantized: PreTrainedModel, processor, folder: Path, facts: dict):
    """Write a quantised model: torchao's as a checkpoint, NNCF's as an OpenVINO export.

    Raises:
        ExportError: the export does not compute what the model does.
    """
    if has_hooks(quantized):
        export_clip(quantized, processor, folder, "openvino", "int8")
        write_facts(folder, facts)
    else:
        write_quantized(quantized, processor, folder, facts)


def draw_searches(folder: Path, result: TrainingResult) -> str:
    """Draw what the model finds; returns one of the texts that it was asked."""
    evaluator = result.preparation.evaluator
    if not isinstance(evaluator, Evaluator):
        return "a picture"
    model, processor = result.preparation.model, result.preparation.processor
    rows = example_searches(model, processor, evaluator.evaluation)
    save_retrieval_grid(folder / "retrieval.png", rows)
    return rows[0][0]


def card_facts(args: TrainArguments, result: TrainingResult, example: str) -> CardFacts:
    """What the model card is written from."""
    model, data = result.preparation.model, result.preparation.data
    is_classifier = args.run.task == "classification"
    vision = model.config if is_classifier else model.config.vision_config

    def count(*names: str) -> int:
        modules = (getattr(model, name, None) for name in names)
        return sum(p.numel() for module in modules if module for p in module.parameters())

    return CardFacts(
        name=Path(args.run.output_dir).resolve().name,
        dataset=args.data.dataset,
        num_rows=data.num_rows,
        num_concepts=data.num_concepts,
        skipped=data.bad.examples,
        recipe=args.to_flat_dict(),
        metrics=result.metrics,
        steps=result.progress.step,
        seconds=result.progress.seconds,
        precision=result.precision,
        images_per_second=result.progress.images / result.progress.seconds,
        num_vision_parameters=count("vision_model", "visual_projection", "classifier"),
        num_text_parameters=count("text_model", "text_projection"),
        example_text=example,
        image_size=vision.image_size,
        classes=list(model.config.id2label.values()) if is_classifier else [],
    )


def example_searches(
    model, processor, data: EvaluationSet, num_queries: int = 8, top_k: int = 5
) -> list[tuple[str, list[Found]]]:
    """Captions spread over the evaluation split, each with the pictures that it finds.

    Caption columns take turns; the choice depends on the data alone, not on what is found.
    """
    columns = list(data.examples)
    places = torch.linspace(0, len(data.keys) - 1, num_queries + 2)[1:-1].long().tolist()
    chosen = [(columns[turn % len(columns)], place) for turn, place in enumerate(places)]
    queries = [data.examples[column][place] for column, place in chosen]
    image_embeds = embed_pixels(model, processor, data.pixels)
    scores = embed_texts(model, processor.tokenizer, queries) @ image_embeds.t()
    best = scores.topk(min(top_k, len(data.keys)), dim=1).indices.tolist()
    return [
        (
            query,
            [
                Found(
                    data.pixels[found].permute(1, 2, 0).numpy(),
                    data.examples[column][found],
                    data.keys[found] == data.keys[place],
                )
                for found in row
            ],
        )
        for query, (column, place), row in zip(queries, chosen, best, strict=True)
    ]


def print_summary(folder: Path, metrics: dict[str, float]):
    """Print where the model is and how well it retrieves or classifies."""
    for name, value in metrics.items():
        if name.endswith(("R@1", "R@10", "accuracy")):
            print(f"{name:55} {100 * value:5.1f} %")
    print(f"the model, its card and its pictures are in {folder}")


def publish(folder: Path, repo_id: str, dry_run: bool):
    """Upload a run's folder, or list what would go up."""
    if dry_run:
        print(f"would push to {repo_id}:", *files_to_push(folder), sep="\n  ")
    else:
        print(f"pushed to {push(folder, repo_id)}")
