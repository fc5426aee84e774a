"""Sections of a recipe: frozen, strict types with a default and a description for every field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from compress.recipe.augmentation import AugmentSection
from compress.recipe.types import (
    ClassOrder,
    Count,
    Fraction,
    ImageSize,
    Listing,
    Name,
    NonNegative,
    PluginSection,
    Positive,
    Pretrained,
    Section,
    Several,
    Sha256,
    Share,
    Text,
    WeightsMap,
    WholeNumber,
    get_sides,
)
from compress.recipe.weights import is_remote


class DataSection(PluginSection):
    """Where the images come from and how they are prepared."""

    source: Text
    """The data source (`compress list data`)."""
    image_size: ImageSize
    """Height and width in pixels that the networks see, or [height, width]; images of another size are resized."""
    geometry: Literal["squeeze", "center_crop", "letterbox"] = "squeeze"
    """How images of another shape come to `image_size`: both sides are resized to it, and nothing is cut off (squeeze); they
    are scaled until they cover it, and the middle is taken (center_crop); or until they fit in, and the rest is filled
    (letterbox)."""
    crop_fraction: Annotated[float, Field(ge=0.1, le=1)] | None = None
    """Of `center_crop`: share of the shorter side that is left; default 0.875, 224 of 256 pixels."""
    fill: Annotated[int, Field(ge=0, le=255)] | None = None
    """Of `letterbox`: value of each channel where there is no picture; default 114, a gray."""
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    """How images are resized; all but `nearest` smooth what they make smaller (antialiasing)."""
    white_level: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    """In pictures of more than 8 bits, the value that becomes white, 255: 4095 where a camera of 12 bits writes files of 16.
    Default: 65535; a set that uses less than half of 16 bits is then refused, as are gray integers of 32 bits."""
    black_level: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    """In pictures of more than 8 bits, the value that becomes 0, for data with an offset."""
    unlabelled: Text | None = None
    """Folder of pictures without labels, relative to the recipe, which students are trained on, too: what the teacher says of
    them is all that there is to learn from them. Each method says whether it can use them."""
    skip_unreadable: bool = False
    """Leave out pictures that cannot be read, say which and how many, and state their number in the report; otherwise they are
    refused, all at once."""
    mean: Listing[float] | None = None
    """Mean of each channel on the scale 0 to 1; default: that of the training split."""
    std: Listing[Positive] | None = None
    """Standard deviation of each channel on the scale 0 to 1; default: that of the training split."""
    validation_fraction: Fraction = 0.1
    """Share of the training split that is held out, stratified by class, for every choice that is made."""
    train_images: Count | None = None
    """How many of the remaining images are trained on, stratified by class; default: all."""
    student_labels: Count | None = None
    """How many of these have a label when students are trained, stratified by class; the others are pictures without labels, as
    in `unlabelled`. A teacher that is trained here has all labels, like one from people who had more of them. What learns from
    labels alone, as plain baselines do, repeats its pictures, and so takes as many steps. Default: all."""
    crop_padding: WholeNumber = 0
    """Augmentation: pixels of border around an image, from which a random crop of its size is taken."""
    crop_border: Literal["reflect", "zero"] = "reflect"
    """Augmentation: what that border is, the image reflected or black, as in most publications on CIFAR."""
    flip: bool = False
    """Augmentation: mirror half of the images left to right."""
    augment: AugmentSection = AugmentSection()
    """Further augmentation."""
    views: Count | None = None
    """How many differently augmented views of the training split there are; epochs go through them in turn, and a teacher's
    outputs for a view are kept. Default: a new view every epoch."""
    augmentation_seed: WholeNumber = 0
    """Seed of the views: runs that differ in `seed` alone see the same views, in other orders, and share these outputs."""
    storage: Literal["auto", "memory", "disk"] = "auto"
    """Where decoded images are held: in memory, or in a file of the runs' cache from which threads read ahead; `auto` is memory
    as long as they take no more than a quarter of what is free. Nothing else depends on it."""

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width in pixels that the networks see."""
        return get_sides(self.image_size)


