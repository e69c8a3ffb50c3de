"""What the papers published, to lay beside what was measured here. None of it was measured by this project."""

import pandas as pd

from dashboards.frames import as_frame
from models.schedule import GenerationSchedule

PUBLISHED_COLUMNS = {
    "model": "str",
    "data": "str",
    "steps": "float64",
    "tflops": "float64",
    "fid": "float64",
    "source": "str",
}
AUTONAT, ENAT = "AutoNAT, arXiv 2406.05478", "ENAT, arXiv 2411.06959"

# FID with Inception features on 50,000 images. TFLOPs an image where the figure is known here; NaN elsewhere.
_NAN = float("nan")
POINTS = (
    ("AutoNAT-S", "ImageNet-256", 4, 0.2, 4.30, AUTONAT),
    ("AutoNAT-S", "ImageNet-256", 8, _NAN, 3.52, AUTONAT),
    ("AutoNAT-L", "ImageNet-256", 8, _NAN, 2.68, AUTONAT),
    ("ENAT-L", "ImageNet-256", 8, _NAN, 2.79, ENAT),
    # ENAT-XL's 2.48 is left out: with how many steps was not established.
)

# The strategy released with AutoNAT-L (T = 8) in the official repository.
AUTONAT_L_T8 = GenerationSchedule(
    mask_ratios=(
        0.9531645174140464, 0.8795409806037042, 0.7940230737075623, 0.745995860948045, 0.6249785820461957,
        0.407321956652571, 0.260658917067054,
    ),
    sampling_temperatures=(
        2.8999037830310685, 1.867261830931786, 1.1443729673819831, 1.3796334226014182, 1.4699896959810144,
        1.3760684112198358, 1.7082165405200722, 0.7133060703601533,
    ),
    choice_temperatures=(
        2.404912789740805, 2.477616274962803, 1.191696577294597, 0.7685444738649722, 1.0673489052089495,
        0.9353720330515827, 0.7843839537838292,
    ),
    guidance_scales=(
        0.0001, 0.0001, 0.0001, 0.9151274967591447, 1.6160182878189675, 1.1945509026838659, 1.38322370140345,
        1.22678520936251,
    ),
    rule="autonat",
)  # fmt: skip
STRATEGIES = {"AutoNAT-L, published": AUTONAT_L_T8}


def published_frame() -> pd.DataFrame:
    """Published points: model, data, steps T, tflops (of one image; missing where not known), fid, source."""
    return as_frame(list(POINTS), PUBLISHED_COLUMNS)
