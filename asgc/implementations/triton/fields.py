"""Records of the tables on the device, named once for the host and for the kernels.

All tables are row-major. A *layer* is a parameter tensor, a *row* has statistics of its own (a layer, or a unit of it),
a *block* is what one program of the main kernel walks, in tiles: consecutive elements of one row.
"""

from __future__ import annotations

from ... import noise

# int64, one record a layer: addresses, then how memory order runs through the tensor (see cpu.table.Order).
PARAM, STATE, STATS, STEP, TIME, NUMBER, GROUP, UNITS, SIZE, STRIDE = 0, 1, 4, 5, 6, 7, 8, 9, 10, 18
MAX_DIMS = 8
LAYER_FIELDS = STRIDE + MAX_DIMS

# int64, one record a row: its layer, its unit, elements, blocks first..last-1.
ROW_LAYER, ROW_UNIT, ROW_SIZE, ROW_FIRST, ROW_LAST, ROW_FIELDS = range(6)

# int64, one record a block: its layer, its row, index of its first element in the tensor, elements.
BLOCK_LAYER, BLOCK_ROW, BLOCK_BEGIN, BLOCK_COUNT, BLOCK_FIELDS = range(5)

# float64, one record a group of parameters; a threshold of NaN means the adaptive one.
OPTIONS = (
    *("rule", "norm", "lr", "weight_decay", "eps", "maximize", "decoupled", "beta1", "beta2", "momentum", "dampening"),
    *("alpha", "lr_decay", "clip_factor", "threshold", "clip_sharpness", "noise_scale", "noise_decay", "noise_zeros"),
    *("stats_decay", "outlier_share", "seed", "langevin"),
)

# float32, one record a row: everything the main kernel needs to know about it in this step.
COEFFICIENTS = (
    "tau",  # threshold of an element
    "noise",  # its standard deviation
    "noise_zeros",  # 1: exact zeros get noise
    "sharpness",
    "keep_infinite",  # 1: an infinite element is clipped to tau, 0: it contributes nothing
    "mean",
    "ceiling",  # elements that are not below count as zero: inf, or 0 for all
    "factor",  # phi(r)/r in norm mode, else 1
    "sign",  # -1 for maximize
    "decay",  # coupled weight decay
    "keep",  # 1 - lr weight_decay where decoupled, else 1
    "lr",  # sgd, rmsprop: lr; adam: lr / bias_correction1; adagrad: decayed lr
    "one",  # sgd: momentum; adam: 1 - beta1; rmsprop: alpha
    "two",  # sgd: 1 - dampening; adam: beta2; rmsprop: 1 - alpha
    "three",  # adam: 1 - beta2; rmsprop: momentum
    "four",  # adam: 1 / sqrt(bias_correction2)
    "eps",
    "langevin",  # lr of the noise after the rule
    "first",  # 1: this step made the row's first statistics
)

# float64, one record a block: sums of g - mean, g^2, (g - mean)^2 over the finite elements, the number of the others;
# sums of the squares after and before the elementwise clip, and the number of clipped elements; and the sum of what the
# rule's denominators are the roots of.
CENTRED, SQUARE, DEVIATION, NONFINITE, AFTER, BEFORE, CLIPPED, SECOND, SUM_FIELDS = range(9)

# Forms of the elementwise clip; the last one serves any sharpness.
NO_CLIP, POWER_4, POWER_2, POWER_1, HARD, ANY_POWER = range(6)
SHARPNESS = {4.0: POWER_4, 2.0: POWER_2, 1.0: POWER_1, float("inf"): HARD}
NOISE_AT = {"gradient": 1, "update": 2}  # 0: no noise

NOISE_UNIT = noise.SCALE
