"""The page on ZeroGPU, with a stand-in for the package `spaces` that treats functions as that package does.

It forks a process for each call, sends arguments, results and errors by pickle, and pretends in the server that there
is CUDA. A real ZeroGPU is not tested.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import flir_file

SPACE = Path(__file__).parents[2] / "space"

STAND_IN = """
import functools, inspect, multiprocessing, os, pickle
import torch

server, real, calls = os.getpid(), torch.cuda.is_available, []
torch.cuda.is_available = lambda: os.getpid() == server or real()


def GPU(duration):
    def decorate(task):
        @functools.wraps(task)
        def call(*arguments, **options):
            *results, last = work(task, duration, arguments, options)
            if isinstance(last, Exception):
                raise last
            return last

        @functools.wraps(task)
        def generate(*arguments, **options):
            for result in work(task, duration, arguments, options):
                if isinstance(result, Exception):
                    raise result
                yield result

        return generate if inspect.isgeneratorfunction(task) else call

    return decorate


def work(task, duration, arguments, options):
    calls.append((task.__name__, duration))
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    sent = pickle.dumps((arguments, options))

    def run():
        arguments, options = pickle.loads(sent)
        try:
            result = task(*arguments, **options)
            for one in result if inspect.isgenerator(result) else [result]:
                results.put(pickle.dumps(one))
        except Exception as error:
            results.put(pickle.dumps(error))
        results.put(b"")  # the end

    process = context.Process(target=run, daemon=True)
    process.start()
    process.join(120)
    assert process.exitcode == 0, process.exitcode
    return [pickle.loads(one) for one in iter(results.get, b"")]
"""

RUN = """
import json, sys
from pathlib import Path
space, work = sys.argv[1:]
sys.path.insert(0, space)

import analysis, batch, cameras, clips, examples, fuse, gpu, phantom, volume_fusion
import gradio as gr
import numpy as np
from PIL import Image

from fusion_hub.data import SamplePair

pair = []
for name, seed in (("street.png", 0), ("street_ir.png", 1)):
    array = np.random.default_rng(seed).integers(0, 256, (48, 64), dtype=np.uint8)
    pair.append(f"{work}/{name}")
    Image.fromarray(array).save(pair[-1])
small = SamplePair("street", "Street", "", "difffusenet-msrs", *map(Path, pair))
begun = examples.fuse_in_background(examples.write_examples(Path(work), [small])[0])  # in the server, as when it starts
assert begun.done() and "Street" in begun.result().text

def files(pair):
    return pair.visible, pair.infrared

unmatched, clip = map(files, examples.write_camera_examples(Path(work)))
model = "difffusenet-msrs"
fused = np.asarray(Image.open(fuse.fuse(*pair, model)[0]))
alone = np.asarray(fuse.fuse_pair(*pair, model)[0].image)
try:
    fuse.fuse(pair[0], None, model)
    refused = None
except gr.Error as error:
    refused = [error.title, error.message]
table, _ = analysis.measure(*pair, model)
head = map(str, phantom.write_phantom(Path(work)))
results = {
    "same": bool((fused == alone).all()),
    "refused": refused,
    "previews": analysis.detect(*pair, model)[3][:20],
    "metrics": len(table),
    "panels": len(analysis.explain(*pair, model)[1]),
    "batch": Path(list(batch.batch(pair, model))[-1]).name,
    "aligned": cameras.align(*map(str, unmatched), model)[3],
    "temperatures": cameras.temperatures(f"{work}/photo.jpg")[4],
    "clip": list(clips.fuse_clip(*map(str, clip), False))[-1][2],
    "volume": volume_fusion.fuse_volume(*head, modality="MR", moving_modality="PT", registration="none")[2],
    "device": gpu.current_device(),
}
results["calls"] = sys.modules["spaces"].calls
print(json.dumps(results))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="ZeroGPU forks, which this system cannot")
def test_each_function_that_runs_networks_gets_its_gpu(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "photo.jpg").write_bytes(flir_file.photo())
    (tmp_path / "spaces.py").write_text(STAND_IN)
    variables = {"GRADIO_TEMP_DIR": str(tmp_path / "gradio"), "HF_HUB_OFFLINE": "1", "SPACES_ZERO_GPU": "true"}
    variables["PYTHONPATH"] = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-c", RUN, str(SPACE), str(tmp_path / "work")]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["same"], "another process, the same pixels"
    assert found["refused"] == ["Nothing to read yet", "Add the infrared image first."]
    assert found["metrics"] > 9 and found["panels"] > 10 and found["batch"] == "fused.zip" and found["previews"]
    assert "Aligned" in found["aligned"] and "32 x 24 pixels" in found["temperatures"]
    assert found["volume"].startswith("88 x 108 x 40 voxels fused")
    assert found["clip"].startswith("10 frames of 320 x 240")
    names = ["fuse_and_show", "fuse_and_show", "measure", "detect", "explain", "fuse_all"]
    names += ["align_and_show", "read_thermal", "fuse_all", "fuse_kept"]
    assert [name for name, _ in found["calls"]] == names
    assert all(0 < seconds <= 120 for _, seconds in found["calls"])
    assert found["device"] == "cpu", "in the server itself there is no GPU"
