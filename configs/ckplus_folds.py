"""CK+ on people that were not seen in training: ten folds, each subject in the test of exactly one.

They make one row of the report: the names share what stands before `-fold`, and the accuracy is that of all 981 images, each of
them tested once. Validation is of other subjects again. The nearest training image by raw pixels alone is right for about 53 %
(`one_nearest_neighbour` in each result.json), where a split by image gives it 87 %.

Command:   python -m fer_jax sweep --config configs/ckplus_folds.py --config.data.path=CK+48 --seeds 0 --workdir runs/ckplus-folds
           From FER+'s weights: --config.init_from=ferplus-1.9m and another --workdir
Hardware:  any
Time:      60 epochs of about 785 images a fold; on one core of two 9 to 13 minutes each, beside other work
Accuracy:  from FER+'s weights 94.29 % by one crop and 95.01 % by ten (results/ckplus-folds)
"""

from collections.abc import Iterator

from ml_collections import ConfigDict

from fer_jax.core.config import load_module

FOLDS = 10


def get_configs() -> Iterator[ConfigDict]:
    """Ten folds, the subjects dealt out by data.split_seed, which is 0."""
    ckplus = load_module('ckplus').ckplus  # its recipe
    for fold in range(FOLDS):
        config = ckplus(f'ckplus-fold{fold}')
        config.data.folds = FOLDS
        config.data.fold = fold
        config.data.validation_fraction = 0.1
        yield config
