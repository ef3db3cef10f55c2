"""A folder as model hubs take it: config.json, model.safetensors, and README.md, the model card with metadata in front of it."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from fer_jax import __version__
from fer_jax.core.errors import InputError
from fer_jax.core.files import read_json, write_atomic, write_json
from fer_jax.data.schema import IMAGE_SIDE
from fer_jax.runs import hub
from fer_jax.runs.weights import FOLDER, Weights, calibrated, find_weights, hub_config, is_run, load_weights, save_weights

USE = """## Use

With `pip install 'fer_jax[hub,predict]'`:

```python
from fer_jax import load, predict

for face in predict('photo.jpg', load('hf://OWNER/NAME')):
    print(face.label, face.probabilities, face.box)
```
"""
ABOUT = """**Input.** One face, grey, {side}×{side}, which it fills. **Output.** The probability of each of {count} classes: {classes}.

**Intended use.** Research on expression recognition. **Not for** decisions about people. An expression is not an emotion: the network
says which of these words the people who labelled its training images would most likely have put under a picture. How it does on whom
depends on who stands in those images; what is not in the tables was not measured.

**Licence.** Apache 2.0, as fer_jax; whoever uses the images that it was trained on is bound by their terms.
"""


def export_hub(source: str, out: pathlib.Path) -> None:
    """`python -m fer_jax export --format hub`: writes the folder `out`, which `load` reads, and prints what it is.

    Args:
      source: as of weights.find_weights; of a finished run what weights.calibrated gives is taken.
      out: a folder that is not there yet, holds only names with a dot before them (a fresh clone), or was written by this command.

    Raises:
      InputError: no such weights, metadata that no card can be made of, or an `out` that holds other things or cannot be written.
    """
    path = find_weights(source)
    weights = calibrated(path) if is_run(path) else load_weights(path)
    hub.check_name(weights.name, source)
    try:
        text = card(weights)
    except (AttributeError, LookupError, TypeError, ValueError):  # a file must say only weights.REQUIRED of itself
        raise InputError(f'{source}: no model card can be made of its results and protocol: they are not as fer_jax writes them') from None
    try:
        others = sorted(each.name for each in out.iterdir() if not each.name.startswith('.')) if out.exists() else []
        if others and not (hub.CONFIG in others and hub.MODEL_TYPE == read_json(out / hub.CONFIG).get('model_type')):
            raise InputError(f'{out}: holds {others[0]}; a new folder, or one that this command has written, does')
        out.mkdir(parents=True, exist_ok=True)
        size = save_weights(out / hub.WEIGHTS, weights.variables, weights.metadata)
        write_atomic(out / hub.CARD, text)
        write_json(out / hub.CONFIG, hub_config(weights))  # last: it has the sum of the weights, and is refused beside others
    except OSError as error:
        raise InputError(f'{out}: cannot be written ({error.strerror})') from None
    print(f'→ {out}/: {hub.CONFIG}, {hub.WEIGHTS} ({size / 1e6:.2f} MB), {hub.CARD}; sha256 of the variables {weights.sha256}')


def card(weights: Weights) -> str:
    """README.md: metadata as YAML, and the model card; that of the package where it is of these weights.

    LookupError, TypeError and the like where the metadata are not what weights.calibrated gives.
    """
    # JSON is YAML.
    front = ''.join(f'{key}: {json.dumps(value, ensure_ascii=False)}\n' for key, value in front_matter(weights).items())
    shipped = (FOLDER / 'README.md').read_text('utf-8')
    if weights.sha256 in shipped:
        return f'---\n{front}---\n\n{shipped}\n{USE}'
    classes = ', '.join(weights.class_names)
    about = ABOUT.format(side=IMAGE_SIDE, count=len(weights.class_names), classes=classes)
    size = sum(value.nbytes for value in weights.variables.values())
    facts = '\n'.join(measured(weights, hub.WEIGHTS, size)) if weights.metadata.get('results') else 'No results are in the file.'
    return f'---\n{front}---\n\n# Model card: {weights.name}\n\n{facts}\n\n{about}\n{USE}'


def front_matter(weights: Weights) -> dict[str, Any]:
    """What hubs sort models by, and results as they show them."""
    told, scored = weights.metadata, {}
    for title, summary in (told.get('results') or {}).items():
        split, _, views = title.rpartition(', ')
        metrics = (('accuracy', 'accuracy', 'accuracy'), ('f1', 'macro_f1', 'macro F1'))
        values = [{'type': kind, 'name': f'{name}, {views}', 'value': summary[key]} for kind, key, name in metrics]
        scored.setdefault(split, []).extend(values)
    data = told['protocol'].get('data', 'unknown')
    task = {'type': 'image-classification', 'name': 'facial expression recognition'}
    results = [
        {'task': task, 'dataset': {'type': data, 'name': data, 'split': split}, 'metrics': metrics} for split, metrics in scored.items()
    ]
    fields = {'license': 'apache-2.0', 'library_name': 'fer_jax', 'pipeline_tag': task['type']}
    fields |= {'tags': ['facial-expression-recognition', 'jax', 'flax', f'fer_jax {__version__}']}
    return fields | ({'model-index': [{'name': weights.name, 'results': results}]} if results else {})


def measured(weights: Weights, file: str, size: int) -> list[str]:
    """The measured part of the model card of a file of so many bytes, from what weights.calibrated wrote into it."""
    said, results = weights.metadata, weights.metadata['results']
    protocol = said['protocol']
    lines = [
        f'`{file}`: {size / 1e6:.2f} MB; sha256 of the variables `{weights.sha256}`; seed {said["seed"]}, step'
        f' {said["step"]}, epoch {protocol["epoch"]:g}; trained on {protocol["train_images"]:,} images of {protocol["trained_on"]},'
        f' chosen on {protocol["chosen_on"]}; sha256 of the prepared data `{said["content_sha256"]}`;'
        f' code {said["code"]["revision"][:12]}.',
        '',
        '| split, views | accuracy, % (95 % interval) | balanced, % | macro F1, % | calibration error, % |',
        '|---|---|---:|---:|---:|',
    ]
    cooled = said['temperature']['centre'] if 'temperature' in said else {}  # as the weights are, not as the run's were
    for views, summary in results.items():
        shown = summary | (cooled.get(views.removesuffix(', centre'), {}))
        lines.append(card_row(views, shown, ('balanced_accuracy', 'macro_f1', 'calibration_error')))
        lines += [card_row(f'{views}: {part}', found) for part, found in summary.get('subsets', {}).items()]
    tested = [views for views in results if views.endswith(', centre')][-1]
    lines += ['', f'By class, {tested}:', '', '| class | precision, % | recall, % | F1, % | images |', '|---|---:|---:|---:|---:|']
    for label, found in results[tested]['per_class'].items():
        shares = ' | '.join(f'{100 * found[key]:.1f}' for key in ('precision', 'recall', 'f1'))
        lines.append(f'| {label} | {shares} | {found["support"]} |')
    return lines


def card_row(title: str, scored: dict[str, Any], keys: Sequence[str] = ()) -> str:
    """A line of the card's table: the accuracy of a split or a part of one, and the figures of these keys where a part has them."""
    low, high = (100 * bound for bound in scored['accuracy_interval'])
    shares = [f'{100 * scored[key]:.1f}' for key in keys] or [''] * 3
    return f'| {title} | {100 * scored["accuracy"]:.2f} ({low:.2f} to {high:.2f}) | {" | ".join(shares)} |'
