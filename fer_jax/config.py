"""Every field of a run's configuration, its default and its meaning, how text sets it, and the checks on it."""

import importlib.util
import pathlib
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference, placeholder

from fer_jax.errors import InputError, unknown

# Fields that hold one of a few words.
CHOICES = {
    'data.dataset': ('toyfaces', 'fer2013', 'ckplus', 'image_folder'),
    'network.attention': ('none', 'spatial', 'channel', 'both', 'se', 'eca', 'cbam'),
    'network.fusion': ('pointwise', 'attention'),
    'network.activation': ('relu', 'leaky_relu', 'silu', 'gelu'),
    'network.dtype': ('float32', 'bfloat16'),
    'network.batch_norm': ('global', 'device'),
    'optimizer.name': ('sgd', 'adamw', 'muon'),
    'optimizer.schedule': ('cosine', 'onecycle'),
}
# Fields that hold a number between two bounds, both allowed.
BOUNDS = {
    'seed': (0, 2**32 - 1),
    'epochs': (1e-6, 1e6),
    'batch_size': (1, 2**20),
    'data.validation_fraction': (0.01, 0.9),
    'data.test_fraction': (0.01, 0.9),
    'data.split_seed': (0, 2**32 - 1),
    'data.toyfaces_images': (350, 10_000_000),
    'augment.rotate': (0, 180),
    'augment.scale': (0, 0.9),
    'augment.shift': (0, 0.5),
    'augment.brightness': (0, 1),
    'augment.contrast': (0, 1),
    'augment.erase': (0, 1),
    'augment.mixup': (0, 100),
    'network.fusion_scale': (1e-6, 100),
    'network.stem': (2, 4096),
    'network.batch_norm_momentum': (0, 1),
    'optimizer.learning_rate': (0, 100),
    'optimizer.warmup_epochs': (0, 1e6),
    'optimizer.momentum': (0, 1),
    'optimizer.adam_ratio': (0, 100),
    'optimizer.weight_decay': (0, 10),
    'optimizer.clip': (1e-6, 1e9),
    'optimizer.label_smoothing': (0, 0.99),
    'optimizer.ema': (0, 0.999999),
    'train.steps_per_call': (0, 100_000),
    'train.log_every': (1, 10**9),
    'train.evaluate_every_epochs': (1e-3, 1e6),
    'train.checkpoint_every_epochs': (1e-3, 1e6),
    'train.keep_checkpoints': (1, 1000),
    'evaluation.batch_size': (1, 2**20),
    'parallel.cpu_devices': (0, 256),
}
# How a message calls the types.
KINDS = {bool: 'true or false', int: 'a whole number', float: 'a number', str: 'text', tuple: 'whole numbers with commas between'}
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
    n.residual = True  # identity sums inside the two paths
    n.zero_last_gamma = False  # start the last BN scale of each residual sum at zero
    n.shortcut = True  # an identity sum around each block, averaged over its stride, new channels zero; no parameters
    n.fusion_scale = 1.0  # of the first draw of each block's last 1×1: small ones start a block with a shortcut near the identity
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
    o.label_smoothing = 0.1  # share of a target's weight that is spread over all classes
    o.ema = 0.995  # decay per step of the averaged parameters that are evaluated; 0 is off

    t = c.train = ConfigDict()
    t.steps_per_call = 0  # steps in one compiled call; 0 chooses: 1 on CPU, 50 on GPU and TPU
    t.log_every = 20  # steps between lines of the log
    t.evaluate_every_epochs = 1.0  # epochs between evaluations on the validation split
    t.checkpoint_every_epochs = 1.0  # epochs between checkpoints
    t.keep_checkpoints = 2  # latest ones kept, besides the best
    t.tensorboard = True  # event files beside the JSONL

    e = c.evaluation = ConfigDict()
    e.batch_size = 256  # images a call, over all devices
    e.test = True  # score the test split when the run is at its end; false while a recipe is being chosen

    p = c.parallel = ConfigDict()
    p.cpu_devices = 0  # virtual CPU devices to share a batch; 0 chooses: the cores, at most 8; ignored off CPU
    return c.lock()


def load_config(reference: str, overrides: dict[str, str]) -> ConfigDict:
    """The checked configuration of `reference`, a Python file's path with optional `:name=value,…`, with `overrides`.

    Args:
      reference: e.g. `configs/fer2013.py:attention=both,groups=4`; a path that is not there is tried beside the package.
      overrides: dotted field → text, applied last.

    Raises:
      InputError: no such file, or an unknown field or argument, or a value that does not fit.
    """
    path_text, _, arguments = reference.partition(':')
    path = pathlib.Path(path_text)
    if not path.is_file():
        path = pathlib.Path(__file__).parent.parent / path_text
    if not path.is_file():
        raise InputError(f'--config {path_text}: no such file; those of the project are in configs/')
    spec = importlib.util.spec_from_file_location(f'fer_jax_config_{path.stem}', path)
    if spec is None:
        raise InputError(f'--config {path_text}: not a Python file')
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config()
    except InputError:
        raise
    except Exception as error:  # whatever the user's file does wrong
        raise InputError(f'--config {path_text}: {type(error).__name__}: {error}') from None
    apply_arguments(config, arguments)
    for field, text in overrides.items():
        set_field(config, field, text)
    check_config(config)
    return config


def apply_arguments(config: ConfigDict, arguments: str) -> None:
    """Sets what `name=value,name=value` says, by the short names of ARGUMENTS."""
    for argument in filter(None, arguments.split(',')):
        name, equals, text = argument.partition('=')
        if name not in ARGUMENTS:
            raise unknown('config argument', name, ARGUMENTS)
        if not equals:
            raise InputError(f'config argument {name!r} has no value; write {name}=…')
        set_field(config, ARGUMENTS[name], text)


