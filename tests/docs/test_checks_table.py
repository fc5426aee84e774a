"""The table of what is checked before training: every message in it is one of ours, and a test provokes it.

A link is a piece of text that stands, letter for letter, in a message of the table, in our source, and in what a named test
expects. A message that is changed, a row that is added, a test that is renamed or expects something else: each breaks its link.
"""

from __future__ import annotations

import ast
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import compress
from compress import TrainSection, recipe
from compress.cli.tables import draw_plan
from compress.data._splits import describe_renamed
from compress.errors import CompressError
from compress.events import Events
from compress.plan.plan import Estimate, make_plan
from compress.preprocess import decode
from compress.training import checkpoint, loop, preflight
from exporters.verification import model_file
from tests.tiny import PREPROCESS, data, fresh, held_out

SHORTEST = 10
"""Characters of a link; shorter pieces stand anywhere."""
SENTENCES = re.compile(r"`([^`]+)`")
WITHOUT_A_MESSAGE = {
    "what killed processes left": "tests/system/test_leftovers.py",
    "images that are in two splits": "tests/run/test_context.py",
}
"""Rows whose message is none, or no text of the table; their tests."""

TESTS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "benchmarks/test_runtime_words.py": {
        "test_what_onnx_runtime_cannot_open": (", whose operators come with a library or a runtime of their own",),
    },
    "cli/test_commands.py": {
        "test_export_takes_the_students_weights_for_their_run_and_no_other_file": (
            "does not say which network it is of; give --model",
        ),
    },
    "cli/test_foreign_code.py": {
        "test_a_data_source_of_others_that_fails": ("; the recipe names this code, which is not ours: mend it there",),
    },
    "data/test_decoding.py": {
        "test_a_picture_that_cannot_be_decoded_leaves_nothing": (": cannot be decoded as a picture",),
        "test_what_does_not_fit_is_refused_with_the_remedy": ("data.storage: ",),
    },
    "data/test_findings.py": {
        "test_levels_that_leave_one_colour_are_refused": (" data.white_level: ",),
        "test_a_set_that_uses_less_than_half_of_sixteen_bits_is_refused": (" of more than 8 bits hold values ",),
        "test_the_first_ten_are_named_and_the_others_counted": (" pictures cannot be read:",),
        "test_values_beyond_the_levels_are_told": (" split: values above data.white_level ",),
    },
    "data/test_folder.py": {
        "test_a_class_without_pictures_is_told": (": the class has no pictures",),
        "test_all_that_is_wrong_in_the_folders_is_told_at_once": ("is no file, but ",),
        "test_classes_without_splits_are_split": ("no test split is there",),
        "test_links_that_lead_out_are_refused": ("; put what it leads to there instead",),
        "test_names_that_differ_in_case_are_told": (
            " differ in the case of their letters only",
            " are classes of their own and differ in the case of their letters only",
        ),
        "test_pictures_beside_the_classes_are_told": (": lies beside the folders of the classes",),
        "test_splits_are_not_taken_for_classes": ("name the folders of the splits as data.",),
    },
    "data/test_huggingface.py": {
        "test_declared_names_that_are_one_name_are_told": (" stands for label ",),
        "test_several_columns_must_be_chosen_from": ("; choose one as data.",),
        "test_the_values_that_occur_are_the_classes": (" and not at 0; the ",),
        "test_what_is_no_label_is_refused": (
            " holds fractions such as ",
            ": has no label in column ",
        ),
    },
    "data/test_splits.py": {
        "test_bad_data_is_told_with_split_and_row": (" is not in 0 .. ",),
    },
    "deployed/test_checkpoint.py": {
        "test_a_bad_combination_is_said_before_anything_is_loaded": ("--model needs --classes",),
        "test_int8_takes_its_ranges_from_given_pictures": ("give --images FOLDER ",),
        "test_weights_of_a_named_network_become_a_bundle": (
            "Not proved: that these are right",
            "taken for granted: ",
        ),
    },
    "deployed/test_foreign.py": {
        "test_a_fixed_shape_needs_no_option": (": is made for batches of ",),
        "test_open_and_wrong_shapes_are_said": ("so its size is open; say it with --shape",),
        "test_weights_elsewhere_are_refused": (", which may lie elsewhere than beside it",),
    },
    "docs/test_checks_table.py": {
        "test_a_file_of_another_precision": (", and the manifest calls it ",),
        "test_a_last_batch_of_one": (" on which stage ",),
        "test_a_teacher_that_gives_no_numbers": (
            " gives numbers that are not finite on the validation split; check its weights",
        ),
        "test_names_of_classes_are_composed_and_stripped_aloud": (
            " read without regard to the Unicode form and to spaces around: ",
        ),
        "test_the_plan_tells_what_is_kept_and_how_long_it_takes": (
            " on this machine as it is now: ",
            " (found: used again if data and packages are the same)",
            " (of an earlier run, made anew: ",
        ),
        "test_whole_numbers_of_32_bits_need_their_white": (
            "has 32-bit values (mode I) of unknown range; say which is white as data.white_level, ",
        ),
    },
    "exporters/bundle/test_bundle.py": {
        "test_parts_that_do_not_fit_stop_the_bundle": ("the manifest asks for",),
    },
    "exporters/test_every_exporter.py": {
        "test_network_that_cannot_be_exported_is_explained": ("a branch depends on the values of the image",),
    },
    "exporters/test_litert.py": {
        "test_missing_package_is_one_message": (" needs the package ",),
    },
    "exporters/test_trace.py": {
        "test_torchscript_is_named": ("give the Python module that it was made of",),
        "test_what_gives_no_steady_logits_is_refused": ("), as F.dropout does without training=",),
    },
    "exporters/verification/test_balanced.py": {
        "test_a_lost_rare_class_fails_by_balanced_accuracy_alone": (" points below the network it came from",),
    },
    "exporters/verification/test_fp16_range.py": {
        "test_the_first_layer_is_named_and_the_others_are_counted": ("fp16 overflow: ",),
    },
    "exporters/verification/test_gate.py": {
        "test_a_change_of_all_images_is_seen_where_the_largest_difference_hides_it": (
            "on half of the images a logit differs by ",
        ),
        "test_an_image_with_large_logits_may_differ_by_more": ("a logit differs by ",),
        "test_batches_must_agree": (" images are answered otherwise alone than in a batch (image ",),
        "test_every_reason_is_given": (" % (gate.min_agreement)",),
        "test_three_times_what_was_recorded_is_refused_within_the_wide_bounds_of_int8": (
            "when it was proved; it was changed since",
        ),
    },
    "exporters/verification/test_judge.py": {
        "test_what_its_runtime_refuses_or_crashes_on_has_failed": ("onnxruntime cannot run it",),
    },
    "exporters/verification/test_sabotage.py": {
        "test_a_bundle_that_was_damaged_and_sealed_is_noticed_and_refused_by_its_self_test": (
            "metadata were stripped",
            "its classes are",
            "are fewer than the ",
        ),
        "test_a_damaged_file_is_refused": (
            " is called ",
            " has shape ",
        ),
    },
    "exporters/verification/test_scores.py": {
        "test_one_wrong_class_is_found": ("is not that of the largest logit on ",),
    },
    "methods/test_atsc.py": {
        "test_what_cannot_be_updated_is_refused": (" classes and the data has ",),
    },
    "methods/test_contract.py": {
        "test_a_classifier_that_no_term_trains_is_refused": ("no term trains the classifier that is shipped",),
        "test_a_student_that_is_its_own_teacher_is_refused": ("shares weights with the student",),
    },
    "models/test_network.py": {
        "test_a_tap_that_is_overwritten_is_refused": (" is overwritten in place",),
        "test_an_unknown_tap_lists_what_there_is": (" has no submodule ",),
        "test_maps_with_channels_last_are_refused": (", which have their channels last",),
    },
    "models/test_torchvision.py": {
        "test_weights_of_rgb_images_do_not_load_for_gray_ones": ("its first layer ",),
    },
    "models/test_wrapping.py": {
        "test_code_that_does_not_fit_is_named": (
            "fails when called with ",
            "cannot take images ",
            "e; it must give logits [",
        ),
    },
    "plan/test_data.py": {
        "test_a_batch_that_leaves_out_much_is_told": (" training images out of every epoch",),
        "test_a_class_too_small_to_hold_out_is_told_by_name": (", too few to hold out ",),
        "test_an_average_that_never_leaves_its_start_is_told": (".ema_decay: after ",),
        "test_classes_without_images_are_told": (
            "no training image: ",
            " classes have no image in any split: ",
        ),
        "test_divergences_in_few_steps_are_told": (
            " asks for the size of the teacher's logits, and the student has ",
            "the baseline 'supervised' will tell",
        ),
        "test_too_few_validation_images_for_the_budget_are_told": (" validation images cannot exclude a drop of up to ",),
        "test_what_resizing_does_is_told": ("both sides are resized to ",),
    },
    "plan/test_plan.py": {
        "test_a_missing_file_alone_is_unreachable": (": there is no such file",),
        "test_a_size_that_no_picture_can_have_is_refused_once": (" pixels are more than ",),
        "test_all_problems_are_told_at_once": (
            " leaves nothing of ",
            " training images; lower it",
            "; give one for each",
        ),
        "test_each_contradiction_says_where_and_what": (
            "data.views: has no effect without crop_padding or flip",
            "data.validation_fraction: ",
            " like exports.",
        ),
        "test_no_more_threads_are_measured_than_there_are_processors": (" is more than the ",),
    },
    "quantization/test_calibration.py": {
        "test_no_images_or_one_class_is_refused": (": give images of two classes at least",),
    },
    "quantization/test_ladder.py": {
        "test_a_killed_runner_ends_the_search": ("the runner was killed, most likely because memory ran out",),
    },
    "recipe/test_class_order.py": {
        "test_what_does_not_fit_is_refused": (", which the data has",),
    },
    "recipe/test_recipe.py": {
        "test_mistake": ("unknown field; ",),
    },
    "records/test_damage.py": {
        "test_a_changed_number_is_named_as_damage": (
            "does not agree with its own checksum, so it was damaged or edited; make it again",
        ),
        "test_a_number_that_is_not_finite_is_refused": ("holds a number that is not finite",),
    },
    "run/test_cache.py": {
        "test_what_is_damaged_is_said_and_made_anew": (": what was made in ",),
    },
    "run/test_dry_run.py": {
        "test_a_network_of_ones_own_is_tried_alone": ("its forward pass changes the images it is given in place, ",),
        "test_what_a_run_would_tell_of_its_networks_is_told_by_the_check": (" averaged (EMA) ",),
        "test_what_constructors_refuse_is_refused": (" are not combined with it either; run ",),
    },
    "run/test_given_teacher.py": {
        "test_contradictions_are_refused_by_the_plan": (" values, and the teacher takes ",),
    },
    "run/test_pipeline.py": {
        "test_a_format_that_cannot_hold_the_student_is_refused_before_anything_is_trained": (" cannot hold the student: ",),
    },
    "run/test_teacher_files.py": {
        "test_a_format_that_cannot_hold_a_teacher_is_warned_of": ("could not be made, so nothing is compared with it: ",),
    },
    "system/test_files.py": {
        "test_a_device_is_refused": (", not a file",),
        "test_a_giant_is_refused_before_it_is_read": (" a recipe has at most ",),
    },
    "teachers/test_store.py": {
        "test_a_full_disk_is_one_message_and_leaves_room_for_the_next_attempt": ("); free space or choose another folder",),
    },
    "test_api.py": {
        "test_a_hook_that_does_not_fit_is_named": ("optimizer: returned a ",),
        "test_a_loader_that_does_not_fit_is_refused_before_training": (
            "; give a pair of tensors ",
            " are no shares that sum to 1 ",
            "; give float32",
            ", and the student gives ",
            " has no length, and more than ",
        ),
        "test_a_loader_that_ends_before_its_length_is_named": ("its length says ",),
        "test_a_student_that_is_frozen_whole_is_refused": (" parameters are frozen",),
        "test_a_wrong_option_is_refused_as_in_a_recipe": ("there is no option ",),
        "test_networks_and_settings_of_another_kind_are_refused": (
            "; give a torch.nn.Module",
            ": cannot take images ",
            "logits=lambda output: output[",
        ),
    },
    "test_api_teachers.py": {
        "test_a_class_that_is_taken_for_another_is_warned_of": (": it teaches the student the same",),
    },
    "test_distill_networks.py": {
        "test_a_network_that_changes_its_images_in_place_spoils_nothing": (
            ": its forward pass changes its images in place, so it is given copies of them",
        ),
        "test_a_network_without_numbers_is_refused": (": holds no numbers in ",),
        "test_an_unforeseen_batch_of_one_ends_in_one_message": ("training stopped at ",),
        "test_probabilities_are_refused_and_log_probabilities_told": ("are log-probabilities",),
        "test_torchscript_may_teach_and_is_not_trained": (
            ": is a TorchScript module",
            ": is a frozen TorchScript module",
        ),
        "test_validation_images_that_the_student_cannot_take_are_told_before_training": ("student, validation",),
    },
    "test_forward_pass.py": {
        "test_a_state_that_moves_in_evaluation_is_seen": ("keeps something from one pass to the next",),
        "test_probabilities_are_seen_whatever_made_them": ("those of each image sum to ",),
    },
    "test_plugins.py": {
        "test_a_function_that_is_not_there_is_named_with_its_line": (" defines no ",),
        "test_a_recipe_says_whose_code_it_runs": ("runs code that is not ours: ",),
    },
    "training/test_checkpoint.py": {
        "test_a_file_of_another_kind_is_named": (" and holds no weights; get it again",),
        "test_a_giant_is_refused_before_it_is_read": (", and the network has ",),
        "test_a_state_that_was_cut_is_refused": ("is damaged, for it does not end with its checksum",),
        "test_a_torchscript_archive_is_named": ("is a TorchScript archive, ",),
        "test_code_in_a_pickle_is_not_run": ("; nothing was loaded: use safetensors",),
        "test_how_weights_were_saved_decides_the_advice": ("choose the model it was made for",),
        "test_the_checksum_is_compared": ("; get the right file or correct the checksum",),
        "test_weights_that_do_not_fit_change_nothing": ("with NaN or infinity",),
    },
    "training/test_class_order.py": {
        "test_two_exchanged_classes_of_many_are_seen": ("some of its classes exchanged",),
    },
    "training/test_compile.py": {
        "test_an_engine_that_fails_in_the_trial_is_left_out_aloud": ("train.engine: torch cannot compile the network (",),
    },
    "training/test_given_teacher.py": {
        "test_an_order_that_explains_little_is_not_advised_blindly": ("do not: then something else permutes its answers",),
        "test_numbers_that_are_only_larger_are_not_taken_for_a_surer_answer": ("it was most likely trained with ",),
        "test_the_true_normalisation_is_named": ("add to its section of the recipe: ",),
    },
    "training/test_network_checks.py": {
        "test_a_network_in_another_precision_is_to_be_cast": ("its weights are ",),
        "test_a_student_is_refused_with_the_cause": (
            "adds or removes parameters or buffers ",
            "a tensor of layout ",
            "come out of ",
            " images, also with other weights",
            "depends on the images beside it",
            " while it trains and ",
        ),
        "test_outputs_of_a_teacher_on_the_whole_split_are_looked_at": (
            "lie between 0 and 1 on every image, as after a sigmoid",
            ": its outputs are the same on each of ",
        ),
    },
    "training/test_preflight.py": {
        "test_a_method_of_ones_own_that_cannot_train_is_told_before": (
            ": the losses do not fit (",
            " is trained twice, in ",
            " no loss depends on what it trains",
            " is frozen, yet one pass changed it",
        ),
        "test_a_student_that_guesses_is_told": (" validation images, not clearly more than the ",),
        "test_images_of_one_class_judge_nobody": (" validation images are of class '",),
    },
    "training/test_real_weights.py": {
        "test_a_head_for_other_classes_is_new_and_the_rest_is_loaded": (" classes is replaced by",),
    },
    "training/test_wrappings.py": {
        "test_two_networks_that_fit_are_refused": ("several networks that fit, under ",),
    },
}
"""By module and test: pieces of the messages that it provokes."""
LINKS = [(link, file, test) for file, tests in TESTS.items() for test, links in tests.items() for link in links]


