"""Every field of a run's configuration: its default, its meaning, and the values that it may have; and defaults of predictions."""

from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference

SHIPPED = 'ferplus-1.9m'  # the weights that come with the package, taken where none are named
MIN_SCORE = 0.7  # of the faces that are told, where nothing else is said
SMOOTH = 0.3  # seconds that a face's probabilities in a video are smoothed over: an expression lasts longer
DETECT_EVERY = 0.4  # seconds of a video from one look for faces to the next; between, those that were found are followed
# Fields that hold one of a few words.
CHOICES = {
    'data.pipeline': ('auto', 'resident', 'stream'),
    'data.dedup': ('none', 'exact', 'near'),
    'data.targets': ('crossentropy', 'distribution', 'majority'),
    'network.name': ('fernet', 'mini_xception', 'shufflenet_v2', 'mobilenet_v2', 'resnet18', 'vgg10', 'vgg13'),
    'network.attention': ('none', 'spatial', 'channel', 'both', 'se', 'eca', 'cbam'),
    'network.fusion': ('pointwise', 'attention'),
    'network.activation': ('relu', 'leaky_relu', 'silu', 'gelu'),
    'network.dtype': ('float32', 'bfloat16'),
    'network.batch_norm': ('global', 'device'),
    'optimizer.name': ('sgd', 'adamw', 'muon'),
    'optimizer.schedule': ('cosine', 'onecycle'),
    'train.on_failed_save': ('stop', 'go_on'),
}
# Fields that hold a number, or several, between two bounds, both allowed.
BOUNDS = {
    'seed': (0, 2**32 - 1),
    'epochs': (1e-6, 1e6),
    'batch_size': (1, 2**24),
    'data.validation_fraction': (0.01, 0.9),
    'data.test_fraction': (0.01, 0.9),
    'data.votes_head': (0, 100),
    'data.teacher_share': (0, 1),
    'data.teacher_temperature': (0.05, 20),
    'data.split_seed': (0, 2**32 - 1),
    'data.folds': (0, 1000),
    'data.fold': (0, 999),
    'data.megapixels': (1, 5000),
    'data.toyfaces_images': (350, 10_000_000),
    'augment.rotate': (0, 180),
    'augment.scale': (0, 0.9),
    'augment.shift': (0, 0.5),
    'augment.brightness': (0, 1),
    'augment.contrast': (0, 1),
    'augment.erase': (0, 1),
    'augment.erase_from': (0, 1),
    'augment.erase_to': (0, 1),
    'augment.mixup': (0, 100),
    'augment.cutmix': (0, 100),
    'augment.mix_from': (0, 1),
    'augment.mix_to': (0, 1),
    'augment.share': (0, 1),
    'augment.early_side': (8, 40),
    'augment.early_share': (0, 0.99),
    'network.fusion_scale': (1e-6, 100),
    'network.stochastic_depth': (0, 0.99),
    'network.shuffle_groups': (1, 4096),
    'network.stem': (2, 4096),
    'network.blocks': (1, 4096),
    'network.strides': (1, 2),
    'network.batch_norm_momentum': (0, 1),
    'optimizer.learning_rate': (0, 100),
    'optimizer.warmup_epochs': (0, 1e6),
    'optimizer.momentum': (0, 1),
    'optimizer.adam_ratio': (0, 100),
    'optimizer.weight_decay': (0, 10),
    'optimizer.clip': (1e-6, 1e9),
    'optimizer.sam': (0, 100),
    'optimizer.sam_from': (0, 1),
    'optimizer.label_smoothing': (0, 0.99),
    'optimizer.ema': (0, 0.999999),
    'optimizer.average_from': (0, 1),
    'train.steps_per_call': (0, 100_000),
    'train.log_every': (1, 10**9),
    'train.evaluate_every_epochs': (1e-3, 1e6),
    'train.checkpoint_every_epochs': (1e-3, 1e6),
    'train.keep_checkpoints': (1, 1000),
    'train.loss_limit': (1e-3, 1e9),
    'train.rollbacks': (0, 100),
    'train.rollback_factor': (0.01, 0.99),
    'evaluation.batch_size': (1, 2**20),
    'evaluation.ten_from': (0, 1),
    'parallel.cpu_devices': (0, 256),
}
# Fields that may be on for a part of the run only → the fields that say from and up to which share of the steps; None is to the end.
WINDOWS = {
    'augment.erase': ('augment.erase_from', 'augment.erase_to'),
    'augment.mixup': ('augment.mix_from', 'augment.mix_to'),
    'augment.cutmix': ('augment.mix_from', 'augment.mix_to'),
    'optimizer.sam': ('optimizer.sam_from', None),
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
    'evaluation.figures',
    'parallel.cpu_devices',
    'train.keep_checkpoints',
    'train.on_failed_save',
    'train.profile',
    'train.tensorboard',
)


