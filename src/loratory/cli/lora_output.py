"""What the commands that write adapter files share: where the file goes, and how its properties are shown."""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.table import Table
from rich.text import Text

from loratory.cli import output
from loratory.wording import spoken_bytes

Command = TypeVar("Command", bound=Callable[..., Any])


def output_options() -> Callable[[Command], Command]:
    """-o, --precision, --force and --json."""
    return options(
        click.option(
            "-o", "--output", "target", required=True, type=click.Path(path_type=Path), help="The file to write."
        ),
        click.option("--precision", type=click.Choice(["fp16", "bf16", "float"]), help="Of the file written."),
        click.option("--force", is_flag=True, help="Replace the output if it is there already."),
        click.option("--json", "as_json", is_flag=True, help="What was done, as JSON."),
    )


def options(*added: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """Several options as one decorator, in the order in which help shows them."""

    def add(command: Command) -> Command:
        for option in reversed(added):
            command = option(command)
        return command

    return add


def file_row(target: Path, beside: str = "") -> tuple[str, str]:
    """The row of the file that was written, with its size and what there is to say `beside` it."""
    return "file", f"{target} ({spoken_bytes(target.stat().st_size)}{beside})"


def counts(values: Iterable[int]) -> str:
    """`16` when all agree, else `8 to 32, 17.4 on average`."""
    found = list(values)
    if min(found) == max(found):
        return str(found[0])
    return f"{min(found)} to {max(found)}, {sum(found) / len(found):.1f} on average"


def print_rows(rows: Iterable[tuple[str, str]], name_columns: int = 0, most_characters: int | None = None) -> None:
    """A table on a terminal, `name<tab>value` lines in a pipe; values are text, never markup.

    name_columns: the least width of the names, for a table that goes on. most_characters: of a value on a terminal;
    what is longer is cut. A pipe always has all of it.
    """
    clean = [(name, output.one_line(value)) for name, value in rows]
    if not sys.stdout.isatty():
        for name, value in clean:
            output.data(f"{name}\t{value}")
        return
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True, min_width=name_columns)
    table.add_column(overflow="fold")
    for name, value in clean:
        is_long = most_characters is not None and len(value) > most_characters
        table.add_row(Text(name), Text(value[:most_characters] + "…" if is_long else value))
    output.show(table)
