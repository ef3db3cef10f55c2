"""Every reader of users' files: the path that a user's command goes through it, and small files that it can read."""

import contextlib
import csv
import functools
import gzip
import io
import json
import lzma
import os
import pathlib
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from tests.runs_like import write_run
from tests.tiny import ROOT

Files = Mapping[str, bytes]  # path below the source's folder → content

FER = ('angry', 'disgust', 'fear', 'happy', 'sad', 'surprise', 'neutral')
CKPLUS = ('anger', 'disgust', 'fear', 'happy', 'sadness', 'surprise', 'contempt')
USAGES = ('Training', 'PublicTest', 'PrivateTest')
FORMATS = {'png': 'PNG', 'jpg': 'JPEG', 'tif': 'TIFF', 'webp': 'WEBP', 'gif': 'GIF', 'bmp': 'BMP', 'ppm': 'PPM'}
VOTES = 'Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF\n'


class Reader(NamedTuple):
    """How a kind of file is read: `read(source, target)` is given the folder of the files and one that may be written into."""

    read: Callable[[pathlib.Path, pathlib.Path], object]
    seeds: Callable[[], list[Files]]  # files that it reads without a word
    within: Callable[[pathlib.Path], object] | None = None  # the same without what is written, for thousands of inputs; None: `read`


def data_set(dataset: str, **fields: Any) -> Callable[[pathlib.Path, pathlib.Path], object]:
    """`prepare` of the one file of the source, or of all of it where there are several."""

    def read(source: pathlib.Path, target: pathlib.Path) -> object:
        from fer_jax.data.manifest import describe
        from fer_jax.data.prepare import prepare

        return describe(prepare(data_config(dataset, only(source), target, **fields)))

    return read


def data_config(dataset: str, path: pathlib.Path, target: pathlib.Path, **fields: Any) -> Any:
    from fer_jax.core.fields import default_config

    data = default_config().data
    data.update({'dataset': dataset, 'path': str(path), 'prepared': str(target), **fields})
    return data


def only(source: pathlib.Path) -> pathlib.Path:
    """The one file in a folder, or the folder."""
    found = os.listdir(source)
    return source / found[0] if len(found) == 1 and not (source / found[0]).is_dir() else source


def as_source(reader: str) -> Callable[[pathlib.Path], object]:
    """The reader alone, without what `prepare` writes afterwards."""

    def read(source: pathlib.Path) -> object:
        from fer_jax.data.readers import READERS

        return READERS[reader](only(source), skip_bad=False)

    return read


def votes(source: pathlib.Path, target: pathlib.Path) -> object:
    """The FER+ votes and the CSV of the same rows, as a run loads them."""
    from fer_jax.data.load import load

    table = target / 'fer2013.csv'
    table.write_bytes(table_csv()['fer2013.csv'])
    return load(data_config('fer2013', table, target, votes=str(only(source))))


def votes_alone(source: pathlib.Path) -> object:
    from fer_jax.data.ferplus import fer2013_targets

    return fer2013_targets(only(source), *faces_of_table())


@functools.cache
def faces_of_table() -> tuple[dict, dict]:
    from fer_jax.data.fer2013 import read

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, 'fer2013.csv')
        path.write_bytes(table_csv()['fer2013.csv'])
        source = read(path)
    return source.splits, source.split_titles


def teacher(source: pathlib.Path, target: pathlib.Path | None = None) -> object:
    """The teacher's predictions.csv, for the training images of the same small set."""
    from fer_jax.data.predictions import read_teacher

    return read_teacher(only(source), faces_of_table()[0]['train'], FER, content_sha256='0a')


def picture(source: pathlib.Path, target: pathlib.Path | None = None) -> object:
    """The pictures, as `predict` reads them when they are faces already."""
    from fer_jax.inference.sources import expand, shots

    files, _ = expand(str(only(source)))
    return [shot.cuts for file in files for shot in shots(file, None)]


def weights(source: pathlib.Path, target: pathlib.Path | None = None) -> object:
    from fer_jax.runs.weights import load_weights

    return load_weights(only(source)).sha256


