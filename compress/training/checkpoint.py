"""Weights and training state on disk: safetensors for weights, plain torch files for state; nothing that could run code.

Checkpoints come from strangers. Safetensors hold no code; any other file is read with `torch.load(weights_only=True)`, and what
that refuses is refused. A module is changed only after every tensor of the file was found to fit.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import re
import struct
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from compress.errors import CompressError, Unreachable
from compress.models import Network
from compress.system.files import hash_file, open_file, write_whole
from compress.system.signatures import recognise_format
from compress.text import format_bytes
from compress.training.harmless import allow_harmless_objects
from compress.training.renaming import rename_tensors
from compress.training.wrappings import COUNTER, StateDict, list_state_dicts

_SHOWN = 5
_CHANNELS = {1: "gray", 3: "rgb"}

_MOST_COPIES, _LEAST_LIMIT_BYTES = 32, 1 << 30
"""A checkpoint may hold an optimizer's state and averages of the weights, but not more than so many times the weights."""

log = logging.getLogger(__name__)


def save_weights(path: Path, network: nn.Module, *, metadata: Mapping[str, str]) -> None:
    """Write the weights as safetensors, whole or not at all; equal weights and metadata give equal bytes.

    Args:
        path: The file.
        network: A network, of which the names inside its module are written, or any module.
        metadata: What a reader should know, for example the classes.

    Raises:
        Unreachable: The file cannot be written.
    """
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in _unwrap(network).state_dict().items()}
    with write_whole(path, durable=True) as temporary:
        temporary.write_bytes(_insert_metadata(safetensors.torch.save(tensors), metadata))


REPARAMETRISED = {
    "_mask": "it was pruned: call torch.nn.utils.prune.remove on each layer before it is saved",
    ".parametrizations.": "call torch.nn.utils.parametrize.remove_parametrizations on each layer before it is saved",
    "weight_g": "call torch.nn.utils.remove_weight_norm on each layer before it is saved",
}
"""Parts of names that torch gives to weights which it computes from others, and what makes plain ones of them."""
STATISTICS = ("running_mean", "running_var")


class LoadedWeights(NamedTuple):
    """What was loaded from a file of weights."""

    metadata: dict[str, str]
    """Of a safetensors file."""
    note: str
    """Which of several weights in the file were taken, and how to take the others; empty where there was no choice."""


