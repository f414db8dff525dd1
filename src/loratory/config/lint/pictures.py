"""Rules about the pictures: mirroring, buckets, caches, folders and how often each picture is trained."""

import re
from collections.abc import Iterator

from loratory.config.lint.base import Facts, FolderFacts, Rule, Said, folder_values, idle, joined, percent
from loratory.config.schema import Config

_EXPOSURES = (50, 300)
_STYLE_EXPOSURES = (15, 100)
_SMALL_FOLDER = 10
_MUCH_MORE = 1.5
_MOST_REPEATS = 50
_MOST_BATCH = 4
_LARGEST_IMBALANCE = 2.0
_SMALLEST_REG_SHARE = 0.25
_FEW_STEPS = 300
_LOST_AREA = 0.9
# Tags that say of the subject itself that its sides differ, in the words of Danbooru and e621.
_PAIRED = "gloves?|gauntlets?|sleeves?|thighhighs?|kneehighs?|socks?|stockings?|shoes?|boots?|legwear|armwear|footwear"
_ASYMMETRIC = re.compile(
    rf"heterochromia|eye ?patch|one side up|side ponytail|side braid|hair over one eye|scar (over|across) (one )?eye"
    rf"|(mismatched|asymmetrical|uneven|single) ({_PAIRED}|elbow glove|pauldron|earring|wing|arm|legs?|pantsleg)"
    rf"|(mismatched|asymmetrical|uneven) (eyes|pupils|ears|horns|wings|hair|bangs|earrings)"
)


def _flip_asymmetric(config: Config, facts: Facts) -> Iterator[Said]:
    if config.dataset.asymmetric and facts.mirrored_folders:
        names = joined(list(facts.mirrored_folders))
        yield Said(
            "dataset.subsets",
            f"dataset.asymmetric says that the sides of the subject differ, but flip_aug of a subset mirrors {names}. "
            "Switch one of the two off.",
        )


def _flip_tags(config: Config, facts: Facts) -> Iterator[Said]:
    for folder in facts.folders or ():
        if folder.name not in (facts.mirrored_folders or ()):
            continue
        for tag, count in folder.tags.items():
            if 2 * count >= folder.images and _ASYMMETRIC.fullmatch(tag.strip().lower().replace("_", " ")):
                yield Said(
                    "dataset.flip_aug",
                    f"flip_aug mirrors {folder.name}, where {count} of {folder.images} pictures are tagged “{tag}”: "
                    "half of the visits show it on the other side. Switch flip_aug off for this folder.",
                )
                break


def _flip_concepts(config: Config, facts: Facts) -> Iterator[Said]:
    mirrored = list(facts.mirrored_folders or ())
    if (facts.concepts or 0) > 1 and len(mirrored) > 1 and config.dataset.flip_aug:
        yield Said(
            "dataset.flip_aug",
            f"dataset.flip_aug mirrors every concept it is not switched off for: {joined(mirrored)}. If the sides of "
            "one differ, give its folder flip_aug = false in [[dataset.subsets]].",
        )


def _batch_size(config: Config, facts: Facts) -> Iterator[Said]:
    batch = config.training.train_batch_size
    if batch > _MOST_BATCH:
        yield Said(
            "training.train_batch_size",
            f"training.train_batch_size = {batch}: a step averages over {batch} pictures, and what is special about "
            f"each gets lost. 1 keeps the most detail, {_MOST_BATCH} is the most that makes sense.",
        )


def _batch_concepts(config: Config, facts: Facts) -> Iterator[Said]:
    batch, concepts = config.training.train_batch_size, facts.concepts or 0
    if batch > 1 and concepts > 1 and config.dataset.goal != "style":
        yield Said(
            "training.train_batch_size",
            f"training.train_batch_size = {batch} with {concepts} concepts: one step can average pictures of different "
            "concepts, which then mix or overpower each other. Use 1.",
        )


