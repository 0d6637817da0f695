#!/bin/sh
# Whether an image works, in one or two minutes: run at its end of the build, and again where it is to be used:
#   docker run --rm asgc:cpu sh /opt/asgc/smoke.sh
#   docker run --rm --gpus all asgc:gpu sh /opt/asgc/smoke.sh
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

echo "== user $(id -u)"
[ "$(id -u)" != 0 ]
[ -w "$HOME" ]
[ -w /data/runs ]
[ -w /data/data ]
# Caches that it leaves in the image would be this user's, and in the way of others.
export HOME="$folder" TMPDIR="$folder" HF_HOME="$folder/huggingface" ENVPOOL_JUMANJI_MPLCONFIGDIR="$folder/matplotlib"

echo "== packages"
python -c "import asgc, rl, supervised, evaluation; print(asgc.__file__)"

echo "== the CPU kernel, without a compiler, beside the reference"
CXX=none python - <<'END'
import torch
from asgc import ASGC

def weights(implementation):
    torch.manual_seed(0)
    layer = torch.nn.Linear(300, 100)
    optimizer = ASGC(layer.parameters(), lr=0.01, mode="value", implementation=implementation)
    for _ in range(20):
        optimizer.zero_grad()
        layer(torch.randn(32, 300)).square().mean().backward()
        optimizer.step()
    return layer.weight.detach()

torch.testing.assert_close(weights("cpu"), weights("reference"), rtol=1e-4, atol=1e-5)
END

echo "== training, evaluation, resuming"
asgc-rl games > games.txt
grep -q SpaceInvaders games.txt
asgc-rl train --game Pong --run-dir runs/pong --total-steps 400 --learning-starts 100 --env.num-envs 4 --threads 1 \
    --evaluation.interval 200 --evaluation.episodes 1 --evaluation.final-episodes 1 > train.txt
tail -n 1 train.txt
asgc-rl eval runs/pong --episodes 1
[ -s runs/pong/summary.json ] && [ -s runs/pong/evaluations.jsonl ]
ls runs/pong/tensorboard/events.* > /dev/null
asgc-rl train --game cartpole --run-dir runs/cartpole --total-steps 400 > cartpole.txt
asgc-rl play runs/cartpole --video cartpole.mp4 > play.txt
[ -s cartpole.mp4 ]

echo "== images"
asgc-sup train --data digits --run-dir runs/digits --total-steps 20 --threads 1 > digits.txt
tail -n 1 digits.txt
# A model of torchvision's, which is of another build than the CPU image's torch.
asgc-sup train --data digits --model resnet18 --data.resolution 32 --run-dir runs/resnet18 --total-steps 2 \
    --batch-size 16 --evaluation.train-subset 0 --threads 1 > resnet18.txt

echo "== text: a language and the same in capitals; prepared, learned from, translated, scored"
python - <<'END'
import pathlib, random
import datasets, sacrebleu, sentencepiece

draw, words = random.Random(0), [one + two for one in "abcdefgh" for two in "abcdefgh"]
pathlib.Path("text").mkdir()
for split, count in (("train", 300), ("valid", 10), ("test", 10)):
    lines = [" ".join(draw.choices(words, k=draw.randint(3, 6))) for _ in range(count)]
    pathlib.Path(f"text/{split}.en").write_text("".join(f"{line}\n" for line in lines))
    pathlib.Path(f"text/{split}.de").write_text("".join(f"{line.upper()}\n" for line in lines))
print("datasets", datasets.__version__, "sacrebleu", sacrebleu.__version__, "sentencepiece", sentencepiece.__version__)
END
asgc-sup train --task wmt14 --data text --data.vocabulary 300 --model tiny --run-dir runs/text --total-steps 5 \
    --batch-size 500 --evaluation.train-subset 0 --threads 1 > text.txt
tail -n 1 text.txt
echo "a b c" | asgc-sup translate runs/text > translated.txt
[ "$(wc -l < translated.txt)" = 1 ]

echo "== parameters learned over tasks, and used"
asgc-meta learn smoke > meta.txt
asgc-meta show runs/meta/smoke > learned.txt
asgc-meta apply runs/meta/smoke asgc-rl train --game cartpole --run-dir runs/learned --total-steps 400 > applied.txt

echo "== studies, TensorBoard"
asgc-eval study run smoke --dry-run > study.txt
asgc-eval plot runs/pong > plot.txt
tensorboard --version

if [ -n "$(python -c 'import torch; print(torch.version.cuda or "")')" ]; then
    echo "== what Triton needs"
    python -c "import triton, torch; print('triton', triton.__version__, 'GPU:', torch.cuda.is_available())"
    echo '#include <Python.h>' | cc -fsyntax-only -x c -I "$(python -c 'import sysconfig; print(sysconfig.get_path("include"))')" -
else
    echo "== nothing of NVIDIA's, whose licence the CPU image is without"
    packages=$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    [ -z "$(find "$packages" -name 'libcud*' -o -name 'libnv*')" ]
fi
echo "the image works"
