"""A study folder as `asgc-eval study run` leaves it, with made-up but lifelike numbers: for pictures and reports.

    write_study(folder)                                     # two tasks, two settings, three optimizers, four seeds
    write_study(folder, tasks=TASKS, optimizers=OPTIMIZERS, settings=SETTINGS)    # as large as a study gets

Every part a study can have is there: compare, search, robustness, ablation, gradients. Deterministic.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from evaluation.files import write_json
from evaluation.runs.run_metrics import Evaluation, summarize

# Worst score, best score and the target of each task; steps of a run.
TASKS = {
    "CartPole": (10.0, 500.0, 475.0),
    "Acrobot": (-500.0, -80.0, -100.0),
    "LunarLander": (-300.0, 260.0, 200.0),
    "MountainCar": (-200.0, -105.0, -110.0),
    "Pong": (-21.0, 20.0, 18.0),
}
STEPS, EVALUATIONS, EPISODES = 50_000, 20, 10
OPTIMIZERS = (
    *("sgd", "sgd+clip", "rmsprop", "adagrad", "adam", "adam+clip", "adamw", "asgc", "asgc-sgd", "asgc-clip"),
)
SETTINGS: dict[str, dict[str, Any]] = {"plain": {}, "mse": {"loss": "mse"}, "unclipped": {"env.reward_clip": False}}
SETTINGS |= {"fast-target": {"target_interval": 100}, "replay-1": {"train_every": 1}}
SKILL = {"sgd": -1.0, "adagrad": -0.7, "rmsprop": 0.0, "adam": 0.4, "adam+clip": 0.5, "asgc": 0.7, "asgc-sgd": -0.2}
HARDER = {"plain": 0.0, "mse": 0.6, "unclipped": 0.9, "fast-target": 0.5, "replay-1": 0.3}
BEST_LR = {"sgd": 1e-2, "sgd+clip": 1e-2, "asgc-sgd": 2e-2}
ABLATIONS = {"clip-only": -0.1, "noise-only": -0.6, "hard-clip": -0.05, "value": 0.1, "unit": -0.2}
LAYERS = {"layers.0.weight": 256, "layers.0.bias": 64, "layers.2.weight": 4096, "layers.4.weight": 128}
VERSION = "0.1.0"


def write_study(
    folder: Path,
    *,
    tasks: Sequence[str] = ("CartPole", "Acrobot"),
    settings: Sequence[str] = ("plain", "mse"),
    optimizers: Sequence[str] = ("asgc", "adam", "sgd"),
    seeds: int = 4,
    trials: int = 8,
    draws: int = 12,
) -> Path:
    """Write the study and return `folder`. `trials` are those of the search, `draws` those of the robustness part."""
    entries: list[dict[str, Any]] = []
    for task in tasks:
        for optimizer in optimizers:
            for setting in settings:
                for seed in range(101, 101 + seeds):
                    entries.append(_entry("comparison", "compare", task, setting, optimizer, "default", seed, {}))
            for factor in (10, 30):
                options = {"optimizer.lr": factor * 1e-3}
                for seed in range(101, 101 + seeds):
                    entries.append(_entry("rates", "grid", task, "plain", optimizer, f"lrx{factor}", seed, options))
            rates = np.geomspace(1e-4, 3e-1, trials)
            for trial, lr in enumerate(rates):
                options = {"optimizer.lr": float(lr)}
                entries += [
                    _entry("tuning", "search", task, "plain", optimizer, f"trial-{trial:03d}", seed, options)
                    for seed in (1, 2, 3)
                ]
            if optimizer != "sgd":
                generator = _generator("draws", task)
                for draw in range(draws):
                    options = {
                        "optimizer.lr": float(10 ** generator.uniform(-4, -1)),
                        "target_interval": int(10 ** generator.uniform(2, 4)),
                    }
                    variant = f"draw-{draw:03d}"
                    entries.append(_entry("robust", "robustness", task, "plain", optimizer, variant, 101, options))
        for variant in ("full", *ABLATIONS):
            for seed in range(101, 101 + seeds):
                entries.append(_entry("ablations", "ablation", task, "plain", "asgc", variant, seed, {}))
    folder.mkdir(parents=True)
    tests = list(range(101, 101 + seeds))
    lr = {"optimizer.lr": {"low": 1e-4, "high": 3e-1}}
    draws_of = {**lr, "target_interval": {"low": 100, "high": 10_000, "integer": True}}
    parts: dict[str, dict[str, Any]] = {
        "tuning": {"kind": "search", "settings": ["plain"], "trials": trials, "seeds": [1, 2, 3], "space": lr},
        "comparison": {"kind": "compare", "tuned": "tuning", "tuned_setting": "plain", "seeds": tests},
        "rates": {"kind": "grid", "settings": ["plain"], "tuned": "tuning", "multiply": {"optimizer.lr": [10, 30]}},
        "robust": {"kind": "robustness", "settings": ["plain"], "draws": draws, "space": draws_of, "seeds": [101]},
        "ablations": {"kind": "ablation", "settings": ["plain"], "optimizers": ["asgc"], "tuned": "tuning"},
    }
    parts["rates"]["seeds"] = parts["ablations"]["seeds"] = tests
    parts["ablations"]["variants"] = {"full": {}} | {name: {"optimizer.note": name} for name in ABLATIONS}
    definition = {
        "name": folder.name,
        "question": "Does ASGC learn faster and more steadily than what people use?",
        "budget": f"{len(entries)} runs",
        "options": {"total_steps": STEPS},
        "tasks": {name: {"game": name} for name in tasks},
        "settings": {name: SETTINGS.get(name, {}) for name in settings},
        "optimizers": {name: {"optimizer.name": name} for name in optimizers},
        "parts": parts,
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(definition, sort_keys=False))
    (folder / "runs.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    for entry in entries:
        _write_run(folder / entry["path"], entry, gradients=entry["kind"] == "compare" and entry["seed"] <= 102)
    return folder


def _entry(
    part: str, kind: str, task: str, setting: str, optimizer: str, variant: str, seed: int, options: dict[str, Any]
) -> dict[str, Any]:
    path = f"{part}/{task}/{setting}/{optimizer}/{variant}/s{seed}"
    purpose = "tune" if kind == "search" else "test"
    options = SETTINGS.get(setting, {}) | options
    labels = {"part": part, "kind": kind, "task": task, "setting": setting, "optimizer": optimizer, "variant": variant}
    return {"id": path, "path": path, **labels, "seed": seed, "purpose": purpose, "options": options}


def _generator(*keys: object) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(repr(keys).encode()))


def _skill(entry: dict[str, Any]) -> float:
    optimizer, lr = entry["optimizer"], entry["options"].get("optimizer.lr")
    skill = SKILL.get(optimizer, 0.2) - HARDER.get(entry["setting"], 0.0) * (0.3 if "asgc" in optimizer else 1.0)
    if entry["kind"] == "ablation":
        skill += ABLATIONS.get(entry["variant"], 0.0)
    if lr is not None:
        skill -= abs(np.log10(lr / BEST_LR.get(optimizer, 1e-3))) ** 2 * (0.7 if "asgc" in optimizer else 1.2)
    return float(skill)


def _write_run(folder: Path, entry: dict[str, Any], *, gradients: bool) -> None:
    low, high, target = TASKS[entry["task"]]
    generator = _generator(entry["id"])
    skill = _skill(entry) + 0.25 * generator.standard_normal()
    steps = np.linspace(STEPS / EVALUATIONS, STEPS, EVALUATIONS).round().astype(int)
    middle, reach = STEPS * (0.5 - 0.2 * skill), 1 / (1 + np.exp(-2.5 * (skill + 1)))
    share = reach / (1 + np.exp(-(steps - middle) / (0.1 * STEPS)))
    share = np.clip(share + 0.05 * (1.2 - min(skill, 1)) * generator.standard_normal(steps.size), 0, 1)
    scores = low + (high - low) * share
    folder.mkdir(parents=True)
    config: dict[str, Any] = {
        "game": entry["task"],
        "seed": entry["seed"],
        "total_steps": STEPS,
        "target_interval": 1000,
        "optimizer": {"name": entry["optimizer"], "lr": 1e-3},
        "env": {"protocol": "control"},
    }
    for key, value in entry["options"].items():
        group, _, name = key.rpartition(".")
        (config.setdefault(group, {}) if group else config)[name] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    command = ["python", "asgc-rl", "train", "--game", entry["task"], "--seed", str(entry["seed"])]
    origin = {"code": {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": False}, "device": "cpu"}
    origin |= {"time": "2026-01-01T00:00:00+00:00", "versions": {"torch": "2.13.0", "envpool": "1.2.5"}}
    write_json(folder / "provenance.json", {**origin, "command": command, "seeds": {"seed": entry["seed"]}})
    rows: list[dict[str, Any]] = []
    evaluations = []
    for index, step in enumerate(steps.tolist()):
        wall = round(12.0 * (index + 1) / EVALUATIONS, 3)
        key = {"step": step, "samples": step * 8, "wall_s": wall}
        values = {"score": float(scores[index]), "score_std": float((high - low) * 0.05), "games": EPISODES}
        rows += [{**key, "split": "eval", "name": n, "value": v} for n, v in [*values.items(), ("evaluation_s", 0.1)]]
        train = {"loss": float(0.1 + generator.random() / (index + 1)), "q": float(share[index] * 50)}
        rows += [{**key, "split": "train", "name": n, "value": v} for n, v in train.items()]
        known = {
            "q_overestimation": float(5 * (1 - share[index]) + generator.random()),
            "dormant": float(0.02 * index / EVALUATIONS),
            "feature_rank": float(40 - 10 * index / EVALUATIONS + generator.random()),
            "churn": float(0.05 + 0.05 * generator.random()),
        }
        rows += [{**key, "split": "diagnostics", "name": n, "value": v} for n, v in known.items()]
        evaluations.append(Evaluation(step, step * 8, wall, 0.1, float(scores[index])))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    signature = {"game": entry["task"], "protocol": "control", "epsilon": 0.0, "episodes": EPISODES}
    signature |= {"seed": entry["seed"], "frame": "4", "mode": None, "difficulty": None, "envpool": "1.2.5"}
    summary = summarize(evaluations, target=target, last_k=4, signature={**signature, "version": VERSION})
    finals = np.clip(scores[-1] + 0.03 * (high - low) * generator.standard_normal(EPISODES), low, high)
    summary |= {"scores": finals.tolist(), "mean_score": float(finals.mean()), "wall_s": 13.0}
    write_json(folder / "summary.json", summary)
    if gradients:
        _write_gradients(folder, entry["optimizer"], generator)


def _write_gradients(folder: Path, optimizer: str, generator: np.random.Generator) -> None:
    import pyarrow
    import pyarrow.parquet

    edges = np.linspace(-12, 4, 65)
    factor = 2.0 if "asgc" in optimizer else np.inf
    rows: list[dict[str, Any]] = []
    scale = dict(zip(LAYERS, (0.02, 0.05, 0.004, 0.1), strict=True))
    sigma = dict(scale)
    for update in sorted(
        {*range(500, 12_001, 500), *(s + o for s in (3000, 6000, 9000) for o in (-1, 0, 1, 2, 5, 10, 20, 50))}
    ):
        last = update // 1000 * 1000
        since = update - last if update >= 1000 else -1
        event = "shift" if update % 500 else "interval"
        event = "shift" if update in (3000, 6000, 9000) else event
        burst = 1 + (3 * np.exp(-since / 10) if since >= 0 else 0)
        for layer, numel in LAYERS.items():
            rms = (
                scale[layer] * burst * (0.4 + 0.6 * np.exp(-update / 5000)) * np.exp(0.15 * generator.standard_normal())
            )
            g = np.abs(rms * generator.standard_t(3, size=numel) / np.sqrt(3))
            g[generator.random(numel) < 0.2] = 0
            threshold = factor * sigma[layer]
            after = g / (1 + (g / threshold) ** 4) ** 0.25 if np.isfinite(threshold) else g
            sigma[layer] += 0.1 * (rms - sigma[layer])
            histograms = {}
            for name, values in (("before", g), ("after", after)):
                logs = np.log10(np.maximum(values, 1e-300))
                histograms[name] = np.bincount(np.digitize(logs, edges), minlength=66).tolist()
            measured = {
                "grad_rms": float(np.sqrt((g**2).mean())), "grad_max": float(g.max()),
                "after_rms": float(np.sqrt((after**2).mean())), "threshold": float(threshold),
                "clipped": float((g > threshold).mean()), "attenuation": float(after.sum() / g.sum()),
                "noise_std": 0.0, "update_rms": 1e-4, "weight_rms": 0.1, "update_to_weight": 1e-3,
                "tail_index": 3.0, "tail_index_after": 6.0,
            }  # fmt: skip
            key = {"step": update * 4, "update": update, "event": event, "since_shift": since, "layer": layer}
            rows.append({**key, "numel": numel, **measured, **histograms})
    (folder / "gradients").mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "gradients" / "part-000000.parquet")
