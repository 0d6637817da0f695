"""The images' files: what no linter of Dockerfiles looks at. `.ci/run` lints the Dockerfile with hadolint."""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from rl.cli import COMMAND

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docker"
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS: tuple[str, ...] = runpy.run_path(str(FOLDER / "lock_requirements.py"))["EXTRAS"]
# What markers of requirements see in the images.
IMAGE = {"python_version": "3.11", "platform_system": "Linux", "sys_platform": "linux", "extra": ""}


def instructions() -> list[tuple[str, str]]:
    """(instruction, rest) of the Dockerfile, continued lines joined, in order."""
    lines = [line for line in (FOLDER / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(line.split()[0], " ".join(line.split()[1:])) for line in joined.splitlines() if line.strip()]


def locked(variant: str) -> dict[str, tuple[Version, list[str]]]:
    """Version and hashes of every package in a lock."""
    text = (FOLDER / f"requirements-{variant}.txt").read_text()
    text = re.sub(r"(?m)^\s*#.*\n", "", text).replace("\\\n", " ")
    found = {}
    for line in text.splitlines():
        pin, *hashes = line.split()
        name, _, version = pin.partition("==")
        found[canonicalize_name(name)] = (Version(version), hashes)
    return found


@pytest.mark.parametrize("variant", ["cpu", "gpu"])
def test_a_lock_fits_the_project(variant: str) -> None:
    lock = locked(variant)
    lines = [*PROJECT["project"]["dependencies"], *PROJECT["build-system"]["requires"]]
    lines += [line for extra in EXTRAS for line in PROJECT["project"]["optional-dependencies"][extra]]
    assert len(lines) > 10
    for one in map(Requirement, lines):
        if one.marker is None or one.marker.evaluate(IMAGE):
            version, _ = lock.get(canonicalize_name(one.name), (None, []))
            assert version is not None, f"{one} is not in the lock: python docker/lock_requirements.py"
            assert version in one.specifier, f"{one}: the lock has {version}: python docker/lock_requirements.py"


def test_the_images_run_studies_train_on_images_and_text_and_write_videos() -> None:
    assert set(EXTRAS) == {"study", "supervised", "video"}
    smoke = (FOLDER / "smoke.sh").read_text()
    assert "asgc-rl play runs/cartpole --video cartpole.mp4" in smoke
    assert "asgc-sup train --data digits" in smoke
    assert "asgc-sup train --task wmt14 --data text" in smoke
    said = next(part for part in (FOLDER / "README.md").read_text().split("\n\n") if part.startswith("Both have"))
    assert all(f"`{extra}`" in said for extra in EXTRAS)


@pytest.mark.parametrize("variant", ["cpu", "gpu"])
def test_every_package_of_a_lock_has_hashes(variant: str) -> None:
    lock = locked(variant)
    assert len(lock) > 40
    for name, (_, hashes) in lock.items():
        assert hashes, name
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", one) for one in hashes), name


def test_the_images_have_one_torch_with_and_without_cuda() -> None:
    cpu, gpu = locked("cpu"), locked("gpu")
    assert cpu["torch"][0].local == "cpu"
    assert gpu["torch"][0].local is None
    assert cpu["torch"][0].public == gpu["torch"][0].public
    assert not {name for name in cpu if name.startswith(("nvidia-", "cuda-", "triton"))}
    assert {"triton", "nvidia-cudnn-cu13"} <= set(gpu)
    assert {name: cpu[name] for name in cpu if name != "torch"} == {name: gpu[name] for name in cpu if name != "torch"}


def test_the_base_image_is_pinned_to_a_digest() -> None:
    (base,) = [rest.partition("=")[2] for name, rest in instructions() if name == "ARG" and rest.startswith("BASE=")]
    assert re.fullmatch(r"python:3\.11\.\d+-slim-[a-z]+@sha256:[0-9a-f]{64}", base)
    stages = {rest.partition(" AS ")[2] for name, rest in instructions() if name == "FROM"}
    for name, rest in instructions():
        if name == "FROM":
            source = rest.split()[0]
            assert source in ("${BASE}", "runtime-${VARIANT}") or source in stages, f"{source} is no pinned base"


def test_an_image_does_not_run_as_root() -> None:
    users = [rest for name, rest in instructions() if name == "USER"]
    assert users == ["1000:1000"]  # numbers: Kubernetes' runAsNonRoot knows no names
    after = [name for name, _ in instructions()]
    assert "USER" not in after[after.index("USER") + 1 :]
    assert ("RUN", "sh /opt/asgc/smoke.sh") in instructions()[after.index("USER") :]  # the smoke test, as this user


def test_packages_are_installed_with_their_hashes_and_leave_no_caches() -> None:
    for name, rest in instructions():
        if name == "RUN" and "pip install" in rest:
            assert "--require-hashes" in rest or "--no-index" in rest, rest
            assert "--no-cache-dir" in rest
        if name == "RUN" and "apt-get install" in rest:
            assert "--no-install-recommends" in rest
            assert "rm -rf /var/lib/apt/lists/*" in rest


def test_every_package_of_the_project_is_copied_and_nothing_else() -> None:
    copied = {
        word for name, rest in instructions() if name == "COPY" and "--from" not in rest for word in rest.split()[:-1]
    }
    packages = {name.rstrip("*") for name in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert copied == packages | {
        *("pyproject.toml", "README.md", "LICENSE"),
        *("docker/requirements-${VARIANT}.txt", "docker/smoke.sh"),
    }
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert {line for line in ignored if line[:1] not in ("#", "!")} == {"*", "**/__pycache__", "**/*.so"}
    allowed = {line[1:] for line in ignored if line.startswith("!")}
    assert allowed == {word.partition("/")[0] for word in copied}


@pytest.mark.parametrize("script", ["smoke.sh", "build_local.sh"])
def test_the_scripts_are_shell(script: str) -> None:
    shell = (FOLDER / script).read_text().splitlines()[0].split()[-1].rpartition("/")[2]
    subprocess.run([shell, "-n", str(FOLDER / script)], check=True)


def test_the_compose_file_trains_and_shows_the_same_runs() -> None:
    services = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
    assert set(services) == {"train", "train-gpu", "tensorboard"}
    assert {service["volumes"][0].partition(":ro")[0] for service in services.values()} == {"runs:/data/runs"}
    assert services["train-gpu"]["volumes"][1:] == services["train"]["volumes"][1:] == ["${DATA:-data}:/data/data"]
    assert services["train"]["image"] == "asgc:cpu"
    assert services["train-gpu"]["image"] == "asgc:gpu"
    assert services["train-gpu"]["build"]["args"] == {"VARIANT": "gpu"}
    assert (
        services["train-gpu"]["build"]["dockerfile"] == services["train"]["build"]["dockerfile"] == "docker/Dockerfile"
    )
    assert services["tensorboard"]["ports"] == ["127.0.0.1:6006:6006"]


def test_the_service_starts_a_run_and_goes_on_with_it(tmp_path: Path) -> None:
    """Its shell command, before a program that says how it was called."""
    service = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]["train"]
    shell, option, program = service["command"]
    program = program.replace("$$", "$").replace("/data/runs", str(tmp_path))
    environment = {name: re.sub(r"\$\{\w+:-(.*)\}", r"\1", value) for name, value in service["environment"].items()}
    stub = tmp_path / "bin" / "asgc-rl"
    stub.parent.mkdir()
    stub.write_text('#!/bin/sh\necho "$@"\n')
    stub.chmod(0o755)
    stub.with_name("asgc-sup").write_text('#!/bin/sh\necho images "$@"\n')
    stub.with_name("asgc-sup").chmod(0o755)
    environment["PATH"] = f"{stub.parent}:/usr/bin:/bin"

    def started() -> list[str]:
        done = subprocess.run([shell, option, program], env=environment, capture_output=True, text=True, check=True)
        return shlex.split(done.stdout)

    command, *flags = started()
    assert command == "train"
    config, resumed = COMMAND.read(flags)
    assert (config.game, config.run_dir, resumed) == ("Pong", str(tmp_path / "pong"), False)
    (tmp_path / "pong").mkdir()
    (tmp_path / "pong" / "config.yaml").touch()
    assert started() == ["train", "--resume", str(tmp_path / "pong")]
    environment |= {"PROGRAM": "asgc-sup", "RUN": "digits", "ARGS": "--data digits"}
    assert started() == ["images", "train", "--data", "digits", "--run-dir", str(tmp_path / "digits")]
