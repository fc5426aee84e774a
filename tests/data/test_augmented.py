"""Augmentation: the same pixels for the same view and row, torchvision's own operations, exact labels of mixes."""

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from compress.data import WHOLE_PIXELS, Augmented, DiskImages, FromDisk, InMemory, Split, Targets
from compress.data._augment import BINS, Augmenter, Operation, _draw_operation, apply_operation, mix_batch
from compress.data._augmented import draw_balanced_order
from compress.data._disk_images import ImageFile
from compress.recipe.augmentation import AugmentSection
from compress.records import Preprocess

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
PREPROCESS = Preprocess(height=12, width=16, channels="rgb", mean=MEAN, std=STD)
RAW = PREPROCESS.model_copy(update={name: value * 3 for name, value in WHOLE_PIXELS.items()})
ALL = AugmentSection(
    crop_scale=(0.3, 1.0),
    brightness=0.4,
    contrast=0.3,
    saturation=0.5,
    hue=0.1,
    rand_augment=9,
    erasing=0.5,
    mixup=0.3,
    cutmix=1.0,
)


def split(count=40):
    random = np.random.default_rng(0)
    return Split(random.integers(0, 256, (count, 12, 16, 3), dtype=np.uint8), np.arange(count) ** 2 % 3)


PLAIN = Targets(3)


def loader(section=ALL, *, targets=PLAIN, views=None, seed=1, batch=8, kind=InMemory, images=None):
    found = split() if images is None else images
    common = {"batch_size": batch, "device": torch.device("cpu"), "seed": seed, "views": views, "augmentation_seed": 5}
    inner = kind(found, RAW, shuffle=True, crop_padding=2, flip=True, **common)
    return Augmented(inner, PREPROCESS, section=section, targets=targets, labels=found.labels, **common)


def index_by_row(batches):
    found = {}
    for batch in batches:
        for row, image, label in zip(batch.rows.tolist(), batch.images, batch.labels, strict=True):
            found[row] = (image, label)
    return found


def test_pixels_and_labels_depend_on_view_and_row_alone():
    """Orders, batch sizes and a start in the middle change nothing; another view, or another seed of views, does."""
    first, other = index_by_row(loader().epoch(0)), index_by_row(loader(seed=9, batch=5).epoch(0))
    late = index_by_row(loader().epoch(0, start=2))
    assert len(late) == 24
    for found in (other, late, index_by_row(loader().read_view(0))):
        for row, (image, label) in found.items():
            assert torch.equal(image, first[row][0])
            assert torch.equal(label, first[row][1])
    assert not any(torch.equal(image, first[row][0]) for row, (image, _) in index_by_row(loader().epoch(1)).items())
    assert loader(views=2).view(3) == 1


def test_images_on_disk_are_augmented_alike(tmp_path):
    """A split in a file gives the very batches that it gives in memory."""
    found = split()
    np.save(tmp_path / "train.npy", found.images)
    stored = Split(DiskImages(ImageFile(tmp_path / "train.npy")), found.labels)
    for ours, theirs in zip(loader().epoch(2), loader(kind=FromDisk, images=stored).epoch(2), strict=True):
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.labels, theirs.labels)


def test_without_augmentation_the_batches_are_those_of_the_loader_within():
    """Whole pixels that are normalised afterwards are bit for bit what the plain loader gives."""
    plain = InMemory(
        split(), PREPROCESS, batch_size=8, device=torch.device("cpu"), shuffle=True, seed=1, crop_padding=2, flip=True,
        augmentation_seed=5,
    )  # fmt: skip
    for ours, theirs in zip(loader(AugmentSection()).epoch(1), plain.epoch(1), strict=True):
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.labels, theirs.labels)
        assert ours.view == theirs.view


@pytest.mark.parametrize("wide", [False, True])
def test_operations_are_torchvisions(wide):
    """Every operation of RandAugment and TrivialAugment, at every magnitude that is drawn, gives torchvision's own pixels."""
    image = torch.from_numpy(np.random.default_rng(3).integers(0, 256, (3, 12, 16), dtype=np.uint8))
    names = {"color": "Color", "auto_contrast": "AutoContrast", "shear_x": "ShearX", "shear_y": "ShearY"}
    names |= {"translate_x": "TranslateX", "translate_y": "TranslateY"}
    policy = v2.TrivialAugmentWide(fill=[9, 8, 7]) if wide else v2.RandAugment(fill=[9, 8, 7])
    random, seen = np.random.default_rng(0), set()
    for level in list(range(BINS)) * 3:
        operation = _draw_operation(random, (12, 16), wide=wide, level=level)
        name = names.get(operation.name, operation.name.title())
        seen.add(name)
        magnitudes, signed = policy._AUGMENTATION_SPACE[name]
        drawn = magnitudes(BINS, 12, 16)
        value = 0.0 if drawn is None else float(drawn[level])
        given = operation.values[0] if operation.values else 0.0
        given = given - 1 if operation.name in {"brightness", "color", "contrast", "sharpness"} else given
        given = given / 255 if name == "Solarize" else given  # torchvision's is a share
        assert abs(given) == pytest.approx(abs(value), abs=1e-5)
        theirs = policy._apply_image_or_video_transform(image, name, given, policy.interpolation, policy._fill)
        ours = apply_operation(image, operation, fill=[9, 8, 7])
        assert (ours.int() - theirs.int()).abs().max() <= 1  # a magnitude in float32 or float64
        assert signed or given >= 0
    assert len(seen) >= 13


