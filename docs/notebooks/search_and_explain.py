# ---
# jupyter:
#   jupytext: {text_representation: {extension: .py, format_name: percent}}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Search your pictures, and see why one was found

# %% tags=["parameters"]
MODEL = "outputs/emoji"
PICTURES = "photos"
QUERY = "a red square"

# %% [markdown]
# ## An index
# Each picture is embedded once. Run it again after changes: only what is new or changed is embedded.

# %%
from modeling_clip_vit.cli import main

assert main(["index", MODEL, PICTURES, "outputs/pictures.index"]) == 0

# %%
from modeling_clip_vit.search.engine import PictureSearch
from modeling_clip_vit.search.index import PictureIndex

index = PictureIndex.open("outputs/pictures.index")
search = PictureSearch(index)
found = search(search.embed(QUERY), top_k=5)
for hit in found.hits:
    print(f"{hit.score:.3f}  {hit.row['path']}")

# %% [markdown]
# ## Why the first one
# Integrated gradients (Sundararajan et al., 2017): how much each part of the picture, and each word, adds to the match.

# %%
from modeling_clip_vit.explain.explain import explain
from modeling_clip_vit.explain.figure import overlay
from modeling_clip_vit.inference.loading import load_encoder

picture = index.open_picture(found.hits[0].row)
explanation = explain(load_encoder(MODEL), picture, QUERY)
for word in explanation.words:
    print(f"{word.value:+.3f}  {word.text}")
overlay(explanation, picture)
