"""Pictures of what a network looks at: in the faces of photographs, and in those of each class of a data set."""

import functools
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, UInt8

from fer_jax.core.config import check_config, load_config, set_field
from fer_jax.core.errors import InputError, printable
from fer_jax.core.files import write_atomic
from fer_jax.core.terminal import now_and_then
from fer_jax.data.schema import Dataset
from fer_jax.data.views import centre_crops
from fer_jax.evaluation.figures import blank, gates_png, in_few_colours, png, shortened
from fer_jax.evaluation.pictures import outermost
from fer_jax.inference.classifier import Classifier, make_classifier
from fer_jax.inference.faces import Cut, Detector
from fer_jax.inference.runtimes import framed
from fer_jax.inference.saliency import grad_cam, occlusion
from fer_jax.inference.sources import apart, expand, is_camera, is_video_name, make_folders, shots
from fer_jax.runs.weights import read_weights

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STRIDE = 4  # pixels from one place of the hiding square to the next, half of its side
SAMPLE = 48  # faces of a class that its means are of
PART = 8  # of them that are explained at once: a few seconds
SHOWN = 6  # of them in the picture of one class
MOST_FACES = 24  # of a photograph that are shown


class Explanation(NamedTuple):
    """What is known of the centre crops of some faces. Every map covers its whole crop, however few places it has."""

    crops: UInt8[np.ndarray, 'n side side']
    probabilities: Float[np.ndarray, 'n classes']
    attention: Float[np.ndarray, 'n height width'] | None  # the spatial one, in 0..1; None where the network has none
    gates: Float[np.ndarray, 'n channels'] | None  # the channel attention, likewise
    grad_cam: Float[np.ndarray, 'n rows columns']
    occlusion: Float[np.ndarray, 'n places places']

    def mean(self) -> 'Explanation':
        """That of the mean face, as one. Of each Grad-CAM the share of its largest value counts, for it has no scale."""
        parts = self._replace(grad_cam=shares(self.grad_cam))
        return jax.tree.map(lambda part: part.mean(0, keepdims=True).astype(part.dtype), parts)


def shares(maps: Float[np.ndarray, 'n rows columns']) -> Float[np.ndarray, 'n rows columns']:
    """Of each map, the share of its largest value."""
    return maps / np.maximum(maps.max((1, 2), keepdims=True), 1e-12)


def joined(parts: Sequence[Explanation]) -> Explanation:
    """All of them as one."""
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


def explain(model: Classifier, faces: UInt8[np.ndarray, 'n 48 48'], label: int | None) -> Explanation:
    """What `model` looks at in the faces. Grad-CAM and occlusion ask about `label`, by default about the class predicted for each."""
    crops, probabilities = centre_crops(faces), model.probabilities(faces)
    labels = probabilities.argmax(-1) if label is None else np.full(len(faces), label)
    # Face by face, so that one program is compiled whatever the number of faces.
    seen = [
        jax.device_get(grad_cam(model.network, model.variables, each[None], asked[None])) for each, asked in zip(crops, labels, strict=True)
    ]
    _, cams, sown = jax.tree.map(lambda *parts: np.concatenate(parts), *seen)
    hidden = occlusion(lambda views: model.probabilities(framed(views)), crops, labels, STRIDE)
    maps, gates = outermost(sown)
    return Explanation(crops, probabilities, maps, gates, cams, hidden)


