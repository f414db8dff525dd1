"""A planner's process without torch: it answers with one plan, and misbehaves where the configuration says so.

The configuration's training.comment is what it obeys: "die" ends it, "wrong" is refused, "slow" waits for a file.
"""

import json
import os
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

PLAN: dict[str, Any] = {
    "model": {
        "path": "/models/nano",
        "family": "sd1",
        "prediction_type": "epsilon",
        "zero_terminal_snr": False,
        "reasons": ["the embedded model"],
    },
    "folders": [{"name": "10_[/b]fox", "images": 12, "repeats": 10, "per_epoch": 120, "exposure": 100.0}],
    "buckets": [{"width": 512, "height": 640, "visits_per_epoch": 120}],
    "regularization": None,
    "held_back": 0,
    "images_per_epoch": 120,
    "batches_per_epoch": 120,
    "steps_per_epoch": 120,
    "epochs": 10,
    "total_steps": 1200,
    "network": [
        {
            "part": "unet",
            "learning_rate": 1.0,
            "modules": 120,
            "parameters": 1458176,
            "rank": 32,
            "scale": 0.03125,
            "conv_rank": None,
            "conv_scale": None,
            "rank_varies": False,
        },
        {
            "part": "text_encoder",
            "learning_rate": 0.0,
            "modules": 0,
            "parameters": 0,
            "rank": None,
            "scale": None,
            "conv_rank": None,
            "conv_scale": None,
            "rank_varies": False,
        },
    ],
    "saves": 1,
    "save_bytes": 3_400_000,
    "state_bytes": 20_000_000,
    "disk_bytes": 94_000_000,
    "curves": {
        "learning_rate_factor": [1 - i / 200 for i in range(200)],
        "loss_weight_by_timestep": [1 + i / 50 for i in range(200)],
    },
    "advice": [],
    "warnings": ["2 captions are longer than 75 tokens."],
    "findings": [{"rule": "few", "severity": "note", "path": "", "message": "12 pictures are few."}],
}
FACTS: dict[str, Any] = {
    "family": "sd1",
    "prediction_type": "epsilon",
    "declared_prediction_type": None,
    "zero_terminal_snr": False,
    "native_resolution_px": None,
    "trained": ["unet"],
    "concepts": 1,
    "folders": [{"name": "10_fox", "images": 12, "repeats": 10, "exposure": 100.0, "tags": {"fox": 12}}],
    "mirrored_folders": [],
    "buckets": [[512, 640, 120]],
    "train_images": 12,
    "reg_images": 0,
    "validation_images": 0,
    "steps_per_epoch": 120,
    "total_steps": 1200,
}
MEASURED = {
    "device": "cpu",
    "bucket": [512, 640],
    "load_s": 4.0,
    "step_s": 0.5,
    "peak_bytes": 2_000_000_000,
    "free_bytes": None,
    "expected_s": 604.0,
}


def say(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def main() -> None:
    say({"ready": True})
    for line in sys.stdin:
        request = json.loads(line)
        obeyed = tomllib.loads(request["toml"]).get("output", {}).get("training_comment", "")
        with Path(os.environ["FAKE_PLANNER_LOG"]).open("a") as log:
            log.write(f"{os.getpid()} {obeyed}\n")
        number = {"id": request["id"]}
        if obeyed == "die":
            os._exit(3)
        if obeyed == "wrong":
            say({**number, "error": "dataset.train_data_dir: no concept folder found.", "hint": "Make one."})
            continue
        if obeyed == "slow":
            say({**number, "phase": "waiting"})
            while not Path(os.environ["FAKE_PLANNER_LOG"]).with_suffix(".go").exists():
                time.sleep(0.005)
        plan = {**PLAN, "measured": MEASURED} if request["measure"] else PLAN
        say({"id": -1, "plan": {}, "facts": {}})  # an answer to nobody
        say({**number, "plan": plan, "facts": FACTS})


if __name__ == "__main__":
    main()