class TrainSection(Section):
    """How a network is trained. Every field has a default, so a recipe states only what differs.

    Example:
        >>> import compress
        >>> compress.TrainSection(epochs=5, optimizer="adamw", lr=1e-3).schedule
        'cosine'
    """

    epochs: Count = 30
    """Passes over the training split."""
    batch_size: Count = 64
    """Images in a step; the last incomplete batch of an epoch is dropped."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum, or AdamW."""
    lr: Positive = 0.05
    """Learning rate at the start, after warm-up."""
    backbone_lr_scale: NonNegative = 1.0
    """Factor on the learning rate of all layers before the classifier, for a network that starts from weights: 0.1 to change
    them little, 0 to freeze them and train the classifier alone."""
    momentum: Share = 0.9
    """Momentum of SGD."""
    nesterov: bool = False
    """Nesterov momentum of SGD."""
    weight_decay: NonNegative = 5e-4
    """Weight decay of every trained parameter."""
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    """How the learning rate falls: along a half cosine to zero, in steps at `milestones`, or not at all."""
    milestones: Listing[Share] = (0.625, 0.75, 0.875)
    """Shares of the epochs after which schedule `step` multiplies the learning rate by `decay`."""
    decay: Fraction = 0.1
    """Factor of schedule `step`."""
    warmup_epochs: NonNegative = 0.0
    """Epochs in which the learning rate rises linearly from zero."""
    ema_decay: Fraction | None = None
    """Keep an exponential moving average of the weights with this decay per step; it is what is validated and shipped."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Mixed precision of the forward passes; losses are always computed in fp32."""
    memory_format: Literal["channels_last", "contiguous"] = "channels_last"
    """How images lie in memory; with the channels last, convolutions are faster on most CPUs and GPUs."""
    engine: Literal["eager", "compile", "cuda_graphs", "auto"] = "eager"
    """What runs the network in training steps: torch as it is, compiled by its inductor, or that with CUDA graphs. Compiling
    takes minutes and needs a C++ compiler. `auto` tries them where the network has enough to do, takes what is faster and keeps
    that in the cache, for later runs of the same network; a trial in another cache may end otherwise."""
    fused: bool = True
    """Update all parameters in one pass over memory."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where training runs; `auto` is the GPU where there is one."""
    label_smoothing: Share = 0.0
    """Share of every label that is spread over all classes."""
    class_weights: Literal["none", "balanced"] = "none"
    """Let images of rare classes count more in the loss against the labels, so that all classes count alike (balanced)."""
    sampling: Literal["shuffled", "balanced"] = "shuffled"
    """Show every image once in an epoch, or all classes equally often, images of rare ones repeatedly (balanced)."""
    max_gradient_norm: Positive | None = None
    """Clip the gradient to this L2 norm."""
    state_seconds: NonNegative = 30.0
    """How often the state from which an interrupted training continues is written; the result does not depend on it."""
    select: Literal["best", "best_balanced", "last"] = "best"
    """Which epoch is kept: the best top-1 on the validation split, the best balanced accuracy (the mean of the classes'
    recalls, for classes that are uneven), or the last."""
    calibrate: bool = False
    """Divide the student's logits, within its last layer, by the temperature at which they fit the validation images best, so
    that the scores of an exported file are as often right as they say without any further factor. Which class comes first, and
    so every accuracy, stays as it is."""

    def describe_labels(self) -> Iterator[str]:
        """Yield what is done to labels and order, as a reader of `check` sees it."""
        if self.label_smoothing:
            yield f"labels smoothed by {self.label_smoothing:g}"
        if self.class_weights == "balanced":
            yield "rare classes weighed up"
        if self.sampling == "balanced":
            yield "all classes shown equally often"