def load_weights(
    network: nn.Module,
    path: Path,
    *,
    sha256: str | None = None,
    ema: bool = False,
    weights_map: Literal["in_order"] | Mapping[str, str] | None = None,
    replaces_head: bool = False,
) -> LoadedWeights:
    """Load weights into a network.

    Accepted are safetensors and torch files with a state dict, bare or under any key, with any prefix before its names
    (`compress.training.wrappings`), beside an optimizer, arguments and whatever else is harmless. Floating-point numbers of
    another precision are converted, which is logged. Batch norm's `num_batches_tracked` may be absent.

    Args:
        network: A network, whose module is loaded, or any module. It is unchanged when an error is raised.
        path: The file.
        sha256: The checksum that the file must have.
        ema: Take averaged weights where the file holds them beside the plain ones.
        weights_map: How the names in the file become those of the network (`compress.training.renaming`).
        replaces_head: Leave the classifier as it is where the file has it for another number of classes or not at all, and
            say so.

    Raises:
        CompressError: The checksum differs, the file is damaged or could run code, holds no averaged weights although `ema`
            wants them, or two networks that fit; or tensors are missing, surplus, misshapen, without plain numbers (sparse,
            meta), or not finite in the network's own precision.
        Unreachable: The file cannot be read, or is a folder.
    """
    if path.is_dir():
        raise Unreachable(f"{path}: is a folder, not a file of weights; name the file in it")
    _refuse_giant(network, path)
    _refuse_other_format(path)
    found = hash_file(path)
    if sha256 is not None and found != sha256:
        raise CompressError(f"{path}: has sha256 {found}, not {sha256}; get the right file or correct the checksum")
    content, metadata = _read_safetensors(path) if _is_safetensors(path) else (_read_torch(path), {})
    module = _unwrap(network)
    own = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    if weights_map is not None:
        content = rename_tensors(content, own, weights_map, path)
    chosen, note = _choose(list_state_dicts(content, own), path, ema=ema)
    tensors = chosen.tensors
    _refuse_unusual(tensors, path)
    head = _find_other_head(network, own, tensors)
    if head and not replaces_head:
        _refuse_other_classes(network, len(tensors[head[0]]) if head[0] in tensors else 0, len(own[head[0]]), path)
    if head:
        known = f"its classifier of {len(tensors[head[0]])} classes is replaced by" if head[0] in tensors else "it gets"
        replaced = f"{known} a new one of {len(own[head[0]])}"
        replaced += "" if head[0] in tensors else ", for the file has no classifier"
        note = f"{note}; {replaced}" if note else f"{path}: {replaced}"
        tensors = tensors | {name: own[name] for name in head}
    _refuse_other_channels(own, tensors, path)
    problems = _find_mismatches(own, tensors)
    if problems:
        foreign = [str(name) for name, value in content.items() if not isinstance(value, Tensor)] if not chosen.where else []
        problems += [_list_names("not tensors", foreign)] if foreign else []
        under = f"under {chosen.place!r}, " if chosen.place else ""
        kind = type(module).__name__.lstrip("_")
        raise CompressError(f"{path}: {under}does not fit {kind}: {'; '.join(problems)}; {_advise(own, tensors)}")
    converted = _convert(own, tensors, path)
    _log_conversions(own, tensors, path)
    module.load_state_dict(converted, strict=False)  # only batch norm's counters may be absent by now
    return LoadedWeights(metadata, note)


