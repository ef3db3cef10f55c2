"""ToyFaces: drawn faces with seven expressions, for a first run without any data set and for tests.

Only +, −, ×, ÷, square roots and comparisons touch the pixels, which IEEE 754 rounds the same everywhere, and no sum's order is left to
NumPy: so one seed means the same bytes on every machine.
"""

from functools import partial
from types import SimpleNamespace

import numpy as np
from jaxtyping import Float32, Int32, UInt8

from fer_jax.core.errors import InputError
from fer_jax.data.schema import IMAGE_SIDE, Faces, Source

CLASS_NAMES = ('angry', 'disgust', 'fear', 'happy', 'sad', 'surprise', 'neutral')
FACES_A_SUBJECT = 28  # four of each expression
# Of 20 subjects in a row, three validate and three test; spread out so that a few subjects fill every split.
ROUND, VALIDATION, TEST = 20, (2, 9, 16), (5, 12, 19)
MIN_COUNT = (min(TEST) + 1) * FACES_A_SUBJECT

# How the muscles move a face, in pixels where not said otherwise.
MOVES = (
    'inner', 'outer',  # brow ends up
    'knit',  # brows together
    'lid', 'under',  # upper and lower lid open
    'wrinkle',  # of the nose, 0 to 1
    'crease',  # from nose to mouth, 0 to 1
    'width', 'corner',  # mouth wider on each side, its corners up
    'gape', 'drop',  # upper lip and jaw away from the mouth's line
    'teeth',  # 0 to 1
    'lift',  # upper lip up as a whole
    'thick',  # lips, relative
)  # fmt: skip
# And how far at full strength; two ways to make each face.
# fmt: off
EXPRESSIONS = np.array([
    # inner  outer  knit   lid  under  wrinkle  crease  width  corner  gape  drop  teeth  lift  thick
    [[ -3.0,   1.0,  1.6, -0.6,  -0.4,     0.2,    0.2,  -1.4,   -0.5,  0.0,  0.0,   0.0,  0.0,   -0.6],
     [ -3.0,   1.0,  1.6, -0.3,  -0.4,     0.2,    0.4,  -0.4,   -0.6,  1.2,  1.5,   1.0,  0.0,   -0.3]],  # angry
    [[ -1.2,  -0.8,  0.6, -1.1,  -0.9,     1.0,    1.0,  -0.6,   -1.2,  0.0,  0.0,   0.0,  2.2,    0.3],
     [ -1.2,  -0.8,  0.6, -1.1,  -0.9,     1.0,    1.0,   0.0,   -1.0,  1.5,  0.2,   1.0,  1.4,    0.1]],  # disgust
    [[  3.0,   0.8,  1.5,  1.4,   0.4,     0.0,    0.1,   2.2,   -1.4,  1.2,  2.2,   0.8,  0.0,   -0.3],
     [  3.0,   0.8,  1.5,  1.4,   0.4,     0.0,    0.1,   2.4,   -1.6,  0.8,  1.4,   0.9,  0.0,   -0.4]],  # fear
    [[  0.2,   0.2,  0.0, -0.4,  -0.7,     0.0,    0.8,   1.8,    2.8,  0.0,  0.0,   0.0,  0.0,   -0.2],
     [  0.2,   0.2,  0.0, -0.4,  -0.7,     0.0,    1.0,   2.0,    2.6,  0.6,  2.4,   1.0,  0.0,   -0.2]],  # happy
    [[  2.4,  -1.4,  0.7, -0.8,   0.0,     0.0,    0.2,  -0.4,   -2.8,  0.0,  0.0,   0.0,  0.0,    0.0],
     [  2.4,  -1.4,  0.7, -1.3,  -0.1,     0.0,    0.4,   0.4,   -2.8,  0.1,  0.3,   0.0,  0.0,    0.2]],  # sad
    [[  3.0,   3.2, -0.2,  1.4,   0.5,     0.0,    0.0,  -2.0,    0.0,  2.2,  4.2,   0.1,  0.0,    0.0],
     [  3.0,   3.2, -0.2,  1.2,   0.5,     0.0,    0.0,  -2.4,    0.0,  1.5,  2.6,   0.0,  0.0,    0.1]],  # surprise
    [[  0.0,   0.0,  0.0,  0.0,   0.0,     0.0,    0.0,   0.0,    0.0,  0.0,  0.0,   0.0,  0.0,    0.0],
     [  0.0,   0.0,  0.0,  0.0,   0.0,     0.0,    0.0,   0.0,    0.0,  0.0,  0.0,   0.0,  0.0,    0.0]],  # neutral
])
# fmt: on


