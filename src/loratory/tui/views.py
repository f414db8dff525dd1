"""What the screen says: the editor's state as text, without a widget."""

from dataclasses import replace

from rich.cells import cell_len
from textual.content import Content

from loratory.editing.checks.finding import CaptionFinding
from loratory.editing.items import Item
from loratory.editing.session import Session
from loratory.tags.text import key
from loratory.tui.editor import Editor
from loratory.tui.finding_index import FindingIndex
from loratory.tui.frame import frame_line
from loratory.tui.insert import Purpose
from loratory.tui.keys import Keymap, hints
from loratory.tui.normal import Normal
from loratory.tui.text import Glyphs, fitted, printable
from loratory.tui.widgets.tag_panel import PanelView, TagView


def title_line(session: Session, place: str | None, pane: str, width: int, glyphs: Glyphs) -> Content:
    """The program, the folder, the panes by their keys, how many pictures, which vocabulary.

    place: the name of the current picture. pane: the one that is looked at.
    """
    folder = (place or "").rpartition("/")[0]
    where = f"{session.root.name}/{folder}" if folder else session.root.name
    site = session.known_site or ""
    guessed = "" if session.settings.vocabulary is not None or not site else "?"
    right = (
        f"{len(session.items)} pictures {glyphs.dot} {site}{guessed} " if site else f"{len(session.items)} pictures "
    )
    return frame_line(where, right, pane, width, glyphs)


def status_line(
    editor: Editor,
    findings: FindingIndex,
    normal: Normal,
    purpose: Purpose | None,
    is_text: bool,
    width: int,
    glyphs: Glyphs,
) -> Content:
    """The mode, what keys act on, and how far the work is. is_text: the caption is being written as text."""
    selection, items = editor.selection, editor.session.items
    if is_text:
        mode, scope = "TEXT", "the caption of this picture"
    elif purpose is not None:
        mode, scope = "INSERT", purpose.label
    elif normal.reviewing is not None:
        mode, scope = "REVIEW", normal.reviewing.status()
    else:
        mode = "RANGE" if selection.range_from is not None else "RECORD" if normal.is_recording else "NORMAL"
        place = f"{selection.cursor + 1 if selection.shown else 0}/{len(selection.shown)}"
        scope = f"scope: image {place} {glyphs.dot} CAPITALS {selection.wide_name}"
        if selection.is_filtered:
            scope += f" {glyphs.dot} /{selection.query_text}"
    more = "" if findings.is_complete else "+"
    reviewed, found = f"{editor.session.reviewed}/{len(items)}", f"{findings.pictures_with}{more}"
    sides = (
        f"{reviewed} reviewed {glyphs.dot} {found} with findings ",
        f"{reviewed}{glyphs.reviewed} {glyphs.dot} {found} with findings ",
        f"{reviewed}{glyphs.reviewed} {found}{glyphs.finding} ",
        "",
    )
    room = max(0, width - len(mode) - 5)
    # What a key acts on is never cut for the sake of the rest.
    right = next((side for side in sides if cell_len(scope) + len(side) <= room), "")
    return Content.assemble(
        " ",
        (f" {mode} ", "reverse bold"),
        " ",
        fitted(scope, room - len(right), glyphs.ellipsis),
        (fitted(f" {right}", len(right) + 1), "$foreground-muted"),
    )


