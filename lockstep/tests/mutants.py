"""Broken engines: one-line edits, each with the law that it breaks and the test that notices.

``invoke test --mutants`` makes each edit in a copy of the tree and runs its tests there. They must
fail. ``HARMLESS`` edits change no bit, and their tests must pass. A mutant whose ``old`` text no
longer stands exactly once in its file is out of date: choose the line that does its work now.
"""

from dataclasses import dataclass
from pathlib import Path

from lockstep.ground import home

LAWS = {
    1: "same identity, same bits",
    2: "a step is a function of (seed, step, shard)",
    3: "kill it anywhere",
    4: "workers don't show",
    5: "a name is a promise",
    6: "nothing that is loaded can run code",
    7: "every setting is typed and listed",
    8: "one lock",
    9: "training needs nobody",
    10: "the law holds for code we never saw",
    11: "what decides no bit is in no identity",
}


@dataclass(frozen=True)
class Mutant:
    """An edit of one line: ``old``, which stands once in a file of the engine, becomes ``new``.

    ``tests`` are those that must notice, as pytest names them below ``lockstep/tests``. They are of
    the fast gate, or else ``slow``.
    """

    name: str
    path: str
    old: str
    new: str
    law: int
    tests: tuple[str, ...]
    slow: bool = False

    def edited(self, root: Path) -> str:
        """Return the text of the file in a tree after the edit.

        Raises ValueError if ``old`` does not stand exactly once in it.
        """
        text = (root / "lockstep" / self.path).read_text()
        if (times := text.count(self.old)) != 1:
            raise ValueError(
                f"mutant {self.name!r}: found its text {times} times in lockstep/{self.path}, "
                "expected once; bring lockstep/tests/mutants.py up to date."
            )
        return text.replace(self.old, self.new)


ROOT = home.ENGINE.parent
_REHEARSAL = (
    "run/test_rehearsal.py::test_what_breaks_a_law_is_refused_by_name_before_the_first_step"
)
_RESUMED = "run/test_laws.py::test_state_of_every_kind_comes_back_after_a_stop"
_DECIDES = "run/test_identity.py::test_an_edit_that_can_change_bits_changes_the_identity"
_NO_BIT = "run/test_identity.py::test_an_edit_that_can_change_no_bit_changes_no_identity"
_FLIPPED = "training/test_checkpoint.py::test_a_flipped_byte_anywhere_is_noticed"
_CHANCE = "training/test_determinism.py::test_reseeding_repeats_every_kind_of_chance"
_SAME_BITS = (
    "records/test_first_edition.py::test_the_same_settings_have_the_same_bits_in_this_edition"
)

