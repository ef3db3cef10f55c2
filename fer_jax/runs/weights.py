"""Weights apart from a run: a safetensors file that says what it is, and training that starts from one.

The variables are a network's params and batch_stats by path, such as 'params/block1/expand/kernel'.
"""

import dataclasses
import hashlib
import json
import math
import pathlib
from typing import Any

import flax.traverse_util
import numpy as np
from ml_collections import ConfigDict

from fer_jax.core.config import from_record, values
from fer_jax.core.errors import InputError
from fer_jax.core.files import check_fields, read_bytes, read_json, write_atomic
from fer_jax.data.schema import IMAGE_SIDE, Dataset
from fer_jax.evaluation.calibration import calibration, divided, fit_temperature
from fer_jax.model.baselines import make_any
from fer_jax.runs import hub
from fer_jax.runs.records import SCORINGS, read_run

FORMAT = 1  # of the metadata
KEY = 'fer_jax'  # where they lie in the file's header, as JSON
FOLDER = pathlib.Path(__file__).parent.parent / 'weights'  # of those that come with the package and are known by name
SUFFIX = '.safetensors'
# What a file must say beside its format.
REQUIRED = {'config': dict, 'class_names': list, 'protocol': dict, 'step': int, 'seed': int, 'content_sha256': str}
MOST_BYTES = 1 << 30  # of a file; the paper's network has 7.7 MB
SHOWN = 4  # paths that a line of `difference_text` names
# Fields of which a file holds the last part only: they name the author's folders.
PATHS = ('data.path', 'data.votes', 'data.teacher', 'init_from')

Variables = dict[str, np.ndarray]  # path → float32


@dataclasses.dataclass(frozen=True)
class Weights:
    """The variables that a run is evaluated with, and what is known of them."""

    name: str
    variables: Variables
    config: ConfigDict  # of the run
    class_names: tuple[str, ...]
    metadata: dict[str, Any]  # of a file: all that `export_weights` wrote; of a run: step, seed, content_sha256

    @property
    def sha256(self) -> str:
        """Over each variable's path, shape and bytes, in the order of the paths: the same for a run and the file made from it."""
        digest = hashlib.sha256()
        for path in sorted(self.variables):
            value = np.ascontiguousarray(self.variables[path], '<f4')
            digest.update(f'{path} {value.shape}\n'.encode())
            digest.update(value.data)
        return digest.hexdigest()

    def check_classes(self, dataset: Dataset) -> None:
        """Returns if the data set has the weights' classes; InputError where it has others."""
        if dataset.class_names != self.class_names:
            raise InputError(f'{self.name} tells {", ".join(self.class_names)} apart; {dataset.name} has {", ".join(dataset.class_names)}')


def find_weights(source: str, folder: pathlib.Path = FOLDER) -> pathlib.Path:
    """A run's folder, a weights file, a model hub's folder (by its address a downloaded one), or the file of that name in `folder`.

    Raises:
      InputError: none of them, and the message lists the names there are; or what hub.download says.
    """
    if source.startswith(hub.SCHEME):
        return hub.download(source)
    path = pathlib.Path(source)
    if path.is_file() or (path / 'config.json').is_file():
        return path
    if path.is_dir():
        raise InputError(f'{source}: no run there, nor weights (it has no config.json)')
    names = sorted(file.name.removesuffix(SUFFIX) for file in folder.glob(f'*{SUFFIX}'))
    if source in names:
        return folder / f'{source}{SUFFIX}'
    raise InputError(f'{source}: no run, no weights file, and no name of weights; the package has {", ".join(names) or "none"}')


def is_run(path: pathlib.Path) -> bool:
    """Whether what find_weights found is a run, and no weights."""
    return (path / 'checkpoints').is_dir()


def read_weights(source: str) -> Weights:
    """What `source` (as of find_weights) holds: of a run, its best checkpoint's variables, the average where there is one.

    Raises:
      InputError: there is nothing, or it is damaged.
    """
    path = find_weights(source)
    if not is_run(path):
        return load_weights(path)
    from fer_jax.runs.checkpoint import read_best  # late, for Orbax and Optax take a second that a weights file needs nothing of

    step, tree, record = read_best(path / 'checkpoints')
    config = from_record(record['config'], f'{path}: its checkpoint')
    metadata = {'step': step, 'seed': config.seed, 'content_sha256': record['content_sha256']}
    variables, classes = flat(tree), len(record['class_names'])
    second = head_paths(config.network, classes) if config.data.votes_head else ()  # heads of which the first is kept
    variables |= {name: variables[name][..., :classes] for name in second}
    return Weights(path.resolve().name, variables, config, tuple(record['class_names']), metadata)


