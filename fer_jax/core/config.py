"""A run's configuration from a file and from text, and the checks on it."""

import contextlib
import importlib.util
import pathlib
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference

from fer_jax.core.errors import InputError, unknown
from fer_jax.core.fields import ARGUMENTS, BOUNDS, CHOICES, MOVABLE, WINDOWS, default_config

PACKAGE = pathlib.Path(__file__).parent.parent
# The configurations that come with the package: inside it when it was installed, beside it in a checkout, where people edit them.
CONFIGS = PACKAGE / 'configs' if (PACKAGE / 'configs').is_dir() else PACKAGE.parent / 'configs'
MOST_BLOCKS = 100  # of a network
MOST_STEPS = 10**9  # for a window that no number of steps makes long enough to hold one
# How a message calls the types.
KINDS = {bool: 'true or false', int: 'a whole number', float: 'a number', str: 'text', tuple: 'whole numbers with commas between'}


def load_config(reference: str, overrides: dict[str, str]) -> ConfigDict:
    """The checked configuration of `reference`, a name or a file with optional `:name=value,…`, with `overrides`.

    Args:
      reference: e.g. `fer2013:attention=both,groups=4`; as of find_config.
      overrides: dotted field → text, applied last.

    Raises:
      InputError: no such file, or one of several configurations; an unknown field or argument, or a value that does not fit.
    """
    variants = load_variants(reference, overrides)
    if len(variants) > 1:
        raise InputError(f'--config {reference} holds {len(variants)} configurations ({", ".join(variants)}), which `sweep` runs')
    return next(iter(variants.values()))


def load_variants(reference: str, overrides: dict[str, str]) -> dict[str, ConfigDict]:
    """Name → checked configuration of every one that the file holds: its `get_configs()`, or its one `get_config()`.

    The arguments, overrides and errors are those of `load_config`, and apply to each.
    """
    name, _, arguments = reference.partition(':')
    module = load_module(name)
    with one_line_errors(name):
        found = list(module.get_configs()) if hasattr(module, 'get_configs') else [module.get_config()]
        names = [config.name for config in found]
    if len(set(names)) < len(names) or not names:
        raise InputError(f'--config {name}: get_configs() must give configurations, each with a name of its own, not {names}')
    for config in found:
        apply_arguments(config, arguments)
        for field, text in overrides.items():
            set_field(config, field, text)
        check_config(config)
    return dict(zip(names, found, strict=True))


def find_config(name: str) -> pathlib.Path:
    """A configuration's file: one of the package's by its name, such as `fer2013`, or any other by its path.

    `configs/fer2013.py`, as it is seen from a checkout, is the package's wherever there is no such file.

    Raises:
      InputError: neither; the message lists the package's.
    """
    shipped = {file.stem: file for file in sorted(CONFIGS.glob('*.py'))}
    path = pathlib.Path(name)
    if name in shipped:
        return shipped[name]
    if path.is_file():
        return path
    if path.parts[:-1] == ('configs',) and path.stem in shipped:
        return shipped[path.stem]
    raise InputError(f'--config {name}: no such file; by name there are {", ".join(shipped)}')


