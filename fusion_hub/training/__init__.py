"""Training, shared by every `train/*.py`: parse a config, build a task, run.

    config, mine = parse_config((TrainingConfig, MyTaskConfig))
    Trainer(MyTask(config, mine), config, mine).train()

`MyTask` is a `TrainingTask`: it opens the samples, builds the model and the module that computes the loss, chooses what
to validate and saves the pipeline. `FusionTask` has what fusion models share. The loop does everything else.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
