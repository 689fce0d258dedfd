"""Other people's methods, our own short implementations from their papers' formulas, to compare with on one model.

They change copies of the U-Net or of the text encoder; the resident model stays as it is.
"""

from collections.abc import Mapping

from bench.baselines import esd_x, few_shot_unlearning, uce
from bench.baselines.base import Baseline, Changed

__all__ = ["BASELINES", "Baseline", "Changed"]

BASELINES: Mapping[str, Baseline] = {
    baseline.name: baseline for baseline in (uce.BASELINE, esd_x.BASELINE, few_shot_unlearning.BASELINE)
}
