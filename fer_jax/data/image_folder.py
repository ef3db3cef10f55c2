"""Any folder or archive of images, split/class/* or class/*: its classes are its folders."""

import os

from fer_jax.core.errors import InputError, printable
from fer_jax.data.archive import listing
from fer_jax.data.images import read_images, read_layout
from fer_jax.data.schema import Source


def read(path: str | os.PathLike, skip_bad: bool = False) -> Source:
    """The images in a folder or archive as 48×48 grey faces; classes are sorted by name, or by value if all are numbers.

    Split folders are train, validation (val, valid, dev) and test; those missing are drawn from train later.

    Raises:
      InputError: no image in a class folder, an empty class or split, a class that train lacks, or files that are no images.
    """
    layout = read_layout(listing(path), str(path))
    folders = {folder for _, folder in layout.files.values()}
    numeric = all(folder.isascii() and folder.isdigit() for folder in folders)
    class_names = tuple(sorted(folders, key=lambda folder: (int(folder) if numeric else 0, folder)))
    if len(class_names) < 2:
        raise InputError(f'{path}: only one class folder ({printable(class_names[0])}): expected split/class/* or class/*')
    position = {name: label for label, name in enumerate(class_names)}
    files = {name: (split, position[folder]) for name, (split, folder) in layout.files.items()}
    read = read_images(path, files, skip_bad)
    titles = dict(layout.titles) or {'train': 'all'}
    splits = {split: read.faces.take(read.splits == split) for split in titles}
    warnings = ()
    if layout.ignored:
        shown = ', '.join(printable(name) for name in layout.ignored[:3])
        warnings = (f'{path}: {len(layout.ignored):,} files are not images in a class folder and left out: {shown}, …',)
    return Source('image_folder', class_names, splits, titles, read.skipped, warnings)