def read(toyfaces_images: int, split_seed: int) -> Source:
    """`toyfaces_images` drawn faces as a data set: about 70 % train, 15 % validation, 15 % test, no subject in two of them.

    Raises:
      InputError: they are too few to fill all three splits.
    """
    if toyfaces_images < MIN_COUNT:
        raise InputError(f'data.toyfaces_images={toyfaces_images}: too few to fill three splits; at least {MIN_COUNT}')
    images, labels, subjects = draw(toyfaces_images, split_seed)
    turn = subjects % ROUND
    validation, test = np.isin(turn, VALIDATION), np.isin(turn, TEST)
    masks = {'train': ~(validation | test), 'validation': validation, 'test': test}
    names = np.array([f'T{subject:04d}' for subject in subjects])
    return Source(
        name='toyfaces',
        class_names=CLASS_NAMES,
        splits={split: Faces(images[mask], labels[mask], names[mask], rows=np.flatnonzero(mask)) for split, mask in masks.items()},
        split_titles={split: split for split in masks},
    )


def draw(count: int, seed: int) -> tuple[UInt8[np.ndarray, '{count} 48 48'], Int32[np.ndarray, '{count}'], Int32[np.ndarray, '{count}']]:
    """`count` faces, their labels (positions in CLASS_NAMES) and their subjects' numbers from 0.

    Each subject has a generator of its own, so that a smaller count's faces are the first of a larger one's.
    """
    images = np.empty((count, IMAGE_SIDE, IMAGE_SIDE), np.uint8)
    order = np.arange(count, dtype=np.int32)
    for start in range(0, count, FACES_A_SUBJECT):
        faces = _subject(np.random.Generator(np.random.PCG64([seed, start // FACES_A_SUBJECT])))
        images[start : start + FACES_A_SUBJECT] = faces[: count - start]
    return images, order % FACES_A_SUBJECT % len(CLASS_NAMES), order // FACES_A_SUBJECT


def _subject(rng: np.random.Generator) -> UInt8[np.ndarray, '28 48 48']:
    """All faces of one subject; the expressions come in turn."""
    who = _identity(rng)
    face = _performance(rng)
    canvas = _posed(rng)
    _head(canvas, who, face)
    _eyes(canvas, who, face)
    _nose(canvas, who, face)
    _mouth(canvas, who, face)
    _brows(canvas, who, face)
    if who.glasses:
        _glasses(canvas, who)
    return _photograph(rng, canvas)


def _identity(rng: np.random.Generator) -> SimpleNamespace:
    """What stays with a subject: sizes and places in pixels from the middle of the face, tones from 0 to 1."""
    u = partial(_uniform, rng)
    skin = u(0.42, 0.8)
    return SimpleNamespace(
        skin=skin,
        hair=u(0.05, 0.55) if skin < 0.75 or u(0.0, 1.0) < 0.6 else u(0.6, 0.9),
        hairline=u(-19.0, -16.0),
        parting=u(-0.25, 0.25),
        locks=u(0.5, 6.0),
        half_width=u(15.0, 18.5),
        half_height=u(19.5, 22.5),
        jaw=u(0.05, 0.35),
        eye_x=u(7.0, 8.8),
        eye_y=u(-5.0, -3.4),
        eye_width=u(3.0, 3.9),
        eye_slant=u(-0.12, 0.12),
        lid=u(1.3, 2.0),
        iris=u(0.05, 0.4),
        brow_y=u(-9.8, -8.6),
        brow_arch=u(0.2, 1.4),
        brow_slant=u(-0.6, 0.6),
        brow_thick=u(0.6, 1.25),
        brow_tone=u(0.35, 0.9),
        nose_y=u(3.2, 5.0),
        nose_width=u(2.2, 3.4),
        mouth_y=u(10.6, 12.2),
        mouth_width=u(5.0, 6.4),
        lip=u(0.8, 1.6),
        lip_tone=u(0.62, 0.88),
        crease=u(0.0, 0.35),
        beard=max(0.0, u(-1.5, 0.6)),
        glasses=u(0.0, 1.0) < 0.12,
    )


def _performance(rng: np.random.Generator) -> SimpleNamespace:
    """How far each face's muscles move, and what else differs from one picture to the next: arrays [28,1,1]."""
    n = FACES_A_SUBJECT
    strength = _uniform(rng, 0.55, 1.0, (n, 1))
    evenness = _uniform(rng, 0.8, 1.2, (n, len(MOVES)))  # no two smiles are made alike
    labels = np.arange(n) % len(CLASS_NAMES)
    moves = EXPRESSIONS[labels, rng.integers(0, 2, n)] * strength * evenness
    face = {name: _column(moves[:, i]) for i, name in enumerate(MOVES)}
    extra = {
        'lopsided': (-0.35, 0.35),
        'gaze_x': (-0.8, 0.8),
        'gaze_y': (-0.4, 0.4),
        'blink': (-0.2, 0.15),
        'brow_rest': (-0.35, 0.35),
        'corner_rest': (-0.3, 0.3),
        'light_x': (-0.28, 0.28),
        'light_y': (-0.22, 0.1),
    }
    return SimpleNamespace(**face, **{name: _column(_uniform(rng, *bounds, n)) for name, bounds in extra.items()})


def _posed(rng: np.random.Generator) -> SimpleNamespace:
    """An empty picture of each face, with its pixels' places on a face turned, scaled, shifted and seen a little from the side."""
    n = FACES_A_SUBJECT
    half_tangent = _column(_uniform(rng, -0.09, 0.09, n))  # ±10°
    scale = _column(_uniform(rng, 0.85, 1.08, n))
    # Brows and mouth stay in sight wherever 40 of the 48 pixels are cut out.
    shift_x, shift_y = _column(_uniform(rng, -4.0, 4.0, n)), _column(_uniform(rng, -3.0, 2.0, n))
    yaw, pitch = _column(_uniform(rng, -2.2, 2.2, n)), _column(_uniform(rng, -1.0, 1.0, n))
    middle = (IMAGE_SIDE - 1) / 2
    grid = np.arange(IMAGE_SIDE, dtype=np.float32) - np.float32(middle)
    across, down = grid[None, None, :] - shift_x, grid[None, :, None] - shift_y
    cosine = (1 - half_tangent * half_tangent) / (1 + half_tangent * half_tangent) / scale
    sine = 2 * half_tangent / (1 + half_tangent * half_tangent) / scale
    head_x, head_y = cosine * across + sine * down, cosine * down - sine * across
    # A turned head moves its features more than its outline.
    x = head_x - yaw * (1 - head_x * head_x / 400).clip(0)
    y = head_y - pitch * (1 - head_y * head_y / 500).clip(0)
    low, high = _uniform(rng, 0.05, 0.95, n), _uniform(rng, 0.05, 0.95, n)
    slope = _column((high - low) / IMAGE_SIDE)
    image = _column((low + high) / 2) + slope * (grid[None, None, :] + 0.5 * grid[None, :, None])
    return SimpleNamespace(image=image, head_x=head_x, head_y=head_y, x=x, y=y, side=np.sign(x), u=np.abs(x))


def _uniform(rng: np.random.Generator, low: float, high: float, size: int | tuple[int, ...] | None = None) -> float | np.ndarray:
    # Not Generator.uniform: some compilers fuse its multiplication and addition into one rounding, others do not.
    return low + (high - low) * rng.random(size)


def _column(values: np.ndarray) -> Float32[np.ndarray, 'n 1 1']:
    return values.astype(np.float32)[:, None, None]


def _cover(distance: np.ndarray, softness: float = 1.0) -> np.ndarray:
    """How much of a pixel lies inside a shape, by its signed distance in pixels to the shape's edge (inside is negative)."""
    return (0.5 - distance / softness).clip(0, 1)


def _line(distance: np.ndarray, thick: float | np.ndarray) -> np.ndarray:
    """The cover of a soft line, by the distance from its middle."""
    return (1 - (distance / thick) ** 2).clip(0)


def _paint(canvas: SimpleNamespace, cover: np.ndarray, tone: float | np.ndarray) -> None:
    canvas.image += cover * (tone - canvas.image)


def _shade(canvas: SimpleNamespace, cover: np.ndarray, factor: float | np.ndarray) -> None:
    canvas.image *= 1 - cover * (1 - factor)


def _head(canvas: SimpleNamespace, who: SimpleNamespace, face: SimpleNamespace) -> None:
    x, y, u = canvas.head_x, canvas.head_y, np.abs(canvas.head_x)
    # Hair behind the head, neck, head, hair before it.
    behind = np.sqrt((u / (who.half_width + 2.5)) ** 2 + ((y + 4) / (who.half_height + 1)) ** 2) - 1
    _paint(canvas, _cover(np.where(y > who.locks, np.maximum(behind * 18, (y - who.locks * 3) / 2), behind * 18)), who.hair)
    _paint(canvas, _cover(np.maximum(u - who.half_width * 0.6, 14 - y)), who.skin * 0.7)
    narrow = 1 - who.jaw * ((y - 2) / 20).clip(0, 1)
    radius = np.sqrt((u / (who.half_width * narrow)) ** 2 + (y / who.half_height) ** 2)
    head = _cover((radius - 1) * who.half_width)
    round_shade = 1.08 - 0.22 * radius * radius + face.light_x * (x / who.half_width) + face.light_y * (y / who.half_height)
    _paint(canvas, head, who.skin * round_shade)
    edge = y - who.hairline + 0.012 * u * u * (1 - 0.5 * who.parting) + who.parting * x
    scalp = _cover((radius - 1) * who.half_width - 1)
    _paint(canvas, scalp * _cover(edge - 0.02 * u * u, 2.0), who.hair)
    canvas.shade = round_shade
    if who.beard:
        jaw = _cover(13 - np.sqrt(x * x + (y - 5) ** 2) - 0.1 * u, 5.0) * _cover(6 - y, 3.0)
        moustache = _line(canvas.y - who.mouth_y + 3.6, 1.5) * _cover(canvas.u - who.mouth_width, 2.0)
        _paint(canvas, who.beard * head * np.maximum(jaw, moustache), who.hair * 0.9)


def _eyes(canvas: SimpleNamespace, who: SimpleNamespace, face: SimpleNamespace) -> None:
    v = (canvas.u - who.eye_x) / who.eye_width
    y = canvas.y - who.eye_y + who.eye_slant * who.eye_width * v
    bulge = (1 - v * v).clip(-1)
    upper = -(who.lid + face.lid + face.blink).clip(0.35) * bulge
    lower = (who.lid * 0.8 + face.under).clip(0.3) * bulge
    socket = _cover(np.sqrt(v * v + ((y + 0.5) / 4) ** 2) * 4 - 5, 5.0)
    _shade(canvas, socket, 0.88)
    open_eye = _cover(np.maximum(upper - y, y - lower))
    _paint(canvas, open_eye, (who.skin * 0.4 + 0.6) * canvas.shade.clip(0.6, 1.2))
    sideways = (canvas.u - who.eye_x) * canvas.side - face.gaze_x
    iris = np.sqrt(sideways * sideways + (y - face.gaze_y + 0.1) ** 2)
    _paint(canvas, open_eye * _cover(iris - 1.75), who.iris)
    _paint(canvas, open_eye * _cover(iris - 0.8), 0.02)
    within = _cover((np.abs(v) - 1) * who.eye_width)
    _shade(canvas, within * _line(y - upper + 0.2, 0.9), 0.25)
    _shade(canvas, within * _line(y - lower - 0.2, 0.8), 0.65)
    _shade(canvas, within * _line(y - upper + 1.7, 0.8), 0.85)
    # A raised cheek makes a bag under the eye.
    _shade(canvas, within * _line(y - lower - 1.8, 1.0) * (-face.under).clip(0, 1), 0.65)


def _brows(canvas: SimpleNamespace, who: SimpleNamespace, face: SimpleNamespace) -> None:
    start, length = who.eye_x - who.eye_width - 0.6 - face.knit, who.eye_width * 2 + 2.2
    t = ((canvas.u - start) / length).clip(0, 1)
    inner = face.inner + face.brow_rest + face.lopsided * canvas.side
    outer = face.outer + face.brow_rest - face.lopsided * canvas.side + who.brow_slant
    height = inner * (1 - t) * (1 - t * 0.5) + outer * t + who.brow_arch * 4 * t * (1 - t)
    distance = np.abs(canvas.y - who.brow_y + height)
    thick = who.brow_thick * (1.25 - 0.6 * t) + 0.25
    beyond = np.abs(canvas.u - start - length / 2) - length / 2
    _paint(canvas, who.brow_tone * _cover(np.maximum(distance - thick, beyond), 1.2), min(who.hair, who.skin * 0.55))
    # Lines that the moving skin throws up: between knitted brows, and over raised ones.
    upright = _line(canvas.u - 1.3, 0.8) * _cover(np.abs(canvas.y - who.brow_y - 0.5) - 2.2)
    _shade(canvas, upright * (face.knit / 1.6).clip(0, 1) * (0.6 - face.inner / 6).clip(0.2, 1), 0.55)
    level = _line(canvas.y - who.brow_y + 5.2 + face.inner * 0.3, 0.7) * _cover(canvas.u - 7, 2.0)
    _shade(canvas, level * (face.inner / 3).clip(0, 1), 0.75)


def _nose(canvas: SimpleNamespace, who: SimpleNamespace, face: SimpleNamespace) -> None:
    x, u, y = canvas.x, canvas.u, canvas.y - who.nose_y + 0.5 * face.wrinkle
    bridge = ((y + 9) / 9).clip(0, 1) * _cover(y - 0.5, 2.0)
    _shade(canvas, bridge * _line(u - 1.1 - bridge * (who.nose_width - 1.4), 1.3) * (x * face.light_x < 0), 0.78)
    _paint(canvas, bridge * _line(x, 1.2), canvas.image * 1.08)
    _shade(canvas, _line(np.sqrt((u - who.nose_width * 0.55) ** 2 + (y - 0.8) ** 2), 1.3), 0.35)
    _shade(canvas, _line(y - 1.6, 0.9) * _cover(u - who.nose_width * 0.7, 2.0), 0.75)
    wing = np.sqrt((u - who.nose_width + 0.2) ** 2 + (y + 0.2) ** 2)
    _shade(canvas, _line(wing - 1.3, 0.8) * _cover(who.nose_width - u, 1.0), 0.75)
    folds = np.maximum(_line(y + 6.0 + 0.35 * u, 0.8), _line(y + 8.2 + 0.35 * u, 0.8)) * _cover(u - 2.6, 1.2)
    _shade(canvas, folds * face.wrinkle, 0.5)


def _mouth(canvas: SimpleNamespace, who: SimpleNamespace, face: SimpleNamespace) -> None:
    width = who.mouth_width + face.width
    v = canvas.u / width
    across = _cover((v - 1) * width)
    bulge = (1 - v * v).clip(0)
    corner = face.corner + face.corner_rest + 0.6 * face.lopsided * canvas.side
    # The corners carry the curve; half of it is given back to the middle, so that the mouth stays in place.
    y = canvas.y - who.mouth_y + corner * (v * v - 0.5).clip(-0.5, 0.7)
    upper, lower = -face.lift * (1 - v * v * 0.7).clip(0) - face.gape * np.sqrt(bulge), face.drop * np.sqrt(bulge)
    thick = who.lip * (1 + face.thick)
    red = np.maximum(upper - y - thick * bulge, y - (lower - face.lift * 0.3) - thick * 1.25 * bulge)
    _shade(canvas, across * _cover(red), who.lip_tone)
    lit = _line(y - lower - thick * 0.9, 0.9) * across
    _paint(canvas, 0.25 * lit, canvas.image * 1.25)
    _shade(canvas, _line(y - lower - thick * 1.25 - 1.6, 1.2) * _cover(canvas.u - width * 0.6, 2.0), 0.82)
    gap = across * _cover(np.maximum(upper - y, y - lower)) * ((face.gape + face.drop) / 0.6).clip(0, 1)
    _paint(canvas, gap, 0.06)
    row = _cover(np.maximum(upper - y, y - upper - 1.7 - 0.2 * face.drop)) * face.teeth.clip(0, 1)
    _paint(canvas, gap * row, 0.9 * canvas.shade.clip(0.7, 1.1))
    # Where the lips meet; a lifted upper lip takes the line along.
    meet = (1 - (face.gape + face.drop) / 0.6).clip(0, 1)
    _shade(canvas, meet * across * _line(y - upper * 0.8, 0.95), 0.3)
    end = np.sqrt((canvas.u - width) ** 2 + (canvas.y - who.mouth_y + 0.5 * corner) ** 2)
    _shade(canvas, _line(end, 1.2), 0.6)
    # The crease runs from the nose's wing round the corner of the mouth.
    t = ((canvas.y - who.nose_y + 0.5) / (who.mouth_y - who.nose_y)).clip(0, 1)
    path = who.nose_width + 1.4 + (width + 1.2 - who.nose_width) * t * (1.5 - 0.5 * t)
    below = np.abs(canvas.y - (who.nose_y + who.mouth_y) / 2) - (who.mouth_y - who.nose_y) / 2 - 0.5
    _shade(canvas, _line(canvas.u - path, 1.1) * _cover(below, 2.0) * (who.crease + face.crease).clip(0, 1), 0.6)


def _glasses(canvas: SimpleNamespace, who: SimpleNamespace) -> None:
    rim = np.sqrt((canvas.u - who.eye_x) ** 2 + ((canvas.y - who.eye_y) * 1.1) ** 2) - 5.2
    bridge = _line(canvas.y - who.eye_y + 0.6, 0.8) * _cover(canvas.u - who.eye_x + 5.2)
    _paint(canvas, 0.8 * np.maximum(_line(rim, 0.8), bridge), 0.1)


def _photograph(rng: np.random.Generator, canvas: SimpleNamespace) -> UInt8[np.ndarray, '28 48 48']:
    """What camera and circumstance add: something in the way, blur, contrast, noise; then bytes."""
    n = FACES_A_SUBJECT
    # On one side only: the other half of brows and mouth always shows the expression.
    side, height = np.where(rng.random(n) < 0.5, -1, 1), _uniform(rng, -16.0, 20.0, n)
    reach, present = _uniform(rng, 4.0, 7.0, n), rng.random(n) < 0.08
    ball = np.sqrt((canvas.x - _column(side * 15.0)) ** 2 + (canvas.y - _column(height)) ** 2) - _column(reach)
    _paint(canvas, _cover(ball) * _column(present), _column(_uniform(rng, 0.05, 0.95, n)))
    blur = _column(_uniform(rng, 0.0, 0.28, n))
    image = canvas.image
    padded = np.pad(image, ((0, 0), (1, 1), (0, 0)), 'edge')
    image = image + blur * (padded[:, 2:] + padded[:, :-2] - 2 * image)
    padded = np.pad(image, ((0, 0), (0, 0), (1, 1)), 'edge')
    image = image + blur * (padded[:, :, 2:] + padded[:, :, :-2] - 2 * image)
    contrast, brightness = _column(_uniform(rng, 0.7, 1.1, n)), _column(_uniform(rng, -0.1, 0.1, n))
    image = 0.5 + contrast * (image - 0.5) + brightness
    grain = rng.random((2, n, IMAGE_SIDE, IMAGE_SIDE), np.float32)
    image = image + _column(_uniform(rng, 0.01, 0.06, n)) * (grain[0] + grain[1] - 1)
    return (image * 255 + 0.5).clip(0, 255).astype(np.uint8)
