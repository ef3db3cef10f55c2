"""Pictures and videos with what was found drawn into them: boxes, names, bars of the classes' probabilities."""

import contextlib
import functools
import math
import os
import pathlib
import secrets
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont, ImageOps

from fer_jax.core.errors import printable
from fer_jax.data.images import Box
from fer_jax.inference.face import Face
from fer_jax.inference.faces import Photo, opencv, shared
from fer_jax.inference.sources import name_lost

# By the class's position; the last for those beyond. Light enough for black text, and apart for those who see few colours.
COLOURS = ('#f26b5b', '#9acd5a', '#b58ce8', '#ffc845', '#62a8f0', '#f49ac1', '#c8c8c8', '#57d0c0', '#e0a070', '#ffffff')
# Pixels on a side of the smallest face, cropped or in a picture: pictures with smaller ones are drawn larger, to MOST_SIDE at most.
SMALLEST_CROP, SMALLEST_FACE = 320, 110
MOST_SIDE = 2400
ROWS_A_FACE = 8  # lines of text on a face's height
# Height of a line, least and most: in pixels, and as a part of the picture's longer side, so that it is read however it is shown.
TEXT, TEXT_PARTS = (11, 30), (64, 32)
MOST_PANELS = 8  # in a crowd they would cover those who were not found
PANEL = 8.5  # a panel's width in lines' heights
GAP = 4  # pixels between a face and what stands beside it
MARGIN = (24, 24, 24)  # the colour around a picture that is made larger


def enlargement(photo: Photo, faces: Sequence[Face], cropped: bool) -> float:
    """By what a picture is to be drawn larger for text to be read beside its faces; 1 or more."""
    wanted = SMALLEST_CROP if cropped else SMALLEST_FACE
    smallest = min((face.box.height for face in faces), default=wanted)
    return max(1.0, min(wanted / smallest, MOST_SIDE / max(photo.shape[:2])))