def _choose(found: Sequence[StateDict], path: Path, *, ema: bool) -> tuple[StateDict, str]:
    """Return the weights to take, and a note where there was a choice.

    Raises:
        CompressError: There are none, no averaged ones although they are wanted, or two networks that fit.
    """
    if not found:
        raise CompressError(f"{path}: holds no named tensors; save model.state_dict()")
    averaged = [each for each in found if each.is_averaged]
    plain = [each for each in found if not each.is_averaged]
    if ema and not averaged:
        raise CompressError(f"{path}: ema: true, but the file holds no averaged weights that fit; remove ema")
    wanted = averaged if ema or not plain else plain
    if len(wanted) > 1 and wanted[0].fits:
        places = " and ".join(repr(each.place or "the file itself") for each in wanted)
        raise CompressError(f"{path}: holds several networks that fit, under {places}; save the one that is meant alone")
    taken = wanted[0]
    if averaged and plain and taken.fits:
        other = plain[0] if ema else averaged[0]
        kinds = ("averaged (EMA)", "plain") if ema else ("plain", "averaged (EMA)")
        choice = "remove ema" if ema else "set ema: true"
        where = [f" under {each.place!r}" if each.place else "" for each in (taken, other)]
        return taken, f"{path}: took the {kinds[0]} weights{where[0]}; for the {kinds[1]} ones{where[1]}, {choice}"
    return (
        taken,
        f"{path}: took averaged (EMA) weights, the only ones that fit" if averaged and not plain and taken.fits else "",
    )


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write training state (tensors, numbers, texts and their lists, tuples and dicts) with its checksum, whole or not at all.

    Raises:
        TypeError: The state holds something that `load_state` would refuse.
        Unreachable: The file cannot be written.
    """
    _require_plain(state, "state")
    with write_whole(path, durable=True) as temporary, temporary.open("wb") as file:
        hashing = _HashingWriter(file)
        try:
            torch.save(state, hashing)  # type: ignore[arg-type]  # torch calls no more of a file than this
        except RuntimeError:  # what torch says where a write failed
            if hashing.error is not None:
                raise hashing.error from None
            raise
        file.write(_make_seal(hashing.digest.hexdigest()))


class _HashingWriter:
    """A file that keeps the checksum of what is written to it, and the error of the system, which torch hides."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        """Write some bytes.

        Raises:
            OSError: The disk is full.
        """
        self.digest.update(data)
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        """Do nothing: the file is closed, and forced onto the disk, by whoever opened it."""


def _make_seal(sha256: str) -> bytes:
    """Return what ends a file of training state: the checksum of all before it, of a fixed length."""
    return f"\nsha256 {sha256}\n".encode()


_SEAL_BYTES = len(_make_seal("0" * 64))


def load_state(path: Path) -> dict[str, Any] | None:
    """Return what `save_state` wrote, or `None` if there is no such file.

    Raises:
        CompressError: The file is damaged: it does not have the checksum at its end.
        Unreachable: The file cannot be read.
    """
    if not path.exists():
        return None
    if not _is_sealed(path):
        raise CompressError(f"{path}: is damaged, for it does not end with its checksum")
    state = _load_torch(path)
    if not isinstance(state, dict):
        raise CompressError(f"{path}: holds a {type(state).__name__}, not training state")
    return state


def _is_sealed(path: Path) -> bool:
    """Return whether a file ends with the checksum of all before."""
    digest = hashlib.sha256()
    with open_file(path) as file:
        left = max(0, os.fstat(file.fileno()).st_size - _SEAL_BYTES)
        while left and (some := file.read(min(left, 1 << 20))):
            digest.update(some)
            left -= len(some)
        return file.read() == _make_seal(digest.hexdigest())


def _unwrap(network: nn.Module) -> nn.Module:
    while isinstance(network, Network):  # an adapted one holds another
        network = network.module
    return network


def _insert_metadata(data: bytes, metadata: Mapping[str, str]) -> bytes:
    """Return safetensors bytes with metadata in sorted order; the library's own writer shuffles it in each process."""
    size = int.from_bytes(data[:8], "little")
    header = {"__metadata__": dict(sorted(metadata.items())), **json.loads(data[8 : 8 + size])}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format aligns what follows to 8 bytes
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def _refuse_giant(network: nn.Module, path: Path) -> None:
    """Refuse a file that is far larger than a checkpoint of the network, before it is read.

    Raises:
        CompressError: It is, or it is no file.
        Unreachable: It cannot be read.
    """
    own = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values() if isinstance(tensor, Tensor))
    limit = max(_LEAST_LIMIT_BYTES, _MOST_COPIES * own)
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
    if size > limit:
        raise CompressError(
            f"{path}: holds {format_bytes(size)}, and the network has {format_bytes(own)} of weights; save its state_dict alone"
        )


def _refuse_other_format(path: Path) -> None:
    """Refuse a file that is something else by its first bytes, as a download that failed is a web page."""
    with open_file(path) as file:
        head = file.read(1024)
    name = recognise_format(head)
    if head.lstrip().startswith(b"{"):
        name = "an index of several files of weights (JSON)" if b'"weight_map"' in head else "JSON"
    if head.startswith(b"PK") and b".npy" in head[:128]:
        raise CompressError(f"{path}: is a NumPy archive (NPZ); save its arrays as tensors, as safetensors or by torch.save")
    if name is not None and not head.startswith(b"PK") and head[8:9] != b"{":  # ZIP is torch's; a length may look like anything
        raise CompressError(f"{path}: is {name} and holds no weights; get it again")


def _is_safetensors(path: Path) -> bool:
    with open_file(path) as file:
        head = file.read(9)  # the length of the header, then JSON
    is_torch = head.startswith((b"PK\x03\x04", b"\x80\x02"))  # a zip archive, or a pickle of old
    return head[8:] == b"{" or (path.suffix == ".safetensors" and not is_torch)


def _read_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise CompressError(f"{path}: is no whole safetensors file ({error}); get it again") from error


def _read_torch(path: Path) -> dict[str, Any]:
    with allow_harmless_objects():
        content = _load_torch(path)
    if not isinstance(content, dict) or not content:
        raise CompressError(f"{path}: holds a {type(content).__name__}, not named tensors; save model.state_dict()")
    return content


