"""The default detector on photographs that packages ship, where these are installed (see photographs.py)."""

import pytest

from fer_jax.inference.faces import Cut, make_detector
from tests.inference.photographs import PHOTOGRAPHS, Person, Photograph, read

pytest.importorskip('cv2')


def holds(face: Cut, person: Person) -> bool:
    box = face.box
    return box.left < person.x < box.left + box.width and box.top < person.y < box.top + box.height


@pytest.mark.parametrize('photograph', [each for each in PHOTOGRAPHS if each.people], ids=lambda each: each.file)
def test_everybody_is_found_once_and_surely(photograph: Photograph) -> None:
    picture = read(photograph)
    if picture is None:
        pytest.skip(f'{photograph.module} is not installed')
    sure = make_detector(min_score=0.95)(picture)
    assert [[holds(face, person) for person in photograph.people].index(True) for face in sure] == list(range(len(photograph.people)))


@pytest.mark.parametrize('photograph', [each for each in PHOTOGRAPHS if not each.people], ids=lambda each: each.file)
def test_nobody_is_found_where_nobody_is(photograph: Photograph) -> None:
    picture = read(photograph)
    if picture is None:
        pytest.skip(f'{photograph.module} is not installed')
    assert make_detector(min_score=0.95)(picture) == []
