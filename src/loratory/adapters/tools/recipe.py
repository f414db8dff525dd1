"""What the metadata of a merged file says: what it was made of, and what all of that had in common."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from loratory.adapters.tools.sources import AdapterSource, Ingredient

RECIPE_KEY = "loratory.merged"
"""Metadata: JSON list of what was merged, each with file name, SHA-256 of the file, and weights."""

MADE_FOR_KEY = "loratory.merged_for"
"""Metadata: the base model whose weights a merged adapter was computed from; it is right for no other."""

Recipe = Sequence[Mapping[str, Any]]

# What is of one file alone, or is written anew.
_OWN = (
    "sshs_model_hash",
    "sshs_legacy_hash",
    "modelspec.hash_sha256",
    "modelspec.title",
    "modelspec.date",
    "modelspec.thumbnail",
    "ss_output_name",
    "ss_network_dim",
    "ss_network_alpha",
    "ss_network_module",
    "ss_network_args",
    "ss_training_comment",
)


def recipe_of(sources: Sequence[tuple[Ingredient, AdapterSource]]) -> Recipe:
    """What was merged, as the metadata has it; reads the files whole."""
    return [
        {
            "name": ingredient.path.name,
            "sha256": adapter.sha256(),
            "unet": ingredient.unet,
            "text_encoder": ingredient.text_encoder,
        }
        for ingredient, adapter in sources
    ]


def recipe_metadata(recipe: Recipe, *others: str) -> dict[str, str]:
    """The recipe for programs, and the names alone for people. others: what else the result is made of."""
    names = ", ".join([*others, *(str(item["name"]) for item in recipe)])
    return {RECIPE_KEY: json.dumps(recipe), "modelspec.merged_from": names}


def common_metadata(sources: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """What all files say alike, without what is of one file alone."""
    first, *others = sources
    return {
        key: value
        for key, value in first.items()
        if key not in _OWN and all(other.get(key) == value for other in others)
    }


def spoken_recipe(recipe: Recipe) -> str:
    """`a.safetensors at 0.8, b.safetensors at 1 (text encoders 0.5)`."""
    return ", ".join(
        f"{item['name']} at {item['unet']:g}"
        + (f" (text encoders {item['text_encoder']:g})" if item["text_encoder"] != item["unet"] else "")
        for item in recipe
    )
