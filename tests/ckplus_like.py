"""A folder with the layout and the counts of CK+48, its faces drawn: 981 images of 327 films of 118 subjects."""

import pathlib

import numpy as np
from PIL import Image

SUBJECTS = 118
FRAMES = 3
FILMS = {'anger': 45, 'disgust': 59, 'fear': 25, 'happy': 69, 'sadness': 28, 'surprise': 83, 'contempt': 18}  # 327


def write(root: pathlib.Path, seed: int = 0) -> pathlib.Path:
    """Fills `root` with <class>/S005_001_00000011.png and its like; returns it.

    Subjects differ from one another by far more than expressions do, and the frames of a film hardly at all, as in CK+:
    the nearest image is mostly one of the same film, and else one of the same subject.
    """
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.repeat(list(FILMS), list(FILMS.values())))
    # Each subject has one film at least; the others fall as they may.
    actors = generator.permutation(np.concatenate([np.arange(SUBJECTS), generator.integers(0, SUBJECTS, len(labels) - SUBJECTS)]))
    faces = generator.normal(0, 45, (SUBJECTS, 6, 6))
    expressions = dict(zip(FILMS, generator.normal(0, 10, (len(FILMS), 6, 6)), strict=True))
    films_of = np.zeros(SUBJECTS, int)
    for label, actor in zip(labels, actors, strict=True):
        films_of[actor] += 1
        film = np.kron(128 + faces[actor] + expressions[label] + generator.normal(0, 8, (6, 6)), np.ones((8, 8)))
        folder = root / label
        folder.mkdir(parents=True, exist_ok=True)
        for frame in range(FRAMES):
            pixels = np.clip(film + generator.normal(0, 3, film.shape), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f'S{actor + 5:03}_{films_of[actor]:03}_{frame + 11:08}.png')
    return root
