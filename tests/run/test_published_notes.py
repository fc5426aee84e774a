"""What a package says of its weights is compared with how pictures come to the network."""

import pytest

from compress import recipe
from compress.run.weights import list_published_notes

RECIPE = """\
name: x
data: {source: folder, path: p, image_size: 224, geometry: center_crop, interpolation: bilinear}
teacher: {model: torchvision.resnet18, pretrained: true}
student: {model: torchvision.mobilenet_v3_small}
method: kd
"""


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ((), None),
        (("data.crop_fraction=0.5",), "crop_fraction: 0.5"),
        (("data.image_size=96",), "gets 96 × 96 pixels"),
        (("data.image_size=96", "teacher.image_size=224"), None),
        (("data.geometry=squeeze",), "geometry: squeeze, interpolation: bilinear"),
        (("data.interpolation=bicubic",), "interpolation: bicubic"),
    ],
)
def test_a_difference_to_the_package_is_told(changes, said):
    """Size, geometry, crop and interpolation, as torchvision's own transforms of these weights have them."""
    notes = list(list_published_notes(recipe.parse(RECIPE.encode(), "x.yaml", list(changes))))
    if said is None:
        assert notes == []
    else:
        (note,) = notes
        assert said in note
        assert "resnet18.IMAGENET1K_V1 was made for 224 × 224 pixels, geometry: center_crop, crop_fraction: 0.875" in note


def test_weights_of_students_are_looked_at_too():
    """A student that starts from published weights has a note of its own."""
    changes = ["student.pretrained=true", "data.image_size=64"]
    notes = list(list_published_notes(recipe.parse(RECIPE.encode(), "x.yaml", changes)))
    assert [note.partition(":")[0] for note in notes] == ["teacher", "student"]