class TeacherOutputsSection(Section):
    """How the outputs of frozen teachers are computed and kept."""

    store: Literal["auto", "on", "off"] = "auto"
    """Keep them on disk, to be read again by every epoch, student and run that sees the same view of the same images: where it
    pays (auto), always or not at all."""
    precision: Literal["fp16", "fp32"] = "fp16"
    """How they are kept; the largest rounding error is in the report."""
    max_gib: Positive = 4.0
    """The most that one stage may keep, in GiB. Outputs that need more are computed at every step; several students that need
    the same (`--seeds`, baselines) train in lockstep, one epoch each, if those for one view are fewer, they are much work for
    the teachers, and `store` and `train.engine` are at their defaults."""
    engine: Literal[
        "auto", "eager", "channels_last", "compile", "openvino", "openvino_bf16", "openvino_int8", "bf16", "fp16"
    ] = "auto"
    """What runs the teachers; `auto` is the fastest in a short trial that is close enough to eager float32, or eager torch
    where the teachers have too little to do for a trial. The trial's result is kept in the cache; a trial in another cache may
    end otherwise. It leaves out `compile` and `openvino_int8`, which take long to start; the latter is coarse, so it needs a
    larger `tolerance`."""
    tolerance: Positive = 0.03
    """Close enough: root mean square of the difference from eager float32, relative to that of the output."""


class ModelSection(PluginSection):
    """A network."""

    model: Text
    """The network (`compress list models`), or `module:function` of an installed module, which returns any `nn.Module` for a
    number of classes and one of channels."""


class StartSection(ModelSection):
    """A network that may start from weights which are there already."""

    weights: Text | None = None
    """Weights to start from: a safetensors or torch file, or a folder in hub layout, relative to the recipe; or, fetched once
    and kept in the runs' cache, `https://ADDRESS` with its `sha256`, or `hf-hub:OWNER/NAME@COMMIT`. Default: random weights."""
    pretrained: Pretrained = None
    """Published weights of a network of torchvision or timm: `true` for those that the package recommends, or their name, such
    as `IMAGENET1K_V2`. They are fetched once, and bring the mean and std of a teacher. Those of timm need their `sha256`."""
    sha256: Sha256 | None = None
    """The checksum that the file of weights must have."""
    weights_map: WeightsMap = None
    """How the names of a foreign file become those of the network: a mapping {regular expression: replacement}, or `in_order`
    for a file whose tensors come in the network's order with all their shapes alike. Nothing may be left over but what gets
    the empty name."""
    ema: bool = False
    """Take averaged weights (EMA) where the file holds them beside the plain ones."""

    @property
    def has_weights(self) -> bool:
        """Whether it starts from weights that are there already."""
        return self.weights is not None or self.pretrained is not None

    def describe_weights(self) -> str:
        """Return what a reader calls the weights."""
        return self.weights or f"{self.pretrained} weights of its package"

    def describe_origin(self) -> str:
        """Return what readers elsewhere call the weights: of a path here only the name of the file."""
        here = self.weights is not None and not is_remote(self.weights)
        return f"the file {PurePath(self.weights or '').name}" if here else self.describe_weights()


class ProbeSection(Section):
    """How a linear probe is fitted to the features of a frozen teacher; `probe: true` takes the defaults."""

    ridges: Several[Positive] = (1.0, 0.1, 0.01, 0.001, 0.0001)
    """Strengths that are tried: of the L2 penalty ½·ridge·‖W‖² beside the mean cross-entropy, for features of standard
    deviation 1. The best on the validation split is kept."""


def _tidy_probe(value: object) -> object:
    """Return the section that a truth value stands for."""
    return (ProbeSection() if value else None) if isinstance(value, bool) else value


WITHOUT_CLASSES = "none"
"""What `teacher.classes` is for a teacher that does not know the classes of the data."""


