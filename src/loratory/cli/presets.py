"""`loratory presets`: starting points for a configuration."""

from pathlib import Path

import click
import tomli_w

from loratory.atomic import write_text
from loratory.cli import output
from loratory.config.load import absolute_model_source, resolve
from loratory.config.presets import Preset, find_preset, list_presets
from loratory.config.toml_files import parse_toml, read_text
from loratory.errors import LoratoryError
from loratory.wording import typed

_STAND_INS = {"model": {"pretrained_model_name_or_path": "nano"}, "dataset": {"train_data_dir": "."}}


@click.group()
def presets() -> None:
    """Start a configuration from one of the guide's setups, or from one of your own."""


@presets.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
def list_command(as_json: bool) -> None:
    """Name every preset, with one line about it and whether it can be used."""
    found = list_presets()
    problems = {preset.name: _problems(preset) for preset in found}
    if as_json:
        output.data_json([preset._asdict() | {"problems": problems[preset.name]} for preset in found])
        return
    width = max((len(preset.name) for preset in found), default=0)
    for preset in found:
        remarks = ["yours"] if preset.source == "own" else []
        remarks += ["cannot be used"] if problems[preset.name] else []
        ending = f" ({', '.join(remarks)})" if remarks else ""
        output.data(output.plain(f"{preset.name:{width}}  {preset.description}{ending}"))


@presets.command("show")
@click.argument("name")
def show_command(name: str) -> None:
    """Print a preset's TOML."""
    output.data(read_text(find_preset(name, Path.cwd())).rstrip("\n"))


@presets.command("new")
@click.argument("name")
@click.argument("config", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--model", metavar="PATH", help='Base model: a file, a folder, a hub id, or "nano".')
@click.option("--data", metavar="DIR", type=click.Path(path_type=Path), help="Folder of the concept folders.")
@click.option("--output-name", metavar="NAME", help="Name of the adapter; by default that of CONFIG.")
@click.option("--force", is_flag=True, help="Replace CONFIG if it exists.")
def new_command(
    name: str, config: Path, model: str | None, data: Path | None, output_name: str | None, force: bool
) -> None:
    """Write CONFIG, a small configuration that starts from the preset NAME."""
    if config.exists() and not force:
        raise LoratoryError(f"{config} exists already.", hint="--force replaces it; another name keeps both.")
    text = _new_config(name, config, model, data, output_name or config.stem)
    document = parse_toml(text, config)
    resolve(
        {table: stand_in | document.get(table, {}) for table, stand_in in _STAND_INS.items()}
        | {key: value for key, value in document.items() if key not in _STAND_INS},
        config,
    )
    try:
        write_text(config, text)
    except OSError as error:
        raise LoratoryError(f"Cannot write {config}: {error.strerror}.") from error
    missing = [
        key for key, value in (("pretrained_model_name_or_path", model), ("train_data_dir", data)) if value is None
    ]
    todo = f"Fill in {' and '.join(missing)}, then: " if missing else "Next: "
    output.say(f"Wrote {config}. {todo}loratory plan {typed(config)}")


def _new_config(name: str, config: Path, model: str | None, data: Path | None, output_name: str) -> str:
    folder = config.absolute().parent
    preset_file = find_preset(name, Path.cwd())
    if not preset_file.is_file():
        raise LoratoryError(f"No preset at {preset_file}.")
    preset = _as_seen_from(folder, preset_file) if "/" in name or name.endswith(".toml") else name
    if model is not None:
        source = absolute_model_source(model, Path.cwd())
        model = _as_seen_from(folder, Path(source)) if Path(source).is_absolute() else source
    data_dir = None if data is None else _as_seen_from(folder, data.expanduser())
    return "\n".join(
        (
            "# `preset` supplies every setting that is not written here. This prints it:",
            f"#     loratory presets show {output.plain(name)}",
            _line("preset", preset),
            "[model]",
            '# A .safetensors file, a diffusers folder, a hub id, or "nano" for the small embedded model.',
            _line("pretrained_model_name_or_path", model, example="/path/to/model.safetensors"),
            "[dataset]",
            "# The folder that holds the concept folders, named like 10_fox: repeats, underscore, token.",
            _line("train_data_dir", data_dir, example="/path/to/set"),
            "[output]",
            "# The adapter becomes output/NAME.safetensors beside this file.",
            _line("output_name", output_name),
            "# An adapter after each epoch and pictures for two captions, to look at and to choose from in the end:",
            "# save_every_n_epochs = 1",
            "#",
            "# [sample]",
            "# prompts_from_captions = 2",
            "# sample_every_n_epochs = 1",
            "",
        )
    )


def _line(key: str, value: str | None, *, example: str = "") -> str:
    """`key = "value"` and an empty line, or the same commented out with an example."""
    return ("# " if value is None else "") + tomli_w.dumps({key: example if value is None else value})


def _as_seen_from(folder: Path, path: Path) -> str:
    """Relative to `folder` inside it, so that the folder can be moved; absolute elsewhere."""
    path = path.absolute()
    return f"./{path.relative_to(folder)}" if path.is_relative_to(folder) and path != folder else str(path)


def _problems(preset: Preset) -> list[str]:
    """Why a configuration cannot start from the preset."""
    try:
        resolve({"preset": str(preset.path), **_STAND_INS}, preset.path)
    except LoratoryError as error:
        return error.message.splitlines()
    return []
