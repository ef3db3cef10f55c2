"""Every field of a run's configuration, its default and its meaning, and the checks on them."""

import json
import os
import pathlib
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from fer_jax.errors import InputError, unknown

ATTENTIONS = ('none', 'spatial', 'channel', 'both', 'se', 'eca', 'cbam')
DATASETS = ('toyfaces', 'fer2013', 'ckplus', 'image_folder')


def optional(kind: type, value: Any = None) -> Any:
    """A field that holds a `kind` or None, set to `value`."""
    field = placeholder(kind)
    field.set(value)
    return field


def default_config() -> ConfigDict:
    """The complete, locked configuration: SA + Base(g=4) + CA of the paper on the embedded ToyFaces."""
    c = ConfigDict()
    c.name = 'toyfaces'  # what results call this experiment
    c.seed = 0  # of initialisation, order and augmentation
    c.epochs = 20.0  # passes over the training images; the step count is rounded to whole steps
    c.batch_size = 128  # images a step, over all devices

    d = c.data = ConfigDict()
    d.dataset = 'toyfaces'  # toyfaces | fer2013 | ckplus | image_folder
    d.path = optional(str)  # the source file or folder; None for toyfaces
    d.prepared = 'data'  # folder of the prepared ArrayRecord shards and manifests
    d.votes = optional(str)  # FER+'s fer2013new.csv: its votes become soft targets (fer2013 only)
    d.dedup = False  # leave out Training images whose pixels also stand in a test split
    d.class_weights = False  # weigh the loss by n / (classes × n_class)
    d.skip_bad = False  # go on without files that are no images (counted and named) instead of refusing
    d.validation_fraction = 0.1  # drawn from train by seed, stratified, where the source has no validation split
    d.test_fraction = 0.1  # likewise where it has no test split
    d.split_seed = 0  # of those draws; apart from `seed`, so that seeds share one test set
    d.toyfaces_images = 8400  # how many faces ToyFaces draws, all splits together

    a = c.augment = ConfigDict()  # all on the device, drawn anew for each image and step
    a.crop = True  # random 40×40 crop of 48×48; the centre otherwise
    a.flip = True  # mirror left-right with probability 1/2
    a.rotate = 10.0  # degrees, uniform in ±
    a.scale = 0.1  # relative, uniform in 1 ±
    a.shift = 0.0  # of the crop's side, uniform in ±, beyond the crop's own
    a.brightness = 0.1  # added, of full range, uniform in ±
    a.contrast = 0.1  # relative, uniform in 1 ±, about the image's mean
    a.erase = 0.0  # probability that one rectangle of 2 to 20 % of the area is set to the image's mean
    a.mixup = 0.0  # Beta(α, α) of the mixing weight; 0 is off

    n = c.network = ConfigDict()
    n.attention = 'both'  # none | spatial | channel | both (the paper's SA and CA) | se | eca | cbam (in every block)
    n.shuffle_groups = optional(int, 4)  # channel shuffle groups in every block; None is no shuffle
    n.fusion = 'pointwise'  # a block's last co² weights: pointwise (1×1) or attention (squeeze of ratio 2)
    n.preactivation = False  # BN and ReLU before each convolution of the two paths instead of after
    n.residual = False  # identity sums inside the two paths
    n.zero_last_gamma = False  # start the last BN scale of each residual sum at zero
    n.stem = 8  # channels of the first convolution
    n.blocks = (24, 32, 72, 216, 360, 512)  # output channels of each CSP block
    n.strides = (1, 2, 2, 2, 2, 2)  # and its stride
    n.dtype = 'float32'  # of the arithmetic: float32 | bfloat16; parameters and statistics stay float32
    n.batch_norm = 'global'  # statistics over the global batch | device: over each device's share
    n.batch_norm_momentum = 0.9  # of the running statistics

    o = c.optimizer = ConfigDict()
    o.name = 'sgd'  # sgd (Nesterov) | adamw | muon
    o.learning_rate = 0.1  # peak
    o.schedule = 'cosine'  # cosine (after a linear warm-up) | onecycle
    o.warmup_epochs = 1.0  # of the cosine schedule
    o.momentum = 0.9  # sgd's; muon's is 0.95
    o.weight_decay = 5e-4  # on kernels only; coupled in sgd, decoupled in adamw and muon
    o.clip = optional(float, 5.0)  # global gradient norm; None is off
    o.label_smoothing = 0.1
    o.ema = 0.99  # decay per step of the averaged parameters that are evaluated; 0 is off

    t = c.train = ConfigDict()
    t.steps_per_call = 0  # steps in one compiled call; 0 chooses: 1 on CPU, 50 on GPU and TPU
    t.log_every = 20  # steps between lines of the log
    t.evaluate_every_epochs = 1.0  # epochs between evaluations on the validation split
    t.checkpoint_every_epochs = 1.0  # epochs between checkpoints
    t.keep_checkpoints = 2  # latest ones kept, besides the best
    t.tensorboard = True  # event files beside the JSONL

    e = c.evaluation = ConfigDict()
    e.batch_size = 256  # images a call, over all devices

    p = c.parallel = ConfigDict()
    p.cpu_devices = 0  # virtual CPU devices to share a batch; 0 chooses: the cores, at most 8; ignored off CPU
    return c.lock()