def _load_torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings():  # of foreign pickle protocols and TorchScript: they load, or raise
            warnings.filterwarnings("ignore", "Detected pickle protocol|'torch.load' received a zip file", UserWarning)
            with path.open("rb") as file:  # of a path torch would believe the ending of its name
                return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # its text would advise to load the file unsafely
        named = re.search(r"GLOBAL (\S+)", str(error))
        culprit = f" ({named[1]})" if named else ""
        raise CompressError(
            f"{path}: is damaged, or holds objects besides tensors that could run code{culprit}; nothing was loaded: "
            "use safetensors, or torch.save(model.state_dict(), path)"
        ) from error
    except OSError as error:
        raise Unreachable(f"{path}: cannot be read ({error.strerror})") from error
    except (
        RuntimeError,
        ValueError,
        EOFError,
        LookupError,
        AttributeError,
        TypeError,
        AssertionError,
        ArithmeticError,
        struct.error,
    ) as error:  # what torch raises for damage
        if "TorchScript" in str(error):
            raise CompressError(
                f"{path}: is a TorchScript archive, which holds code beside its weights; nothing was loaded: use "
                "safetensors, or torch.save(torch.jit.load(path).state_dict(), other), where you trust the file"
            ) from error
        reason = re.split(r"\. |\n", str(error))[0] or "it is empty"
        raise CompressError(f"{path}: is no torch file of tensors ({reason}); get it again, or use safetensors") from error