class TeacherSection(StartSection):
    """A teacher: trained here, given with its weights, or fine-tuned from weights.

    With weights and no `train` it is taken as it is; with both it is trained further on the labels here, and its classifier is
    replaced where it was made for another number of classes; with `probe` that alone is fitted. How it takes its images is part
    of the teacher, and applies wherever it is run; several teachers may differ.
    """

    shared: ClassVar[frozenset[str]] = frozenset({"image_size"})

    mean: Listing[float] | None = None
    """Mean that the teacher wants taken off, on the scale 0 to 1: one for each channel in the order in which it takes them, or
    one for all; default: that of the data. A teacher that takes values from 0 to 1 has mean 0 and std 1, one from -1 to 1 has
    0.5 and 0.5, and one from 0 to 255 has 0 and 0.00392157."""
    std: Listing[Positive] | None = None
    """Standard deviation that it wants divided by, on the same scale; default: that of the data."""
    image_size: ImageSize | None = None
    """Height and width in pixels that it wants, or [height, width]: images of `data.image_size` are resized to it; default: as
    they are. Where the model has an option of this name, it is that, too."""
    geometry: Literal["squeeze", "center_crop", "letterbox"] = "squeeze"
    """How images of `data.image_size` come to its `image_size` where that has another shape: both sides are resized (squeeze);
    they are scaled until they cover it, and the middle is taken (center_crop); or until they fit in, and the rest is its mean
    (letterbox)."""
    channels: Literal["gray", "rgb", "bgr"] | None = None
    """Channels that it takes: gray is repeated for a teacher of colours, colours become gray for one of gray, and `bgr` is the
    order of OpenCV; default: those of the data."""
    classes: ClassOrder | None = None
    """Order in which a given teacher knows the classes: `natural` (2 before 10), `letters` (large as small), its class names in
    a list, a mapping from its index to a class of the data ({'3': dog}; the others are where the data has them) or from name to
    index, or a file with these (one name a line, or JSON). It may know more classes than the data has. `none` is a teacher that
    knows others, whose maps alone teach. Default: as the data."""
    probe: Annotated[ProbeSection | None, BeforeValidator(_tidy_probe)] = None
    """Fit a classifier for the classes here to what the given network makes of the training images, each of which it sees once;
    all else stays as it is. Then it teaches like any other."""
    train: TrainSection | None = None
    """How the teacher is trained, or trained further from its weights; default without weights: as the student is, by `train`
    of the recipe. Where it is given, a field that it leaves out has its own default, not the student's value."""

    @property
    def is_given(self) -> bool:
        """Whether it is taken as it is, and not trained here."""
        return self.has_weights and self.train is None and self.probe is None

    @property
    def knows_classes(self) -> bool:
        """Whether its logits are of the classes of the data."""
        return self.classes != WITHOUT_CLASSES


class StudentSection(StartSection):
    """The student: the small network that is shipped. A classifier for another number of classes is replaced."""


class MethodSection(PluginSection):
    """One distillation method with its options."""

    name: Text
    """The method (`compress list methods`)."""


class ExportSection(PluginSection):
    """One deployment file."""

    format: Text
    """The format (`compress list exporters`)."""


class DeviceSection(PluginSection):
    """One place where files are proved and measured; its address alone, such as `qemu:aarch64`, says the same."""

    shared: ClassVar[frozenset[str]] = frozenset({"name"})

    device: Text
    """The device (`compress list devices`)."""
    name: str = ""
    """How reports call it; default: as the device calls itself."""
    images: Count | Literal["all"] = 1000
    """Test images for the accuracy there, spread over the split; `all` takes every one."""
    files: Listing[Text] = ()
    """Files to take there, by their names, in which `*` stands for any letters; default: every file of the student whose
    runtime there is for it."""


class TrackSection(PluginSection):
    """One program that draws the progress of the run."""

    tracker: Text
    """The tracker (`compress list trackers`)."""


Metric = Literal["top1", "balanced_accuracy"]
METRICS: Mapping[Metric, str] = {"top1": "top-1", "balanced_accuracy": "balanced accuracy"}
"""Metrics in words."""


class GateSection(Section):
    """What an exported file must hold on its own runtime, on the validation split, to be shipped."""

    metric: Metric = "top1"
    """What the budget of the drop is about: top-1, or balanced accuracy, the mean of the classes' recalls, where classes are
    uneven and each counts alike."""
    max_top1_drop_points: NonNegative = 1.0
    """How many percentage points of top-1, or of `metric`, it may lose against the network it came from."""
    max_drop_from_teacher_points: NonNegative | None = None
    """How many percentage points of top-1, or of `metric`, it may lie below the teacher, of several the best; default: no
    bound, and the report leaves it to the reader whether a loss is acceptable."""
    min_agreement: Share | None = None
    """Share of images on which its top-1 class must be that of the network it came from; default: by the file's precision,
    0.98 for fp32 and fp16, 0.95 for bf16, 0.9 for int8."""
    max_abs_diff: Positive | None = None
    """Largest accepted difference of any logit; default: the bound of the file's precision."""

    @model_validator(mode="before")
    @classmethod
    def _read_short_name(cls, content: Any) -> Any:
        """Read `max_drop_points`, whatever the metric of the task is."""
        if isinstance(content, dict) and "max_drop_points" in content and "max_top1_drop_points" not in content:
            return {"max_top1_drop_points" if name == "max_drop_points" else name: value for name, value in content.items()}
        return content