def test_gray_images_have_no_colours_to_change():
    """Every operation leaves one channel one channel."""
    image = torch.arange(192, dtype=torch.uint8).view(1, 12, 16)
    augmenter = Augmenter(ALL, seed=0, size=(12, 16), mean=(0.5,))
    for number in range(40):
        made = augmenter.apply(image, augmenter.draw(np.random.default_rng(number)))
        assert (made.shape, made.dtype) == (image.shape, torch.uint8)


def test_a_mask_follows_its_image():
    """Moved by the same parameters, the mask of a bright part is where the part is; no class arises that was not there."""
    section = AugmentSection(crop_scale=(0.4, 1.0), trivial_augment=True)
    augmenter = Augmenter(section, seed=0, size=(48, 64), mean=(0.0,))
    image = torch.zeros(1, 48, 64, dtype=torch.uint8)
    image[:, 10:30, 20:50] = 255
    mask = (image[0] > 0).to(torch.uint8)
    agreed = []
    for number in range(60):
        operations = [
            each for each in augmenter.draw(np.random.default_rng(number)) if each.name in {"crop", "rotate", "shear_x"}
        ]
        moved = augmenter.move_mask(mask, operations, outside=255)
        assert set(moved.unique().tolist()) <= {0, 1, 255}
        agreed.append(float(((augmenter.apply(image, operations)[0] > 127) == (moved == 1))[moved != 255].float().mean()))
    assert min(agreed) > 0.9  # edges of some pixels are interpolated
    assert np.mean(agreed) > 0.98


def test_mixes_have_the_label_of_their_pixels():
    """A blend has both classes by its share, a pasted rectangle by its area; each sums to one."""
    augmenter = Augmenter(AugmentSection(mixup=0.5, cutmix=1.0), seed=0, size=(12, 16), mean=MEAN)
    mixes = augmenter.draw_mixes(np.arange(50), 3, 50)
    mixed = mix_batch(torch.zeros(50, 3, 12, 16), torch.ones(50, 3, 12, 16), mixes)
    shares = torch.tensor([1 - mix.share for mix in mixes])
    torch.testing.assert_close(mixed.mean(dim=(1, 2, 3)), shares, rtol=0, atol=1e-5)
    assert 10 < sum(mix.box is not None for mix in mixes) < 40
    for batch in loader().epoch(0):
        torch.testing.assert_close(batch.labels.sum(dim=1), torch.ones(8), rtol=0, atol=1e-5)


def test_smoothed_labels_are_torchs():
    """The cross-entropy with our shares is that of torch with label_smoothing."""
    batch = next(loader(AugmentSection(), targets=Targets(3, smoothing=0.2)).epoch(0))
    plain = next(loader(AugmentSection()).epoch(0))
    logits = torch.randn(8, 3)
    theirs = torch.nn.functional.cross_entropy(logits, plain.labels, label_smoothing=0.2)
    torch.testing.assert_close(torch.nn.functional.cross_entropy(logits, batch.labels), theirs)


def test_weights_make_classes_count_alike():
    """Over the split each class has the same sum of weights, and the mean weight is one; a class without images has none."""
    found = index_by_row(loader(AugmentSection(), targets=Targets(4, weighs_classes=True)).read_view(0))
    sums = torch.stack([label for _, label in found.values()]).sum(dim=0)
    torch.testing.assert_close(sums[:2], torch.tensor([20.0, 20.0]))
    assert sums[2:].tolist() == [0.0, 0.0]  # squares leave 0 or 1 when divided by 3


def test_balanced_order_shows_classes_equally_often():
    """Every class has its share, and a class's images are all shown before one comes twice."""
    labels = np.array([0] * 30 + [1] * 4)
    rows = draw_balanced_order(labels, np.random.default_rng(0))
    assert np.bincount(labels[rows]).tolist() == [17, 17]
    assert set(np.bincount(rows[labels[rows] == 1])[30:]) <= {4, 5}
    assert np.bincount(rows[labels[rows] == 0]).max() == 1


def test_operations_without_effect_leave_the_image():
    """Magnitude 0 moves nothing."""
    image = torch.arange(192, dtype=torch.uint8).view(1, 12, 16)
    for name in ("shear_x", "translate_y"):
        assert torch.equal(apply_operation(image, Operation(name, (0.0,)), fill=[0]), image)
