"""A finished run's record under results/: all that says how it came about and what it scored, no face, and no folder of its machine.

    python -m benchmarks.record_run RUN results/<claim>/seed0
    python -m benchmarks.record_run SWEEP results/<claim>/runs

Left out are checkpoints, TensorBoard's files, logs of the processes, and the pictures that show faces of the data set; of a sweep, whose
runs are many, all pictures and predictions.
"""

import argparse
import pathlib
import re
import shutil
from typing import Any

from fer_jax.core.files import read_json, write_json

RECORDED = ('config.json', 'environment.json', 'metrics.jsonl', 'result.json', 'curves.png')
OF_AN_EVALUATION = ('result.json', 'predictions.csv', 'confusion_matrix.png', 'coverage.png', 'channel_gates.png')
FOLDERS = re.compile(r'(?<![\w:/])/(?:[^/\s\'"=,]+/)*(?=[^/\s\'"=,])')  # what stands before the last name of an absolute path


def without_folders(value: Any) -> Any:
    """`value`, as read from JSON, with the last name only of each absolute path in its strings."""
    match value:
        case str():
            return FOLDERS.sub('', value)
        case list():
            return [without_folders(each) for each in value]
        case dict():
            return {key: without_folders(each) for key, each in value.items()}
    return value


def record_run(run: pathlib.Path, record: pathlib.Path) -> None:
    """Copies what is recorded of a finished run, or of a sweep's runs, into the folder `record`, which must not be there yet."""
    if (run / 'sweep.json').exists():
        files = [run / 'sweep.json', *(path for path in sorted(run.glob('*/seed*/*')) if path.name in RECORDED and path.suffix != '.png')]
    else:
        files = [run / name for name in RECORDED if name != 'curves.png' or (run / name).exists()]  # of evaluation.figures
        files += [path for path in sorted(run.glob('evaluations/*/*')) if path.name in OF_AN_EVALUATION]
    record.mkdir(parents=True)
    for path in files:
        target = record / path.relative_to(run)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == '.json':
            write_json(target, without_folders(read_json(path)))
        else:
            shutil.copyfile(path, target)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
    parser.add_argument('run', type=pathlib.Path)
    parser.add_argument('record', type=pathlib.Path)
    options = parser.parse_args()
    record_run(options.run, options.record)
