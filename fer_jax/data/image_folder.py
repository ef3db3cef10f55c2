"""Any folder or archive of images, split/class/* or class/*: its classes are its folders."""

import os

from fer_jax.core.errors import InputError, printable
from fer_jax.data.archive import listing
from fer_jax.data.folders import ordered_classes, pictures_in, read_images, read_layout, shown
from fer_jax.data.images import MEGAPIXELS
from fer_jax.data.schema import Source


def read(path: str | os.PathLike, skip_bad: bool = False, megapixels: int = MEGAPIXELS) -> Source:
    """The images in a folder or archive as 48×48 grey faces; classes are sorted by name, or by value if all are numbers.

    Split folders are train, validation (val, valid, dev) and test; those missing are drawn from train later.

    Raises:
      InputError: no image in a class folder, an empty class or split, a level of folders too many, splits of different classes, or
        files that are no images; classes as of ordered_classes.
    """
    names = listing(path)
    layout = read_layout(names, pictures_in(path, names), str(path))
    folders = {folder for _, folder in layout.files.values()}
    trained = {folder for split, folder in layout.files.values() if split == 'train'}
    for split, title in layout.titles.items():
        own = {folder for each, folder in layout.files.values() if each == split}
        if own - trained and trained - own:
            which = f'{printable(title)} has {shown(sorted(own - trained))} and lacks {shown(sorted(trained - own))}'
            raise InputError(f'{path}: splits of different classes: {which}: give a class the same name in all')
    class_names = ordered_classes(folders, str(path))
    position = {name: label for label, name in enumerate(class_names)}
    files = {name: (split, position[folder]) for name, (split, folder) in layout.files.items()}
    read = read_images(path, files, skip_bad, megapixels)
    titles = dict(layout.titles) or {'train': 'all'}
    splits = {split: read.faces.take(read.splits == split) for split in titles}
    return Source('image_folder', class_names, splits, titles, read.skipped, layout.warnings, layout.notes)