def arguments(source: pathlib.Path, target: pathlib.Path | None = None) -> object:
    """A command line: what follows `configs/toyfaces.py:` in the first line, an override in each other one.

    What is in a configuration's Python file is run because the user wants it run: that is no bad data.
    """
    from fer_jax.core.command_line import split_overrides
    from fer_jax.core.config import load_config

    first, *others = os.fsdecode(only(source).read_bytes().replace(b'\0', b'')).split('\n')
    _, overrides = split_overrides([f'--config.{line}' for line in others])
    return load_config(f'{ROOT}/configs/toyfaces.py:{first}', overrides)


def record(source: pathlib.Path, target: pathlib.Path | None = None) -> object:
    """A run's config.json, from which everything that goes on from a run begins."""
    from fer_jax.core.config import from_record
    from fer_jax.core.files import read_json

    return from_record(read_json(only(source)), str(only(source)))


def run_folder(source: pathlib.Path, target: pathlib.Path) -> object:
    """Everything in the folder of a finished run, as `report` reads it."""
    from fer_jax.report.command import report

    with contextlib.redirect_stdout(io.StringIO()):
        return report([source], target / 'report')


def run_alone(source: pathlib.Path) -> object:
    from fer_jax.report.tables import make_rows
    from fer_jax.runs.records import find_runs, make_groups

    return make_rows(make_groups(find_runs([source])[0])[0])


def prepared(source: pathlib.Path, target: pathlib.Path) -> object:
    """A prepared data set, whose source is gone: its manifest and shards."""
    from fer_jax.data.load import load

    return load(data_config('fer2013', PREPARED_FROM, source))


PREPARED_FROM = pathlib.Path('/nowhere/fer2013.csv')


def pixels(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (48, 48), np.uint8)


def encoded(number: int = 0, form: str = 'PNG', mode: str = 'L', side: int = 48, **options: Any) -> bytes:
    """A small picture as a file's bytes."""
    file = io.BytesIO()
    Image.fromarray(pixels(number)).resize((side, side)).convert(mode).save(file, form, **options)
    return file.getvalue()


@functools.cache
def table_csv() -> Files:
    """fer2013.csv: two rows of each class and Usage."""
    rows = [(label, usage, number) for usage in USAGES for label in range(7) for number in range(2)]
    lines = [f'{label},{" ".join(map(str, pixels(9 * label + n).ravel()))},{usage}\n' for label, usage, n in rows]
    return {'fer2013.csv': ('emotion,pixels,Usage\n' + ''.join(lines)).encode()}


def tables() -> list[Files]:
    text = table_csv()['fer2013.csv']
    columns = [line.split(b',') for line in text.splitlines()]
    plain = b'\r\n'.join(b'"' + line[0] + b'","' + line[1] + b'"' for line in columns)
    return [
        {'fer2013.csv': text},
        {'icml_face_data.csv': b'\n'.join(b', '.join(line[:1] + line[:0:-1]) for line in columns)},
        {'train.csv': plain},
    ]


@functools.cache
def class_folders() -> Files:
    """train/angry/0.png … as FER2013's usual folders are."""
    return {
        f'{split}/{name}/{n}.png': encoded(7 * n + i) for split in ('train', 'val', 'test') for i, name in enumerate(FER) for n in range(2)
    }


def zipped(files: Files, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, 'w', compression) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, compression)
    return content.getvalue()


def tarred(files: Files, form: int = tarfile.PAX_FORMAT) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode='w', format=form) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return content.getvalue()


def zips() -> list[Files]:
    return [
        {'archive.zip': zipped(class_folders())},
        {'fer2013.csv.zip': zipped(table_csv())},
        {'stored.zip': zipped(class_folders(), zipfile.ZIP_STORED)},
        {'lzma.zip': zipped(table_csv(), zipfile.ZIP_LZMA)},
    ]


def tars() -> list[Files]:
    long = {f'{"a" * 90}/{"b" * 90}/{name}': data for name, data in class_folders().items()}
    return [
        {'faces.tar': tarred(class_folders())},
        {'fer2013.tar.gz': gzip.compress(tarred(table_csv()), mtime=0)},
        {'long.tar': tarred(long, tarfile.GNU_FORMAT)},
        {'pax.tar': tarred(long, tarfile.PAX_FORMAT)},
    ]


