"""`loratory runs stop`, `pause`, `sample`, …: commands to a run that is being trained, here or elsewhere."""

import difflib
from pathlib import Path

import click

from loratory.cli import output
from loratory.cli.find_run import find_run
from loratory.errors import LoratoryError
from loratory.runs.adjustments import LARGEST_RATE, SMALLEST_RATE, rate_of
from loratory.runs.control import Command, CommandName, send
from loratory.runs.store import ALIVE, RunDirectory, liveness
from loratory.runs.way_back import gone, way_back

_AFTER_STEP = "it is obeyed after the step in hand"


@click.command()
@click.argument("run")
def stop(run: str) -> None:
    """Have RUN save its state and stop.

    `loratory train --resume RUN` goes on later.
    """
    _send(run, Command("stop"))


@click.command()
@click.argument("run")
def save(run: str) -> None:
    """Have RUN save the adapter as it is now, and go on."""
    _send(run, Command("save"))


@click.command()
@click.argument("run")
def pause(run: str) -> None:
    """Have RUN wait after the step in hand.

    `loratory runs resume RUN` lets it go on. It keeps its memory: to free the card, stop it instead.
    """
    _send(run, Command("pause"))


@click.command()
@click.argument("run")
def resume(run: str) -> None:
    """Let a paused RUN go on.

    One that waits because its disk is full looks for room at once.
    """
    directory = _alive(run)
    record = directory.read_record()
    # A pause that was sent a moment ago may not be obeyed yet.
    if liveness(record) != "paused" and not any(directory.control.glob("*-pause.json")):
        raise LoratoryError(f"{directory.path} is not paused: it is {liveness(record)}.")
    _leave(directory, Command("resume"), "it is obeyed at once")


@click.command()
@click.argument("run")
@click.argument("prompt", required=False)
def sample(run: str, prompt: str | None) -> None:
    """Have RUN draw its prompts, or PROMPT, now.

    PROMPT may have kohya's flags: --n --w --h --d --s --l --ss.
    """
    directory = _alive(run)
    if prompt is not None:
        from loratory.config.load import load_config
        from loratory.sampling.prompts import default_prompt, parse_prompt

        parse_prompt(prompt, default_prompt(load_config(directory.config)), "PROMPT")
    _leave(directory, Command("sample", prompt or ""))


@click.command()
@click.argument("run")
@click.argument("image")
def skip(run: str, image: str) -> None:
    """Have RUN leave IMAGE out from here on.

    IMAGE is a file, "folder/name.png" as the events name it, or a name that only one picture has.
    """
    directory = _alive(run)
    _leave(directory, Command("skip", _picture(directory, image)))


@click.command()
@click.argument("run")
@click.argument("image")
def unskip(run: str, image: str) -> None:
    """Have RUN take an IMAGE again that was skipped."""
    directory = _alive(run)
    _leave(directory, Command("unskip", _picture(directory, image)))


@click.command()
@click.argument("run")
@click.argument("factor")
def rate(run: str, factor: str) -> None:
    """Have RUN scale its learning rates by FACTOR.

    FACTOR is on those of the config, from the next step on: 0.5 halves them, 1 puts them back.
    """
    if rate_of(factor) is None:
        raise LoratoryError(
            f"FACTOR {output.one_line(factor)}: must be a number from {SMALLEST_RATE:g} to {LARGEST_RATE:g}.",
            hint="0.5 halves the rates of the config, 1 puts them back.",
        )
    _leave(_alive(run), Command("rate", factor))


COMMANDS = (stop, save, pause, resume, sample, skip, unskip, rate)


def _send(name: str, command: Command) -> None:
    _leave(_alive(name), command)


def _alive(name: str) -> RunDirectory:
    """The run called `name`, if a process has it in hand; else LoratoryError says what can be done."""
    run = find_run(name)
    state = liveness(run.read_record())
    if state in ALIVE:
        return run
    if state == "crashed":
        message, hint = gone(run)
        raise LoratoryError(message, hint=hint)
    hint = "" if state == "done" else way_back(run)
    raise LoratoryError(f"{run.path} is not being trained: it is {state}.", hint=hint)


def _leave(run: RunDirectory, command: Command, when: str = _AFTER_STEP) -> None:
    try:
        send(run.control, command)
    except OSError as error:
        raise LoratoryError(f"{command.name} cannot be left in {run.control}: {error.strerror}.") from error
    what: CommandName | str = f"{command.name} {output.one_line(command.value)}" if command.value else command.name
    output.say(f"{what} is left for {run.name}; {when}.")


def _picture(run: RunDirectory, image: str) -> str:
    """The picture `image` as the run's events name it. Raises LoratoryError where there is none, or are several."""
    from loratory.config.load import load_config
    from loratory.dataset.scan import scan_dataset

    config = load_config(run.config)
    try:
        with output.working("reading pictures"):
            images = scan_dataset(config.dataset, config.caption).images
    except LoratoryError:
        return image  # they lie on the machine that trains; it knows its pictures
    names = {f"{each.folder}/{each.path.name}": each.path for each in images}
    if image in names:
        return image
    wanted = Path(image).absolute()
    matches = [name for name, path in names.items() if path == wanted or path.resolve() == wanted.resolve()]
    matches = matches or [name for name, path in names.items() if image in (path.name, path.stem)]
    if len(matches) == 1:
        return matches[0]
    said = output.one_line(image)
    if matches:
        raise LoratoryError(f"“{said}” could be {' or '.join(map(output.one_line, matches[:5]))}.")
    near = difflib.get_close_matches(image, [*names, *(path.name for path in names.values())], n=1)
    hint = f"Did you mean {output.one_line(near[0])}?" if near else ""
    raise LoratoryError(f"The run trains no picture “{said}”.", hint=hint)
