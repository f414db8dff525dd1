"""The `loratory` command: finds the verb, turns errors into sentences and exit codes.

Exit codes: 0 fine, 1 findings or a failed run, 2 wrong use, 130 interrupted, 143 and 129 ended by SIGTERM and SIGHUP.
"""

import difflib
import errno
import importlib
import io
import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

import click

import loratory
from loratory.errors import FAILED, WRONG_USE, LoratoryError

# verb -> module, and the line it has in --help: the modules are imported only when used.
VERBS = {
    "prepare": "Make a training folder from original pictures.",
    "tag": "Edit captions from the command line; undo any change.",
    "check": "What weakens training in pictures, captions and folders; mend it.",
    "stats": "Tags, pairs of them, exposure, buckets, sizes and leanings of a set.",
    "balance": "Repeats that give each concept an equal share; rename the folders.",
    "vocab": "What is known of tags: categories, other names, implications; import more.",
    "demo": "Train on the embedded model and pictures, and draw before and after.",
    "plan": "What a config would train, for how long, and what it needs.",
    "train": "Train an adapter, or go on with a run.",
    "runs": "List and compare runs; pause, stop or steer them, have them save.",
    "watch": "Show a run in the dashboard, from any terminal.",
    "queue": "Train one config after the other, unattended.",
    "grid": "Epochs by strengths at fixed seeds, in one picture.",
    "serve": "A page with a run's figures and pictures, on this machine only.",
    "presets": "Starting points for a config.",
    "lora": "Inspect, check, merge, resize, extract and convert adapter files.",
    "kohya": "Take over configs of sd-scripts and the kohya_ss GUI, or write them.",
    "doctor": "What this machine and this terminal can do.",
}

# What `loratory DIR` stands for.
_EDITOR = "edit"


class _Verbs(click.Group):
    """A group whose commands are imported when they are called: `--help` stays instant."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS and cmd_name != _EDITOR:
            return None
        return getattr(importlib.import_module(f"loratory.cli.{cmd_name}"), cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in VERBS and not args[0].startswith("-"):
            named = os.sep in args[0] or args[0].endswith(".toml")
            if named or os.path.isdir(args[0]):  # noqa: PTH112 - a verb costs no import of pathlib
                return super().resolve_command(ctx, [_EDITOR, *args])
            near = difflib.get_close_matches(args[0], VERBS, n=1)
            hint = (
                f" Did you mean {near[0]!r}?"
                if near
                else " A folder of pictures, a run or a config opens in the screens."
            )
            ctx.fail(f"No such command {args[0]!r}, and no such folder.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(
                [("PATH", "Open the screens on a folder of pictures, a run, or a config."), *VERBS.items()]
            )


@click.command(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=True)
@click.version_option(loratory.__version__, prog_name="loratory")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Prepare, tag, check, train and watch LoRA and LyCORIS adapters for Stable Diffusion.

    `loratory COMMAND --help` explains each command.
    """


def main() -> None:
    """The console script."""
    debug = "--debug" in sys.argv[1:]
    # These print to the terminal through handlers of their own, set up when they are imported.
    for library in ("DIFFUSERS", "TRANSFORMERS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    _prepare_streams()
    _quieten_libraries()
    with interruptible():
        code = _run(debug)
    try:
        sys.stdout.flush()
    except OSError:
        # The reader of our output has gone (`| head`). Python would try, and complain, once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


class _Ended(SystemExit):
    """By a signal; `code` is the exit code."""


@contextmanager
def interruptible() -> Generator[None]:
    """While it lasts SIGTERM and SIGHUP end a command as Ctrl-C does: what is half written goes, the terminal is whole.

    Before and after, Ctrl-C ends the process at once (see `__main__`). What is ignored, as under nohup, stays ignored.
    """

    def end(number: int, _frame: FrameType | None) -> None:
        raise _Ended(128 + number)

    wanted = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: end}
    if sys.platform != "win32":
        wanted[signal.SIGHUP] = end
    before = {number: signal.getsignal(number) for number in wanted}
    changed = {number: handler for number, handler in wanted.items() if before[number] is signal.SIG_DFL}
    for number, handler in changed.items():
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)


def _quieten_libraries() -> None:
    """Keeps off the terminal what libraries print by themselves."""
    # peft imports it wherever it is installed, and without a GPU it tells everybody about its kernels.
    logging.getLogger("bitsandbytes").addHandler(logging.NullHandler())
    # What is odd about a picture is a finding, or the reason why it cannot be read.
    warnings.filterwarnings("ignore", module="PIL")


def _prepare_streams() -> None:
    """Makes every write possible: to closed streams (they lead nowhere), of characters that the terminal lacks."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            # Takes the lowest free number, which is this one. Left free, it would go to one of a run's files, and what
            # some library prints would land in there.
            os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _run(debug: bool) -> int:
    try:
        # Nothing said, in a terminal: the screens, on the folder we are in.
        alone = len(sys.argv) == 1 and sys.stdin.isatty() and sys.stdout.isatty()
        result = cli.main(["."] if alone else None, standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.exceptions.Abort:
        return 130
    except click.ClickException as wrong:
        wrong.show()
        return WRONG_USE
    except KeyboardInterrupt:
        return 130
    except _Ended as ended:
        return ended.code if isinstance(ended.code, int) else FAILED
    except SystemExit:
        return 0  # click's answer to a reader of our output that has gone (`| head`)
    except Exception as error:  # noqa: BLE001 - the last line of defence: a person never sees a traceback unasked
        if debug:
            traceback.print_exc()
        return _explain(error)


def _explain(error: Exception) -> int:
    from loratory.cli import output

    if isinstance(error, LoratoryError):
        output.error(error.message, error.hint)
        return error.exit_code
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        output.error(f"The disk is full ({error.filename or 'while writing'}).", "Make room and try again.")
        return FAILED
    if isinstance(error, OSError) and error.filename:
        output.error(f"{error.strerror}: {error.filename}")
        return FAILED
    output.error(
        f"This is a defect of Loratory: {type(error).__name__}: {error}",
        "`loratory --debug …` shows where; please report it with that.",
    )
    return FAILED