def xzs() -> list[Files]:
    text = table_csv()['fer2013.csv']
    return [
        {'fer2013.tar.xz': lzma.compress(tarred(table_csv()), preset=0)},
        {'fer2013.csv.xz': lzma.compress(text, preset=0)},
        {'faces.tar.xz': lzma.compress(tarred(class_folders()), preset=0)},
    ]


def pictures() -> list[Files]:
    found = [{f'face.{ending}': encoded(3, form)} for ending, form in FORMATS.items()]
    for ending, mode in [
        ('png', 'RGBA'),
        ('png', 'P'),
        ('png', 'I;16'),
        ('tif', 'F'),
        ('tif', 'CMYK'),
        ('jpg', 'RGB'),
        ('gif', 'P'),
        ('tif', '1'),
    ]:
        found.append({f'face.{ending}': encoded(4, FORMATS[ending], mode, side=30)})
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation
    options = [
        ('jpg', {'exif': exif}),
        ('png', {'exif': exif}),
        ('tif', {'compression': 'tiff_lzw'}),
        ('tif', {'compression': 'tiff_adobe_deflate'}),
    ]
    frames = {'save_all': True, 'append_images': [Image.fromarray(pixels(6))]}
    options += [('jpg', {'progressive': True}), ('gif', frames), ('webp', {'lossless': True}), ('tif', frames)]
    return found + [{f'face.{ending}': encoded(5, FORMATS[ending], **more)} for ending, more in options]


def trees() -> list[Files]:
    """CK+ in its two folder forms: three frames of a film for each class and each of five subjects."""
    folders, original = {}, {}
    for subject in range(5):
        for label, name in enumerate(CKPLUS):
            film = f'S{subject + 5:03}_{label + 1:03}'
            for frame in range(1, 4):
                image = encoded(7 * subject + label)
                folders[f'{name}/{film}_{frame:08}.png'] = image
                original[f'cohn-kanade-images/{film.replace("_", "/")}/{film}_{frame:08}.png'] = image
            original[f'Emotion/{film.replace("_", "/")}/{film}_00000003_emotion.txt'] = f'   {label + 1}.0000000e+00\n'.encode()
    return [folders, original]


def picture_lists() -> list[Files]:
    """A list of pictures with splits, persons and boxes, one without a header, and ExpW's."""
    names = [f'{split}/{number}.png' for split in ('train', 'test') for number in range(6)]
    files = {name: encoded(number) for number, name in enumerate(names)}
    rows = [f'{name},{FER[number % 2]},{name.split("/")[0]},p{number % 3},1,2,40,40' for number, name in enumerate(names)]
    header = 'path,label,split,subject,left,top,width,height'
    return [
        files | {'list.csv': '\n'.join([header, *rows]).encode()},
        files | {'list_patition_label.txt': '\n'.join(f'{name} {number % 7 + 1}' for number, name in enumerate(names)).encode()},
        files | {'label.lst': '\n'.join(f'{name} 0 2 1 40 44 9.5 {number % 7}' for number, name in enumerate(names)).encode()},
    ]


def array_files() -> list[Files]:
    labels, images = np.arange(20) % 2, np.stack([pixels(number) for number in range(20)])
    found = []
    for options in (
        {'images': images, 'labels': labels},
        {'x_train': images / 255, 'y_train': labels.astype(str), 'x_test': images, 'y_test': labels.astype(str)},
    ):
        file = io.BytesIO()
        np.savez_compressed(file, **options)
        found.append({'faces.npz': file.getvalue()})
    return found


def parquet_files() -> list[Files]:
    import pyarrow
    import pyarrow.parquet

    file = io.BytesIO()
    table = {'image': [{'bytes': encoded(number), 'path': None} for number in range(20)], 'label': [number % 2 for number in range(20)]}
    pyarrow.parquet.write_table(pyarrow.table(table), file)
    return [{'faces.parquet': file.getvalue()}]


def vote_tables() -> list[Files]:
    rows = [f'{usage},fer{number:07}.png,{",".join("4" if c == (label + 1) % 7 else "0" for c in range(7))},1,0,0\n'
            for number, (usage, label) in enumerate((usage, label) for usage in USAGES for label in range(7) for _ in range(2))]  # fmt: skip
    return [{'fer2013new.csv': (VOTES + ''.join(rows)).encode()}]


