"""Evaluation: methods x sets x metrics -> tables, CSV, JSON and figures that a reviewer would accept.

    from fusion_hub.evaluation import EvaluationSet, baseline_method, evaluate, pipeline_method

    tno = EvaluationSet.of("tno/test", PairedDataset.open("data/tno", split="test"))
    result = evaluate([pipeline_method("mine", pipe)], [tno], metrics=CDDFUSE_METRICS, output="results")
    print(result.markdown)

The picture is measured as it would be saved: 8-bit BT.601 full-range luminance in integers, against that of both
sources. Every table has the rows of average and maximum. `fusion-hub evaluate` does this on the command line.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
