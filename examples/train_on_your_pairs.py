"""Train DiffFuseNet on your own pairs: `python examples/train_on_your_pairs.py FOLDER [--steps 2000]`.

A small network, on one CPU or GPU. `fusion-hub train difffusenet` has every option, several processes and the
configurations of the bundled checkpoints. Run the same command again to resume.
"""

import argparse

from fusion_hub import DiffFuseNetPipeline
from fusion_hub.training import Source, Trainer, TrainingConfig
from fusion_hub.training.difffusenet import DiffFuseNetConfig, DiffFuseNetTask

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folder", nargs="?", default="generated", help="folder of pairs, Hub dataset id, or `generated`")
parser.add_argument("--steps", type=int, default=2000)
parser.add_argument("--crop", type=int, default=128, help="side of the training crops in pixels")
parser.add_argument("--output", default="runs/mine")
options = parser.parse_args()

training = TrainingConfig(
    sources=[Source(options.folder)],
    output_dir=options.output,
    max_steps=options.steps,
    warmup_steps=options.steps // 10,
    batch_size=4,
    crop_size=options.crop,
)
network = DiffFuseNetConfig(variant="tiny")
folder = Trainer(DiffFuseNetTask(training, network), training, network).train()
if folder is not None:  # None: stopped by Ctrl-C, after a checkpoint
    pipe = DiffFuseNetPipeline.from_pretrained(folder)
    print(f"{folder}: {sum(p.numel() for p in pipe.model.parameters()):,} parameters")
