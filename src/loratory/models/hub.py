"""Models named by their Hugging Face id: the local cache first, then the network."""

import re
from pathlib import Path

from loratory.errors import FAILED, LoratoryError
from loratory.models.components import read_json

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")

# The components training needs, in full precision: no safety checker, no fp16 or non-EMA twins, no pickles.
_WANTED = [
    "model_index.json",
    "scheduler/scheduler_config.json",
    *(f"{folder}/config.json" for folder in ("unet", "vae", "text_encoder", "text_encoder_2")),
    *(f"{folder}/diffusion_pytorch_model.safetensors" for folder in ("unet", "vae")),
    *(f"{folder}/diffusion_pytorch_model-?????-of-?????.safetensors" for folder in ("unet", "vae")),
    *(f"{folder}/diffusion_pytorch_model.safetensors.index.json" for folder in ("unet", "vae")),
    *(f"{folder}/model.safetensors" for folder in ("text_encoder", "text_encoder_2")),
    *(f"{folder}/model-?????-of-?????.safetensors" for folder in ("text_encoder", "text_encoder_2")),
    *(f"{folder}/model.safetensors.index.json" for folder in ("text_encoder", "text_encoder_2")),
    *(f"{folder}/*.{suffix}" for folder in ("tokenizer", "tokenizer_2") for suffix in ("json", "txt")),
]


def is_hub_id(name: str) -> bool:
    """Whether `name` has the form `owner/model` of a Hugging Face id (and not of a path to a file)."""
    return _HUB_ID.fullmatch(name) is not None and not name.endswith((".safetensors", ".ckpt", ".pt", ".bin"))


def _lacking(folder: Path) -> list[str]:
    """What a cached snapshot lacks of a whole model: its index, or the components without weights.

    Another program may have fetched only the configs or the tokenizers of the same model.
    """
    index = folder / "model_index.json"
    if not index.is_file():
        return [index.name]
    named = read_json(index)
    parts = [part for part in ("unet", "vae", "text_encoder", "text_encoder_2") if part in named]
    return [part for part in parts if not any(file.is_file() for file in (folder / part).glob("*.safetensors"))]


def fetch_from_hub(repo_id: str) -> Path:
    """Folder with the model `owner/name` of the Hugging Face hub in diffusers layout.

    A complete copy in the local Hugging Face cache is used without asking the network. Raises LoratoryError
    when the model does not exist, is gated, is not published as a diffusers folder with safetensors weights,
    or cannot be reached (exit code 1).
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        cached = Path(snapshot_download(repo_id, allow_patterns=_WANTED, local_files_only=True))
        if not _lacking(cached):
            return cached
    except (LocalEntryNotFoundError, ValueError):  # ValueError: not a valid name, which the next call reports
        pass
    try:
        folder = Path(snapshot_download(repo_id, allow_patterns=_WANTED))
    except GatedRepoError as error:
        raise LoratoryError(
            f"{repo_id} on Hugging Face asks you to accept its licence first.",
            hint=f"Accept it at https://huggingface.co/{repo_id}, then run `hf auth login`.",
        ) from error
    except RepositoryNotFoundError as error:
        raise LoratoryError(
            f"There is no file or folder {repo_id}, and no model of that name on Hugging Face "
            "(or it is private and you are not logged in).",
            hint="Check model.pretrained_model_name_or_path; for a private model run `hf auth login`.",
        ) from error
    except Exception as error:  # each generation of huggingface_hub has another HTTP library with its own errors
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise LoratoryError(
            f"{repo_id} is not in the local Hugging Face cache and could not be downloaded ({reason}).",
            hint="Check the network, or name a checkpoint file or diffusers folder on this machine.",
            exit_code=FAILED,
        ) from error
    if lacking := _lacking(folder):
        raise LoratoryError(
            f"{repo_id} on Hugging Face is not a complete model in diffusers layout with safetensors weights: "
            f"no {', '.join(lacking)}.",
            hint="If the page offers a single .safetensors checkpoint, download that and name the file. "
            "If the network is down, try again later: only part of the model is in the local cache.",
        )
    return folder
