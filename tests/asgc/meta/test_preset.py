"""Presets: from a file to an optimizer, and what is wrong with one in a line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from asgc import ASGC, optimizers
from asgc.meta import Preset, Space
from asgc.meta.preset import KIND

VALUES = {
    "weights": {"clip_factor": 1.5, "noise_scale": 0.01},
    "vectors": {"clip_factor": 3.0, "noise_scale": 0.02},
    "head": {"clip_factor": 6.0, "noise_scale": 0.04},
}
PRESET = Preset("tried", "adam", {"mode": "value", "betas": [0.8, 0.99]}, VALUES, provenance={"seeds": [1, 2]})


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def chosen(opt: ASGC, name: str) -> dict[str, Any]:
    return {group[KIND]: group[name] for group in opt.param_groups}


def test_each_kind_of_layer_has_its_options(tmp_path: Path) -> None:
    path = tmp_path / "tried.json"
    PRESET.save(path)
    assert Preset.load(path) == PRESET
    model = network()
    opt = ASGC.from_preset(model.parameters(), path, lr=0.1)
    assert chosen(opt, "clip_factor") == {"weights": 1.5, "vectors": 3.0, "head": 6.0}
    assert chosen(opt, "noise_scale") == {"weights": 0.01, "vectors": 0.02, "head": 0.04}
    assert all(group["mode"] == "value" and group["betas"] == [0.8, 0.99] for group in opt.param_groups)
    assert [len(group["params"]) for group in opt.param_groups] == [1, 1, 2]
    before = [param.detach().clone() for param in model.parameters()]
    model(torch.ones(2, 3)).sum().backward()
    opt.step()
    assert not any(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    again = ASGC.from_preset(network().parameters(), PRESET, lr=0.1)
    again.load_state_dict(opt.state_dict())
    assert chosen(again, "clip_factor") == chosen(opt, "clip_factor")


def test_what_is_given_beside_it_counts() -> None:
    opt = ASGC.from_preset(network().parameters(), PRESET, lr=0.1, clip_factor=9.0, mode="norm", weight_decay=0.1)
    assert chosen(opt, "clip_factor") == dict.fromkeys(VALUES, 9.0)
    assert chosen(opt, "noise_scale")["head"] == 0.04
    assert all((group["mode"], group["weight_decay"]) == ("norm", 0.1) for group in opt.param_groups)
    model = network()
    groups = [
        {"params": model[0].parameters(), "lr": 0.5},
        {"params": model[1].parameters(), "clip_factor": 1.0},
    ]
    opt = ASGC.from_preset(groups, PRESET, lr=0.1)
    assert [(group[KIND], group["lr"], group["clip_factor"]) for group in opt.param_groups] == [
        ("weights", 0.5, 1.5),
        ("vectors", 0.5, 3.0),
        ("head", 0.1, 1.0),
    ]


def test_options_may_follow_the_share_of_training() -> None:
    late = {kind: {"clip_factor": 4 * own["clip_factor"], "noise_scale": 0.001} for kind, own in VALUES.items()}
    preset = Preset("late", "adam", {}, VALUES, late)
    opt = ASGC.from_preset(network().parameters(), preset, lr=0.1)
    found = []
    for share in (0.0, 0.5, 1.0):
        preset.follow(opt.param_groups, share)
        found.append(chosen(opt, "clip_factor")["weights"])
    assert found[0] == pytest.approx(1.5)
    assert 1.5 < found[1] < 6.0
    assert found[2] == pytest.approx(6.0)
    assert preset.at(1.0)["head"] == pytest.approx({"clip_factor": 24.0, "noise_scale": 0.001})


def test_what_somebody_sets_beside_a_preset_stays_as_training_goes_on() -> None:
    late = {kind: {"clip_factor": 1.0, "noise_scale": 0.0} for kind in VALUES}
    preset, model = Preset("late", "adam", {}, VALUES, late), network()
    opt = ASGC.from_preset(model.parameters(), preset, lr=0.1, clip_factor=9.0)
    preset.follow(opt.param_groups, 1.0)
    assert chosen(opt, "clip_factor") == dict.fromkeys(VALUES, 9.0)
    assert chosen(opt, "noise_scale") == dict.fromkeys(VALUES, 0.0)  # beyond what is learned, and as it is
    groups = [{"params": model[0].parameters(), "noise_scale": 0.7}, {"params": model[1].parameters()}]
    opt = ASGC.from_preset(groups, preset, lr=0.1)
    preset.follow(opt.param_groups, 0.0)
    assert chosen(opt, "noise_scale") == {"weights": 0.7, "vectors": 0.7, "head": 0.04}


def test_what_is_wrong_is_one_line(tmp_path: Path) -> None:
    def refused(words: str, **changes: Any) -> None:
        path = tmp_path / "p.json"
        PRESET.save(path)
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
        with pytest.raises(ValueError, match=words) as caught:
            Preset.load(path)
        assert "\n" not in str(caught.value)

    refused("has format 2, this asgc reads up to 1: a later asgc is needed", format=2)
    refused("no kind of layer 'biases': there are weights", values={"biases": {}})
    refused("no option 'clip_facto' can be learned .*did you mean 'clip_factor'", values={"head": {"clip_facto": 1}})
    refused("unknown rule 'adma'", rule="adma")
    refused("lr must be a number", lr="fast")
    refused("clip_factor must be", values={"head": {"clip_factor": -1}})
    refused("clip_factor must be", values={"head": {"clip_factor": float("nan")}})
    refused("is damaged", more=1)
    refused("has format 0", format=0)
    refused("options must be names with values", options=[])
    refused("values must be names with values", values=["weights"])
    refused("weights must be options with values, not 3", values={"weights": 3})
    refused("clip_factor of head must be a number, not 'two'", values={"head": {"clip_factor": "two"}})
    refused("late has other layers or options than values", late={"head": {"clip_factor": 1}})
    (tmp_path / "cut.json").write_text('{"format": 1, "na')
    with pytest.raises(ValueError, match="is damaged"):
        Preset.load(tmp_path / "cut.json")
    with pytest.raises(ValueError, match="no preset 'nowhere'"):
        ASGC.from_preset([torch.zeros(2, 2)], "nowhere", lr=0.1)
    words = nn.Embedding(5, 3)
    with pytest.raises(
        ValueError, match=r"preset tried has nothing for embed\.weight \(embeddings\): it was learned on"
    ):
        ASGC.from_preset(nn.ModuleDict({"embed": words}).named_parameters(), PRESET, lr=0.1)
    with pytest.raises(TypeError, match="momentu"):
        ASGC.from_preset(network().parameters(), PRESET, lr=0.1, momentu=0.9)


def test_the_registry_takes_a_preset_and_a_learned_rate_is_the_default() -> None:
    learned = replace(PRESET, lr=0.25)
    opt = optimizers.build("asgc", network().parameters(), 0.5, preset=learned, clip_factor=9.0)
    assert isinstance(opt, ASGC)
    assert chosen(opt, "clip_factor") == dict.fromkeys(VALUES, 9.0)
    assert chosen(opt, "lr") == dict.fromkeys(VALUES, 0.5)
    assert chosen(ASGC.from_preset(network().parameters(), learned), "lr") == dict.fromkeys(VALUES, 0.25)
    still = optimizers.build("asgc-clip", network().parameters(), 0.5, preset=learned)
    assert isinstance(still, ASGC)
    assert chosen(still, "noise_scale") == dict.fromkeys(VALUES, 0.0)
    with pytest.raises(ValueError, match="no learning rate of its own: give lr"):
        ASGC.from_preset(network().parameters(), PRESET)
    with pytest.raises(ValueError, match=r"adam takes no preset: those of asgc, asgc-clip, asgc-noise are learned"):
        optimizers.build("adam", network().parameters(), 0.5, preset=PRESET)
    with pytest.raises(ValueError, match="was learned with rule 'adam', not 'sgd'"):
        optimizers.build("asgc", network().parameters(), 0.5, preset=PRESET, rule="sgd")
    with pytest.raises(TypeError, match="asgc has no option 'momentum'"):
        optimizers.build("asgc", network().parameters(), 0.5, preset=PRESET, momentum=0.9)


def test_a_vector_becomes_a_preset_whose_rate_is_the_same_everywhere() -> None:
    space = Space(("clip_factor", "lr"), by_share=True)
    vector = space.start({"clip_factor": 2.0, "lr": 1e-3})
    z = vector.view(space.rows, 2)
    z[1] += 0.5  # an offset of the weights, which the rate has none of
    z[-1] += 1.0  # by the end of training, too
    found = Preset.learned("tried", "adam", {"mode": "norm"}, space, vector, {"seeds": [1]})
    assert found.lr == pytest.approx(1e-3)
    assert found.values["vectors"] == {"clip_factor": pytest.approx(2.0)}
    assert found.values["weights"]["clip_factor"] > 2.5
    assert found.late["vectors"]["clip_factor"] > 4
    assert found.provenance == {"seeds": [1]}
    opt = ASGC.from_preset(network().parameters(), found)
    assert chosen(opt, "lr") == dict.fromkeys(found.values.keys() - {"embeddings"}, pytest.approx(1e-3))
    opt.follow_preset(1.0)
    assert chosen(opt, "clip_factor")["head"] == found.late["head"]["clip_factor"]
    with pytest.raises(ValueError, match="no option 'lr' can be learned by layer"):
        Preset("bad", "adam", {}, {"weights": {"lr": 0.1}})