def load_module(name: str) -> ModuleType:
    """The Python file of a configuration (as of find_config), from which another configuration may take what they share.

    Raises:
      InputError: no such file, or what it does wrong.
    """
    path = find_config(name)
    spec = importlib.util.spec_from_file_location(f'fer_jax_config_{path.stem}', path)
    if spec is None:
        raise InputError(f'--config {name}: not a Python file')
    module = importlib.util.module_from_spec(spec)
    with one_line_errors(name):
        spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def one_line_errors(name: str) -> Iterator[None]:
    """Whatever a configuration's file does wrong, as an InputError."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f'--config {name}: {type(error).__name__}: {error}') from None


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


# Not by ml_collections.config_flags, which 1.1.0 cannot be brought to do what this does: a field that may be None takes no `none`
# (network.shuffle_groups=none is refused, data.path=none is the text 'none'); network.blocks=24,b sets the text '24,b' in a tuple of
# numbers; a misspelt field is an AttributeError of two lines that leaves out the group and looks for the nearest in that group only;
# `FILE:name=value` goes to get_config as one string that each file would have to read; and a file of several configurations has no
# place in it.
def set_field(config: ConfigDict, field: str, text: str) -> None:
    """Sets one dotted field from text, by the type that its default has.

    Raises:
      InputError: no such field (the nearest is named), or text that is not of the field's type.
    """
    known = fields(config)
    if field not in known:
        raise unknown('config field', field, known)
    kind, may_be_none = kind_of(known[field])
    try:
        value = None if may_be_none and text.lower() in ('none', '') else parse_value(kind, text)
    except ValueError:
        raise InputError(f'config field {field}={text!r}: not {KINDS[kind]}{" or none" if may_be_none else ""}') from None
    config.update_from_flattened_dict({field: value})


def kind_of(field: Any) -> tuple[type, bool]:
    """The type of a field as of `fields`, and whether it may be None."""
    return (field.get_type(), True) if isinstance(field, FieldReference) else (type(field), False)


def parse_value(kind: type, text: str) -> Any:
    """`text` as a bool, int, float, str or tuple of ints; ValueError when it is none."""
    if kind is bool:
        words = {'true': True, 'false': False, '1': True, '0': False, 'yes': True, 'no': False}
        if text.lower() not in words:
            raise ValueError(text)
        return words[text.lower()]
    if kind is tuple:
        return tuple(int(part) for part in text.strip('()[]').split(',') if part.strip())
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
        numbers = known[field] if isinstance(known[field], tuple) else (known[field],)
        if any(number is not None and not low <= number <= high for number in numbers):
            each = 'each ' if len(numbers) > 1 else ''
            raise InputError(f'config field {field}={known[field]}: {each}must lie between {low} and {high}')
    check_network(config.network)
    windows(config, MOST_STEPS)
    profiled_steps(config.train.profile)
    if config.augment.mixup and config.augment.cutmix:
        raise InputError('augment.mixup and augment.cutmix are both on: one of them must be 0')
    if config.data.votes_head and (config.data.dataset != 'fer2013' or config.data.votes is None):
        raise InputError('data.votes_head needs data.dataset=fer2013, and data.votes for what its second head learns')
    if config.augment.alternate and not config.augment.flip:
        raise InputError('augment.alternate=true without augment.flip=true: no image would be mirrored')
    if config.data.folds == 1 or config.data.fold >= max(config.data.folds, 1):
        raise InputError(
            f'data.fold={config.data.fold} of data.folds={config.data.folds}: 0 folds, or at least 2 and a fold below their number'
        )
    if config.data.dataset != 'toyfaces' and config.data.path is None:
        raise InputError(f'{config.data.dataset} needs the path of its file or folder: --config.data.path=…')


def profiled_steps(profile: str | None) -> tuple[int, int] | None:
    """(first, last) of train.profile: the trace begins when `first` steps are done, and ends when `last` are.

    Raises:
      InputError: it is not FIRST:LAST, or not in this order.
    """
    if profile is None:
        return None
    match = re.fullmatch(r'(\d{1,12}):(\d{1,12})', profile, re.ASCII)
    if not match or int(match[1]) >= int(match[2]):
        raise InputError(f'config field train.profile={profile!r}: write FIRST:LAST, two steps with the smaller first, such as 100:110')
    return int(match[1]), int(match[2])


def windows(config: ConfigDict, steps: int) -> dict[str, tuple[int, int]]:
    """Each field of WINDOWS that is on → the first step that it is on in, from 0, and the first in which it is not any more.

    Raises:
      InputError: no step of a run of so many `steps` lies in one of them.
    """
    known, found = values(config), {}
    for field, (begin, end) in WINDOWS.items():
        if known[field]:
            found[field] = first, last = round(known[begin] * steps), round(known.get(end, 1) * steps)
            if first >= last:
                bounds = f'{begin}={known[begin]:g}' + (f' and {end}={known[end]:g}' if end else '')
                raise InputError(f'{field}={known[field]:g} with {bounds}: no step of the run lies between; {field}=0 switches it off')
    return found


def check_network(network: ConfigDict) -> None:
    """The blocks' widths, strides and groups must fit one another."""
    if len(network.blocks) != len(network.strides) or not network.blocks:
        raise InputError(f'network.blocks has {len(network.blocks)} widths and network.strides {len(network.strides)}: one a block in each')
    if len(network.blocks) > MOST_BLOCKS:
        raise InputError(f'network.blocks has {len(network.blocks)} widths: at most {MOST_BLOCKS}')
    inputs = (network.stem, *network.blocks[:-1])
    for number, width in enumerate(inputs, start=1):
        if width % 2:
            raise InputError(f'block {number} gets {width} channels, which do not split into two halves; an even number would')
        groups = network.shuffle_groups
        if groups is not None and width % groups:
            raise InputError(f'network.shuffle_groups={groups} does not divide the {width} channels of block {number}')
    if network.zero_last_gamma and not network.residual:
        raise InputError('network.zero_last_gamma=true without network.residual=true: the paths would stay silent')
    if network.stochastic_depth and not network.shortcut:
        raise InputError('network.stochastic_depth without network.shortcut=true: nothing would pass a block that is left out')
    if network.zero_last_gamma and network.preactivation:
        raise InputError('network.zero_last_gamma=true with network.preactivation=true: such paths do not end in batch norm')


def values(config: ConfigDict) -> dict[str, Any]:
    """Dotted name → plain value of every field."""
    return {field: value.get() if isinstance(value, FieldReference) else value for field, value in fields(config).items()}


def decisive_values(config: ConfigDict) -> dict[str, Any]:
    """`values` of what decides the result; of FER+'s votes, wherever they lie, only whether there are any."""
    return {
        field: value is not None if field == 'data.votes' else value
        for field, value in values(config).items()
        if field == 'data.votes' or field not in MOVABLE
    }


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
    config, flat = default_config(), {}
    known = fields(config)
    for key, value in record.items():
        group = isinstance(value, dict) and key in config and isinstance(config[key], ConfigDict)
        flat |= {f'{key}.{name}': leaf for name, leaf in value.items()} if group else {key: value}
    for field, value in flat.items():
        if field not in known:
            raise InputError(f'{where}: {unknown("config field", field, known)}')
        kind, may_be_none = kind_of(known[field])
        if field == 'data.dedup' and isinstance(value, bool):  # until there were near-duplicates, it was yes or no
            value = 'exact' if value else 'none'
        value = tuple(value) if isinstance(value, list) else value
        value = float(value) if kind is float and type(value) is int and abs(value) < 1 << 1000 else value
        whole = kind is not tuple or isinstance(value, tuple) and all(type(each) is int for each in value)
        if (type(value) is not kind or not whole) and not (value is None and may_be_none):
            raise InputError(f'{where}: config field {field}={value!r} is not {KINDS[kind]}')
        config.update_from_flattened_dict({field: value})
    check_config(config)
    return config