def teacher_tables() -> list[Files]:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(['index', 'label', 'prediction', *(f'probability_{name}' for name in FER)])
    for index in range(14):
        writer.writerow([index, FER[index // 2], FER[0], *(f'{1 / 7:.6f}' for _ in FER)])
    return [{'predictions.csv': text.getvalue().encode()}]


@functools.cache
def weight_file() -> bytes:
    from tests.tiny_weights import write_weights

    with tempfile.TemporaryDirectory() as folder:
        return write_weights(pathlib.Path(folder, 'a.safetensors')).read_bytes()


def weight_files() -> list[Files]:
    return [{'a.safetensors': weight_file()}]


def argument_lines() -> list[Files]:
    lines = [
        'attention=both,groups=4,epochs=3',
        'network.blocks=16,24',
        'network.strides=2,2',
        'optimizer.learning_rate=1e-3',
        'data.dedup=exact',
    ]
    more = ['', 'seed=5', 'data.path=none', 'augment.rotate=3', 'network.shuffle_groups=none', 'name=a']
    return [{'arguments.txt': '\n'.join(each).encode()} for each in (lines, more)]


def config_files() -> list[Files]:
    from fer_jax.core.fields import default_config

    return [{'config.json': json.dumps(default_config().to_dict()).encode()}]


@functools.cache
def finished_run() -> Files:
    with tempfile.TemporaryDirectory() as folder:
        run = write_run(pathlib.Path(folder, 'run'), splits=(('validation', 'centre'), ('test', 'centre')))
        return {f'run/{path.relative_to(run).as_posix()}': path.read_bytes() for path in run.rglob('*') if path.is_file()}


def runs() -> list[Files]:
    unfinished = {name: data for name, data in finished_run().items() if name in ('run/config.json', 'run/metrics.jsonl')}
    sweep = {'sweep.json': json.dumps({'variants': ['base', 'other'], 'seeds': [0, 1]}).encode()}
    return [finished_run(), unfinished, finished_run() | sweep]


@functools.cache
def prepared_set() -> Files:
    from fer_jax.data import prepare

    with tempfile.TemporaryDirectory() as folder:
        table = pathlib.Path(folder, 'fer2013.csv')
        table.write_bytes(table_csv()['fer2013.csv'])
        target = pathlib.Path(folder, 'prepared')
        manifest = prepare.prepare(data_config('fer2013', table, target))
        content = {path.relative_to(target).as_posix(): path.read_bytes() for path in target.rglob('*') if path.is_file()}
        request = manifest['request'] | {'path': str(PREPARED_FROM)}
    return {name: json.dumps(json.loads(data) | {'request': request}).encode() if name.endswith('manifest.json') else data
            for name, data in content.items()}  # fmt: skip


def prepared_sets() -> list[Files]:
    return [prepared_set()]


READERS = {
    'CSV': Reader(data_set('fer2013'), tables, as_source('fer2013')),
    'zip': Reader(data_set('fer2013'), zips, as_source('fer2013')),
    'tar': Reader(data_set('fer2013'), tars, as_source('fer2013')),
    'xz': Reader(data_set('fer2013'), xzs, as_source('fer2013')),
    'picture': Reader(picture, pictures),
    'CK+ tree': Reader(data_set('ckplus', skip_bad=True), trees, as_source('ckplus')),
    'picture list': Reader(data_set('image_table', skip_bad=True), picture_lists, as_source('image_table')),
    'arrays': Reader(data_set('image_table'), array_files, as_source('image_table')),
    'parquet': Reader(data_set('image_table', skip_bad=True), parquet_files, as_source('image_table')),
    'FER+ votes': Reader(votes, vote_tables, votes_alone),
    "teacher's predictions": Reader(teacher, teacher_tables),
    'safetensors': Reader(weights, weight_files),
    'command line': Reader(arguments, argument_lines),
    'config.json': Reader(record, config_files),
    'run folder': Reader(run_folder, runs, run_alone),
    'prepared set': Reader(prepared, prepared_sets),
}