def explain_photographs(
    source: str, photographs: Sequence[str], label: str | None, out: pathlib.Path, detector: Detector | None, megapixels: int
) -> int:
    """`python -m fer_jax explain IMAGE…`: writes a picture for each photograph, a row for each of its faces.

    Args:
      source: as of weights.find_weights.
      label: the class that Grad-CAM and occlusion ask about; None asks about the one that each face is taken for.
      detector: finds the faces; without one each photograph is a face.
      megapixels: as of images.decode.

    Returns:
      The exit code: 0, or 2 if a photograph could not be read, which is told; the others are explained all the same.

    Raises:
      InputError: weights that are not there, an unknown label, no such photograph, or a folder that cannot be made.
    """
    model = make_classifier(read_weights(source))
    asked = None if label is None else model.label(label)
    paths = list(dict.fromkeys(path for photograph in photographs for path in expand(photograph)[0]))
    moving = [path for path in paths if is_camera(path) or is_video_name(path)]
    if moving:
        raise InputError(f'{moving[0]}: explain takes photographs, not a video or a camera')
    code = 0
    for path, target in apart('--out', out, paths, [out / f'{pathlib.PurePath(path).stem}.png' for path in paths]).items():
        try:
            (shot,) = shots(path, detector, megapixels=megapixels)
        except InputError as error:
            print(f'error: {error}', file=sys.stderr, flush=True)
            code = 2
            continue
        if not shot.cuts:
            print(f'{printable(path)}: no face found; --no-detect takes the whole of it as one')
            continue
        found = explain(model, np.stack([each.pixels for each in largest(shot.cuts)]), asked)
        captions = [caption(model, probabilities) for probabilities in found.probabilities]
        about = 'what it is taken for' if label is None else f'“{label}”'
        title = f'{printable(pathlib.PurePath(path).name)}, by {model.name}; Grad-CAM and occlusion ask about {about}'
        write_atomic(target, explanation_png(found, captions, title))
        print(f'{printable(path)}: {"; ".join(captions)} → {printable(str(target))}')
    return code


def explain_data(source: str, reference: str | None, overrides: dict[str, str], split: str, label: str | None, out: pathlib.Path) -> None:
    """`python -m fer_jax explain` without photographs: `explain_classes` on the data of a configuration.

    Args:
      source: as of weights.find_weights.
      reference: the configuration that names the data, `FILE[:NAME=VALUE,…]`; None takes that of the weights.
      overrides: its fields → text.
      split: train, validation, test, or the data set's own title.

    Raises:
      InputError: weights, data or a split that are not there, data of other classes, or as of `explain_classes`.
    """
    from fer_jax.data.load import load  # late, as the next: they bring what prepares and trains, which no photograph should wait for
    from fer_jax.training.score import canonical_split

    weights = read_weights(source)
    config = load_config(reference, overrides) if reference else weights.config
    for field, text in {} if reference else overrides.items():
        set_field(config, field, text)
    check_config(config)
    model, dataset = make_classifier(weights), load(config.data)
    weights.check_classes(dataset)
    explain_classes(model, dataset, canonical_split(dataset, split), label, out)


def explain_classes(model: Classifier, dataset: Dataset, split: str, label: str | None, out: pathlib.Path, sample: int = SAMPLE) -> None:
    """Writes the mean maps of each class of a split, and its channel weights.

    With `label`, it is the maps of that class alone, with some of its faces. The means are of `sample` faces of each class, taken
    evenly through the split (some twice where it has fewer).

    Raises:
      InputError: an unknown label, one without faces, or a folder that cannot be made.
    """
    faces, title = dataset.splits[split], f'{dataset.name} {dataset.split_titles[split]}'
    asked = range(len(model.class_names)) if label is None else [model.label(label)]
    asked = [each for each in asked if (faces.labels == each).any()]
    if not asked:
        raise InputError(f'{title} has no face that is {label}')
    make_folders('--out', out)
    samples = [evenly(np.flatnonzero(faces.labels == each), sample) for each in asked]
    found, tell = [], now_and_then()
    for each, places in zip(asked, samples, strict=True):
        parts = []
        for start in range(0, sample, PART):
            tell(f'{model.class_names[each]}: {start} of {sample} faces')
            parts.append(explain(model, faces.images[places[start : start + PART]], each))
        found.append(joined(parts))
    means = [part.mean() for part in found]
    if label is None:
        captions = [f'{shortened(model.class_names[each])}\nmean of {sample}' for each in asked]
        pictures = {'class_means.png': explanation_png(joined(means), captions, f'{title}, by {model.name}')}
        if means[0].gates is not None:
            names = [model.class_names[each] for each in asked]
            pictures['channel_gates.png'] = gates_png(np.concatenate([part.gates for part in means]), names)
    else:
        some = jax.tree.map(lambda values: evenly(values, SHOWN), found[0])
        captions = [*(caption(model, each) for each in some.probabilities), f'mean of {sample}']
        content = explanation_png(joined([some, *means]), captions, f'{title}, {label}, by {model.name}')
        pictures = {f'class_{asked[0]}.png': content}  # by its number, for a class may be called what no file may
    for name, content in pictures.items():
        write_atomic(out / name, content)
    print(f'→ {out}/ ({", ".join(pictures)})')