@cache
def list_rows(root: Path) -> dict[str, list[str]]:
    """Return the messages of each row of the table by what is checked."""
    rows: dict[str, list[str]] = {}
    for line in (root / "docs" / "checks.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split(" | ")]
        if line.startswith("| ") and len(cells) == 4 and cells[0] != "check":
            rows[cells[0]] = [said for said in SENTENCES.findall(cells[2]) if " " in said]
    return rows


def find_strings(node: ast.AST) -> Iterator[str]:
    """Yield the texts in some code, those of documentation left out, and regular expressions as what they match."""
    skipped = {id(each.value) for each in ast.walk(node) if isinstance(each, ast.Expr)}
    for each in ast.walk(node):
        if isinstance(each, ast.Constant) and isinstance(each.value, str) and id(each) not in skipped:
            yield re.sub(r"\\(.)", r"\1", each.value)


@cache
def list_names(path: Path) -> dict[str, ast.AST]:
    """Return what a module of tests defines at its top, and what it imports from other such modules, by name."""
    found: dict[str, ast.AST] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("tests."):
            root = next(folder for folder in path.parents if folder.name == "tests").parent
            file = root.joinpath(*str(node.module).split(".")).with_suffix(".py")
            source = list_names(file) if file.is_file() else {}
            found |= {each.name: source[each.name] for each in node.names if each.name in source}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)]
            found |= dict.fromkeys(names, node)
    return found


