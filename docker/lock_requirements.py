"""Write the locks of the images: every package that they install, at one version, with the hashes of its files.

    python docker/lock_requirements.py            # after a change of dependencies; what is locked stays where it fits
    python docker/lock_requirements.py --upgrade  # the newest versions

Needs uv (`pip install uv`), whose own variables say which index it asks. PyTorch's builds without CUDA are not on PyPI:
`--torch-wheels` is the page, or a folder, that has them.

torchvision is PyPI's in both locks, which is built for torch with CUDA. What is used of it (models, transformations of
images) is Python, and `supervised.vision.torchvision_import` imports it beside a torch without CUDA; CI tests just that
pair. So the locks can be made where PyTorch's own index is out of reach. The build on that index would do as well.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = ("study", "supervised", "video")  # what the images have besides the plain install
TORCH_WHEELS = "https://download.pytorch.org/whl/cpu/torch/"
# The oldest glibc among the wheels that torch publishes: older than that of the base image.
TARGET = ("--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28", "--only-binary", ":all:")
HEADER = "# Made by docker/lock_requirements.py for Python 3.11 on Linux x86_64; not to be edited.\n"


def lock(variant: str, torch_wheels: str, upgrade: bool) -> None:
    """Write ``docker/requirements-VARIANT.txt``."""
    file = ROOT / "docker" / f"requirements-{variant}.txt"
    command = ["uv", "pip", "compile", "pyproject.toml", "--output-file", str(file.relative_to(ROOT)), *TARGET]
    command += ["--generate-hashes", "--no-header", "--quiet", *(f"--extra={extra}" for extra in EXTRAS)]
    command += ["--upgrade"] if upgrade else []
    if variant == "cpu":
        command += ["--find-links", torch_wheels, "--override", "-"]
    override = None
    if variant == "cpu":
        # Without its label a build on the page would be as good as the one with CUDA. The override takes the place of
        # what torchvision asks for, too: so its version is that which was found for the GPU image's torch.
        override = f"torch=={version_of('torch')}+cpu\ntorchvision=={version_of('torchvision')}\n"
    subprocess.run(command, cwd=ROOT, check=True, text=True, input=override)
    file.write_text(HEADER + file.read_text())


def version_of(package: str) -> str:
    """The version of a package in the lock of the GPU image."""
    lines = (ROOT / "docker" / "requirements-gpu.txt").read_text().splitlines()
    (found,) = (line.split()[0].partition("==")[2] for line in lines if line.startswith(f"{package}=="))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions")
    parser.add_argument("--torch-wheels", default=TORCH_WHEELS, help="page or folder with torch's builds without CUDA")
    given = parser.parse_args()
    if shutil.which("uv") is None:
        parser.error("uv is not there: pip install uv")
    for variant in ("gpu", "cpu"):  # both with one version of torch
        lock(variant, given.torch_wheels, given.upgrade)


if __name__ == "__main__":
    main()
