"""Pictures and videos with what was found drawn into them: boxes, names, bars of the classes' probabilities."""

import contextlib
import functools
import os
import pathlib
import secrets
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from fer_jax.data.images import Box
from fer_jax.inference.classifier import Face
from fer_jax.inference.faces import Photo, opencv

# By the class's position; the last for those beyond. Light enough for black text, and apart for those who see few colours.
COLOURS = ('#f26b5b', '#9acd5a', '#b58ce8', '#ffc845', '#62a8f0', '#f49ac1', '#c8c8c8', '#57d0c0', '#e0a070', '#ffffff')
# Pixels on a side of the smallest face, cropped or in a picture: pictures with smaller ones are drawn larger, to MOST_SIDE at most.
SMALLEST_CROP, SMALLEST_FACE = 320, 110
MOST_SIDE = 2400
ROWS_A_FACE = 8  # lines of text on a face's height
TEXT = (11, 30)  # height of a line, least and most, in pixels
MOST_PANELS = 8  # in a crowd they would cover those who were not found
PANEL = 8.5  # a panel's width in lines' heights
USUAL_RATE = 25.0  # frames a second, of a camera that does not say


def enlargement(photo: Photo, faces: Sequence[Face], cropped: bool) -> float:
    """By what a picture is to be drawn larger for text to be read beside its faces; 1 or more."""
    wanted = SMALLEST_CROP if cropped else SMALLEST_FACE
    smallest = min((face.box.height for face in faces), default=wanted)
    return max(1.0, min(wanted / smallest, MOST_SIDE / max(photo.shape[:2])))