def list_expected(path: Path, test: str) -> str:
    """Return all texts of a test, and of what its module defines that the test names, directly or through others."""
    names, taken, queue = list_names(path), {test}, [test]
    while queue:
        for each in ast.walk(names[queue.pop()]):
            if isinstance(each, ast.Name) and each.id in names and each.id not in taken | {"LINKS", "TESTS"}:
                taken.add(each.id)
                queue.append(each.id)
    return "\n".join(said for name in sorted(taken) for said in find_strings(names[name]))


@cache
def read_source(root: Path) -> str:
    """Return all texts of our source."""
    files = [path for package in ("compress", "exporters", "benchmarks") for path in sorted((root / package).rglob("*.py"))]
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in files if "studies" not in path.parts]
    return "\n".join(said for tree in trees for said in find_strings(tree))


def test_every_message_of_the_table_is_linked_to_a_test(root: Path) -> None:
    """A row without a test, and a message without one, are named."""
    rows = list_rows(root)
    assert len(rows) > 90
    unlinked = {
        check: [said for said in messages if not any(link in said for link, _, _ in LINKS)]
        for check, messages in rows.items()
        if check not in WITHOUT_A_MESSAGE
    }
    assert {check: messages for check, messages in unlinked.items() if messages or not rows[check]} == {}
    assert [check for check in WITHOUT_A_MESSAGE if check not in rows or rows[check]] == []
    assert [file for file in WITHOUT_A_MESSAGE.values() if not (root / file).is_file()] == []


