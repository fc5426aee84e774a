"""Scenes for segmentation and detection that need no download: handwritten digits on two photographs, with masks and boxes.

Digits and photographs come with scikit-learn. Test scenes are drawn with digits and on parts of the photographs that no
training scene has. Around each digit lies a contour that is neither digit nor background: it is ignored, like the contours of
the VOC data. Some scenes have a distractor: a digit that was cut up, which is background. Scene number i of a split depends on
the options, the split and i alone.

Validation images are held out of the training scenes: other scenes, but of the same digits. A fit for demonstrations and tests
of the chain, not for claims about handwriting.

Source: digits as for the data source `digits`; photographs china.jpg and flower.jpg as scikit-learn ships them, CC BY 2.0.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from PIL import Image

from compress.data import Dataset, Split, Summary
from compress.data._boxes import place_boxes
from compress.data._masks import resize_mask
from compress.data._scenes import CLASSES, Scene, draw_scene, find_boxes, load_material, make_mask
from compress.errors import CompressError
from compress.preprocess import decode
from compress.recipe import Count, Share, WholeNumber
from compress.records import Preprocess

MOST_DIGITS, LEAST_SIZE = 9, 24
SPLITS: tuple[Literal["train", "test"], ...] = ("train", "test")


class DigitScenes:
    """Digits on photographs.

    Args:
        task: `segmentation`, the class of each pixel, with the background as a class; or `detection`, a box for each digit.
        size: Height and width in pixels that scenes are drawn in; they are resized to `image_size`.
        train_scenes: Scenes for training and validation.
        test_scenes: Scenes for the test.
        digits: The most digits in a scene; each has one at least. With more, digits are small parts of a crowd and harder.
        distractors: Share of the scenes with a cut-up digit, which is background.
        scene_seed: Seed of the scenes; the recipe's `seed` does not change it.
    """

    channels = "rgb"
    mirrors = False
    licence = "photographs of scikit-learn by danielbuechele (china.jpg) and vultilion (flower.jpg), CC BY 2.0"

    def __init__(
        self,
        *,
        task: Literal["segmentation", "detection"] = "segmentation",
        size: Count = 96,
        train_scenes: Count = 1500,
        test_scenes: Count = 500,
        digits: Count = 2,
        distractors: Share = 0.25,
        scene_seed: WholeNumber = 0,
    ) -> None:
        self.task: str = task
        self.size, self.counts = size, (train_scenes, test_scenes)
        self.digits, self.distractors, self.scene_seed = digits, distractors, scene_seed

    def summary(self) -> Summary:
        """Return classes and sizes, without loading scikit-learn.

        Raises:
            CompressError: Digits could not be told apart in so small a scene, or there are too many for one.
        """
        if self.size < LEAST_SIZE:
            raise CompressError(f"data.size: digits cannot be read in scenes of {self.size} pixels; take {LEAST_SIZE} or more")
        if self.digits > MOST_DIGITS:
            raise CompressError(f"data.digits: {self.digits} do not fit into a scene; take {MOST_DIGITS} or fewer")
        names = tuple(str(digit) for digit in range(CLASSES))
        return Summary(("background", *names) if self.task == "segmentation" else names, *self.counts)

    def load(self, preprocess: Preprocess) -> Dataset:
        """Return all scenes, resized.

        Raises:
            CompressError: As in `summary`.
        """
        self.summary()
        return Dataset(*(self._load_split(split, preprocess) for split in range(len(SPLITS))))

    def draw(self, split: int, number: int) -> Scene:
        """Return a scene: of split 0 for training and validation, of split 1 for the test."""
        return draw_scene(
            load_material(SPLITS[split]),
            self.size,
            digits=self.digits,
            distractors=self.distractors,
            random=np.random.default_rng([self.scene_seed, split, number]),
        )

    def _load_split(self, split: int, preprocess: Preprocess) -> Split:
        count, shape = self.counts[split], (preprocess.height, preprocess.width)
        images = np.empty((count, *shape, preprocess.depth), np.uint8)
        masks = np.empty((count, *shape), np.uint8)
        boxes = np.zeros((count, self.digits, 5), np.float32)
        boxes[..., 4] = -1
        for number in range(count):
            scene = self.draw(split, number)
            images[number] = decode(Image.fromarray(scene.picture), preprocess, f"scene {number}")
            if self.task == "segmentation":
                masks[number] = resize_mask(make_mask(scene), preprocess)
            else:
                found = place_boxes(find_boxes(scene), (self.size, self.size), preprocess)
                boxes[number, : len(found)] = found
        return Split(images, masks if self.task == "segmentation" else boxes)