def evenly(values: np.ndarray, number: int) -> np.ndarray:
    """So many of the values, evenly through them, the first and the last included; some twice where there are fewer."""
    return values[np.linspace(0, len(values) - 1, number).round().astype(int)]


@functools.partial(png, finish=in_few_colours)
def explanation_png(found: Explanation, captions: Sequence[str], title: str) -> 'Figure':
    """A PNG with a row for each face: its crop, and the maps over it.

    Attention and occlusion have one scale of colours for the whole picture, so that a map without contrast looks like one; a
    Grad-CAM has its own, for its values compare with no other's.
    """
    most = max(float(np.abs(found.occlusion).max()), 1e-6)
    columns = [('Grad-CAM', shares(found.grad_cam), 'inferno', 0.0, 1.0, 'share of its largest value')]
    columns += [('occlusion', found.occlusion, 'RdBu_r', -most, most, 'probability lost where hidden')]
    if found.attention is not None:
        low, high = float(found.attention.min()), float(found.attention.max())
        columns = [('spatial attention', found.attention, 'inferno', low, max(high, low + 1e-6), 'weight of the place'), *columns]
    (rows, side), width = found.crops.shape[:2], 1 + len(columns)
    extent = (0, side, side, 0)
    figure = blank(1.9 * width + 0.6, 1.9 * rows + 1.3, dpi=80)
    places = figure.subplots(rows, width, squeeze=False)
    for row, of_row in enumerate(places):
        for place in of_row:
            place.imshow(found.crops[row], cmap='gray', vmin=0, vmax=255, extent=extent, interpolation='nearest')
            place.set_xticks([])
            place.set_yticks([])
        of_row[0].set_ylabel(captions[row], fontsize=9, parse_math=False)
    places[0, 0].set_title('face', fontsize=10)
    for column, (name, maps, colours, low, high, unit) in enumerate(columns, 1):
        places[0, column].set_title(name, fontsize=10)
        for place, one in zip(places[:, column], maps, strict=True):
            over = place.imshow(one, cmap=colours, vmin=low, vmax=high, alpha=0.5, extent=extent, interpolation='nearest')
        bar = figure.colorbar(over, ax=places[:, column], location='bottom', shrink=0.9, aspect=15, pad=0.01)
        bar.solids.set_alpha(1)
        bar.set_label(unit, fontsize=8)
        bar.ax.tick_params(labelsize=7)
        bar.ax.locator_params(nbins=4)  # of small probabilities the labels are long
    figure.suptitle(title, fontsize=9, parse_math=False, wrap=True)
    return figure


def caption(model: Classifier, probabilities: Float[np.ndarray, ' classes']) -> str:
    """`happy 87 %`, what a face is taken for."""
    return f'{shortened(model.class_names[probabilities.argmax()])} {100 * probabilities.max():.0f} %'


def largest(cuts: Sequence[Cut]) -> list[Cut]:
    """The MOST_FACES largest faces, in the order they come in."""
    kept = sorted(range(len(cuts)), key=lambda i: -cuts[i].box.width * cuts[i].box.height)[:MOST_FACES]
    return [cuts[i] for i in sorted(kept)]
