"""Makes nano, the embedded base model, from nothing but packages of the public registries.

    pip install resvg-py
    python tools/nano/make.py WORK                 # hours on two CPU cores, minutes on a GPU
    python tools/nano/make.py WORK --minutes 30    # goes on where it was, for half an hour
    python tools/nano/make.py WORK --out src/loratory/models/assets/nano

Stop it when you like: at most the last two minutes are done again, on a CPU to the same bits.
Below WORK lie the packages (npm fetches them), the pictures, the state of each network, and in the end nano/ (a
diffusers folder), nano.safetensors (the same in the original single-file layout), figures.json and samples.png.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from adapted import heart_prompts, heart_share, real_heart_share, train_demo
from card import model_card
from denoiser import SCHEDULE as DENOISER_SCHEDULE
from denoiser import DenoiserTask
from export import write_folder, write_single_file
from judge import SCHEDULE as JUDGE_SCHEDULE
from judge import JudgeTask
from loop import train
from measure import contact_sheet, drawn_shares, load_pipeline, real_shares, wanted_pictures
from pictures import Pictures, load_pictures
from vae import DECODER_SCHEDULE, DecoderTask, VaeTask, encode_all, psnr_db, whiten
from vae import SCHEDULE as VAE_SCHEDULE

from loratory.training.device import pick_device

DRAWN = 256
CLIP = Path(__file__).parents[2] / "src" / "loratory" / "models" / "assets" / "clip"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, metavar="WORK")
    parser.add_argument("--minutes", type=float, default=math.inf, help="how long to train now")
    parser.add_argument("--so-far", action="store_true", help="export what the denoiser has learnt so far")
    parser.add_argument("--out", type=Path, help="where to write the diffusers folder; left out, WORK/nano")
    options = parser.parse_args(arguments)
    until = time.monotonic() + options.minutes * 60
    denoise_until = 0 if options.so_far else until
    try:
        done = make(options.work, options.out or options.work / "nano", until, denoise_until)
        code = 0
    except KeyboardInterrupt:
        done, code = False, 130
    if not done:
        print("stopped; the same command goes on", file=sys.stderr)
    return code


def make(work: Path, out: Path, until: float, denoise_until: float) -> bool:
    """Goes on with what is not done until the moments given (time.monotonic); whether all was exported and measured.

    A denoiser is taken as it is at its moment, if that is not the one for all.
    """
    device = pick_device()
    pictures = load_pictures(work)
    subjects = np.flatnonzero(pictures.subject)
    seen_all = VaeTask(pictures, device)
    if train(seen_all, VAE_SCHEDULE, work / "vae.pt", until) < VAE_SCHEDULE.steps:
        return False
    vae = seen_all.networks["vae"].eval().requires_grad_(False)
    whiten(vae, encode_all(vae, pictures, subjects, work / "raw_latents.pt"))
    latents = encode_all(vae, pictures, subjects, work / "latents.pt") * vae.config.scaling_factor
    denoiser = DenoiserTask(pictures, subjects, latents, CLIP, device)
    steps = train(denoiser, DENOISER_SCHEDULE, work / "denoiser.pt", denoise_until)
    if steps < DENOISER_SCHEDULE.steps and denoise_until == until:
        return False
    decoder = DecoderTask(pictures, vae, device)
    if train(decoder, DECODER_SCHEDULE, work / "decoder.pt", until) < DECODER_SCHEDULE.steps:
        return False
    vae.eval()
    judge = JudgeTask(pictures, subjects, device)
    if train(judge, JUDGE_SCHEDULE, work / "judge.pt", until) < JUDGE_SCHEDULE.steps:
        return False
    unet, text_encoder = denoiser.networks["unet"].eval(), denoiser.networks["text_encoder"].eval()
    write_folder(out, vae, unet, text_encoder)
    write_single_file(out, work / "nano.safetensors")
    figures = report(work, out, pictures, judge)
    networks = {"vae": vae, "unet": unet, "text_encoder": text_encoder}
    card = model_card(
        pictures, networks, {"vae": VAE_SCHEDULE.steps, "decoder": DECODER_SCHEDULE.steps, "denoiser": steps}, figures
    )
    (out / "NOTICE.md").write_text(card, "utf-8")
    return True


def report(work: Path, out: Path, pictures: Pictures, judge: JudgeTask) -> dict[str, Any]:
    """Measures the folder `out` as a user would load it."""
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(out / "vae").float()
    held_back, subjects = np.flatnonzero(pictures.held_back), np.flatnonzero(pictures.subject)
    pipeline, wanted, prompts = load_pipeline(out, CLIP), wanted_pictures(judge, DRAWN), heart_prompts()

    def drawn() -> dict[str, float]:
        hearts = {"hearts": heart_share(pipeline, judge, pictures, prompts)}
        return drawn_shares(pipeline, judge, wanted) | hearts

    figures: dict[str, Any] = {
        "psnr_db_held_back": psnr_db(vae, pictures, held_back),
        "psnr_db_subjects": psnr_db(vae, pictures, subjects),
        "drawn_count": len(wanted),
        "hearts_count": len(prompts),
        "drawn": drawn(),
    }
    pipeline.load_lora_weights(str(train_demo(out, work / "demo")))
    figures["adapted"] = drawn()
    pipeline.unload_lora_weights()
    hearts = {"hearts": real_heart_share(judge, pictures)}
    figures["real"] = real_shares(pipeline, judge, pictures, wanted) | hearts
    text = json.dumps(figures, indent=2)
    (work / "figures.json").write_text(text + "\n", "utf-8")
    contact_sheet(out, CLIP).save(work / "samples.png")
    print(text)
    return figures


if __name__ == "__main__":
    sys.exit(main())