def save_weights(path: pathlib.Path, variables: Variables, metadata: dict[str, Any]) -> int:
    """Writes a safetensors file with `metadata` (JSON, with at least REQUIRED) in its header; returns its bytes.

    Raises:
      InputError: it cannot be written.
      ValueError: a variable that is not float32.
    """
    import safetensors.numpy  # here: nothing but these two functions needs it

    wrong = [name for name, value in variables.items() if value.dtype != np.float32]
    if wrong:
        raise ValueError(f'{wrong[0]} is {variables[wrong[0]].dtype}, not float32')
    header = {KEY: json.dumps({'format': FORMAT, **metadata}, allow_nan=False)}
    data = safetensors.numpy.save({name: np.ascontiguousarray(value) for name, value in variables.items()}, header)
    try:
        write_atomic(path, data)
    except OSError as error:
        raise InputError(f'{path}: cannot be written ({error.strerror})') from None
    return len(data)


def load_weights(path: pathlib.Path) -> Weights:
    """The weights in a safetensors file, which holds exactly the variables of the network that its configuration names; or in a
    model hub's folder, whose other files fit that file.

    Raises:
      InputError: it is cut short, no safetensors file, not of this project or format, of other types or shapes, holds too
        little or too much, or values that are not finite.
    """
    if path.is_dir():
        return _load_folder(path)
    import safetensors

    data = read_bytes(path, MOST_BYTES)
    try:
        arrays = dict(safetensors.deserialize(data))  # it also checks the header, and that the arrays fill the rest
    except safetensors.SafetensorError as error:
        raise InputError(f'{path}: no safetensors file, or damaged: {error}') from None
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], 'little')])
    try:
        metadata = json.loads((header.get('__metadata__') or {})[KEY])  # null is none, too
    except (KeyError, ValueError, RecursionError):
        raise InputError(f'{path}: no weights of fer_jax (its header has no metadata of that name, or they are damaged)') from None
    check_fields(metadata, {'format': int}, path, 'metadata.')
    if metadata['format'] != FORMAT:
        raise InputError(f'{path}: weights of format {metadata["format"]}; this version reads {FORMAT}')
    check_fields(metadata, REQUIRED, path, 'metadata.')
    class_names = metadata['class_names']
    if not class_names or not all(isinstance(name, str) for name in class_names):
        raise InputError(f'{path}: damaged: class_names of its metadata is no list of names')
    config = from_record(metadata['config'], str(path))
    if path.parent != FOLDER:  # of the package's own a test says that they fit, and the shapes take a second
        _check_arrays(path, arrays, shapes(config.network, len(class_names)))
    variables = {name: np.frombuffer(array['data'], '<f4').reshape(array['shape']) for name, array in arrays.items()}
    broken = [name for name, value in variables.items() if not np.isfinite(value).all()]
    if broken:
        raise InputError(f'{path}: damaged: {broken[0]} holds values that are not finite')
    return Weights(path.name.removesuffix(SUFFIX), variables, config, tuple(class_names), metadata)


def hub_config(weights: Weights) -> dict[str, Any]:
    """What config.json of a model hub's folder says of weights whose metadata are a file's, under the names that hubs look for."""
    temperature = weights.metadata.get('temperature')
    return {
        'model_type': hub.MODEL_TYPE,
        'name': weights.name,
        'sha256': weights.sha256,
        'id2label': {str(place): name for place, name in enumerate(weights.class_names)},
        'image_size': IMAGE_SIDE,
        'num_channels': 1,
        'temperature': temperature.get('divided_by') if isinstance(temperature, dict) else None,
        'network': weights.metadata['config'].get('network'),
    }


def _load_folder(path: pathlib.Path) -> Weights:
    """The weights in a model hub's folder, by the name that its config.json has for them."""
    record = read_json(path / hub.CONFIG)
    if not isinstance(record, dict) or record.get('model_type') != hub.MODEL_TYPE:
        raise InputError(f"{path}: no run with checkpoints, nor a model hub's folder of fer_jax (by its {hub.CONFIG})")
    check_fields(record, {'name': str, 'sha256': str}, path / hub.CONFIG)
    hub.check_name(record['name'], path / hub.CONFIG)
    weights = dataclasses.replace(load_weights(path / hub.WEIGHTS), name=record['name'])
    other = [field for field, value in hub_config(weights).items() if field in record and record[field] != value]
    if other:
        raise InputError(f'{path}: {hub.CONFIG} and {hub.WEIGHTS} do not belong together: the field {other[0]} is of another network')
    return weights