def optional(kind: type, value: Any = None) -> FieldReference:
    """A field that holds a `kind` or None, set to `value`."""
    return FieldReference(value, field_type=kind)


def default_config() -> ConfigDict:
    """The complete, locked configuration: SA + Base(g=4) + CA of the paper on the embedded ToyFaces."""
    c = ConfigDict()
    c.name = 'toyfaces'  # what results, tables and the run's folder call this experiment
    c.seed = 0  # of the initial parameters, the images' order and the augmentation
    c.epochs = 20.0  # passes over the training images; rounded to whole steps
    c.batch_size = 128  # images a step, over all devices together
    c.init_from = optional(str)  # training starts from the variables of this run's folder or weights file; None draws them at random

    d = c.data = ConfigDict()
    d.dataset = 'toyfaces'  # toyfaces | fer2013 | ferplus | ckplus | image_folder | image_table: a name in fer_jax/data/readers.py
    d.path = optional(str)  # the source file or folder; None for toyfaces
    d.table = optional(str)  # image_table only: the list of the pictures, below data.path; None where there is only one
    d.prepared = 'data'  # folder that the prepared ArrayRecord shards and their manifests are written to and read from
    d.pipeline = 'auto'  # training images: resident, whole on every device | stream, read ahead of each step | auto, by their size
    d.votes = optional(str)  # path of FER+'s fer2013new.csv: gives ferplus its labels, and fer2013 soft targets (the shares of the votes)
    d.votes_head = 0.0  # fer2013 only: the votes teach a second head, whose loss weighs this, and labels the one that is kept; 0 is off
    d.targets = 'crossentropy'  # ferplus only: crossentropy, the votes' shares | distribution, drawn by them each time | majority
    d.teacher = optional(str)  # predictions.csv of a run on the same images, or several with commas: their mean goes into the targets
    d.teacher_share = 0.5  # weight of the teacher's probabilities in the targets; the labels have the rest
    d.teacher_temperature = 1.0  # that the teacher's logits are divided by: above 1 its probabilities are less sure of themselves
    d.dedup = 'none'  # leave out training images that stand in validation or test too: none | exact, by every pixel | near, and alike
    d.class_weights = False  # weigh each image's loss by n / (classes × images of its class), so that all classes count alike
    d.skip_bad = False  # leave out files that are no images (counted and named) instead of refusing the data set
    d.megapixels = 250  # millions of pixels that a picture may have; more are refused as a decompression bomb
    d.validation_fraction = 0.1  # share of the training images drawn for validation, by class, where the source has no validation split
    d.test_fraction = 0.1  # share drawn for the test, likewise, where the source has no test split
    d.split_seed = 0  # of the two draws above and of folds; apart from `seed`, so that runs of several seeds share one test set
    d.by_subject = True  # drawn splits keep the images of one person together, where the source names persons; false draws by image
    d.folds = 0  # cross-validation: the test split is one of so many folds of the training images; 0 is off
    d.fold = 0  # which of data.folds is the test split, from 0
    d.toyfaces_images = 8400  # toyfaces only: how many faces are drawn, all splits together

    a = c.augment = ConfigDict()  # all on the device, drawn anew for each image and step
    a.crop = True  # a 40×40 crop of the 48×48 image at random; false takes its centre
    a.flip = True  # mirror left-right with probability 1/2
    a.alternate = False  # mirror half of the images in even epochs and the others in odd ones, in place of by chance; needs flip
    a.rotate = 10.0  # degrees: each image is turned by an angle drawn from ± this
    a.scale = 0.1  # each image is enlarged or shrunk by a factor drawn from 1 ± this
    a.shift = 0.0  # each image is moved by up to ± this share of the crop's side, on top of the random crop
    a.brightness = 0.1  # added to each image: a value drawn from ± this share of the full range
    a.contrast = 0.1  # each image's distance from its mean is multiplied by a factor drawn from 1 ± this
    a.erase = 0.0  # probability that one rectangle of 2 to 20 % of the area is set to the image's mean
    a.erase_from = 0.0  # the share of the run's steps after which erasing begins,
    a.erase_to = 1.0  # and after which it ends
    a.mixup = 0.0  # images are mixed in pairs, with a weight drawn from Beta(this, this); 0 is off
    a.cutmix = 0.0  # a rectangle of another image is put in, of a share of the area drawn likewise; 0 is off; not together with mixup
    a.mix_from = 0.0  # the share of the run's steps after which mixup or CutMix begins,
    a.mix_to = 1.0  # and after which it ends
    a.share = 1.0  # probability that rotate, scale, shift, brightness and contrast each apply to an image
    a.early_side = 32  # pixels: side of the views, of as much of the face, in the first part of the run, in training and validation
    a.early_share = 0.0  # how large that part is, as a share of the steps; 0 is off. Only what comes after it can be the best checkpoint

    n = c.network = ConfigDict()
    n.name = 'fernet'  # the paper's | mini_xception | shufflenet_v2 | mobilenet_v2 | resnet18 | vgg10 | vgg13: heed only dtype, batch_norm*
    n.attention = 'both'  # none | spatial | channel | both (the paper's SA and CA) | se | eca | cbam (in every block)
    n.shuffle_groups = optional(int, 4)  # channel shuffle groups in every block; None is no shuffle
    n.fusion = 'pointwise'  # how a block joins its two paths: pointwise, a 1×1 convolution | attention, weights from a squeeze of ratio 2
    n.preactivation = False  # batch norm and activation come before each convolution of a block's paths instead of after it
    n.residual = True  # identity sums around the convolutions inside a block's paths
    n.zero_last_gamma = False  # start the scale of the last batch norm of each such sum at zero; needs residual, and no preactivation
    n.shortcut = True  # an identity sum around each block, averaged over its stride, zero in new channels; has no parameters
    n.fusion_scale = 1.0  # factor of the first draw of each block's last 1×1; small starts a block with a shortcut near the identity
    n.stochastic_depth = 0.0  # probability that a step leaves out the last block, rising to it from the first linearly; needs shortcut
    n.activation = 'relu'  # relu | leaky_relu | silu | gelu
    n.stem = 8  # channels of the first convolution, an even number
    n.blocks = (24, 32, 72, 216, 360, 512)  # output channels of each block, one number a block
    n.strides = (1, 2, 2, 2, 2, 2)  # and its stride, 1 or 2
    n.dtype = 'float32'  # of the arithmetic: float32 | bfloat16; parameters and statistics stay float32
    n.batch_norm = 'global'  # in training statistics are over: global, the whole batch | device, each device's share of it
    n.batch_norm_momentum = 0.9  # share that the running statistics keep of their old value each step

    o = c.optimizer = ConfigDict()
    o.name = 'adamw'  # sgd (Nesterov) | adamw | muon
    o.learning_rate = 2e-3  # its peak, for the batch size that is set: it is not scaled by it
    o.schedule = 'cosine'  # cosine (after a linear warm-up) | onecycle
    o.warmup_epochs = 1.0  # epochs of linear warm-up, of the cosine schedule only
    o.momentum = 0.9  # of sgd and muon (muon is mostly run at 0.95)
    o.adam_ratio = 0.1  # muon only: the learning rate of what Adam updates (vectors, depthwise filters), as a share of learning_rate
    o.weight_decay = 0.05  # of kernels only (in muon, those that are matrices): coupled in sgd, decoupled in adamw and muon
    o.clip = optional(float, 5.0)  # largest global norm of the gradient; None is off
    o.sam = 0.0  # sharpness-aware minimisation: how far uphill the gradient is taken; 0 is off, anything else doubles a step's work
    o.sam_from = 0.0  # the share of the run's steps after which that begins
    o.label_smoothing = 0.1  # share of a target's weight that is spread over all classes
    o.ema = 0.995  # decay per step of the averaged parameters, which are what is evaluated and exported; 0 is off
    o.average_from = 1.0  # share of the steps after which that average is the plain mean since, its batch norms re-estimated; 1 is off

    t = c.train = ConfigDict()
    t.steps_per_call = 0  # steps in one compiled call; 0 chooses: 1 on CPU, 50 on GPU and TPU
    t.log_every = 20  # steps between lines of the log
    t.evaluate_every_epochs = 1.0  # epochs between evaluations on the validation split
    t.checkpoint_every_epochs = 1.0  # epochs between checkpoints
    t.keep_checkpoints = 2  # latest checkpoints kept, besides the best on the validation split and the one that was best before it
    t.on_failed_save = 'stop'  # when a checkpoint or a line of the log cannot be written: stop | go_on, and try again when the next is due
    t.loss_limit = 100.0  # a training loss above it counts as exploded, as one that is not finite does: the run ends, or goes back
    t.rollbacks = 0  # how often a run whose loss exploded goes back to its last checkpoint by itself; after that it ends
    t.rollback_factor = 0.5  # what the learning rate is multiplied by at each rollback
    t.profile = optional(str)  # FIRST:LAST, such as 100:110: these steps' trace, for XProf or Perfetto, goes to the run's profile/
    t.tensorboard = True  # write TensorBoard event files beside metrics.jsonl

    e = c.evaluation = ConfigDict()
    e.batch_size = 256  # images a call of the network, over all devices
    e.ten_from = 1.0  # share of the run from which validation is by ten crops, and only that chooses the best checkpoint; 1 is off
    e.figures = True  # draw curves and, beside each scoring's numbers, its PNG files; false spares a run of seconds a quarter of them
    e.test = True  # score the test split at the end of the run; false while a recipe is being chosen

    p = c.parallel = ConfigDict()
    p.cpu_devices = 0  # virtual devices that the CPU is split into, to share a batch; 0 takes the cores, at most 8; ignored on GPU and TPU
    return c.lock()