def panel_view(
    editor: Editor, findings: FindingIndex, normal: Normal, is_inserting: bool, glyphs: Glyphs, keymap: Keymap
) -> PanelView:
    """The tags of the current picture, with what is found of them and which keys mend it.

    is_inserting: somebody types, and the room is needed for what is suggested.
    """
    item = editor.current
    if item is None:
        return PanelView(empty="No pictures here.")
    found = findings.of(item)
    facts = [item.image_name]
    session = editor.session
    size = session.facts.known_size(item)
    counted = f"{len(item.tags)} {'tag' if len(item.tags) == 1 else 'tags'}"
    tokens = session.facts.known_tokens(item)
    facts.append(
        f" {glyphs.dot} ".join(
            [
                *([f"{size[0]}x{size[1]}"] if size else []),
                counted,
                *([f"{tokens} tokens"] if tokens is not None else []),
            ]
        )
    )
    if item.shared_with:
        facts.append(f"shares {item.caption_name} with {item.shared_with[0].rpartition('/')[2]}")
    if item.problem:
        return PanelView(facts=tuple(facts), empty=f"{item.caption_name} {item.problem}")
    if session.known_site == "natural":
        told = tuple((finding.message, _does(finding, {}, keymap)) for finding in found)
        return PanelView(facts=tuple(facts), text=item.caption.text, findings=told, empty=_empty(item, "e writes one"))
    spoken_of: dict[str, tuple[str, str]] = {}
    for finding in found:
        # The first is what is wrong; what it is wrong beside is not.
        for tag in finding.tags[:1]:
            colour = "$foreground-muted" if finding.severity == "note" else "$text-warning"
            spoken_of.setdefault(key(tag), (finding.rule, colour))
    roles = _roles(item)
    tags = tuple(
        TagView(
            tag,
            count=editor.counts[tag_key],
            remark=spoken_of.get(tag_key, (roles.get(tag_key, ""), ""))[0],
            colour=spoken_of.get(tag_key, ("", ""))[1],
        )
        for tag, tag_key in zip(item.tags, item.keys, strict=True)
    )
    if normal.reviewing is not None:
        asked = key(normal.reviewing.tag)
        tags = tuple(
            replace(view, remark="asked", colour="$text-accent") if key(view.tag) == asked else view for view in tags
        )
    letters = dict(zip(reversed(item.keys), reversed(hints(len(item.tags))), strict=True))
    told = () if is_inserting else tuple((finding.message, _does(finding, letters, keymap)) for finding in found)
    empty = _empty(item, f"{keymap.keys_of('add')} adds the first tag")
    return PanelView(facts=tuple(facts), tags=tags, findings=told, typed=normal.typed_hint, empty=empty)


def palette_line(editor: Editor, width: int, glyphs: Glyphs) -> Content:
    """The tags on the number keys, marked where the current picture has them."""
    here = editor.current.keys if editor.current is not None else ()
    parts = [
        f"{(slot + 1) % 10}{glyphs.reviewed if key(tag) in here else ' '}{tag}"
        for slot, tag in enumerate(editor.palette)
        if tag
    ]
    if not parts:
        return Content(fitted(" y and a tag's letter puts it on a number key", width)).stylize("$foreground-muted")
    return Content(fitted(f" {f' {glyphs.dot} '.join(parts)}", width, glyphs.ellipsis))


def _empty(item: Item, does: str) -> str:
    return f"{'no caption file' if item.data is None else 'an empty caption'}: {does}"


def _roles(item: Item) -> dict[str, str]:
    """What the first two tags are, where the folder's name makes the first the instance token."""
    if not item.keys or not item.class_tokens:
        return {}
    expected = [key(part) for part in item.class_tokens.split(",")]
    names: dict[str, str] = {}
    if item.keys[0] == expected[0] or item.keys[0] in expected[0].split():
        names[item.keys[0]] = "instance"
        if len(item.keys) > 1:
            names.setdefault(item.keys[1], "class")
    return names


def _does(finding: CaptionFinding, letters: dict[str, str], keymap: Keymap) -> str:
    """Which keys mend a finding: `f removes it · ! h keeps it`."""
    parts: list[str] = []
    if finding.automatic_fix is not None:
        parts.append(f"{keymap.keys_of('fix')} {printable(finding.automatic_fix.label)}")
    elif len(finding.fixes) > 0:
        ways = (
            f"{printable(finding.fixes[0].label)}?"
            if len(finding.fixes) == 1
            else f"{len(finding.fixes)} ways to mend it"
        )
        parts.append(f"{keymap.keys_of('fix')} {ways}")
    if finding.tags:
        letter = letters.get(key(finding.tags[0]))
        if letter:
            # Its key and its letter stay together where the line is wrapped.
            parts.append(f"{keymap.keys_of('keep')}\N{NO-BREAK SPACE}{letter} keeps it here")
    return " · ".join(parts)
