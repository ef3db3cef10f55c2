"""Every field of a run's configuration: its default, its meaning, and the values that it may have."""

from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

SHIPPED = 'fer2013-1.9m'  # the weights that come with the package, taken where none are named
# Fields that hold one of a few words.
CHOICES = {
    'data.pipeline': ('auto', 'resident', 'stream'),
    'data.dedup': ('none', 'exact', 'near'),
    'data.targets': ('crossentropy', 'distribution', 'majority'),
    'network.name': ('fernet', 'mini_xception', 'shufflenet_v2', 'mobilenet_v2', 'resnet18', 'vgg13'),
    'network.attention': ('none', 'spatial', 'channel', 'both', 'se', 'eca', 'cbam'),
    'network.fusion': ('pointwise', 'attention'),
    'network.activation': ('relu', 'leaky_relu', 'silu', 'gelu'),
    'network.dtype': ('float32', 'bfloat16'),
    'network.batch_norm': ('global', 'device'),
    'optimizer.name': ('sgd', 'adamw', 'muon'),
    'optimizer.schedule': ('cosine', 'onecycle'),
    'train.on_failed_save': ('stop', 'go_on'),
}
# Fields that hold a number between two bounds, both allowed.
BOUNDS = {
    'seed': (0, 2**32 - 1),
    'epochs': (1e-6, 1e6),
    'batch_size': (1, 2**24),
    'data.validation_fraction': (0.01, 0.9),
    'data.test_fraction': (0.01, 0.9),
    'data.teacher_share': (0, 1),
    'data.split_seed': (0, 2**32 - 1),
    'data.folds': (0, 1000),
    'data.fold': (0, 999),
    'data.toyfaces_images': (350, 10_000_000),
    'augment.rotate': (0, 180),
    'augment.scale': (0, 0.9),
    'augment.shift': (0, 0.5),
    'augment.brightness': (0, 1),
    'augment.contrast': (0, 1),
    'augment.erase': (0, 1),
    'augment.mixup': (0, 100),
    'augment.cutmix': (0, 100),
    'augment.share': (0, 1),
    'augment.early_side': (8, 40),
    'augment.early_share': (0, 0.99),
    'network.fusion_scale': (1e-6, 100),
    'network.stochastic_depth': (0, 0.99),
    'network.stem': (2, 4096),
    'network.batch_norm_momentum': (0, 1),
    'optimizer.learning_rate': (0, 100),
    'optimizer.warmup_epochs': (0, 1e6),
    'optimizer.momentum': (0, 1),
    'optimizer.adam_ratio': (0, 100),
    'optimizer.weight_decay': (0, 10),
    'optimizer.clip': (1e-6, 1e9),
    'optimizer.sam': (0, 100),
    'optimizer.label_smoothing': (0, 0.99),
    'optimizer.ema': (0, 0.999999),
    'train.steps_per_call': (0, 100_000),
    'train.log_every': (1, 10**9),
    'train.evaluate_every_epochs': (1e-3, 1e6),
    'train.checkpoint_every_epochs': (1e-3, 1e6),
    'train.keep_checkpoints': (1, 1000),
    'train.loss_limit': (1e-3, 1e9),
    'train.rollbacks': (0, 100),
    'train.rollback_factor': (0.01, 0.99),
    'evaluation.batch_size': (1, 2**20),
    'parallel.cpu_devices': (0, 256),
}
# The short names that may follow a config file: `configs/fer2013.py:attention=both,groups=4`.
ARGUMENTS = {
    'attention': 'network.attention',
    'groups': 'network.shuffle_groups',
    'fusion': 'network.fusion',
    'preactivation': 'network.preactivation',
    'residual': 'network.residual',
    'shortcut': 'network.shortcut',
    'activation': 'network.activation',
    'dtype': 'network.dtype',
    'optimizer': 'optimizer.name',
    'learning_rate': 'optimizer.learning_rate',
    'epochs': 'epochs',
    'batch_size': 'batch_size',
    'seed': 'seed',
    'path': 'data.path',
    'dedup': 'data.dedup',
}
# What may differ between two starts of one run: where things lie and what is kept, not what is computed.
MOVABLE = (
    'data.path',
    'data.prepared',
    'data.pipeline',
    'data.votes',
    'parallel.cpu_devices',
    'train.keep_checkpoints',
    'train.on_failed_save',
    'train.tensorboard',
)


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
    c.init_from = optional(str)  # folder of a run, or a weights file, whose variables training starts from; None draws them

    d = c.data = ConfigDict()
    d.dataset = 'toyfaces'  # toyfaces | fer2013 | ferplus | ckplus | image_folder: a name in fer_jax/data/readers.py
    d.path = optional(str)  # the source file or folder; None for toyfaces
    d.prepared = 'data'  # folder of the prepared ArrayRecord shards and manifests
    d.pipeline = 'auto'  # the training images: resident on every device | stream, read ahead of each step | auto: by their size
    d.votes = optional(str)  # FER+'s fer2013new.csv: with ferplus its labels, with fer2013 its votes become soft targets
    d.targets = 'crossentropy'  # ferplus only: shares of the votes | distribution: a label drawn by them each time | majority
    d.teacher = optional(str)  # predictions.csv of a run on these training images, whose probabilities soften the targets
    d.teacher_share = 0.5  # weight of the teacher's probabilities in the targets
    d.dedup = 'none'  # leave out training images that stand in validation or test too: none | exact: by every pixel | near: and alike
    d.class_weights = False  # weigh the loss by n / (classes × n_class)
    d.skip_bad = False  # go on without files that are no images (counted and named) instead of refusing
    d.validation_fraction = 0.1  # drawn from train by seed, stratified, where the source has no validation split
    d.test_fraction = 0.1  # likewise where it has no test split
    d.split_seed = 0  # of those draws; apart from `seed`, so that seeds share one test set
    d.by_subject = True  # drawn splits hold a subject's images together, where the source names subjects; false draws by image
    d.folds = 0  # test is one of so many folds of train, drawn by split_seed; 0 is off: test as the source has it, or drawn
    d.fold = 0  # which of them, from 0
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
    a.mixup = 0.0  # α of the Beta(α, α) that a mixing weight is drawn from; 0 is off
    a.cutmix = 0.0  # likewise, of the area that another image's rectangle takes; not both
    a.share = 1.0  # of the images that each of rotate, scale, shift, brightness and contrast is drawn for
    a.early_side = 32  # side of the views, in training and validation, in the first part of the run; as much of the face is seen
    a.early_share = 0.0  # how large that part is, of the run's steps; 0 is off. Only what comes after it can be the best checkpoint

    n = c.network = ConfigDict()
    n.name = 'fernet'  # the paper's | mini_xception | shufflenet_v2 | mobilenet_v2 | resnet18 | vgg13: these heed only dtype, batch_norm*
    n.attention = 'both'  # none | spatial | channel | both (the paper's SA and CA) | se | eca | cbam (in every block)
    n.shuffle_groups = optional(int, 4)  # channel shuffle groups in every block; None is no shuffle
    n.fusion = 'pointwise'  # a block's last co² weights: pointwise (1×1) or attention (squeeze of ratio 2)
    n.preactivation = False  # BN and ReLU before each convolution of the two paths instead of after
    n.residual = True  # identity sums inside the two paths
    n.zero_last_gamma = False  # start the last BN scale of each residual sum at zero
    n.shortcut = True  # an identity sum around each block, averaged over its stride, new channels zero; no parameters
    n.fusion_scale = 1.0  # of the first draw of each block's last 1×1: small ones start a block with a shortcut near the identity
    n.stochastic_depth = 0.0  # probability that a step goes without the last block's own part, rising to it linearly; needs shortcut
    n.activation = 'relu'  # relu | leaky_relu | silu | gelu
    n.stem = 8  # channels of the first convolution
    n.blocks = (24, 32, 72, 216, 360, 512)  # output channels of each CSP block
    n.strides = (1, 2, 2, 2, 2, 2)  # and its stride
    n.dtype = 'float32'  # of the arithmetic: float32 | bfloat16; parameters and statistics stay float32
    n.batch_norm = 'global'  # statistics over the global batch | device: over each device's share
    n.batch_norm_momentum = 0.9  # of the running statistics

    o = c.optimizer = ConfigDict()
    o.name = 'adamw'  # sgd (Nesterov) | adamw | muon
    o.learning_rate = 2e-3  # peak, for a batch of 128
    o.schedule = 'cosine'  # cosine (after a linear warm-up) | onecycle
    o.warmup_epochs = 1.0  # of the cosine schedule
    o.momentum = 0.9  # of sgd and muon; muon is mostly run at 0.95
    o.adam_ratio = 0.1  # muon only: learning rate of what Adam updates (vectors, depthwise filters), as a share of the peak
    o.weight_decay = 0.05  # on kernels only (in muon, those that are matrices); coupled in sgd, decoupled in adamw and muon
    o.clip = optional(float, 5.0)  # global gradient norm; None is off
    o.sam = 0.0  # sharpness-aware minimisation: how far uphill its gradient is taken; 0 is off, anything else doubles the work
    o.label_smoothing = 0.1  # share of a target's weight that is spread over all classes
    o.ema = 0.995  # decay per step of the averaged parameters that are evaluated; 0 is off

    t = c.train = ConfigDict()
    t.steps_per_call = 0  # steps in one compiled call; 0 chooses: 1 on CPU, 50 on GPU and TPU
    t.log_every = 20  # steps between lines of the log
    t.evaluate_every_epochs = 1.0  # epochs between evaluations on the validation split
    t.checkpoint_every_epochs = 1.0  # epochs between checkpoints
    t.keep_checkpoints = 2  # latest ones kept, besides the best
    t.on_failed_save = 'stop'  # after a checkpoint or a line of the log that could not be written: stop | go_on, and try again when due
    t.loss_limit = 100.0  # a training loss above it has exploded, and is treated like one that is not finite
    t.rollbacks = 0  # how often a run whose loss exploded goes back to its last checkpoint by itself, before it stops
    t.rollback_factor = 0.5  # what the learning rate is multiplied with each time
    t.tensorboard = True  # event files beside the JSONL

    e = c.evaluation = ConfigDict()
    e.batch_size = 256  # images a call, over all devices
    e.test = True  # score the test split when the run is at its end; false while a recipe is being chosen

    p = c.parallel = ConfigDict()
    p.cpu_devices = 0  # virtual CPU devices to share a batch; 0 chooses: the cores, at most 8; ignored off CPU
    return c.lock()