class Int8Section(Section):
    """How files of precision int8 are made: rung by rung until the gate passes."""

    rung: Literal["auto", "default", "statistics", "saturation", "mixed", "distillation"] = "auto"
    """Climb as far as the gate demands (auto), or use this rung only: default post-training quantization, better statistics, a
    spare bit against saturation, worst layers in floating point, or quantization-aware distillation."""
    calibration_images: Count = 300
    """Images of the training split, equally many of each class, on which ranges are estimated."""
    max_minutes: Positive = 30.0
    """No further rung is begun after this time, for each file; nor are layers measured for rung `mixed` beyond it."""
    max_float_layers: Share = 0.5
    """Rung `mixed`: the largest share of the layers that may stay in floating point."""
    epochs: Count = 3
    """Epochs of quantization-aware distillation."""
    lr: Positive = 0.002
    """Its learning rate at the start; the rest is as the student was trained."""


class MeasureSection(Section):
    """What is measured, and where."""

    devices: Listing[SerializeAsAny[DeviceSection]] = Field(default=(), validate_default=False)
    """Where the student's files are proved and measured again, beside this machine, where they always are."""
    threads: Count = 1
    """Threads of the runtime."""
    batch_size: Count = 1
    """Images per call for latency."""
    throughput_batch_size: Count = 32
    """Images per call for throughput."""
    rounds: Annotated[int, Field(ge=5)] = 15
    """Interleaved rounds; in each, every file is timed once."""
    launches: Annotated[int, Field(ge=1)] = 3
    """Processes that share the rounds of latency, as one process tells nothing of the next; from three on it may be stable."""
    seconds: Positive = 12.0
    """Time spent measuring all files together, after warm-up, for each of latency and throughput."""
    energy: bool = False
    """Measure the energy of a call, too, where the machine has a sensor; it takes three quarters of a minute for each file."""
    meter: str = ""
    """With `energy`: a program on the devices that prints a line `seconds watts` for each sample of a power meter, the seconds
    as of `date +%s.%N` there; default: the sensors of the devices."""
    against: Literal["teacher", "student"] = "teacher"
    """What the ratios of latency are taken against: the teacher's file of the same format and precision, for which the teachers
    are exported, too; or the student's own float32 file of the same format, and the teachers are not exported."""


class Recipe(Section):
    """A whole run."""

    name: Name
    """Name of the run and of its folder."""
    seed: WholeNumber = 0
    """Seed of everything random: the validation split, initial weights, batch order, augmentation."""
    data: SerializeAsAny[DataSection]
    """The images."""
    teacher: Listing[SerializeAsAny[TeacherSection]]
    """The teacher, or a list of teachers."""
    student: SerializeAsAny[StudentSection]
    """The student."""
    method: Listing[SerializeAsAny[MethodSection]]
    """How the teacher teaches; several methods are combined on one student."""
    baselines: Listing[Listing[SerializeAsAny[MethodSection]]] = ()
    """Methods with which the same student is trained once more, for comparison."""
    train: TrainSection = TrainSection()
    """How the student is trained."""
    teacher_outputs: TeacherOutputsSection = TeacherOutputsSection()
    """Outputs of frozen teachers: which engine computes them, and where they are kept."""
    exports: Listing[SerializeAsAny[ExportSection]] = Field(default=(), validate_default=False)
    """What is exported."""
    int8: Int8Section = Int8Section()
    """How files of precision int8 are made."""
    gate: GateSection = GateSection()
    """What an exported file must hold."""
    measure: MeasureSection = MeasureSection()
    """What is measured."""
    track: Listing[SerializeAsAny[TrackSection]] = Field(default=(), validate_default=False)
    """Programs that get the progress and the results of the run, beside its own files. No result depends on them."""

    @property
    def opponent(self) -> Literal["teacher", "student"]:
        """Whose files latencies are compared with: the student's own where no teacher knows the classes."""
        return self.measure.against if any(each.knows_classes for each in self.teacher) else "student"