def annotate(photo: Photo, faces: Sequence[Face], cropped: bool, factor: float = 1.0) -> UInt8[np.ndarray, 'rows columns 3']:
    """The picture, `factor` times as large, with the faces' boxes, names and bars drawn in.

    Bars stand beside a face where there is room for them in the picture that no other face or panel takes, unless there are more
    than MOST_PANELS faces. With `cropped` the picture is made wider for them, in the same way whatever is found.
    """
    size = round(photo.shape[1] * factor), round(photo.shape[0] * factor)
    image = Image.fromarray(photo).resize(size, Image.Resampling.BICUBIC) if factor > 1 else Image.fromarray(photo)
    if cropped:
        line = line_height(min(size))
        extended = Image.new('RGB', (size[0] + round(PANEL * line) + line, max(size[1], line * (len(faces[0].probabilities) + 1))))
        extended.paste(image)
        image = extended
    draw = ImageDraw.Draw(image, 'RGBA')
    boxes = [face.box.scaled(factor) for face in faces]
    taken = [box._replace(top=box.top - TEXT[1], height=box.height + TEXT[1]) for box in boxes]  # with what stands above it
    for face, box in zip(faces, boxes, strict=True):
        line = line_height(min(box.width, box.height))
        colour = COLOURS[min(list(face.probabilities).index(face.label), len(COLOURS) - 1)]
        draw_box(draw, face, box, line, colour)
        for smaller in (line, max(TEXT[0], 2 * line // 3)) if len(faces) <= MOST_PANELS else ():
            panel = place(box, round(PANEL * smaller), smaller * len(face.probabilities) + smaller // 2, image.size, taken)
            if panel:
                taken.append(panel)
                draw_bars(draw, face, panel, smaller)
                break
    return np.asarray(image)


def line_height(side: int) -> int:
    """The height of a line of text, in pixels, for a face of that side."""
    return int(np.clip(side // ROWS_A_FACE, *TEXT))


def draw_box(draw: ImageDraw.ImageDraw, face: Face, box: Box, line: int, colour: str) -> None:
    """The box, and in its colour above it, or in it at the picture's border, the class and its probability."""
    right, bottom = box.left + box.width - 1, box.top + box.height - 1
    draw.rectangle((box.left, box.top, right, bottom), outline=colour, width=max(2, line // 7))
    text, letters = f'{face.label} {100 * face.probabilities[face.label]:.0f} %', font(line)
    top = box.top - line - 2 if box.top >= line + 2 else box.top
    width = draw.textlength(text, letters) + line // 2
    left = max(0, min(box.left, draw.im.size[0] - width))
    draw.rectangle((left, top, left + width, top + line + 2), fill=colour)
    draw.text((left + line // 4, top + line // 2 + 1), text, fill='black', font=letters, anchor='lm')


def place(box: Box, width: int, height: int, size: tuple[int, int], taken: Sequence[Box]) -> Box | None:
    """Where a panel fits into a picture of `size` beside, below or above a face, and covers nothing that is taken."""
    gap = 4
    middle = max(0, min(box.top, size[1] - height)), max(0, min(box.left, size[0] - width))
    places = [
        (box.left + box.width + gap, middle[0]),
        (box.left - gap - width, middle[0]),
        (middle[1], box.top + box.height + gap),
        (middle[1], box.top - height - gap - TEXT[1]),
    ]
    for left, top in places:
        inside = 0 <= left <= size[0] - width and 0 <= top <= size[1] - height
        apart = (
            left >= other.left + other.width or other.left >= left + width or top >= other.top + other.height or other.top >= top + height
            for other in taken
        )
        if inside and all(apart):
            return Box(left, top, width, height)
    return None


def draw_bars(draw: ImageDraw.ImageDraw, face: Face, panel: Box, line: int) -> None:
    """A line for each class: its name, and a bar as long as it is probable."""
    draw.rectangle((panel.left, panel.top, panel.left + panel.width, panel.top + panel.height), fill=(0, 0, 0, 170))
    letters = font(line)
    middle = panel.left + round(0.56 * panel.width)
    for row, (name, probability) in enumerate(face.probabilities.items()):
        top = panel.top + line // 4 + row * line
        text = name
        while len(text) > 1 and draw.textlength(text, letters) > middle - panel.left - line // 2:
            text = text[:-2] + '…'
        draw.text((panel.left + line // 4, top + line // 2), text, fill='white', font=letters, anchor='lm')
        length = (panel.left + panel.width - line // 4 - middle) * probability
        draw.rectangle((middle, top + line // 6, middle + max(1, length), top + line - line // 6), fill=COLOURS[min(row, len(COLOURS) - 1)])


@contextlib.contextmanager
def video_writer(path: pathlib.Path, rate: float, size: tuple[int, int]) -> Iterator[Callable[[Photo], None]]:
    """A function that adds a frame of `size` (width, height) to a video at `path`, which is there when the block ends, even by an error.

    Raises:
      OSError: it cannot be written.
    """
    cv2 = opencv('writing a video')
    temporary = path.with_name(f'.{secrets.token_hex(4)}-{path.name}')
    even = size[0] + size[0] % 2, size[1] + size[1] % 2  # as the codec wants it
    writer = cv2.VideoWriter(str(temporary), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*'mp4v'), rate or USUAL_RATE, even)

    def write(photo: Photo) -> None:
        if photo.shape[1::-1] != size:  # a video may change its size on the way, a file written here not
            photo = cv2.resize(photo, size)
        spare = ((0, even[1] - photo.shape[0]), (0, even[0] - photo.shape[1]), (0, 0))
        writer.write(np.ascontiguousarray(np.pad(photo, spare, 'edge')[..., ::-1]))

    try:
        if not writer.isOpened():
            raise OSError(f'{path}: cannot be written')
        yield write
    finally:
        writer.release()
        if temporary.exists():
            os.replace(temporary, path)


@functools.cache
def font(line: int) -> ImageFont.FreeTypeFont:
    """DejaVu, which comes with Matplotlib and has Latin, Greek, Cyrillic and Arabic letters, for lines of that height."""
    import matplotlib

    return ImageFont.truetype(os.path.join(matplotlib.get_data_path(), 'fonts', 'ttf', 'DejaVuSans.ttf'), round(0.78 * line))