@pytest.mark.parametrize(("link", "file", "test"), LINKS)
def test_a_link_holds(link: str, file: str, test: str, root: Path) -> None:
    """It stands in the table, in our source, and in what the test expects, and the test is there."""
    path = root / "tests" / file
    assert len(link) >= SHORTEST
    assert any(link in said for messages in list_rows(root).values() for said in messages), "no message of the table holds it"
    assert link in read_source(root), "our source does not hold it"
    assert test in list_names(path), f"{path.name} has no such test"
    assert link in list_expected(path, test), "the test does not expect it"


def test_names_of_classes_are_composed_and_stripped_aloud() -> None:
    """A name that is changed is told."""
    (said,) = describe_renamed(["cat ", "dog"])
    assert said == "1 class name read without regard to the Unicode form and to spaces around: 'cat '"


def test_whole_numbers_of_32_bits_need_their_white() -> None:
    """Nothing is guessed of values that may reach anywhere."""
    encoded = io.BytesIO()
    Image.fromarray(np.full((8, 8), 70_000, np.int32)).save(encoded, "TIFF")
    with pytest.raises(CompressError) as caught:
        decode(encoded.getvalue(), PREPROCESS, "cat.tif")
    wanted = (
        "cat.tif: has 32-bit values (mode I) of unknown range; say which is white as data.white_level, or convert it to 8 bits"
    )
    assert str(caught.value) == wanted


