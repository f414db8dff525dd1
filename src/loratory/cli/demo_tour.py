"""`loratory demo --tour`: from raw pictures to the epoch to keep, one command at a time."""

import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click

from loratory.cli import output
from loratory.config.load import load_config
from loratory.errors import FAILED
from loratory.runs.store import find_runs
from loratory.wording import typed

_PROMPT = "hrt, heart, orange, blue background --d 4"


@dataclass(frozen=True)
class Stage:
    """arguments: of the program, asked for when the stages before it are done. may_find: a 1 says what was found."""

    title: str
    text: str
    arguments: Callable[[], tuple[str, ...]]
    may_find: bool = False


def walk(config_path: Path, overrides: tuple[str, ...] = ()) -> int:
    """Shows and runs each command, waiting for a key before it where there is somebody to press one.

    config_path: of the unpacked demo, beside its originals/. Every command runs as a process of its own: what is shown
    is what runs, and can be typed again.
    """
    load_config(config_path, overrides)  # a wrong --set ends it here, not at the third command
    stages = _stages(config_path, overrides)
    output.say(f"From raw pictures to a LoRA in {len(stages)} commands, all in {config_path.parent}.")
    for number, stage in enumerate(stages, 1):
        arguments = stage.arguments()
        output.say("")
        output.say(f"{number}/{len(stages)}  {stage.title}", "bold")
        output.say(stage.text)
        output.say("")
        output.say(f"$ {shlex.join(('loratory', *arguments))}", "cyan")
        _wait()
        code = _run(arguments)
        if code != 0 and not (stage.may_find and code == FAILED):
            output.error(
                f"`loratory {arguments[0]}` ended with {code}, and the tour with it.",
                hint="The same command begins anew; what is prepared stays.",
            )
            return code
    run = _newest_run(config_path, overrides)
    output.say("")
    output.say("That was all of it. With the same pictures you can go on in the screens:")
    for what, path in (("the tags", config_path.parent / "pictures"), ("the settings", config_path), ("the run", run)):
        output.say(f"  {what:12}  loratory {typed(path)}")
    return 0


def _stages(config_path: Path, overrides: tuple[str, ...]) -> tuple[Stage, ...]:
    folder, config = config_path.parent, str(config_path)
    pictures = str(folder / "pictures")
    settings = ("output.overwrite=true", "output.save_every_n_epochs=1", *overrides)
    changes = tuple(word for setting in settings for word in ("--set", setting))
    return (
        Stage(
            "prepare",
            "The originals are shiny hearts, most of them transparent, with captions beside them, and stay as they "
            "are. Made from them is a training folder: its name says how often each picture is shown, the token to "
            "prompt with and the class, and behind what was transparent lies white, as the captions say.",
            lambda: (
                *("prepare", str(folder / "originals"), pictures, "--token", "hrt", "--class", "heart"),
                *("--repeats", "10", "--resolution", "128", "--backgrounds", "white"),
            ),
        ),
        Stage(
            "check",
            "What would weaken the training? Errors and warnings want mending, notes a thought: these hearts differ in "
            "nothing but their colours, and are meant to.",
            lambda: ("check", pictures, "--config", config),
            may_find=True,
        ),
        Stage(
            "plan",
            "What will be trained, for how many steps, at which rate, on how much disk: before anything runs.",
            lambda: ("plan", config, *changes),
        ),
        Stage(
            "train",
            "Now it trains, and saves after each epoch, so that they can be compared. Ctrl-C would stop it with its "
            "state saved, to go on from there.",
            lambda: ("train", config, *changes),
        ),
        Stage(
            "grid",
            "Which epoch, and how strong? The same prompt and seed with each file that was saved.",
            lambda: ("grid", str(_newest_run(config_path, overrides)), "--strengths", "0,0.5,1", "--prompt", _PROMPT),
        ),
    )


def _newest_run(config_path: Path, overrides: tuple[str, ...]) -> Path:
    """The run that was trained last, as a person here would type it."""
    path = next(find_runs(load_config(config_path, overrides).output.runs_dir)).path
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _wait() -> None:
    """Until a key is pressed, where there is somebody to press one. Raises KeyboardInterrupt."""
    if sys.stdin.isatty() and sys.stderr.isatty():
        output.say("A key runs it, Ctrl-C leaves the tour.", "dim")
        click.getchar()  # not click.pause, which takes Ctrl-C for a key


def _run(arguments: tuple[str, ...]) -> int:
    process = subprocess.Popen((sys.executable, "-P", "-m", "loratory", *arguments))
    while True:
        try:
            code = process.wait()
            return code if code >= 0 else 128 - code
        except KeyboardInterrupt:
            continue  # the process has it too, and knows better what to do with it
        except SystemExit:  # a signal that only we were sent
            process.terminate()
            process.wait()
            raise
