"""`loratory stats`: what a set of pictures and captions looks like in numbers."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loratory.cli import output
from loratory.errors import LoratoryError

if TYPE_CHECKING:
    from loratory.dataset.balance import Balance, Regularization
    from loratory.dataset.goals import Verdict
    from loratory.dataset.stats import BucketRow, Fused, Lean, Pair, Picture, Spread, TagCount
    from loratory.editing.session import Session
    from loratory.imaging.facts import PictureFacts
    from loratory.imaging.similarity import Group

SECTIONS = ("tags", "pairs", "exposure", "buckets", "sizes", "bias", "similar")
_OF_PICTURES = frozenset({"buckets", "sizes", "bias", "similar"})
# How many pictures `imaging.similarity.style_clusters` looks at, evenly chosen.
_CLUSTERED = 2000


@dataclass
class Report:
    """Everything that was counted; sections that were not asked for are None.

    verdicts: (concept folder, or "" for the whole set; pictures; how that stands). read: pictures whose looks are
    known. unreadable: names of the others that were looked at.
    """

    goal: str
    pictures: "list[Picture]"
    captioned: int
    regularization_images: int
    verdicts: "list[tuple[str, int, Verdict]]"
    read: int = 0
    unreadable: list[str] = field(default_factory=list[str])
    tags: "list[TagCount] | None" = None
    pairs: "list[Pair] | None" = None
    fused: "list[Fused]" = field(default_factory=list[Any])
    everywhere: list[str] = field(default_factory=list[str])
    exposure: "Balance | None" = None
    regularization: "Regularization | None" = None
    epochs: int = 0
    buckets: "list[BucketRow] | None" = None
    resolution: int = 0
    max_bucket_reso: int = 0
    batch_size: int = 1
    sizes: "list[Spread] | None" = None
    bias: "list[Lean] | None" = None
    similar: "list[Group] | None" = None


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--section", type=click.Choice(SECTIONS), help="Show this section only, with all its rows.")
@click.option("--goal", type=click.Choice(["character", "concept", "clothing", "style"]), help="What is learnt.")
@click.option("--resolution", type=click.IntRange(32, 8192), metavar="PX", help="Training resolution, for the buckets.")
@click.option("--batch-size", type=click.IntRange(1, 4096), metavar="N", help="Pictures of a batch.")
@click.option("--epochs", type=click.IntRange(1, 100_000), metavar="N", help="Count exposures for N epochs.")
@click.option("--no-pictures", is_flag=True, help="Look at captions and folders only: faster the first time.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, all rows of it.")
def stats(
    directory: Path,
    section: str | None,
    goal: str | None,
    resolution: int | None,
    batch_size: int | None,
    epochs: int | None,
    no_pictures: bool,
    as_json: bool,
) -> None:
    """Numbers about the pictures and captions of DIR: tags and pairs of them, exposure, buckets, sizes, what the set
    leans to, and pictures that are nearly the same."""
    if no_pictures and section in _OF_PICTURES:
        raise click.UsageError(f"--section {section} is about pictures, and --no-pictures leaves them out.")
    wanted = frozenset({section} if section else SECTIONS) - (_OF_PICTURES if no_pictures else frozenset[str]())
    from loratory.cli.stats_tables import print_report
    from loratory.editing.session import open_session

    session = open_session(directory)
    looks = _look_at_pictures(session) if wanted & _OF_PICTURES else {}
    with output.working("counting"):
        report = _count(session, wanted, looks, goal or session.settings.goal, epochs)
        if "buckets" in wanted:
            _count_buckets(report, session, resolution, batch_size)
    if as_json:
        output.data_json(_as_json(session, report, wanted))
    else:
        print_report(report, everything=section is not None)
        if no_pictures:
            output.say("The pictures were not looked at: no buckets, sizes, leanings, or pictures alike.")


def _look_at_pictures(session: "Session") -> "dict[Path, PictureFacts]":
    from loratory.imaging.survey import survey

    paths = [item.image for item in session.items if not item.is_reg]
    found: dict[Path, PictureFacts] = {}
    with output.working("looking at pictures") as tell:
        for path, facts in survey(paths):
            found[path] = facts
            if len(found) % 10 == 0:
                tell(f"looking at pictures: {len(found)} of {len(paths)}")
    return found


def _count(
    session: "Session",
    wanted: frozenset[str],
    looks: "dict[Path, PictureFacts]",
    goal: str,
    epochs: int | None,
) -> Report:
    from loratory.dataset import stats as counting
    from loratory.editing.statistics import leanings_of, pictures_of

    pictures = pictures_of(session, looks)
    if not pictures:
        raise LoratoryError(
            f"All pictures in {session.directory} belong to regularization sets.",
            hint="Give the folder that holds the concept folders.",
        )
    report = Report(
        goal=goal,
        pictures=pictures,
        captioned=sum(bool(picture.tags) for picture in pictures),
        regularization_images=len(session.items) - len(pictures),
        verdicts=_verdicts(goal, pictures),
        read=sum(not facts.problem for facts in looks.values()),
        unreadable=[item.name for item in session.items if (facts := looks.get(item.image)) and facts.problem],
    )
    if "tags" in wanted:
        report.tags = counting.count_tags(pictures)
        report.everywhere = counting.tags_everywhere(pictures)
    if "pairs" in wanted:
        report.pairs = counting.find_pairs(pictures)
        report.fused = counting.find_fused(pictures)
    if "exposure" in wanted:
        _count_exposure(report, session, epochs)
    if "sizes" in wanted:
        report.sizes = counting.size_table([picture.size for picture in pictures if picture.size is not None])
    if wanted & {"bias", "similar"}:
        from loratory.imaging.similarity import near_duplicates, style_clusters

        facts = [looks[session_path] for session_path in _paths(session)]
        if "bias" in wanted:
            scale = max(1.0, report.read / _CLUSTERED)
            alike = [round(len(cluster) * scale) for cluster in style_clusters(facts)]
            report.bias = leanings_of(session, pictures, goal, alike)
        if "similar" in wanted:
            report.similar = near_duplicates(facts)
    return report


def _paths(session: "Session") -> list[Path]:
    """In the order of `pictures_of`, so that indices agree."""
    return [item.image for item in session.items if not item.is_reg]


def _verdicts(goal: str, pictures: "Sequence[Picture]") -> "list[tuple[str, int, Verdict]]":
    """A style is learnt from the whole set, anything else from each folder."""
    from collections import Counter

    from loratory.dataset.goals import judge_count

    if goal == "style":
        return [("", len(pictures), judge_count(goal, len(pictures)))]
    counts = Counter(picture.folder for picture in pictures)
    return [(folder, count, judge_count(goal, count)) for folder, count in sorted(counts.items())]


def _count_exposure(report: Report, session: "Session", epochs: int | None) -> None:
    from collections import Counter

    from loratory.dataset.balance import Concept, as_they_are, regularization
    from loratory.dataset.concept_folders import regularization_folders
    from loratory.dataset.goals import advised

    counts = Counter((picture.folder, picture.repeats) for picture in report.pictures)
    concepts = [Concept(folder, images, repeats) for (folder, repeats), images in sorted(counts.items())]
    report.exposure = as_they_are(concepts)
    report.epochs = epochs or report.exposure.epochs_for(advised(report.goal).exposure)
    folders = regularization_folders(session.directory, ((item.directory, item.is_reg) for item in session.items))
    report.regularization = regularization(folders, report.exposure.visits, report.epochs)


def _count_buckets(report: Report, session: "Session", resolution: int | None, batch_size: int | None) -> None:
    from loratory.dataset.buckets import at_resolution
    from loratory.dataset.stats import bucket_table

    settings = session.settings.dataset_settings(session.root)
    if resolution is not None:
        settings = at_resolution(settings, (resolution, resolution))
    report.batch_size = batch_size or session.settings.train_batch_size
    report.buckets = bucket_table(report.pictures, settings, report.batch_size)
    report.resolution, report.max_bucket_reso = min(settings.resolution_wh), settings.max_bucket_reso


def _as_json(session: "Session", report: Report, wanted: frozenset[str]) -> dict[str, Any]:
    rows: dict[str, Any] = {
        "tags": lambda: {"everywhere": report.everywhere, "counts": _dicts(report.tags)},
        "pairs": lambda: {"always_together": _dicts(report.fused), "pairs": _dicts(report.pairs)},
        "exposure": lambda: _exposure_json(report),
        "buckets": lambda: {
            "resolution": report.resolution,
            "max_bucket_reso": report.max_bucket_reso,
            "batch_size": report.batch_size,
            "buckets": _dicts(report.buckets),
        },
        "sizes": lambda: _dicts(report.sizes),
        "bias": lambda: _dicts(report.bias),
        "similar": lambda: [
            {**asdict(group), "members": [report.pictures[index].name for index in group.members]}
            for group in report.similar or ()
        ],
    }
    return {
        "directory": str(session.directory),
        "goal": report.goal,
        "vocabulary": session.site,
        "pictures": len(report.pictures),
        "captioned": report.captioned,
        "regularization_pictures": report.regularization_images,
        "unreadable": report.unreadable,
        "counts": [
            {"folder": folder or None, "pictures": count, "standing": verdict.standing, "reason": verdict.reason}
            for folder, count, verdict in report.verdicts
        ],
        **{section: rows[section]() for section in SECTIONS if section in wanted},
    }


def _exposure_json(report: Report) -> dict[str, Any] | None:
    if report.exposure is None:
        return None
    return {
        "epochs": report.epochs,
        "visits_per_epoch": report.exposure.visits,
        "residual": report.exposure.residual,
        "folders": [
            {
                "name": row.name,
                "images": row.images,
                "repeats": row.repeats,
                "visits": row.visits,
                "share": row.share,
                "exposure": row.exposure(report.epochs),
                "overbake": row.overbake,
            }
            for row in report.exposure.rows
        ],
        "regularization": None if report.regularization is None else asdict(report.regularization),
    }


def _dicts(rows: "Sequence[Any] | None") -> list[dict[str, Any]]:
    return [asdict(row) for row in rows or ()]