MUTANTS = (
    # What is random.
    Mutant(
        "torch's generator is not seeded",
        "ground/generators.py",
        "torch.default_generator.manual_seed(",
        "abs(",
        2,
        (_CHANCE,),
    ),
    Mutant(
        "NumPy's generator is not seeded",
        "ground/generators.py",
        "numpy_random.seed(",
        "abs(",
        2,
        (_CHANCE,),
    ),
    Mutant(
        "Python's generator is not seeded",
        "ground/generators.py",
        "    random.seed(",
        "    abs(",
        2,
        (_CHANCE,),
    ),
    Mutant(
        "dropout is seeded by the worker's rank",
        "training/shards.py",
        "self.reseed(step, shard)",
        "self.reseed(step, self.workers.rank)",
        4,
        ("training/test_shards.py::test_every_shard_has_randomness_of_its_own",),
    ),
    Mutant(
        "dropout forgets the step",
        "run/making.py",
        '"dropout", step, shard',
        '"dropout", 0, shard',
        2,
        (_SAME_BITS,),
    ),
    Mutant(
        "first weights are seeded by Python's hash of a text",
        "run/making.py",
        'reseed(key_of(experiment.seed, "weights"))',
        'reseed(hash("weights") & 0xFFFF)',
        1,
        ("test_experiment.py::test_the_same_identity_has_the_same_bits_in_another_process",),
    ),
    Mutant(
        "augmentation forgets the shard",
        "data/batches.py",
        '"augment", step, shard',
        '"augment", step, 0',
        2,
        (
            "data/test_batches.py::test_what_is_random_differs_between_steps_shards_and_seeds_and_repeats",
        ),
    ),
    Mutant(
        "the generator of augmentation is not seeded",
        "data/batches.py",
        "self._generator.manual_seed(key)",
        "pass",
        2,
        ("data/test_batches.py::test_a_batch_is_the_same_whatever_was_asked_before",),
    ),
    # The order of the samples.
    Mutant(
        "the order is the same in each epoch",
        "data/order.py",
        '"order", epoch, number',
        '"order", 0, number',
        2,
        ("data/test_order.py::test_seeds_and_epochs_have_orders_of_their_own",),
    ),
    Mutant(
        "places outside of an epoch are drawn again only once",
        "data/order.py",
        "while (outside :=",
        "if (outside :=",
        2,
        ("data/test_order.py::test_an_epoch_holds_every_sample_once",),
    ),
    Mutant(
        "weighted draws are the same in each epoch",
        "data/sampling.py",
        'key_of(self.seed, "weighted", self.epoch)',
        'key_of(self.seed, "weighted", 0)',
        2,
        ("data/test_sampling.py::test_seeds_and_epochs_have_orders_of_their_own",),
    ),
    Mutant(
        "each epoch draws the same part of a large group",
        "data/sampling.py",
        " + self.epoch * draws[group]",
        "",
        2,
        (
            "data/test_sampling.py::test_within_a_group_no_sample_is_drawn_again_before_all_others_were",
        ),
    ),
    Mutant(
        "a window of lengths depends on where one begins to read",
        "data/sampling.py",
        "first, last = number * size, min((number + 1) * size, total)",
        "first, last = max(number * size, start), min((number + 1) * size, total)",
        2,
        ("data/test_sampling.py::test_a_part_equals_the_same_part_of_the_whole",),
    ),
    Mutant(
        "the last batch begins at a wrong row",
        "data/batches.py",
        "start = place * self.batch_size",
        "start = min(place * self.batch_size, len(self.split) - self.batch_size)",
        2,
        (
            "data/test_batches.py::"
            "test_an_epoch_sees_each_sample_once_and_its_shards_are_the_batch_in_order",
        ),
    ),
    Mutant(
        "samples of an epoch are remembered in the next",
        "data/batches.py",
        "epoch != known_epoch or start < first",
        "start < first",
        2,
        ("data/test_batches.py::test_a_batch_is_the_same_whatever_was_asked_before",),
    ),
    Mutant(
        "evaluation passes over the first row of each block",
        "data/batches.py",
        "slice(number * self.size,",
        "slice(number * self.size + 1,",
        1,
        ("data/test_batches.py::test_evaluation_sees_a_split_from_its_first_row_to_its_last",),
    ),
    # Shards and their sum.
    Mutant(
        "shards are summed from left to right",
        "training/shards.py",
        "row, level = self.flat.carried, 0",
        "row, level = self.flat.carried, 0; shard = shard and row.add_(self._levels[0]) is None",
        4,
        ("training/test_shards.py::test_eight_shards_are_summed_along_the_tree",),
    ),
    Mutant(
        "shards of other sizes count alike",
        "training/shards.py",
        "rows / samples\n",
        "1 / len(self.block)\n",
        4,
        ("training/test_shards.py::test_shards_of_unequal_size_count_by_their_samples",),
    ),
    Mutant(
        "running statistics are the last shard's",
        "training/shards.py",
        "flat.buffers.copy_(flat.sums[flat.gradient.numel() : -1])",
        "pass",
        4,
        ("training/test_shards.py::test_running_statistics_are_the_mean_of_the_shards",),
    ),
    Mutant(
        "whole numbers advance with each shard",
        "training/shards.py",
        "self._restore(counts)\n        self.reseed",
        "self.reseed",
        4,
        ("training/test_shards.py::test_whole_number_buffers_advance_once_a_step",),
    ),
    Mutant(
        "buffers that nobody changed are summed",
        "training/shards.py",
        "if 0.0 in moved:",
        "if False:",
        4,
        ("run/test_rehearsal.py::test_buffers_that_nobody_changes_keep_every_byte",),
    ),
    Mutant(
        "large whole numbers are rounded",
        "training/parameters.py",
        "_LIMBS = 4",
        "_LIMBS = 2",
        4,
        ("run/test_rehearsal.py::test_whole_numbers_that_advance_are_exact",),
    ),
    Mutant(
        "a worker's shards are summed whatever the tree says",
        "training/distributed.py",
        "min(size, start & -start or size)",
        "size",
        4,
        ("training/test_shards.py::test_any_number_of_workers_has_whole_branches_of_one_tree",),
    ),
    Mutant(
        "sums that wait at another worker are left out",
        "training/distributed.py",
        "rows[left].add_(term)",
        "rows[left].add_(term, alpha=mine == other)",
        4,
        (
            "faults/test_workers.py::test_any_number_of_workers_changed_in_mid_run_gives_the_same_bits",
        ),
        slow=True,
    ),
    Mutant(
        "workers keep their own sums",
        "training/shards.py",
        "self.workers.all_reduce(rows, self.shards)",
        "flat.row",
        4,
        (
            "faults/test_workers.py::test_any_number_of_workers_changed_in_mid_run_gives_the_same_bits",
        ),
        slow=True,
    ),
    # Steps.
    Mutant(
        "the optimizer forgets the step counter",
        "training/optimizer.py",
        "steps += 1",
        "steps.fill_(1)",
        1,
        ("training/test_optimizer.py::test_steps_equal_those_of_torch",),
    ),
    Mutant(
        "weight decay acts on biases",
        "training/optimizer.py",
        "(others, 0.0)",
        "(others, decay)",
        1,
        ("training/test_optimizer.py::test_steps_equal_those_of_torch",),
    ),
    Mutant(
        "a group learns from the first step",
        "training/optimizer.py",
        "            if step < part.group.start:\n                continue",
        "",
        1,
        ("training/test_updates.py::test_groups_have_their_own_rate_decay_and_start",),
    ),
    Mutant(
        "what an optimizer keeps in its groups is in no checkpoint",
        "training/optimizer.py",
        "group.update(values)",
        "pass",
        3,
        (
            "training/test_updates.py::test_any_optimizer_resumes_from_a_snapshot_with_the_same_bits",
        ),
    ),
    Mutant(
        "an optimizer draws numbers that nobody seeded",
        "training/loop.py",
        "move.gradient.reseed(step, move.gradient.shards + 1)",
        "pass",
        4,
        (
            "training/test_updates.py::test_an_optimizer_draws_the_same_numbers_whatever_was_drawn_before",
        ),
    ),
    Mutant(
        "the program's part of a step is believed",
        "run/rehearsal.py",
        "        _refuse_other_steps(setup)\n",
        "",
        10,
        (
            "run/test_rehearsal.py::test_what_breaks_a_law_in_the_programs_part_of_a_step_is_refused_before_the_first",
        ),
    ),
    Mutant(
        "the pinned digest of weights to start from is not compared",
        "run/starting.py",
        'if start.sha256 not in ("", digest):',
        "if False:",
        1,
        ("run/test_starting.py::test_weights_that_do_not_fit_are_refused_before_anything_is_made",),
    ),
    Mutant(
        "what examples count is forgotten",
        "training/shards.py",
        "if weight := float(flat.weight):",
        "if weight := 0.0:",
        4,
        (
            "training/test_updates.py::test_losses_by_example_are_the_weighted_mean_of_the_whole_batch",
        ),
    ),
    Mutant(
        "a shard is represented by other chance the second time",
        "training/shards.py",
        "self.reseed(step, self.shards)",
        "self.reseed = lambda step, shard, seed=self.reseed: seed(step, shard + 1)",
        2,
        (
            "training/test_updates.py::test_a_loss_of_the_whole_batch_has_the_gradient_of_the_whole_batch",
        ),
    ),
    Mutant(
        "the warm-up begins a step late",
        "training/optimizer.py",
        "height = (step + 1) / (rising + 1)",
        "height = step / (rising + 1)",
        1,
        ("training/test_optimizer.py::test_a_schedule_rises_then_falls",),
    ),
    Mutant(
        "a loss that is not finite is passed over",
        "training/loop.py",
        "if not math.isfinite(loss) or",
        "if False and",
        5,
        (
            "test_experiment.py::test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint",
        ),
    ),
    Mutant(
        "an evaluation switches every part to training mode",
        "training/evaluation.py",
        "module.training = training",
        "module.training = True",
        10,
        ("run/test_rehearsal.py::test_parts_in_evaluation_mode_stay_in_it",),
    ),
    Mutant(
        "chance in an evaluation is not seeded",
        "training/evaluation.py",
        'reseed(key_of(0, "evaluation", number))',
        "pass",
        10,
        ("run/test_laws.py::test_chance_in_an_evaluation_is_the_same_each_time",),
    ),
    Mutant(
        "weights are believed to decide the answers",
        "answers/golden.py",
        'reseed(key_of(number, "predictor"))',
        'reseed(key_of(1, "predictor"))',
        10,
        (
            "run/test_rehearsal.py::test_what_answers_need_and_weights_do_not_hold_is_refused_before_the_first_step",
        ),
    ),
    Mutant(
        "what preprocessing stores is believed to be all that it fitted",
        "answers/golden.py",
        "for one in (predictor.preprocess, fitted):",
        "for one in (predictor.preprocess,):",
        10,
        ("run/test_rehearsal.py::test_preprocessing_that_stores_less_than_it_fitted_is_refused",),
    ),
    Mutant(
        "a value may be drawn at first use",
        "run/rehearsal.py",
        "if caches.are_filled():",
        "if False:",
        10,
        (
            "run/test_rehearsal.py::test_a_value_that_is_drawn_at_first_use_is_refused_and_one_that_is_computed_is_not",
        ),
    ),
    Mutant(
        "answers may be drawn",
        "answers/golden.py",
        "if bits(predictor.outputs(few)) != found[-1]:",
        "if False:",
        10,
        ("run/test_rehearsal.py::test_chance_in_answers_is_refused_before_the_first_step",),
    ),
    Mutant(
        "another process may compute other bits",
        "run/story.py",
        "recorder.begin(found.first_step)",
        "pass",
        10,
        ("run/test_rehearsal.py::test_another_process_that_computes_other_bits_is_refused",),
    ),
    Mutant(
        "first weights may be drawn by the system",
        "run/making.py",
        "if one.numel() and not torch",
        "if False and not torch",
        10,
        ("run/test_rehearsal.py::test_first_weights_that_are_drawn_otherwise_are_refused",),
    ),
    Mutant(
        "a model may read the environment",
        "run/story.py",
        "found.reasons | reasons",
        "found.reasons",
        10,
        ("run/test_laws.py::test_a_model_that_reads_the_environment_lowers_the_level_by_name",),
    ),
    Mutant(
        "texts have other hashes in each process",
        "cli/__init__.py",
        '("train", "tune", ',
        '("tune", ',
        1,
        ("run/test_laws.py::test_the_order_of_a_set_is_the_same_in_each_process",),
        slow=True,
    ),
    Mutant(
        "the earliest rows are for test",
        "data/split.py",
        "-self.times[row]",
        "self.times[row]",
        5,
        ("data/test_split.py::test_the_latest_rows_are_for_test_and_no_day_is_in_two_splits",),
    ),
    Mutant(
        "rows of one content validate and train",
        "data/split.py",
        "by_class, alike=True)",
        "by_class)",
        5,
        ("data/test_split.py::test_rows_of_one_content_are_never_learned_from_and_validated_on",),
    ),
    # Checkpoints.
    Mutant(
        "the optimizer's state is in no checkpoint",
        "training/loop.py",
        'f"{_prefix(number)}{name}": tensor for name, tensor in kept.items()',
        'f"{_prefix(number)}{name}": 0 * tensor for name, tensor in kept.items()',
        3,
        (_RESUMED,),
    ),
    Mutant(
        "buffers are in no checkpoint",
        "training/loop.py",
        '"values": self.flat.values, "buffers": self.flat.buffers',
        '"values": self.flat.values',
        3,
        (_RESUMED,),
    ),
    Mutant(
        "the mean of the weights takes their place in a checkpoint",
        "training/loop.py",
        '"average"',
        '"values"',
        3,
        (_RESUMED,),
    ),
    Mutant(
        "the best epoch is forgotten at a stop",
        "training/loop.py",
        'self.progress = Progress(**snapshot.state["progress"])',
        'self.progress = Progress(snapshot.state["progress"]["step"])',
        3,
        (_RESUMED,),
    ),
    Mutant(
        "a file is not flushed",
        "ground/files.py",
        "        os.fsync(file.fileno())",
        "        pass",
        5,
        ("test_files.py::test_a_file_is_on_the_disk_before_it_has_its_name_and_then_the_name_is",),
    ),
    Mutant(
        "a rename is not flushed",
        "ground/files.py",
        "            os.replace(part, path)\n            flush_folder(path.parent)",
        "            os.replace(part, path)",
        5,
        ("test_files.py::test_a_file_is_on_the_disk_before_it_has_its_name_and_then_the_name_is",),
    ),
    Mutant(
        "a folder is published before its files are flushed",
        "ground/files.py",
        "            flush_folder(part)\n",
        "",
        5,
        (
            "test_files.py::test_a_folder_is_on_the_disk_before_it_has_its_name_and_then_the_name_is",
        ),
    ),
    Mutant(
        "a checkpoint does not wait for the trace and the metrics",
        "run/recorder.py",
        "flush=self._flush",
        "flush=int",
        5,
        ("test_files.py::test_what_a_checkpoint_relies_on_is_on_the_disk_before_it",),
    ),
    Mutant(
        "a torn record stays in the trace",
        "records/trace.py",
        "os.ftruncate(self._file, len(kept))",
        "pass",
        3,
        (
            "records/test_journal.py::test_a_trace_that_resumes_has_the_bytes_of_one_that_never_stopped",
        ),
    ),
    Mutant(
        "the trace is no chain",
        "records/trace.py",
        "chain = xxhash.xxh3_128(self._chain)",
        "chain = xxhash.xxh3_128(bytes(16))",
        1,
        (_SAME_BITS,),
    ),
    # The rehearsal and the witness.
    Mutant(
        "the rehearsal computes its shards in one order only",
        "run/rehearsal.py",
        "for order in (1, -1):",
        "for order in (1, 1):",
        10,
        ("run/test_laws.py::test_what_one_shard_leaves_for_the_next_is_refused",),
    ),
    Mutant(
        "the rehearsal does not look at attributes",
        "run/rehearsal.py",
        "        _refuse_moving(states[1], states[2])\n",
        "",
        10,
        (_REHEARSAL,),
    ),
    Mutant(
        "the rehearsal believes that a loss is a mean",
        "run/rehearsal.py",
        "            _refuse_no_mean(setup, move)\n",
        "            pass\n",
        10,
        (_REHEARSAL,),
    ),
    Mutant(
        "the rehearsal does not compare bits",
        "run/rehearsal.py",
        "        _refuse_different(*passes)\n",
        "",
        10,
        (_REHEARSAL,),
    ),
    Mutant(
        "nobody looks at the model after the rehearsal",
        "training/loop.py",
        "            inspect(now.step)",
        "            pass",
        10,
        (
            "run/test_rehearsal.py::"
            "test_what_breaks_a_law_after_some_steps_is_refused_at_the_end_of_the_epoch",
        ),
    ),
    Mutant(
        "files and modules that are in no identity are let in",
        "run/story.py",
        "        witness.refuse_unknown()\n",
        "",
        10,
        (
            "run/test_rehearsal.py::test_what_is_loaded_by_importlib_is_refused",
            "run/test_rehearsal.py::"
            "test_a_file_from_elsewhere_is_refused_and_one_beside_the_code_is_not",
        ),
    ),
    Mutant(
        "a resumed run may have other preprocessing",
        "run/recorder.py",
        "if self.origin[name] != self._begun[name]:",
        "if False:",
        10,
        (
            "run/test_rehearsal.py::test_preprocessing_that_differs_when_a_run_is_resumed_is_refused",
        ),
    ),
    Mutant(
        "workers need not agree on preprocessing and first weights",
        "run/rehearsal.py",
        "if first[name] != digest:",
        "if False:",
        4,
        ("run/test_laws.py::test_a_worker_that_was_set_up_otherwise_is_refused",),
        slow=True,
    ),
    Mutant(
        "an operation that nobody verified does not lower the level",
        "run/level.py",
        "for name in operations.unverified()",
        "for name in ()",
        1,
        ("test_experiment.py::test_what_may_depend_on_the_cpu_lowers_the_level_of_the_run",),
    ),
    Mutant(
        "reasons do not lower the level",
        "records/receipt.py",
        "    elif reasons:",
        "    elif False:",
        1,
        ("records/test_reproduce.py::test_the_level_is_what_profile_device_and_reasons_allow",),
    ),
    Mutant(
        "a last validation that differs from its row is believed",
        "run/ending.py",
        "    _refuse_drift(recorder, setup, validation.metrics)\n",
        "",
        1,
        ("test_experiment.py::test_a_validation_that_differs_from_its_row_at_the_end_is_refused",),
    ),
    # The identity.
    Mutant(
        "the level of relative imports is ignored",
        "records/source.py",
        "    if not level:",
        "    if True:",
        1,
        ("run/test_identity.py::test_the_models_folder_and_what_it_imports_are_in_the_identity",),
    ),
    Mutant(
        "data files beside shared code are in no identity",
        "records/source.py",
        'for name, path in beside if path.suffix != ".py"',
        "for name, path in ()",
        1,
        (_DECIDES,),
    ),
    Mutant(
        "only Python files of a model's folder are in the identity",
        "records/source.py",
        'folder.rglob("*") if deep',
        'folder.rglob("*.py") if deep',
        1,
        (_DECIDES,),
    ),
    Mutant(
        "docstrings are in the identity",
        "records/source.py",
        "if has_docstring else node.body",
        "if False else node.body",
        11,
        (_NO_BIT,),
    ),
    Mutant(
        "recipes and README.md are in the identity",
        "records/source.py",
        'path.name != "README.md"',
        "True",
        11,
        (_NO_BIT,),
    ),
    Mutant(
        "settings that decide no bit are in the identity",
        "run/keeping.py",
        "as_dict(bits_only=True)",
        "as_dict()",
        11,
        ("test_experiment.py::test_what_decides_no_bit_is_not_in_the_identity",),
    ),
    Mutant(
        "the number of workers is in the identity",
        "config/experiment.py",
        'if item.metadata.get("bits", True) or not bits_only',
        "",
        11,
        ("test_config.py::test_what_decides_no_bit_is_not_in_the_identity",),
    ),
    Mutant(
        "the model's settings are in no identity",
        "config/experiment.py",
        '            "model": self.settings,\n',
        "",
        1,
        ("test_experiment.py::test_what_decides_bits_decides_the_identity",),
    ),
    # What is read again.
    Mutant(
        "altered settings of a run are believed",
        "records/verify.py",
        "if canonical_json(same) != canonical_json(wanted):",
        "if False:",
        5,
        (
            "records/test_compare.py::test_a_file_that_was_rewritten_with_care_is_found_all_the_same",
        ),
    ),
    Mutant(
        "tensors of a checkpoint are believed",
        "training/checkpoint.py",
        '!= head["files"][_TENSORS]:',
        '== "":',
        5,
        (_FLIPPED,),
    ),
    Mutant(
        "an altered receipt is believed",
        "records/verify.py",
        "        _receipt_problems,\n",
        "",
        5,
        (
            "records/test_compare.py::test_a_file_that_was_rewritten_with_care_is_found_all_the_same",
        ),
    ),
    Mutant(
        "a run's files are not held against the receipt",
        "records/verify.py",
        ":= digest_of(path)) != wanted:",
        ':= digest_of(path)) == "":',
        5,
        ("records/test_compare.py::test_altered_runs_are_refused_by_name",),
    ),
    Mutant(
        "altered arrays are believed",
        "data/arrays.py",
        "digest_of(home / name) if present[name]",
        "wanted if present[name]",
        5,
        ("data/test_arrays.py::test_an_altered_array_is_refused_by_name",),
    ),
    Mutant(
        "arrays may hold pickles",
        "data/arrays.py",
        "allow_pickle=False",
        "allow_pickle=True",
        6,
        ("test_architecture.py::test_nothing_that_is_loaded_can_run_code",),
    ),
    Mutant(
        "files of a bundle are believed",
        "bundles/manifest.py",
        '!= row["sha256"]:',
        "== 0:",
        5,
        ("bundles/test_opening.py::test_an_altered_or_missing_file_is_refused_by_its_name",),
    ),
    Mutant(
        "answers are not held against the golden ones",
        "answers/golden.py",
        "if new != old:",
        "if False:",
        1,
        (
            "answers/test_golden.py::test_an_answer_that_differs_in_its_last_bit_is_refused_in_one_line",
        ),
    ),
    Mutant(
        "a mistyped setting is ignored",
        "config/recipe.py",
        'problem = f"no such setting.',
        'key, problem = f"{key}", f"" and f"',
        7,
        (
            "test_config.py::"
            "test_all_mistakes_are_told_at_once_each_with_its_place_and_what_would_be_right",
        ),
    ),
    Mutant(
        "data that lie here are fetched all the same",
        "data/fetch.py",
        "for path in _local_places(",
        "for path in () and (",
        9,
        ("data/test_fetch.py::test_a_good_copy_on_this_machine_is_used_where_it_lies",),
    ),
    Mutant(
        "a file from a storage is believed",
        "data/store.py",
        "digest_of(part)) == file.sha256",
        'digest_of(part)) != ""',
        5,
        ("data/test_transfer.py::test_what_is_altered_is_neither_pushed_nor_kept",),
    ),
    Mutant(
        "operations without a deterministic kind are computed",
        "training/determinism.py",
        'torch.set_deterministic_debug_mode("error")',
        'torch.set_deterministic_debug_mode("default")',
        1,
        (
            "training/test_determinism.py::"
            "test_operations_without_a_deterministic_kind_are_refused",
        ),
    ),
    Mutant(
        "variables of the user's shell choose oneDNN's kernels",
        "ground/profiles.py",
        " | _UNWANTED",
        "",
        1,
        (
            "training/test_determinism.py::"
            "test_variables_that_would_change_the_bits_are_taken_away",
        ),
    ),
    Mutant(
        "a package that is not as locked passes for the locked one",
        "ground/wheels.py",
        'known = f"{DRIFTED}, {wheel}"',
        "known = wheel",
        8,
        (
            "records/test_environment.py::"
            "test_each_package_that_is_not_as_locked_is_named_and_marked",
        ),
    ),
    Mutant(
        "an edited file of a package decides no identity",
        "ground/wheels.py",
        "elif name in changed:",
        "elif False:",
        1,
        ("test_wheels.py::test_an_edited_file_is_named_and_is_another_identity",),
    ),
    Mutant(
        "the wheels of two platforms share an identity",
        "ground/wheels.py",
        ' or name == f"{info}/WHEEL"',
        "",
        1,
        ("test_wheels.py::test_the_wheel_of_another_platform_is_another_identity",),
    ),
)
HARMLESS = (
    Mutant(
        "a comment",
        "training/shards.py",
        "        fingerprints = 0\n",
        "        fingerprints = 0  # of no shard yet\n",
        11,
        (
            _SAME_BITS,
            "test_experiment.py::test_the_same_identity_has_the_same_bits_in_another_process",
        ),
    ),
    Mutant(
        "a local with another name",
        "training/shards.py",
        "[count.clone() for count in flat.counts]",
        "[whole.clone() for whole in flat.counts]",
        1,
        (_SAME_BITS, "training/test_shards.py"),
    ),
)
