"""The wheel, built and installed in a clean environment, runs the program from anywhere."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(out), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, text=True)
    (path,) = out.glob("*.whl")
    return path


@pytest.mark.slow
def test_the_wheel_carries_what_the_program_needs(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for name in (
        "loratory/config/presets/character-prodigy.toml",
        "loratory/models/assets/clip/vocab.json",
        "loratory/models/assets/nano/unet/diffusion_pytorch_model.safetensors",
        "loratory/models/assets/sdxl/unet/config.json",
        "loratory/runs/store.py",
        "loratory/tags/vocabulary/packs/e621.toml",
        "loratory/tui/loratory.tcss",
        "loratory/upscaling/assets/default.safetensors",
        "loratory/upscaling/assets/sharp.safetensors",
        "loratory/upscaling/assets/LICENSE.txt",
        "loratory/upscaling/assets/NOTICE.md",
        "loratory/demo/pictures/LICENSE.txt",
        "loratory/demo/config.toml",
        "loratory/py.typed",
    ):
        assert name in names, name
    # Licences of what is inside stand where tools that list them look too.
    for name in ("src/loratory/upscaling/assets/LICENSE.txt", "src/loratory/upscaling/assets/NOTICE.md", "LICENSE"):
        assert any(each.endswith(f".dist-info/licenses/{name}") for each in names), name
    assert not [name for name in names if "test" in name.lower() or name.endswith((".pyc", ".tmp"))]
    assert wheel.stat().st_size < 70_000_000


@pytest.mark.slow
def test_the_installed_program_runs(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    # The heavy dependencies are borrowed from this environment; the program itself comes from the wheel alone.
    borrowed = [path for path in sys.path if path.endswith("site-packages")]
    (site,) = environment.glob("lib/python*/site-packages")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", wheel], check=True, capture_output=True)
    (site / "borrowed.pth").write_text("\n".join(borrowed))
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    clean["LORATORY_HOME"] = str(tmp_path / "home")

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [environment / "bin" / "loratory", *arguments], cwd=tmp_path, env=clean, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = subprocess.run([python, "-c", "import loratory; print(loratory.__file__)"], capture_output=True, text=True)
    assert str(environment) in where.stdout
    assert run("--version").startswith("loratory, version")
    assert "character-prodigy" in run("presets", "list")
    assert "domestic_dog" in run("vocab", "show", "german_shepherd", "--site", "e621")
    # The demo itself, shortened: everything it touches is in the wheel.
    steps = ("--set", "training.max_train_steps=2", "--set", "training.max_train_epochs=0")
    sheet = run("demo", "--out", "demo", *steps)
    assert (tmp_path / sheet.strip()).stat().st_size > 10_000
    assert (tmp_path / "demo" / "output").is_dir()