def _check_arrays(path: pathlib.Path, arrays: dict[str, Any], expected: dict[str, tuple[int, ...]]) -> None:
    """What the file holds against what the network needs."""
    for problem, names in (('lacks', expected.keys() - arrays.keys()), ('holds the surplus', arrays.keys() - expected.keys())):
        if names:
            more = f' and {len(names) - 1} more' if len(names) > 1 else ''
            raise InputError(f'{path}: damaged: it {problem} {min(names)!r}{more}')
    for name, shape in expected.items():
        if arrays[name]['dtype'] != 'F32':
            raise InputError(f'{path}: damaged: {name} is of type {arrays[name]["dtype"]}, not F32')
        if arrays[name]['shape'] != list(shape):
            raise InputError(f'{path}: damaged: {name} has shape {arrays[name]["shape"]}, its network {list(shape)}')


def shapes(network: ConfigDict, classes: int) -> dict[str, tuple[int, ...]]:
    """Path → shape of every variable of the network that a checked `config.network` names; nothing is computed."""
    from fer_jax.model.summary import variable_shapes  # late, for clu comes with it

    leaves = flax.traverse_util.flatten_dict(variable_shapes(make_any(network, classes)), sep='/')
    return {path: leaf.shape for path, leaf in leaves.items() if path.startswith(('params/', 'batch_stats/'))}


def parameters(network: ConfigDict, classes: int) -> int:
    """How many parameters the network that a checked `config.network` names has."""
    return sum(math.prod(shape) for path, shape in shapes(network, classes).items() if path.startswith('params/'))


def head_paths(network: ConfigDict, classes: int) -> set[str]:
    """The paths of the variables whose shape hangs on the number of classes."""
    one, other = shapes(network, classes), shapes(network, classes + 1)
    return {path for path in one if one[path] != other[path]}


def transfer(into: Variables, weights: Weights, class_names: tuple[str, ...], head: set[str]) -> tuple[Variables, dict[str, Any]]:
    """`into` with the variables of the same path and shape taken from `weights`; the head only where the classes are the same.

    Returns:
      The variables, and what was loaded: counts (of params and batch_stats in `arrays`, of numbers in params in
      `parameters`), and `new` and `unused`, path → reason, for all that was not.

    Raises:
      InputError: nothing fits.
    """
    there, new = weights.variables, {}
    for path, value in into.items():
        if path not in there:
            new[path] = 'not there'
        elif there[path].shape != value.shape:
            new[path] = f'shape {_text(value.shape)} here, {_text(there[path].shape)} there'
        elif path in head and weights.class_names != class_names:
            new[path] = f'classes {", ".join(class_names)} here, {", ".join(weights.class_names)} there'
    taken = [path for path in into if path not in new]
    if not any(path.startswith('params/') for path in taken):
        raise InputError(f'init_from: no parameter of {weights.name} fits this network; is config.network that of the weights?')
    numbers = {path: value.size for path, value in into.items() if path.startswith('params/')}
    report = {
        'name': weights.name,
        'sha256': weights.sha256,
        'arrays': {'loaded': len(taken), 'of': len(into)},
        'parameters': {'loaded': sum(numbers.get(path, 0) for path in taken), 'of': sum(numbers.values())},
        'new': new,
        'unused': {path: 'not used' for path in there if path not in into},
    }
    return into | {path: there[path] for path in taken}, report


def difference_text(report: dict[str, Any]) -> str:
    """What `transfer` found, a line for each reason; where a reason has many paths, the first few of them."""
    arrays, parameters = report['arrays'], report['parameters']
    lines = [
        f'from {report["name"]}: {arrays["loaded"]:,} of {arrays["of"]:,} arrays,'
        f' {parameters["loaded"]:,} of {parameters["of"]:,} parameters'
    ]
    for what, reasons in (('new', report['new']), ('left out', report['unused'])):
        for reason in dict.fromkeys(reasons.values()):
            paths = [path.removeprefix('params/') for path in reasons if reasons[path] == reason]
            more = f' and {len(paths) - SHOWN:,} more' if len(paths) > SHOWN else ''
            lines.append(f'  {what}: {", ".join(paths[:SHOWN])}{more} ({reason})')
    return '\n'.join(lines)


