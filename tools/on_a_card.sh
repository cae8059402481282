#!/bin/sh
# Tests, benchmark and a real clip on a machine with a graphics card, in under eight minutes, from a bare machine with
# Python 3.11 or newer and torch for its card:
#
#     tools/on_a_card.sh [CLIP] [FOLDER]
#
# CLIP: a video, 1080p for figures to compare; none: a rendered one. FOLDER receives benchmark.txt, *.json and the results.
# What packages are missing is installed beside the given torch, into a folder that is removed again; torch is not touched.
set -eu
cd "$(dirname "$0")/.."
clip=${1:-}
out=${2:-on_a_card}
python=${PYTHON:-python3}
mkdir -p "$out"
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT INT TERM

"$python" - <<'PY'
import sys
try:
    import torch
except ImportError:
    sys.exit(f"{sys.executable} has no torch: install the one for your card (https://pytorch.org), or set PYTHON")
device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
if device is None:
    sys.exit("torch sees no card here: install the torch for yours (https://pytorch.org), or set PYTHON")
print(f"torch {torch.__version__} on {device}", torch.cuda.get_device_name() if device.type == "cuda" else "")
PY

missing=$("$python" - <<'PY'
import importlib.util, tomllib
names = {"pillow": "PIL", "pi-heif": "pi_heif", "opencv-python-headless": "cv2", "ffmpeg-python": "ffmpeg",
         "imageio-ffmpeg": "imageio_ffmpeg"}
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
for need in [*project["dependencies"], "pytest>=8"]:
    name = need.split(">")[0].split(";")[0].strip()
    if name != "torch" and importlib.util.find_spec(names.get(name, name.replace("-", "_"))) is None:
        print(need.split(";")[0].replace(" ", ""))
PY
)
if [ -n "$missing" ]; then
    # shellcheck disable=SC2086  # one word for each package
    "$python" -m pip install --quiet --target "$site" $missing
    rm -rf "$site"/torch "$site"/torch-* "$site"/nvidia* "$site"/triton*
fi
PYTHONPATH=$PWD:$site
export PYTHONPATH PYTHONUNBUFFERED=1

echo "== tests of the device path"
timeout 150 "$python" -m pytest -q -x tests/test_device.py tests/test_flow.py tests/test_synthesis.py

for size in 720p 1080p; do
    for weights in interpolator-base interpolator-best; do
        echo "== $size $weights"
        timeout 60 "$python" -m fpsgan benchmark --size $size --weights $weights --frames 97 --json \
            > "$out/$size-$weights.json"
        cat "$out/$size-$weights.json"
    done
done

echo "== a clip"
if [ -z "$clip" ]; then
    clip=$out/clip.mp4
    "$python" -c "
from pathlib import Path
from fpsgan.demo import render_scene, write_clip
write_clip(Path('$clip'), [render_scene(k / 24, 1920, 1080) for k in range(72)], 24)"
fi
for engine in torch cpu; do
    timeout 60 "$python" -m fpsgan interpolate "$clip" -o "$out/$engine.mp4" --end 3 -y --no-resume \
        --engine $engine --benchmark
done
echo "results in $out"