def test_a_training_state_without_its_checksum(tmp_path: Path) -> None:
    """It is said, and the stage starts again."""
    checkpoint.save_state(tmp_path / "state.pt", {"epoch": 1})
    (tmp_path / "state.pt").write_bytes((tmp_path / "state.pt").read_bytes()[:-1])
    events = Events()
    settings = TrainSection(epochs=1, batch_size=16)
    loop.fit(fresh(), data(), held_out(), settings=settings, state=tmp_path / "state.pt", events=events)
    assert [said.partition(": ")[2] for said in events.warnings] == [
        f"{tmp_path}/state.pt: is damaged, for it does not end with its checksum; this stage starts again"
    ]


def test_a_teacher_that_gives_no_numbers() -> None:
    """Logits that are not finite teach nothing."""
    logits = np.full((8, 3), np.nan, np.float32)
    with pytest.raises(
        CompressError, match=r"^teacher: gives numbers that are not finite on the validation split; check its weights"
    ):
        preflight.check_teacher("teacher", logits, np.arange(8) % 3, ("a", "b", "c"))


def test_a_last_batch_of_one() -> None:
    """Batch norm on one value per channel fails at the end of every epoch, which is said before the first."""
    student = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    images, labels = torch.randn(9, 1, 8, 8), torch.arange(9) % 2
    loader = DataLoader(TensorDataset(images, labels), batch_size=4)
    said = "^train, batch 2: has 1 image, on which stage 'student' fails: Expected more than 1 value per channel .*"
    with pytest.raises(CompressError, match=rf"{said}; leave it out \(drop_last=True\), or choose another batch size"):
        compress.distill([], student, train=loader, validation=loader, method="supervised")


