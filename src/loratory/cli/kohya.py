"""`loratory kohya`: configurations of kohya's tools, in and out."""

import shlex
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from loratory.atomic import write_text
from loratory.cli import output
from loratory.config.describe import show
from loratory.config.fields import FIELDS
from loratory.config.kohya.export import Folder, Model, export
from loratory.config.kohya.importing import Imported, import_file
from loratory.config.kohya.render import document, render
from loratory.config.kohya.report import Entry
from loratory.config.load import load_config
from loratory.config.schema import Config
from loratory.errors import FAILED, LoratoryError
from loratory.wording import typed

if TYPE_CHECKING:
    from loratory.dataset.scan import Dataset


@click.group()
def kohya() -> None:
    """Take over a configuration of sd-scripts or the kohya_ss GUI, or write one for them."""


@kohya.command("import", short_help="Take over a file of theirs, and account for every key.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("-o", "--output", "config", metavar="CONFIG", type=click.Path(path_type=Path), help="Write to CONFIG.")
@click.option("--force", is_flag=True, help="Replace CONFIG if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print report and settings as JSON.")
def import_command(file: Path, config: Path | None, force: bool, as_json: bool) -> int:
    """Turn FILE into a configuration, and say what became of each of its settings.

    FILE is a JSON of the kohya_ss GUI, a TOML, dataset TOML or command line of sd-scripts, or an adapter file
    (.safetensors), which says how it was trained. Exits with 1 if something important could not be carried out.
    """
    if config is not None and config.exists() and not force:
        raise LoratoryError(f"{config} exists already.", hint="--force replaces it; another name keeps both.")
    imported = import_file(file)
    text = render(imported, file.name)
    if config is not None:
        _write(config, text)
    if as_json:
        output.data_json(_report_json(imported))
    elif config is None:
        output.data(text.rstrip("\n"))
    _report(imported)
    if config is not None:
        todo = f"Fill in {' and '.join(imported.missing)}, then: " if imported.missing else "Next: "
        output.say(f"Wrote {config}. {todo}loratory plan {typed(config)}")
    return 0 if imported.is_faithful else FAILED


@kohya.command("export", short_help="Write a config for sd-scripts, and the command for it.")
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting, e.g. training.seed=7.")
@click.option(
    "-o",
    "--output",
    "folder",
    metavar="DIR",
    type=click.Path(path_type=Path),
    default=Path(),
    help='Folder to write to, the current one by default; "-" prints the TOML instead.',
)
@click.option("--sdxl/--sd", "is_sdxl", default=None, help="The family, where the model cannot be read.")
@click.option("--force", is_flag=True, help="Replace files that exist.")
def export_command(config: Path, overrides: tuple[str, ...], folder: Path, is_sdxl: bool | None, force: bool) -> None:
    """Write CONFIG as a configuration of sd-scripts, and print the command that trains it."""
    settings = load_config(config, overrides)
    prefix = "" if str(folder) == "-" else f"{folder}/"
    names = {what: f"{config.stem}.{ending}" for what, ending in _FILES.items()}
    scanned = _scan(settings)
    epochs = _epochs(settings, scanned)
    exported = export(settings, _model(settings, is_sdxl), epochs, _folders(scanned))
    texts = {what: getattr(exported, what) for what in _FILES if getattr(exported, what)}
    if str(folder) == "-":
        for what, text in texts.items():
            output.data(f"# {names[what]}\n{text.rstrip()}\n")
    else:
        for what in texts:
            if (folder / names[what]).exists() and not force:
                raise LoratoryError(f"{folder / names[what]} exists already.", hint="--force replaces it.")
        for what, text in texts.items():
            _write(folder / names[what], text)
    words = ["accelerate", "launch", f"{exported.script}.py", "--config_file", prefix + names["config"]]
    for what, option in (("dataset", "--dataset_config"), ("prompts", "--sample_prompts")):
        words += [option, prefix + names[what]] if what in texts else []
    output.data(shlex.join(words))
    for remark in exported.remarks:
        output.say(remark)


_FILES = {"config": "sd-scripts.toml", "dataset": "dataset.toml", "prompts": "prompts.txt"}


def _model(config: Config, is_sdxl: bool | None) -> Model:
    from loratory.models.detect import detect_model
    from loratory.models.hub import is_hub_id

    try:
        if is_hub_id(config.model.pretrained_model_name_or_path):
            raise LoratoryError("A model of the hub is not downloaded for this.")
        info = detect_model(config.model, config.noise)
    except LoratoryError as error:
        family = config.model.family
        if is_sdxl is not None:
            family = "sdxl" if is_sdxl else "sd2" if family == "sd2" else "sd1"
        if family == "auto":
            raise LoratoryError(
                f"Whether the model is an SDXL one cannot be read: {error.message}",
                hint="Say it with --sdxl or --sd, or with model.family.",
            ) from error
        output.say(f"The model cannot be read, so that it is taken for one that predicts noise: {error.message}")
        return Model(family)
    return Model(info.family, info.prediction_type == "v_prediction", info.zero_terminal_snr)


def _scan(config: Config) -> "Dataset | None":
    from loratory.dataset.scan import scan_dataset

    try:
        return scan_dataset(config.dataset, config.caption)
    except LoratoryError:
        return None


def _folders(dataset: "Dataset | None") -> list[Folder] | None:
    if dataset is None:
        return None
    return [Folder(each.path, each.repeats, each.class_tokens, each.is_reg) for each in dataset.folders]


def _epochs(config: Config, dataset: "Dataset | None") -> int | None:
    """The epochs that come to the asked exposure, where the pictures can be read."""
    from loratory.dataset.epochs import FolderCount, resolve_length

    exposure = config.target_exposure
    counts = (
        [FolderCount(each.repeats, len(each.images)) for each in dataset.folders if not each.is_reg] if dataset else []
    )
    if exposure is None or not any(count.images for count in counts):
        return None
    return resolve_length(counts, lambda _: 1, exposure=exposure).epochs


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    except OSError as error:
        raise LoratoryError(f"Cannot write {path}: {error.strerror}.") from error


def _report_json(imported: Imported) -> dict[str, object]:
    return {
        "kind": imported.kind,
        "settings": document(imported),
        "report": [
            entry._asdict() | {"value": _jsonable(entry.value), "result": _jsonable(entry.result)}
            for entry in imported.entries
        ],
        "defaults": imported.defaults,
        "missing": imported.missing,
        "hints": imported.hints,
    }


def _jsonable(value: object) -> object:
    is_plain = value is None or isinstance(value, bool | int | str)
    return value if is_plain else show(value) if not isinstance(value, float) or value != value else value


def _report(imported: Imported) -> None:
    """The account of every key, the most important first."""
    entries = imported.entries
    lost = [entry for entry in entries if entry.outcome == "not honoured"]
    changed = [entry for entry in entries if entry.outcome == "changed"]
    mapped = [entry for entry in entries if entry.outcome == "mapped"]
    ours = [entry for entry in mapped if _is_default(entry)]
    taken = [entry for entry in mapped if not _is_default(entry)]
    output.say(f"This is {imported.kind}.")
    _section("Not honoured", sorted((e.sentence() for e in lost), key=lambda text: text.casefold()), "bold red")
    _section("Changed", [entry.sentence() for entry in changed], "bold yellow")
    _section("Taken over", [entry.sentence() for entry in taken], "bold")
    if ours:
        _section("Taken over, the same as the default here", [", ".join(entry.key for entry in ours)], "bold")
    reasons: dict[str, list[str]] = defaultdict(list)
    for entry in entries:
        if entry.outcome == "ignored":
            reasons[entry.reason].append(entry.key)
    _section("Ignored", [f"{', '.join(keys)}: {reason}" for reason, keys in reasons.items()], "bold")
    defaults = [
        f"{name} = {show(value)}" for name, value in imported.defaults.items() if value != FIELDS[name].get_default()
    ]
    _section("Not named in the file, so its program's default holds", defaults, "bold")
    _section("Note", imported.hints, "bold")
    _section("Still to fill in", imported.missing, "bold yellow")


def _section(title: str, lines: list[str], style: str) -> None:
    if lines:
        output.say(f"{title} ({len(lines)}):" if len(lines) > 1 else f"{title}:", style)
        for line in lines:
            output.say(f"  {output.one_line(line)}")


def _is_default(entry: Entry) -> bool:
    if entry.setting not in FIELDS:
        return False
    default = FIELDS[entry.setting].get_default()
    return entry.result == default or (default is None and entry.result == 0)
