"""Metrics of image fusion, in the conventions that the field's tables use.

Pure functions on `(B, 1, H, W)` tensors of gray values 0..255 live in `information`, `gradient`, `fidelity` and
`correlation`; `legacy` holds what other suites compute under the same names. The tables `METRICS` and
`LEGACY_METRICS` give each of them its name, direction, range, convention and paper, `TABLES` the columns of papers.

    evaluate_pair(fused, visible, infrared)                      # every recommended metric of one pair
    evaluate_pair(fused, visible, infrared, names=TABLES["red"])
    METRICS["VIF"](fused, visible, infrared)                     # a batch of tensors -> (B,)
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