def annotate(
    photo: Photo, faces: Sequence[Face], cropped: bool, factor: float = 1.0, grow: bool = False
) -> UInt8[np.ndarray, 'rows columns 3']:
    """The picture, `factor` times as large, with the faces' boxes, names and bars drawn in.

    A name stands above, below or beside its face, where it covers neither another nor a face; where there is no such place the picture
    gets a margin, if it may `grow`, and else the name stands where it covers least. Bars stand where they cover nothing, unless there are
    more than MOST_PANELS faces. With `cropped` the picture is made wider for both, in the same way whatever is found.
    """
    size = round(photo.shape[1] * factor), round(photo.shape[0] * factor)
    image = Image.fromarray(photo).resize(size, Image.Resampling.BICUBIC) if factor > 1 else Image.fromarray(photo)
    boxes = [face.box.scaled(factor) for face in faces]
    lines = [line_height(min(box.width, box.height), max(size)) for box in boxes]
    if cropped:
        line = line_height(min(size), max(size))
        # Wide enough for the bars, high enough for the name above them.
        rows = len(faces[0].probabilities) + 3
        image = ImageOps.expand(image, (0, 0, round(PANEL * line) + line, max(0, line * rows - size[1])), MARGIN)
    labels = place_labels(faces, boxes, lines, image.size)
    if grow and any(covered(label, boxes) for label in labels):
        margin = max(lines) + 2 * GAP
        image = ImageOps.expand(image, margin, MARGIN)
        boxes = [box._replace(left=box.left + margin, top=box.top + margin) for box in boxes]
        labels = place_labels(faces, boxes, lines, image.size)
    draw, taken = ImageDraw.Draw(image, 'RGBA'), [*boxes, *labels]
    for face, box, label, line in zip(faces, boxes, labels, lines, strict=True):
        right, bottom = box.left + box.width - 1, box.top + box.height - 1
        draw.rectangle((box.left, box.top, right, bottom), outline=colour_of(face), width=max(2, line // 7))
        draw_label(draw, face, label)
        for smaller in (line, max(TEXT[0], 2 * line // 3)) if len(faces) <= MOST_PANELS else ():
            panel = place(box, round(PANEL * smaller), smaller * len(face.probabilities) + smaller // 2, image.size, taken)
            if panel:
                taken.append(panel)
                draw_bars(draw, face, panel, smaller)
                break
    return np.asarray(image)


def line_height(side: int, picture: int) -> int:
    """The height of a line of text, in pixels, for a face of that side in a picture of that longer side."""
    least, most = (max(pixels, picture // part) for pixels, part in zip(TEXT, TEXT_PARTS, strict=True))
    return int(np.clip(side // ROWS_A_FACE, least, most))


def colour_of(face: Face) -> str:
    """That of the most probable class."""
    return colour(int(np.argmax([*face.probabilities.values()])))


def colour(place: int) -> str:
    """That of the class at this place."""
    return COLOURS[min(place, len(COLOURS) - 1)]


def label_text(face: Face) -> str:
    """Such as `happy 87 %`."""
    return f'{face.label} {100 * face.confidence:.0f} %'


def place_labels(faces: Sequence[Face], boxes: Sequence[Box], lines: Sequence[int], size: tuple[int, int]) -> list[Box]:
    """Where each face's name stands."""
    labels: list[Box] = []
    for face, box, line in zip(faces, boxes, lines, strict=True):
        taken = [*boxes, *labels]
        sizes = []
        for smaller in (line, max(TEXT[0], 2 * line // 3)):
            width = math.ceil(font(smaller).getlength(label_text(face))) + 2 * (smaller // 4)
            sizes.append((min(width, size[0]), min(smaller + 2, size[1])))
        free = (place(box, *each, size, taken, above=True) for each in sizes)
        inside = places(box, *sizes[-1], size)
        labels.append(next((each for each in free if each), None) or min(inside, key=lambda each: covered(each, taken)))
    return labels


def places(box: Box, width: int, height: int, size: tuple[int, int]) -> list[Box]:
    """Beside, below and above a face, where something of that width and height may stand; all inside of a picture of `size`."""
    right, below = box.left + box.width, box.top + box.height
    beside = [(x, y) for y in (box.top, below - height) for x in (right + GAP, box.left - GAP - width)]
    wanted = [*beside, (box.left, below + GAP), (box.left, box.top - height - GAP)]
    return [Box(max(0, min(x, size[0] - width)), max(0, min(y, size[1] - height)), width, height) for x, y in wanted]


def place(box: Box, width: int, height: int, size: tuple[int, int], taken: Sequence[Box], above: bool = False) -> Box | None:
    """The first of the `places` that covers nothing that is taken, or with `above` the last of them; None where all do."""
    found = [each for each in places(box, width, height, size) if not covered(each, taken)]
    return found[-1 if above else 0] if found else None


def covered(box: Box, others: Sequence[Box]) -> int:
    """The pixels of others that a box lies over."""
    return sum(shared(box, other) for other in others)


def draw_label(draw: ImageDraw.ImageDraw, face: Face, label: Box) -> None:
    """The name and its probability, in the class's colour."""
    line = label.height - 2
    draw.rectangle((label.left, label.top, label.left + label.width - 1, label.top + label.height - 1), fill=colour_of(face))
    text = shortened(label_text(face), font(line), label.width - 2 * (line // 4))
    draw.text((label.left + line // 4, label.top + line // 2 + 1), text, fill='black', font=font(line), anchor='lm')


def shortened(text: str, letters: ImageFont.FreeTypeFont, width: int) -> str:
    """As much of the text as is no wider."""
    while len(text) > 1 and letters.getlength(text) > width:
        text = text[:-2] + '…'
    return text


def draw_bars(draw: ImageDraw.ImageDraw, face: Face, panel: Box, line: int) -> None:
    """A line for each class: its name, and a bar as long as it is probable."""
    draw.rectangle((panel.left, panel.top, panel.left + panel.width, panel.top + panel.height), fill=(0, 0, 0, 170))
    middle = panel.left + round(0.56 * panel.width)
    for row, (name, probability) in enumerate(face.probabilities.items()):
        top = panel.top + line // 4 + row * line
        text = shortened(name, font(line), middle - panel.left - line // 2)
        draw.text((panel.left + line // 4, top + line // 2), text, fill='white', font=font(line), anchor='lm')
        length = (panel.left + panel.width - line // 4 - middle) * probability
        draw.rectangle((middle, top + line // 6, middle + max(1, length), top + line - line // 6), fill=colour(row))


@contextlib.contextmanager
def video_writer(path: pathlib.Path, rate: float, size: tuple[int, int]) -> Iterator[Callable[[Photo], None]]:
    """A function that adds a frame of `size` (width, height) to a video at `path`, which is there when the block ends, even by an error.

    Raises:
      OSError: it cannot be written.
    """
    cv2 = opencv('writing a video')
    temporary = path.with_name(f'.{secrets.token_hex(4)}-{path.name}')
    even = size[0] + size[0] % 2, size[1] + size[1] % 2  # as the codec wants it
    if name_lost(str(temporary)):
        raise OSError(f'{printable(str(path))}: its name is no UTF-8, and OpenCV cannot write it')
    written, whole = 0, False
    writer = cv2.VideoWriter(str(temporary), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*'mp4v'), rate, even)

    def write(photo: Photo) -> None:
        nonlocal written
        written += 1
        if photo.shape[1::-1] != size:  # a video may change its size on the way, a file written here not
            photo = cv2.resize(photo, size)
        spare = ((0, even[1] - photo.shape[0]), (0, even[0] - photo.shape[1]), (0, 0))
        writer.write(cv2.cvtColor(np.pad(photo, spare, 'edge'), cv2.COLOR_RGB2BGR))

    try:
        if not writer.isOpened():
            raise OSError(f'{path}: cannot be written')
        yield write
    finally:
        writer.release()
        # OpenCV tells nobody that the disk was full: what it wrote then has no end, and cannot be opened.
        whole = written > 0 and cv2.VideoCapture(str(temporary), cv2.CAP_FFMPEG).isOpened()
        if whole:
            os.replace(temporary, path)
        else:
            temporary.unlink(missing_ok=True)
    if written and not whole:
        raise OSError(f'{path}: could not be written whole; is the disk full?')


@functools.cache
def font(line: int) -> ImageFont.FreeTypeFont:
    """DejaVu, which comes with Matplotlib and has Latin, Greek, Cyrillic and Arabic letters, for lines of that height."""
    import matplotlib

    return ImageFont.truetype(os.path.join(matplotlib.get_data_path(), 'fonts', 'ttf', 'DejaVuSans.ttf'), round(0.78 * line))