def test_the_plan_tells_what_is_kept_and_how_long_it_takes(tmp_path: Path, tiny_recipe: str) -> None:
    """A stage of an earlier run is found or made anew, and a timed step becomes minutes."""
    planned = make_plan(recipe.parse(tiny_recipe.encode(), "tiny.yaml"), base=tmp_path, runs=tmp_path / "runs")
    changes = {"teacher": {"found": True}, "student": {"changed": ("method",)}}
    stages = tuple(each.model_copy(update=changes.get(each.name, {})) for each in planned.stages)
    estimate = Estimate(training={"student": 546}, delivery=168)
    console = Console(file=io.StringIO(), width=300, color_system=None)
    console.print(draw_plan(planned.model_copy(update={"stages": stages, "estimate": estimate})))
    text = console.file.getvalue()
    assert "kept in: teacher/ (found: used again if data and packages are the same)" in text
    assert "kept in: student/ (of an earlier run, made anew: method differs)" in text
    assert "takes about 12 min on this machine as it is now: training 9.1 min, exports and measuring 2.8 min" in text


def test_a_file_of_another_precision() -> None:
    """What the weights are counts, and not what the manifest says."""
    port = model_file.Port("images", "float32", (None, 1, 8, 8)), model_file.Port("logits", "float32", (None, 3))
    found = model_file.Interface(port[:1], port[1:], {}, "fp32")
    wanted = model_file.Wanted(PREPROCESS.model_dump(mode="json"), ("a", "b", "c"), "int8", None, False, False, None, 0)
    assert "its weights are fp32, and the manifest calls it int8" in list(model_file.find_violations(found, wanted))