def fields(config: ConfigDict) -> dict[str, Any]:
    """Dotted name → value (a FieldReference where None is allowed) of every field."""
    flat = {}
    for key, value in config.items(preserve_field_references=True):
        flat |= {f'{key}.{name}': leaf for name, leaf in fields(value).items()} if isinstance(value, ConfigDict) else {key: value}
    return flat


def set_field(config: ConfigDict, field: str, text: str) -> None:
    """Sets one dotted field from text, by the type that its default has.

    Raises:
      InputError: no such field (the nearest is named), or text that is not of the field's type.
    """
    known = fields(config)
    if field not in known:
        raise unknown('config field', field, known)
    may_be_none = isinstance(known[field], FieldReference)
    kind = known[field].get_type() if may_be_none else type(known[field])
    group, _, name = field.rpartition('.')
    owner = config[group] if group else config
    if may_be_none and text.lower() in ('none', ''):
        owner[name] = None
        return
    try:
        owner[name] = parse_value(kind, text)
    except ValueError:
        raise InputError(f'config field {field}={text!r}: not {KINDS[kind]}{" or none" if may_be_none else ""}') from None


def parse_value(kind: type, text: str) -> Any:
    """`text` as a bool, int, float, str or tuple of ints; ValueError when it is none."""
    if kind is bool:
        words = {'true': True, 'false': False, '1': True, '0': False, 'yes': True, 'no': False}
        if text.lower() not in words:
            raise ValueError(text)
        return words[text.lower()]
    if kind is tuple:
        return tuple(int(part) for part in text.strip('()').split(',') if part.strip())
    return kind(text)


def check_config(config: ConfigDict) -> None:
    """Checks every field's value and what the fields must be to one another.

    Raises:
      InputError: the field, its value and what would do.
    """
    known = values(config)
    for field, choices in CHOICES.items():
        if known[field] not in choices:
            raise unknown(f'value of {field}', known[field], choices)
    for field, (low, high) in BOUNDS.items():
        if known[field] is not None and not low <= known[field] <= high:
            raise InputError(f'config field {field}={known[field]}: must lie between {low} and {high}')
    check_network(config.network)
    if config.data.dataset != 'toyfaces' and config.data.path is None:
        raise InputError(f'{config.data.dataset} needs the path of its file or folder: --config.data.path=…')


def check_network(network: ConfigDict) -> None:
    """The blocks' widths, strides and groups must fit one another."""
    if len(network.blocks) != len(network.strides) or not network.blocks:
        raise InputError(f'network.blocks has {len(network.blocks)} widths and network.strides {len(network.strides)}: one a block in each')
    if any(stride not in (1, 2) for stride in network.strides):
        raise InputError(f'network.strides={tuple(network.strides)}: each must be 1 or 2')
    inputs = (network.stem, *network.blocks[:-1])
    for number, width in enumerate(inputs, start=1):
        if width < 2 or width % 2:
            raise InputError(f'block {number} gets {width} channels, which do not split into two halves; an even number would')
        groups = network.shuffle_groups
        if groups is not None and (groups < 1 or width % groups):
            raise InputError(f'network.shuffle_groups={groups} does not divide the {width} channels of block {number}')
    if network.blocks[-1] < 1:
        raise InputError(f'network.blocks ends in {network.blocks[-1]}: at least 1 channel')
    if network.zero_last_gamma and not network.residual:
        raise InputError('network.zero_last_gamma=true without network.residual=true: the paths would stay silent')
    if network.zero_last_gamma and network.preactivation:
        raise InputError('network.zero_last_gamma=true with network.preactivation=true: such paths do not end in batch norm')


def values(config: ConfigDict) -> dict[str, Any]:
    """Dotted name → plain value of every field."""
    return {field: value.get() if isinstance(value, FieldReference) else value for field, value in fields(config).items()}


def differences(old: ConfigDict, new: ConfigDict) -> list[str]:
    """`field: old → new` for every field in which two configurations differ."""
    before, after = values(old), values(new)
    return [f'{field}: {before[field]} → {after[field]}' for field in before if before[field] != after[field]]


def from_record(record: Any, where: str) -> ConfigDict:
    """The checked configuration that `config.to_dict()` once wrote as JSON; fields it lacks keep their default.

    Raises:
      InputError: `where` holds a field that is unknown here, or a value of another type.
    """
    if not isinstance(record, dict):
        raise InputError(f'{where}: no configuration, which would be an object of fields')
    config = default_config()
    known = fields(config)

    def take(owner: ConfigDict, part: dict, prefix: str) -> None:
        for key, value in part.items():
            field = prefix + key
            if isinstance(value, dict) and isinstance(owner.get(key), ConfigDict):
                take(owner[key], value, f'{field}.')
                continue
            if field not in known:
                raise InputError(f'{where}: {unknown("config field", field, known)}')
            kind = known[field].get_type() if isinstance(known[field], FieldReference) else type(known[field])
            value = tuple(value) if isinstance(value, list) else value
            value = float(value) if kind is float and type(value) is int else value
            whole = kind is not tuple or isinstance(value, tuple) and all(type(each) is int for each in value)
            if (type(value) is not kind or not whole) and not (value is None and isinstance(known[field], FieldReference)):
                raise InputError(f'{where}: config field {field}={value!r} is not {KINDS[kind]}')
            owner[key] = value

    take(config, record, '')
    check_config(config)
    return config