def _partial_batches(config: Config, facts: Facts) -> Iterator[Said]:
    batch, buckets = config.training.train_batch_size, facts.buckets
    if buckets is None or batch == 1:
        return
    batches = sum(-(-visits // batch) for visits in buckets.values())
    partial = sum(1 for visits in buckets.values() if visits % batch)
    if 3 * partial >= batches > 1:
        yield Said(
            "training.train_batch_size",
            f"{partial} of the {batches} batches of an epoch hold fewer than training.train_batch_size = {batch} "
            f"pictures, as each of the {len(buckets)} buckets ends in a batch of its own. Raise "
            "dataset.bucket_reso_steps for fewer buckets, or lower the batch size.",
        )


def _accumulation(config: Config, facts: Facts) -> Iterator[Said]:
    count, total = config.training.gradient_accumulation_steps, facts.total_steps
    if count > 1 and total is not None and total < _FEW_STEPS:
        yield Said(
            "training.gradient_accumulation_steps",
            f"training.gradient_accumulation_steps = {count} leaves {total} steps for the whole run, and a step moves "
            "the adapter no further for holding more pictures. Lower it, or train longer.",
        )


def _exposure(config: Config, facts: Facts) -> Iterator[Said]:
    main = _main_folder(facts)
    if main is None:
        return
    is_style = config.dataset.goal == "style"
    low, high = _STYLE_EXPOSURES if is_style else _EXPOSURES
    if not low <= main.exposure <= high:
        effect = "undertrained" if main.exposure < low else "overtrained"
        usual = "30 to 40 suit a style" if is_style else "About 100 is the place to start"
        key = _length_key(config)
        instead = "" if key == "training.exposure" else f" instead of {key.rpartition('.')[2]}"
        yield Said(
            key,
            f"Each picture of {main.name} is trained {_times(main.exposure)} and probably {effect}. {usual}: set "
            f"training.exposure{instead}.",
        )


def _small_folders(config: Config, facts: Facts) -> Iterator[Said]:
    main = _main_folder(facts)
    for folder in facts.folders or ():
        if main and folder.images < _SMALL_FOLDER and folder.exposure >= _MUCH_MORE * main.exposure:
            yield Said(
                "dataset.train_data_dir",
                f"Each of the {folder.images} pictures of {folder.name} is trained {_times(folder.exposure)}, those "
                f"of {main.name} {_times(main.exposure)}: so few can overbake while the rest is fine. Add pictures, "
                "or lower its repeats.",
            )


def _imbalance(config: Config, facts: Facts) -> Iterator[Said]:
    folders = facts.folders or ()
    if len(folders) < 2 or facts.concepts != len(folders) or config.dataset.goal == "style":
        return
    most = max(folders, key=_visits)
    least = min(folders, key=_visits)
    if _visits(most) > _LARGEST_IMBALANCE * _visits(least) > 0:
        repeats = max(1, round(most.images * most.repeats / least.images))
        yield Said(
            "dataset.train_data_dir",
            f"{most.name} gets {_visits(most) / _visits(least):.2g} times the visits of {least.name} and will dominate "
            f"it. Balanced would be {repeats} repeats for {least.name} instead of {least.repeats}.",
        )


def _repeats(config: Config, facts: Facts) -> Iterator[Said]:
    for folder in facts.folders or ():
        if folder.repeats > _MOST_REPEATS:
            yield Said(
                "dataset.train_data_dir",
                f"{folder.name} repeats each picture {folder.repeats} times an epoch, so saves and samples that go by "
                "epochs come late. Fewer repeats and more epochs train the same.",
            )


def _reg_coverage(config: Config, facts: Facts) -> Iterator[Said]:
    reg, train = facts.reg_images, facts.train_images
    counts = config.loss.prior_loss_weight > 0 and not config.loss.diff_output_preservation
    if counts and reg and train and reg < _SMALLEST_REG_SHARE * train:
        yield Said(
            "dataset.reg_data_dir",
            f"{reg} regularization pictures stand against {train} to train on, so each is seen about {train / reg:.2g} "
            f"times as often, and is learnt itself. Use about {train}.",
        )


def _validation(config: Config, facts: Facts) -> Iterator[Said]:
    shares = [share for share in folder_values(config, "validation_split") if share]
    if shares and facts.validation_images == 0:
        yield Said(
            "dataset.validation_split",
            "dataset.validation_split is so small that no picture is held back: there will be no validation loss. "
            "Raise it, or leave it out.",
        )


def _bucket_limit(config: Config, facts: Facts) -> Iterator[Said]:
    dataset = config.dataset
    if not dataset.enable_bucket or dataset.bucket_no_upscale or not facts.buckets:
        return
    width, height = dataset.resolution_wh
    limit = -(-dataset.max_bucket_reso // dataset.bucket_reso_steps) * dataset.bucket_reso_steps
    cut = {
        (w, h): visits
        for (w, h), visits in facts.buckets.items()
        if max(w, h) == limit and w * h < _LOST_AREA * width * height
    }
    if cut:
        (w, h), _ = max(cut.items(), key=lambda item: item[1])
        share = sum(cut.values()) / sum(facts.buckets.values())
        yield Said(
            "dataset.max_bucket_reso",
            f"dataset.max_bucket_reso = {dataset.max_bucket_reso} makes {percent(share)} of the visits smaller than "
            f"the resolution of {width}x{height}, {w}x{h} for example, which loses detail. Raise it to a quarter above "
            "the resolution or more.",
        )


def _uncached(config: Config, facts: Facts) -> Iterator[Said]:
    for key in ("color_aug", "random_crop"):
        if config.dataset.cache_latents and True in folder_values(config, key):
            yield Said(
                f"dataset.{key}",
                f"dataset.{key} changes a picture on every visit, so it is encoded anew each time instead of once: "
                "slow. Leave it out unless the set is very small.",
            )


def _idle_buckets(config: Config, facts: Facts) -> Iterator[Said]:
    dataset = config.dataset
    if not dataset.enable_bucket:
        keys = ("min_bucket_reso", "max_bucket_reso", "bucket_reso_steps", "bucket_no_upscale")
        yield from idle(dataset, "dataset", keys, "dataset.enable_bucket is false")
    elif dataset.bucket_no_upscale:
        keys = ("min_bucket_reso", "max_bucket_reso")
        yield from idle(dataset, "dataset", keys, "dataset.bucket_no_upscale sizes buckets by the pictures alone")


def _idle_caches(config: Config, facts: Facts) -> Iterator[Said]:
    dataset = config.dataset
    if not dataset.cache_latents:
        yield from idle(dataset, "dataset", ("vae_batch_size",), "dataset.cache_latents is false")


def _idle_validation(config: Config, facts: Facts) -> Iterator[Said]:
    if folder_values(config, "validation_split") == {0.0} and config.dataset.dataset_config is None:
        why = "dataset.validation_split is 0, so no picture is held back"
        yield from idle(config.dataset, "dataset", ("validation_seed",), why)
        keys = ("validate_every_n_epochs", "validate_every_n_steps", "max_validation_steps")
        yield from idle(config.training, "training", keys, why)


def _main_folder(facts: Facts) -> FolderFacts | None:
    return max(facts.folders, key=lambda folder: folder.images) if facts.folders else None


def _times(count: float) -> str:
    return "once" if count == 1 else f"{count:.4g} times"


def _visits(folder: FolderFacts) -> float:
    return folder.images * folder.exposure


def _length_key(config: Config) -> str:
    training = config.training
    given = [key for key in ("max_train_epochs", "max_train_steps") if getattr(training, key) is not None]
    return f"training.{given[0] if given else 'exposure'}"


PICTURE_RULES = (
    Rule("exposure", "warning", "each picture is trained too seldom or too often", _exposure),
    Rule("small-folder", "warning", "a small folder that can overbake", _small_folders),
    Rule("imbalance", "warning", "one concept gets far more visits than another", _imbalance),
    Rule("repeats-high", "note", "more than 50 repeats", _repeats),
    Rule("reg-coverage", "warning", "far fewer regularization pictures than pictures", _reg_coverage),
    Rule("batch-size", "warning", "a batch size above 4", _batch_size),
    Rule("batch-concepts", "warning", "a batch size above 1 with several concepts", _batch_concepts),
    Rule("batch-partial", "note", "many batches are not full", _partial_batches),
    Rule("accumulation", "note", "gradient accumulation leaves few steps", _accumulation),
    Rule("flip-asymmetric", "warning", "mirroring what is declared asymmetric", _flip_asymmetric),
    Rule("flip-tags", "warning", "mirroring what is tagged as asymmetric", _flip_tags),
    Rule("flip-concepts", "note", "mirroring several concepts at once", _flip_concepts),
    Rule("bucket-limit", "warning", "max_bucket_reso takes pixels from tall and wide pictures", _bucket_limit),
    Rule("uncached-pictures", "note", "an augmentation that keeps pictures from being cached", _uncached),
    Rule("validation-empty", "warning", "a validation split that holds nothing back", _validation),
    Rule("idle-buckets", "warning", "bucket settings that do nothing", _idle_buckets),
    Rule("idle-caches", "warning", "loader settings that do nothing", _idle_caches),
    Rule("idle-validation", "warning", "validation settings that do nothing", _idle_validation),
)
