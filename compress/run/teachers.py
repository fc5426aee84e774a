"""Load the teachers of a run, or train them on the labels."""

from __future__ import annotations

from compress.fingerprint import make_key
from compress.methods import Setting
from compress.methods.supervised import Supervised
from compress.recipe import TeacherSection
from compress.run.build import build_network
from compress.run.context import Run, Trained
from compress.run.stage import format_top1, train_stage
from compress.run.students import describe_model
from compress.system.files import hash_file
from compress.text import name_teacher
from compress.training import checkpoint, evaluate, preflight
from compress.training.network_checks import check_outputs


def obtain_teacher(run: Run, index: int, section: TeacherSection) -> Trained:
    """Return a teacher: from the user's file, or trained on the labels.

    Raises:
        CompressError: Its weights do not fit, or it is not fit to teach.
        Unreachable: Its file is not there.
    """
    name = name_teacher(index, len(run.recipe.teacher))
    network = build_network(run, section, name)
    model = describe_model(section)
    if section.weights is not None:
        path = run.base / section.weights
        checkpoint.load_weights(network, path, sha256=section.sha256)
        key = make_key(weights=hash_file(path), model=model)
        trained = Trained(name, "given", network, (), key, None)
    else:
        settings = section.train or run.recipe.train
        method = Supervised(Setting(network, (), run.data.sample_image(), len(run.data.classes)))
        reads = {"model": model, "role": name}
        trained = train_stage(run, name, method, settings, reads=reads, method_name="supervised")
    logits = evaluate.compute_logits(trained.network, run.batch_in_order(run.data.validation))
    check_outputs(name, logits)
    found = preflight.check_teacher(name, logits, run.validation_labels, run.data.classes)
    if trained.folder is None:
        run.events.say(f"{name}: {section.model} from {section.weights}, {format_top1(found)} on validation")
    return trained
