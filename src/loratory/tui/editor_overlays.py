"""What the editor shows over itself: keys, tags, findings, history, draws."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from textual.content import Content

from loratory.editing.checks.finding import CaptionFinding, Fix
from loratory.editing.items import Item
from loratory.errors import LoratoryError
from loratory.tags.diff import unified
from loratory.tags.edits import Remove
from loratory.tags.journal import Batch
from loratory.tags.text import decode
from loratory.tui.insert import Purpose
from loratory.tui.pane import key_lines
from loratory.tui.review import Review
from loratory.tui.screens.overlays import Choice, TableRow, TableScreen, TextScreen, ZoomScreen
from loratory.tui.text import plain
from loratory.tui.told import Told
from loratory.wording import typed

if TYPE_CHECKING:
    from loratory.tui.screens.tags import TagsScreen

# A diff of more is not read on a screen, and takes seconds to lay out.
_FILES_SHOWN = 100

_MODES = """\
NORMAL: a key is a verb; a verb that wants a tag is followed by its letter.
Small letters act on this picture, capitals on many: the selected ones,
else what the filter shows, else all. The line at the top says which.
INSERT: Tab takes the marked suggestion, a comma takes what you typed as
it is, Enter takes the suggestion if it begins as you typed. = before a
tag means exactly that. Esc is done.
Every change is on disk at once; u undoes it, tomorrow too.
"""


def show_help(screen: "TagsScreen") -> None:
    """All keys, from the table that dispatches them."""
    lines = [*(plain(line) for line in _MODES.splitlines()), *key_lines(screen.keymap)]
    lines += [Content(""), plain("Commands", "bold $text-accent")]
    lines += [
        Content.assemble((f"  :{name:<34}", "$text-accent"), plain(said)) for name, said in screen.commands.rows("")
    ]
    screen.app.push_screen(TextScreen("Keys", lines))


def show_zoom(screen: "TagsScreen", item: Item) -> None:
    """The picture over the whole screen."""
    screen.app.push_screen(ZoomScreen(screen.graphics, item.image))


def show_tags(screen: "TagsScreen") -> None:
    """All tags with their counts; rename, remove, select, review from there."""
    editor = screen.editor
    total = len(screen.session.items)
    rows = [
        TableRow(f"{count:>6}  {count / total:>4.0%}  {tag}", tag, "$foreground-muted" if count == 1 else "")
        for tag, count in editor.table()
    ]
    keys = {"enter": "show them", "C": "rename", "x": "remove", "t": "review", "y": "palette"}

    def chosen(choice: Choice[str] | None) -> None:
        if choice is None:
            return
        tag = choice.value
        if choice.key == "enter":
            screen.search(_query_of(tag))
        elif choice.key == "C":
            label = f"rename “{tag}” in {editor.selection.wide_name} to"
            screen.insert.open(Purpose("change", label, wide=True, old=tag))
        elif choice.key == "x":
            screen.normal.edit(Remove((tag,)), editor.selection.wide)
        elif choice.key == "t":
            screen.normal.reviewing = Review(editor, tag)
        else:
            editor.to_palette(tag)
        screen.look()

    screen.app.push_screen(TableScreen(f"{len(rows)} tags on {total} pictures", rows, keys, "no tags yet"), chosen)


def _query_of(tag: str) -> str:
    """The query that finds a tag, whatever is in it."""
    escaped = tag.replace("\\", "\\\\").replace('"', '\\"').replace("*", "\\*").replace("?", "\\?")
    return f'tag:"{escaped}"'


def show_findings(screen: "TagsScreen") -> None:
    """All findings, of the set and of each picture; Enter goes there, F mends."""
    editor, glyphs = screen.editor, screen.glyphs
    rows: list[TableRow[CaptionFinding]] = [
        TableRow(f"{finding.severity:<8} the set  {finding.message}", finding, "bold")
        for finding in _of_the_set(screen)
    ]
    for item in screen.session.items:
        for finding in editor.findings.known(item):
            text = f"{finding.severity:<8} {item.image_name}  {finding.message}"
            rows.append(TableRow(text, finding, "$foreground-muted" if finding.severity == "note" else ""))
    rows.sort(key=lambda row: (row.value.severity == "note", row.value.item != "", row.value.rule))
    complete = "" if editor.findings.is_complete else f" (still looking{glyphs.ellipsis})"

    def chosen(choice: Choice[CaptionFinding] | None) -> None:
        if choice is None:
            return
        finding = choice.value
        item = next((item for item in screen.session.items if item.name == finding.item), None)
        targets = [item] if item is not None else list(screen.session.items)
        if choice.key == "p":
            screen.panes.show_pane("prepare", finding.item or screen.place())
        elif choice.key == "f" and finding.automatic_fix is not None:
            editor.apply_fix(finding.automatic_fix, targets)
        elif choice.key == "f" and finding.fixes:
            choose_fix(screen, finding, targets)
        elif choice.key == "f":
            editor.tell(Told("this one has no fix: it wants a decision"))
        elif item is not None:
            editor.selection.go_to(item)
        elif finding.tags:
            screen.search(_query_of(finding.tags[0]))
        screen.look()

    keys = {"enter": "go there", "f": "fix", "p": "to the pane Prepare"}
    screen.app.push_screen(TableScreen(f"{_findings(len(rows))}{complete}", rows, keys, "nothing found"), chosen)


def _of_the_set(screen: "TagsScreen") -> list[CaptionFinding]:
    """What is to be said of the set as a whole."""
    from loratory.editing.checks.dataset_wide import check_set

    context = screen.background.context
    of_captions = check_set(screen.session.items, context) if context is not None else []
    return [*of_captions, *screen.background.picture_findings.get("", ())]


def _findings(count: int) -> str:
    return "1 finding" if count == 1 else f"{count} findings"


def fix(screen: "TagsScreen", *, wide: bool) -> None:
    """Mends the first finding of the current picture that can be mended, here or in many; asks where it could be done
    in several ways."""
    editor, settings = screen.editor, screen.session.settings
    item = editor.current
    found = editor.findings.of(item) if item is not None else ()
    # What is done to pictures comes last here: this screen edits captions.
    mendable = [finding for finding in found if finding.fixes]
    finding = next((each for each in mendable if each.caption_fixes), mendable[0] if mendable else None)
    if item is None or finding is None:
        editor.tell(Told("nothing here has a fix" if found else "no findings here"))
        return
    if wide and settings.vocabulary is None:
        site = screen.session.site
        editor.tell(Told(f"say first whose tags these are: `:vocabulary {site}`, or another one", wrong=True))
        return
    # What is superfluous here may be needed there: only pictures with the same finding are changed.
    targets = [other for other in editor.selection.wide if editor.same_finding(finding, other)] if wide else [item]
    if finding.automatic_fix is None:
        choose_fix(screen, finding, targets)
    elif wide:
        editor.fix_all(finding, targets)
    else:
        editor.apply_fix(finding.automatic_fix, targets)


def choose_fix(screen: "TagsScreen", finding: CaptionFinding, targets: Sequence[Item]) -> None:
    """The ways to mend a finding, to choose one."""
    rows = [TableRow(fix.label, fix) for fix in finding.fixes]

    def chosen(choice: Choice[Fix] | None) -> None:
        if choice is not None:
            screen.editor.apply_fix(choice.value, targets)
        screen.look()

    screen.app.push_screen(TableScreen(finding.message, rows, {"enter": "do it"}, ""), chosen)


def show_history(screen: "TagsScreen") -> None:
    """Every batch ever made in this dataset, the last first; u undoes any of them, Enter shows what it did."""
    batches = screen.session.journal.batches()
    rows = [
        TableRow(f"{time.strftime('%Y-%m-%d %H:%M', time.localtime(batch.time))}  {batch.count:>5}  {_state(batch)}"
                 f"{batch.label}", batch, "$foreground-muted" if batch.undone else "")
        for batch in reversed(batches)
    ]  # fmt: skip

    def chosen(choice: Choice[Batch] | None) -> None:
        if choice is None:
            return
        if choice.key == "u":
            screen.editor.undo(choice.value.id)
        else:
            try:
                show_batch(screen, choice.value)
            except LoratoryError as error:
                screen.tell(Told(f"{error.message} {error.hint}".strip(), wrong=True))

    keys = {"enter": "what it did", "u": "undo it"}
    screen.app.push_screen(TableScreen("Changes of this dataset", rows, keys, "nothing was changed yet"), chosen)


def show_batch(screen: "TagsScreen", batch: Batch) -> None:
    """What a batch did, as a diff."""
    lines: list[Content] = []
    changes = screen.session.journal.changes(batch.id)
    for change in changes[:_FILES_SHOWN]:
        name = str(change.path.relative_to(screen.session.root))
        before, after = (decode(data or b"").text for data in (change.before, change.after))
        for line in unified(name, before, after).splitlines():
            style = "$text-success" if line.startswith("+") else "$text-error" if line.startswith("-") else ""
            lines.append(plain(line, style))
    if len(changes) > _FILES_SHOWN:
        where = f"loratory tag show {typed(screen.session.root)} {batch.id}"
        lines.append(plain(f"and {len(changes) - _FILES_SHOWN} more files: `{where}` prints all", "bold"))
    screen.app.push_screen(TextScreen(batch.label, lines))


def show_draws(screen: "TagsScreen") -> None:
    """Ten draws of the current caption after shuffling and dropout, with their tokens and what is cut."""
    from loratory.editing.simulate import simulate

    item = screen.editor.current
    if item is None:
        return
    settings = screen.session.settings.caption_settings()
    lines = [plain(_how(settings.shuffle_caption, settings.keep_tokens, settings.caption_tag_dropout_rate,
                        settings.caption_dropout_rate), "$foreground-muted"), Content("")]  # fmt: skip
    drawn = simulate(item.caption.text, settings)
    if len({draw.text for draw in drawn}) == 1:
        lines += [plain("Every epoch trains the same text:", "$foreground-muted"), Content("")]
        del drawn[1:]
    for number, draw in enumerate(drawn, start=1):
        if not draw.text:
            shown = plain("no caption at all", "$foreground-muted")
        else:
            # With emphasis the cut text has lost its brackets, and is shown by itself.
            cut = draw.cut or ""
            end = len(draw.text) - len(cut) if draw.text.endswith(cut) else len(draw.text)
            kept = min(len(draw.kept), end)
            shown = Content.assemble(
                plain(draw.text[:kept], "bold"),
                plain(draw.text[kept:end]),
                *([plain(cut, "strike $text-error"), plain("  cut off", "$text-error")] if cut else []),
            )
        lines.append(Content.assemble((f"{number:>2} {draw.tokens:>4} tokens  ", "$foreground-muted"), shown))
    lines += [
        Content(""),
        plain(":caption shuffle_caption true, :caption keep_tokens 2 and the like set how.", "$foreground-muted"),
    ]
    screen.app.push_screen(TextScreen(f"Ten epochs of {item.image_name}", lines))


def _how(shuffle: bool, keep: int, tag_dropout: float, dropout: float) -> str:
    parts = [
        "shuffled" if shuffle else "in the written order",
        f"the first {keep} tags stay in front" if keep else "no tag is kept in front",
        f"each other tag is dropped {tag_dropout:.0%} of the time" if tag_dropout else "no tag is dropped",
        *([f"the whole caption is dropped {dropout:.0%} of the time"] if dropout else []),
    ]
    return ", ".join(parts)


def _state(batch: Batch) -> str:
    return "undone: " if batch.undone else ""
