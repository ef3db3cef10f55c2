"""FER2013 (Goodfellow et al., 2013) in every form users have it."""

import os

from fer_jax.data.archive import kind, listing
from fer_jax.data.folders import class_position, pictures_in, read_images, read_layout
from fer_jax.data.images import MEGAPIXELS
from fer_jax.data.schema import Source, unofficial
from fer_jax.data.table import USAGES, read_table

CLASSES = ('angry', 'disgust', 'fear', 'happy', 'sad', 'surprise', 'neutral')
SYNONYMS = {'anger': 'angry', 'disgusted': 'disgust', 'fearful': 'fear', 'happiness': 'happy', 'sadness': 'sad', 'surprised': 'surprise'}
TITLES = {split: usage for usage, split in USAGES.items()}
BOTH_TESTS = 'PublicTest+PrivateTest'  # what the test folder of the usual folder form holds
OFFICIAL = {
    'Training': (3995, 436, 4097, 7215, 4830, 3171, 4965),
    'PublicTest': (467, 56, 496, 895, 653, 415, 607),
    'PrivateTest': (491, 55, 528, 879, 594, 416, 626),
}
OFFICIAL[BOTH_TESTS] = tuple(sum(pair) for pair in zip(OFFICIAL['PublicTest'], OFFICIAL['PrivateTest'], strict=True))


def read(path: str | os.PathLike, skip_bad: bool = False, megapixels: int = MEGAPIXELS) -> Source:
    """FER2013 from a CSV (fer2013.csv, icml_face_data.csv, train.csv), an archive of one, or train/angry/… as folder or archive.

    A CSV without Usage is all Training. A folder of train and test alone has PublicTest and PrivateTest together as its test
    split. Counts that are not the official ones become a warning of the Source.

    Raises:
      InputError: the file, row, image, label, class or Usage that is wrong, by name.
    """
    names = None if kind(path) == 'file' else listing(path)
    pictures = names and pictures_in(path, names)
    if not pictures:
        splits, words, skipped, notes = read_table(path, CLASSES, SYNONYMS, skip_bad)
        warnings = ()
    else:
        layout = read_layout(names, pictures, str(path))
        words, warnings, notes = layout.titles, layout.warnings, layout.notes
        files = {name: (split, class_position(folder, CLASSES, SYNONYMS, path)) for name, (split, folder) in layout.files.items()}
        found = read_images(path, files, skip_bad, megapixels)
        splits, skipped = {split: found.faces.take(found.splits == split) for split in layout.titles or ('train',)}, found.skipped
    both_tests = set(splits) == {'train', 'test'} and 'private' not in words['test'].lower()
    titles = {split: TITLES[split] for split in splits} | ({'test': BOTH_TESTS} if both_tests else {})
    told = (unofficial(f'FER2013 {titles[split]}', faces, CLASSES, OFFICIAL[titles[split]]) for split, faces in splits.items())
    return Source('fer2013', CLASSES, splits, titles, skipped, (*warnings, *filter(None, told)), notes)
