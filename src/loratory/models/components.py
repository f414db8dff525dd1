"""The parts of a base model: their configs, where their weights lie, and their tokenizers. No torch here."""

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from loratory.errors import LoratoryError
from loratory.models.header import read_header, refuse_pickle
from loratory.models.recognize import Family

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

    from loratory.models.detect import ModelInfo

Component = Literal["unet", "vae", "text_encoder", "text_encoder_2"]

ASSETS = Path(__file__).parent / "assets"

# Metadata key of a single file that describes non-standard widths: JSON {component: config}.
COMPONENTS_KEY = "loratory.components"

CLIP_VOCABULARY_SIZE = 49408


def component_names(family: Family) -> tuple[Component, ...]:
    """The components of a family with weights, in loading order."""
    return get_args(Component) if family == "sdxl" else ("unet", "vae", "text_encoder")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises LoratoryError when it is missing or not an object."""
    try:
        value: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LoratoryError(
            f"{path} is missing: the model folder is not complete.", hint="Download or export it again."
        ) from None
    except (OSError, ValueError) as error:
        raise LoratoryError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(value, dict):
        raise LoratoryError(f"{path} is not a JSON object.")
    return value


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of one component folder: one file, or the shards its index names.

    The full-precision file is taken before a variant such as fp16. Raises LoratoryError when there is none.
    """
    # The shortest name first: a variant such as fp16 adds its own.
    indexes = sorted(folder.glob("*.safetensors.index.json"), key=lambda path: len(path.name))
    single = [folder / f"{stem}.safetensors" for stem in ("diffusion_pytorch_model", "model")]
    for path in single:
        if path.is_file():
            return [path]
    for index in indexes:
        shards = sorted(set(read_json(index)["weight_map"].values()))
        return [folder / shard for shard in shards]
    variants = sorted(folder.glob("*.safetensors"), key=lambda path: ("non_ema" in path.name, path.name))
    if variants:
        return variants[:1]
    for pickle in (*sorted(folder.glob("*.bin")), *sorted(folder.glob("*.ckpt"))):
        refuse_pickle(pickle)
    raise LoratoryError(
        f"{folder} has no .safetensors weights.",
        hint="The model folder is not complete: download or export it again.",
    )


def family_config(family: Family, component: Component) -> dict[str, Any]:
    """The published config of one component of a family."""
    return read_json(ASSETS / family / component / "config.json")


def component_configs(info: "ModelInfo") -> dict[Component, dict[str, Any]]:
    """The config of every component of a model.

    From its folder, from the metadata of its file, or the published ones of its family.
    """
    names = component_names(info.family)
    if info.layout == "diffusers":
        return {name: read_json(info.path / name / "config.json") for name in names}
    described = read_header(info.path).metadata.get(COMPONENTS_KEY)
    if described is None:
        return {name: family_config(info.family, name) for name in names}
    return described_components(info.path, described, names)


def described_components(path: Path, described: str, names: tuple[Component, ...]) -> dict[Component, dict[str, Any]]:
    """The configs of `names` out of the metadata value `described` of the file `path`."""
    try:
        configs: dict[str, dict[str, Any]] = json.loads(described)
        return {name: dict(configs[name]) for name in names}
    except (ValueError, KeyError, TypeError) as error:
        raise LoratoryError(
            f"{path}: its metadata key {COMPONENTS_KEY} does not describe {', '.join(names)} ({error!r})."
        ) from error


@cache
def _vocabulary(folder: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        vocabulary = read_json(folder / "vocab.json")
        lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
        pairs = [line.split() for line in lines if not line.startswith("#version")]
    else:
        model: dict[str, Any] = read_json(folder / "tokenizer.json")["model"]
        vocabulary = model["vocab"]
        pairs = [merge.split() if isinstance(merge, str) else merge for merge in model["merges"]]
    return vocabulary, [(pair[0], pair[1]) for pair in pairs if len(pair) == 2]


def build_tokenizer(folder: Path, pad_token: str) -> "CLIPTokenizer":
    """CLIP tokenizer from the vocabulary in `folder` (`vocab.json` and `merges.txt`, or `tokenizer.json`).

    The pad token is set after the tokenizer is built. Given at construction, as `from_pretrained` gives it,
    "!" becomes a special token, and every "!" of a caption turns into padding (id 0) instead of the id the
    text encoder was trained with (256).
    """
    from transformers import CLIPTokenizer

    vocabulary, merges = _vocabulary(folder)
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)  # pyright: ignore[reportArgumentType] - takes tables too
    added_path = folder / "added_tokens.json"
    if added_path.is_file():
        added = read_json(added_path)
        tokenizer.add_tokens([token for token, _ in sorted(added.items(), key=lambda item: item[1])])
    tokenizer.pad_token = pad_token
    return tokenizer


def load_tokenizers(info: "ModelInfo") -> "list[CLIPTokenizer]":
    """The tokenizer of each text encoder, from the model's folder or, where it has none, the shared one.

    Needs transformers but not torch, so captions can be counted before a model is loaded. The second text
    encoder of SDXL and the one of SD 2.x pad with "!" (id 0), the other ones with the end token.
    """
    folders = ("tokenizer", "tokenizer_2") if info.family == "sdxl" else ("tokenizer",)
    pad_tokens = ("!",) if info.family == "sd2" else ("<|endoftext|>", "!")
    tokenizers: list[CLIPTokenizer] = []
    for folder_name, pad_token in zip(folders, pad_tokens, strict=False):
        own = info.path / folder_name
        has_own = info.layout == "diffusers" and any(
            (own / name).is_file() for name in ("vocab.json", "tokenizer.json")
        )
        tokenizers.append(build_tokenizer(own if has_own else ASSETS / "clip", pad_token))
    return tokenizers