def export_weights(workdir: pathlib.Path, out: pathlib.Path) -> None:
    """Writes what `calibrated` says of the finished run in `workdir` to `out`, and prints it in short.

    Raises:
      InputError: no finished run is there, or `out` cannot be written.
    """
    weights = calibrated(workdir)
    size, told = save_weights(out, weights.variables, weights.metadata), weights.metadata['temperature']
    count = sum(value.size for path, value in weights.variables.items() if path.startswith('params/'))
    print(f'{out}: {size / 1e6:.2f} MB, {len(weights.variables)} arrays, {count:,} parameters; sha256 of the variables {weights.sha256}')
    fitted = f'temperature {told["divided_by"]:.3f}, fitted on {told["fitted_on"]}'
    print(f'{fitted}; before it, the sha256 of the variables is {told["run_sha256"]}')


def calibrated(workdir: pathlib.Path) -> Weights:
    """The best checkpoint of the finished run in `workdir`, with what its model card needs as metadata.

    These are: name, config (paths shortened to their last part), class_names, step, seed, content_sha256 of the data,
    protocol, results (each split and views as of metrics.summarise), init_from, code revision and package versions; and the
    temperature by which the head is divided here, fitted to the run's own predictions of the validation split. So every
    runtime gives probabilities that come true; which class is the most probable of one view stays as it was.

    Raises:
      InputError: no finished run is there.
    """
    weights, run = read_weights(str(workdir)), read_run(workdir)
    if run.result is None:
        raise InputError(f'{workdir}: this run has no result.json yet; the same train command brings it to its end')
    result, titles = run.result, run.result['split_titles']
    if result['best_step'] != weights.metadata['step']:
        raise InputError(f'{workdir}: its result.json is of step {result["best_step"]}, its best checkpoint of {weights.metadata["step"]}')
    scorings = {(titles[name.partition('_')[0]], name.partition('_')[2]): result[name] for name in SCORINGS if name in result}
    fitted_on, centre = titles['validation'], {}
    for title in dict.fromkeys((fitted_on, *(title for title, views in scorings if views == 'centre'))):
        centre[title] = run.evaluations.get((title, 'centre'))
        if centre[title] is None or centre[title].predictions is None:
            raise InputError(f'{workdir}: no evaluations/best-{title}-centre/predictions.csv, which the temperature needs')
    temperature = fit_temperature(centre[fitted_on].predictions.probabilities, centre[fitted_on].predictions.labels)
    variables, calibrated = cooled(weights, temperature), {}
    for title, (_, predictions, _) in centre.items():
        calibrated[title] = calibration(divided(predictions.probabilities, temperature), predictions.labels)
    scored = centre.get(titles['test'], centre[fitted_on])
    stored, config = values(weights.config), ConfigDict(weights.config.to_dict())
    config.update_from_flattened_dict(
        {field: pathlib.PurePath(stored[field]).name for field in PATHS if stored[field]} | {'data.prepared': 'data'}
    )
    metadata = {
        'name': config.name,
        'config': config.to_dict(),
        'class_names': list(weights.class_names),
        **weights.metadata,
        'protocol': {key: value for key, value in scored.summary['protocol'].items() if key not in ('split', 'views')},
        'results': {f'{title}, {views}': summary for (title, views), summary in scorings.items()},
        'init_from': {key: value for key, value in (result.get('init_from') or {}).items() if key in ('name', 'sha256')} or None,
        'temperature': {'divided_by': temperature, 'fitted_on': fitted_on, 'centre': calibrated, 'run_sha256': weights.sha256},
        'code': result['environment']['code'],
        'packages': result['environment']['packages'],
    }
    return dataclasses.replace(weights, variables=variables, metadata=metadata)


def cooled(weights: Weights, temperature: float) -> Variables:
    """The variables with the head's divided by `temperature`: the logits, which are linear in them, are divided by it too."""
    head = head_paths(weights.config.network, len(weights.class_names))
    return {path: (value / np.float32(temperature) if path in head else value) for path, value in weights.variables.items()}


def nested(variables: Variables) -> dict[str, Any]:
    """{'params': …, 'batch_stats': …}, as the network takes them."""
    return {'params': {}, 'batch_stats': {}} | flax.traverse_util.unflatten_dict(variables, sep='/')


def flat(tree: dict[str, Any]) -> Variables:
    """The inverse of `nested`."""
    return {path: np.asarray(value) for path, value in flax.traverse_util.flatten_dict(tree, sep='/').items()}


def _text(shape: tuple[int, ...]) -> str:
    return '×'.join(map(str, shape)) or 'scalar'