def _find_mismatches(own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """Return one text for each kind of misfit: missing, surplus, misshapen."""
    missing = [name for name in own if name not in found and not name.endswith(COUNTER)]
    surplus = [name for name in found if name not in own]
    both = [name for name in own if name in found]
    misshapen = [
        f"{name} {_describe_tensor(found[name])} for {_describe_tensor(own[name])}"
        for name in both
        if _describe_tensor(own[name]) != _describe_tensor(found[name])
    ]
    named = {"missing": missing, "surplus": surplus, "misshapen": misshapen}
    return [_list_names(what, names) for what, names in named.items() if names]


def _advise(own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """Return what to do about weights that do not fit, by what their names tell of how they were saved."""
    surplus = [name for name in found if name not in own]
    missing = [name for name in own if name not in found and not name.endswith(COUNTER)]
    kinds = {found[name].dtype for name in own if name in found} - {own[name].dtype for name in own}
    for part, what in REPARAMETRISED.items():
        if any(part in name for name in surplus):
            return what
    if not surplus and missing and all(name.endswith(STATISTICS) for name in missing):
        return "save model.state_dict(), which holds the statistics of batch norm, too"
    if not surplus and not missing and any(not kind.is_floating_point for kind in kinds):
        return "it was quantised: give the weights of the network before that"
    return "choose the model it was made for"


def _find_other_head(network: nn.Module, own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the classifier's tensors, weights first, where that alone is missing or for other classes."""
    if not isinstance(network, Network) or network.classifier_name is None:
        return []
    name = f"{network.classifier_name}.weight"
    head = [key for key in (name, f"{network.classifier_name}.bias") if key in own]
    rest = [{key: value for key, value in tensors.items() if key not in head} for tensors in (own, found)]
    if name not in own or _find_mismatches(*rest):
        return []
    if not any(key in found for key in head):
        return head
    if name not in found or own[name].shape == found[name].shape:
        return []
    return head if own[name].shape[1:] == found[name].shape[1:] else []


def _refuse_other_classes(network: nn.Module, found: int, wanted: int, path: Path) -> None:
    """Refuse weights that differ in the number of classes alone, with just these words."""
    name = getattr(network, "classifier_name", "")
    there = f"its classifier {name!r} has {found} classes" if found else f"it has no classifier {name!r}"
    raise CompressError(
        f"{path}: {there} and the data has {wanted}; give weights that were trained on these classes; or a section `train` to "
        "have them trained further here with a new classifier; or of a teacher `probe: true`, which fits the classifier alone, "
        "or `classes: none` for methods that read its maps alone"
    )


def _refuse_other_channels(own: Mapping[str, Tensor], found: Mapping[str, Tensor], path: Path) -> None:
    """Refuse weights that differ in the channels of the first layer alone, with just these words."""
    differing = [name for name in own if name in found and own[name].shape != found[name].shape]
    if len(differing) != 1 or own[differing[0]].dim() != 4:
        return
    name = differing[0]
    rest = [{key: value for key, value in tensors.items() if key != name} for tensors in (own, found)]
    wide, narrow = own[name].shape, found[name].shape
    if (wide[0], *wide[2:]) != (narrow[0], *narrow[2:]) or _find_mismatches(*rest):
        return
    here, there = (_CHANNELS.get(shape[1], f"{shape[1]} channels") for shape in (wide, narrow))
    remedy = f"`channels: {there}` in the section of a teacher adapts the images to it, or" if there in ("gray", "rgb") else ""
    raise CompressError(
        f"{path}: its first layer {name!r} takes {there} images ({narrow[1]} channels), and those here are {here} ({wide[1]}); "
        f"{remedy} set data.channels to what the weights take"
    )


def _describe_tensor(tensor: Tensor) -> str:
    number = "float" if tensor.is_floating_point() else str(tensor.dtype).removeprefix("torch.")
    return f"{number} {list(tensor.shape)}"


def _list_names(what: str, names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} {what}: {', '.join(names[:_SHOWN])}{more}"


def _refuse_unusual(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuse tensors that are no plain array of numbers, before anything is asked of them."""
    unusual = [
        f"{name} ({'meta' if tensor.is_meta else 'nested' if tensor.is_nested else str(tensor.layout).removeprefix('torch.')})"
        for name, tensor in tensors.items()
        if tensor.is_meta or tensor.is_nested or tensor.layout != torch.strided
    ]
    if unusual:
        raise CompressError(
            f"{path}: {_list_names('without plain numbers', unusual)}; save dense tensors that hold their values"
        )


def _convert(own: Mapping[str, Tensor], found: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return floating-point numbers in the network's own precision, all finite, and others as they are.

    Raises:
        CompressError: Some are NaN or infinite, or too large for that precision, or torch cannot convert them.
    """
    converted: dict[str, Tensor] = {}
    broken: list[str] = []
    large: list[str] = []
    for name, tensor in found.items():
        try:
            converted[name] = tensor.to(own[name].dtype)
            if tensor.is_floating_point() and not torch.isfinite(converted[name]).all():
                (large if torch.isfinite(tensor.double()).all() else broken).append(name)
        except NotImplementedError as error:  # numbers of 4 bits
            raise CompressError(f"{path}: {name} is {tensor.dtype}, which torch cannot convert; save it as float32") from error
    if broken:
        raise CompressError(
            f"{path}: {_list_names('with NaN or infinity', broken)}; the training that made it diverged: use another one"
        )
    if large:
        raise CompressError(
            f"{path}: {_list_names(f'with numbers too large for {own[large[0]].dtype}', large)}; "
            "scale them, or use other weights"
        )
    return converted


def _log_conversions(own: Mapping[str, Tensor], found: Mapping[str, Tensor], path: Path) -> None:
    pairs = {(found[name].dtype, own[name].dtype) for name in own if name in found}
    for old, new in sorted(pairs, key=str):
        if old != new:
            log.info("%s: %s is converted to %s", path, old, new)


def _require_plain(value: object, where: str) -> None:
    children: Iterable[tuple[object, object]] = ()
    if isinstance(value, dict):
        children = value.items()
    elif type(value) in {list, tuple, set}:
        children = enumerate(value)  # type: ignore[arg-type]
    elif value is not None and type(value) not in {bool, int, float, str, bytes, Tensor, nn.Parameter}:
        raise TypeError(f"{where}: a {type(value).__name__} cannot be saved as training state")
    for key, child in children:
        _require_plain(child, f"{where}[{key!r}]")
