"""Settings: what a YAML file may say, and what is said back when it is wrong."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from montessori.errors import InputError
from montessori.settings import files
from montessori.settings.generation import Sampling
from montessori.settings.models import Lora
from montessori.settings.run import Settings
from montessori.settings.study import Study
from montessori.settings.suite import Suite

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "montessori/configs").glob("*.yaml"))
SUITES = sorted((Path(__file__).resolve().parents[2] / "montessori/configs/suites").glob("*.yaml"))
RATED = {"signal": "rating", "split": "best_worst"}


def minimal(**changes: Any) -> dict[str, Any]:
    needed = {"name": "run", "reference": "r.jsonl", "teacher": {"source": "t"}, "student": {"source": "s"}}
    return needed | changes


def written(folder: Path, tree: object) -> Path:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


def complaint(tree: dict[str, Any]) -> str:
    with pytest.raises(InputError) as error:
        files.parse(tree, "run.yaml")
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("wrong", "field", "right"),
    [
        ({"iteration": 3}, "iteration", "iterations"),
        ({"dpo": {"betta": 0.2}}, "dpo.betta", "dpo.beta"),
        ({"instructions": {"sampling": {"topp": 0.5}}}, "instructions.sampling.topp", "instructions.sampling.top_p"),
        ({"reference": {"source": "r", "limmit": 3}}, "reference.limmit", "reference.limit"),
        ({"test": {"source": "r", "spilt": "x"}}, "test.spilt", "test.split"),
        ({"teacher": {"source": "t", "lora": {"rnak": 4}}}, "teacher.lora.rnak", "teacher.lora.rank"),
    ],
)
def test_a_misspelt_setting_is_named_with_the_one_that_was_meant(wrong, field, right):
    assert complaint(minimal(**wrong)) == f"run.yaml: unknown setting {field}; did you mean {right}?"


@pytest.mark.parametrize("signal", ["rating", "training_loss"])
def test_a_bound_on_influence_splits_nothing_else(signal):
    message = complaint(minimal(preferences={"signal": signal}))
    assert f"with signal: {signal} set prompt_mean or best_worst" in message
    parsed = files.parse(minimal(preferences={"signal": signal, "split": "prompt_mean"}), "run.yaml")
    assert parsed.preferences.signal == signal


def test_who_rates_is_named_with_its_model():
    assert "generation: openai.model is missing" in complaint(minimal(generation={"engine": "openai"}))
    assert "rating: openai.model is missing" in complaint(minimal(rating={"engine": "openai"}))
    assert "rating: give `source`" in complaint(minimal(rating={"engine": "transformers"}))
    assert "rating: give `source`" in complaint(minimal(rating={"engine": "rule", "source": "models/judge"}))


def test_an_unknown_setting_without_a_near_one_lists_those_there_are():
    message = complaint(minimal(dpo={"zzz": 1}))
    assert message.startswith("run.yaml: unknown setting dpo.zzz; known here: ")
    assert "learning_rate" in message and "beta" in message


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"dpo": {"beta": -1}}, "dpo.beta = -1: input should be greater than 0"),
        ({"seed": -3}, "seed = -3: "),
        ({"sft": {"max_gradient_norm": float("inf")}}, "sft.max_gradient_norm = inf: input should be a finite number"),
        ({"sft": {"epochs": "many"}}, "sft.epochs = 'many': "),
        ({"sft": {"epochs": True}}, "sft.epochs = True: expected a number"),
        ({"preferences": {"max_pairs": False}}, "preferences.max_pairs = False: expected a number"),
        ({"instructions": {"sampling": {"top_p": 1.5}}}, "instructions.sampling.top_p = 1.5: "),
        ({"influence": {"estimator": "guess"}}, "influence.estimator = 'guess': "),
        ({"name": "No Spaces"}, "name = 'No Spaces': expected small letters, digits, dots and hyphens, a letter or"),
        ({"name": "new\n"}, r"name = 'new\n': expected small letters"),
        ({"name": "n" * 61}, f"name = '{'n' * 61}': string should have at most 60 characters"),
        ({"seeds": {"source": "s", "limit": 0}}, "seeds.limit = 0: "),
        ({"teacher": {"source": "t", "dtype": "float16"}}, "teacher.dtype = 'float16': "),
    ],
)
def test_a_value_out_of_range_is_named_with_its_field(wrong, says):
    assert f"run.yaml: {says}" in complaint(minimal(**wrong))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"influence": {"shards": 9}, "probing": {"probing": 8}}, r"influence.shards (9) exceeds"),
        ({"responses": {"shards": 9}, "training_size": 8}, r"responses.shards (9) exceeds the points to answer (8)"),
        ({"sft": {"warm_up_share": 0.7, "decay_share": 0.4}}, "sft: warm_up_share + decay_share must not exceed 1"),
        ({"dpo": {"batch_size": 3}}, "batch_size (3) must be a multiple of per_device_batch_size (2)"),
        (
            {"dpo": {"batch_size": 4}, "compute": {"training_processes": 4}},
            "dpo.batch_size (4) must be a multiple of dpo.per_device_batch_size times compute.training_processes (2 x",
        ),
        ({"student": {"source": "scratch"}}, "student: give `scratch: {…}` when source is `scratch`"),
        ({"student": {"source": "s", "scratch": {}}}, "student: give `scratch: {…}` when source is `scratch`"),
        ({"update": "responses", "preferences": RATED}, "update (responses) takes its scores from a student"),
        (
            {"update": "responses", "responses": {"sampling": {"temperature": 0}}},
            "responses.sampling.temperature (0) makes all answers to an instruction the same",
        ),
        (
            {"method": "self-reward", "responses": {"sampling": {"temperature": 0}}},
            "set responses.samples_temperature above 0",
        ),
        ({"method": "llm2llm", "responses": {"shards": 3}, "training_size": 8}, "the points to answer (2)"),
        (
            {"preferences": RATED, "responses": {"shards": 9}, "probing": {"probing": 8}},
            "responses.shards (9) exceeds the points to rate (8)",
        ),
        ({"transfer": {"": {"source": "t"}}}, 'transfer."": a further student needs a name'),
        (
            {"student": {"source": "scratch", "scratch": {"hidden": 30}}},
            "student.scratch: hidden (30) must be a multiple",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(wrong, says):
    assert says in complaint(minimal(**wrong))


def test_a_training_that_a_run_does_not_have_need_not_be_shared_out():
    tree = minimal(compute={"training_processes": 8})  # the paper's DPO has batches of 2, its fine-tuning of 32
    assert "dpo.batch_size (2)" in complaint(tree)
    files.parse({**tree, "iterations": 0, "sft": {"batch_size": 32}}, "run.yaml")
    files.parse({**tree, "update": "bootstrap"}, "run.yaml")
    tree = minimal(compute={"training_processes": 2}, sft={"per_device_batch_size": 8})
    files.parse({**tree, "method": "llm2llm", "warm_up": {"batch_size": 2}}, "run.yaml")
    tree |= {"warm_up": {"batch_size": 2}, "dpo": {"batch_size": 4}}
    files.parse({**tree, "method": "self-reward"}, "run.yaml")
    files.parse({**tree, "preferences": RATED}, "run.yaml")
    assert "warm_up.batch_size (2)" in complaint(tree)


@pytest.mark.parametrize(
    "variant", [{"iterations": 0}, {"method": "llm2llm"}, {"method": "self-reward"}, {"preferences": RATED}]
)
def test_shards_of_influence_need_not_fit_where_none_is_measured(variant):
    files.parse(minimal(influence={"shards": 9}, probing={"probing": 8}, **variant), "run.yaml")


def test_samples_have_a_temperature_of_their_own():
    responses = {"sampling": {"temperature": 0}, "samples_temperature": 0.7}
    files.parse(minimal(method="self-reward", responses=responses), "run.yaml")
    files.parse(minimal(responses={"sampling": {"temperature": 0}}), "run.yaml")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"dpo": 3}, "dpo = 3: expected a block of settings"),
        ({"seeds": [1, 2]}, "seeds = [1, 2]: expected a file, a data set or a block of settings"),
        (
            {"teacher": {"source": "t", "lora": {"target_modules": 3}}},
            "teacher.lora.target_modules = 3: expected text or a list of texts",
        ),
        ({"transfer": {"": 3}}, 'transfer."" = 3: expected a block of settings'),
    ],
)
def test_a_value_of_another_kind_is_told_with_what_is_expected(wrong, says):
    assert complaint(minimal(**wrong)) == f"run.yaml: {says}"


def test_settings_of_a_study_may_be_a_file_or_a_block():
    with pytest.raises(InputError, match=r"^s\.yaml: settings = 3: expected a file or a block of settings$"):
        files.block(Study, {"name": "s", "settings": 3}, "s.yaml")


def test_a_study_in_place_of_a_runs_settings_is_told_with_the_command_for_it(tmp_path):
    path = written(tmp_path, {"name": "s", "settings": "tiny.yaml", "systems": {}})
    with pytest.raises(InputError) as error:
        files.load(path)
    assert str(error.value) == f"{path}: a study, not the settings of one run; `montessori study {path}` runs it"


def test_a_setting_that_has_no_default_is_asked_for():
    tree = minimal()
    del tree["student"]
    assert complaint(tree) == "run.yaml: student is missing"
    assert complaint({**tree, "dpo": {"betta": 1}}) == "run.yaml: student is missing"


def test_a_setting_that_is_missing_since_it_is_misspelt_is_named_as_it_was_written():
    tree = minimal()
    tree["studnet"] = tree.pop("student")
    assert complaint(tree) == "run.yaml: student is missing; unknown setting studnet; did you mean student?"
    tree = minimal(teacher={"sourse": "t"})
    assert "teacher.source is missing; unknown setting teacher.sourse; did you mean teacher.source?" in complaint(tree)


def test_only_where_an_endpoint_writes_and_nothing_is_tuned_a_teacher_may_be_missing():
    tree = minimal()
    del tree["teacher"]
    endpoint = {"engine": "openai", "openai": {"model": "gpt-4o"}}
    assert "teacher is missing" in complaint(tree)
    assert "teacher is missing" in complaint({**tree, "generation": endpoint})
    assert "teacher is missing" in complaint({**tree, "iterations": 0})
    files.parse({**tree, "generation": endpoint, "iterations": 0}, "run.yaml")


def test_a_context_without_room_for_a_prompt_is_refused():
    complained = complaint(minimal(generation={"context": 1024}))
    assert "generation.context (1024) must exceed instructions.sampling.max_tokens (1024)" in complained


def test_an_endpoint_needs_the_name_of_its_model():
    assert "openai.model" in complaint(minimal(generation={"engine": "openai"}))


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("https://me:secret@host/v1", "without a name or key in it"),
        ("http://[::1/v1", "expected an address like https://host/v1"),
        ("localhost:8000", "expected an address like https://host/v1"),
        ("ftp://host/v1", "expected an address like https://host/v1"),
    ],
)
def test_an_endpoints_address_is_one_and_holds_no_key(address, says):
    endpoint = {"engine": "openai", "openai": {"model": "m", "base_url": address}}
    said = complaint(minimal(generation=endpoint))
    assert "generation.openai.base_url" in said
    assert says in said
    assert "secret" not in said


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"- a\n- b\n", "expected settings as `key: value` lines"),
        (b"just text\n", "expected settings as `key: value` lines"),
        (b"", "expected settings as `key: value` lines"),
        (b"name: \xff\xfe\n", "cannot be read as UTF-8 text"),
        (b"name: [1, 2\n", "not YAML"),
        (b"name: a\x00b\n", "not YAML"),
    ],
)
def test_a_file_that_is_not_settings_is_wrong_input(tmp_path, content, says):
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=says) as error:
        files.load(path)
    assert str(error.value).startswith((f"{path}: ", f"{path}, line 1: ", f"{path}, line 2: "))


def test_a_missing_file_suggests_a_configuration_of_a_like_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"^tny\.yaml: no such file; did you mean tiny\?$"):
        files.load("tny.yaml")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "nightly.yaml").touch()
    with pytest.raises(InputError, match=r"did you mean own/nightly\.yaml\?$"):
        files.load("own/nigtly.yaml")
    with pytest.raises(InputError, match=r"^unlike\.yaml: no such file$"):
        files.load("unlike.yaml")


def test_a_folder_in_place_of_a_file_is_wrong_input(tmp_path):
    with pytest.raises(InputError) as error:
        files.load(tmp_path)
    assert str(error.value) == f"{tmp_path}: a folder; expected a YAML file of settings"


def test_a_key_that_is_there_twice_is_wrong_input(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("name: a\ndpo:\n  beta: 1\n  beta: 2\n")
    with pytest.raises(InputError) as error:
        files.load(path)
    assert str(error.value) == f"{path}, line 4: the key beta is there twice; keep one of them"
    path.write_text("a: &a {x: 1}\nb:\n  c: &c {<<: *a, x: 2}\nd: {<<: *c, x: 3}\n")  # YAML's own way to override
    assert files.read(path) == {"a": {"x": 1}, "b": {"c": {"x": 2}}, "d": {"x": 3}}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a:\n  2024-01-01: 1\n", "line 2: the key 2024-01-01 is neither text nor a number to YAML; write it in quo"),
        ("yes: 1\n", "line 1: the key yes is neither"),
        ("a: {~: 1}\n", "line 1: the key ~ is neither"),
        ("? [a, b]\n: 1\n", "line 1: a list or a block is no key; expected text"),
        ("1: a\n'1': b\n", "line 2: the key 1 is there twice; keep one of them"),
        ("a: 1\nb: &c {x: *c}\n", "line 2: the anchor here has an alias to it inside of it"),
        (
            "a: 1\nb: [1, 2\nc: 3\n",
            "line 3: not YAML: while parsing a flow sequence that begins in line 2, expected ','",
        ),
        ("a: 1\nb: 2024-13-01\n", "line 2: not YAML: month must be in 1..12"),
        ("a: 1\nb: \0\n", "line 2: not YAML: special characters are not allowed"),
    ],
)
def test_wrong_yaml_is_named_with_its_line(tmp_path, text, says):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        files.read(path)
    assert str(error.value).startswith(f"{path}, {says}") and "\n" not in str(error.value)


def test_numbers_as_keys_and_dates_are_text(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("1: a\n0.5: 2024-01-01\n")
    assert files.read(path, ["b={2: 2024-01-02}"]) == {"1": "a", "0.5": "2024-01-01", "b": {"2": "2024-01-02"}}


def test_an_override_changes_one_setting_where_an_alias_made_it_two(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("a: &a {x: 1}\nb: *a\n")
    assert files.read(path, ["a.x=2", "c={d: &d {y: 1}, e: *d}", "c.d.y=2"]) == {
        "a": {"x": 2},
        "b": {"x": 1},
        "c": {"d": {"y": 2}, "e": {"y": 1}},
    }


def test_overrides_change_what_the_file_says_and_add_to_it(tmp_path):
    path = written(tmp_path, minimal(dpo={"beta": 0.3}, seeds="s.jsonl"))
    loaded = files.load(
        path,
        ["dpo.beta=0.2", "dpo.learning_rate=1e-5", "seeds.limit=7", "reference=other.jsonl", "sft.epochs=2", "test=~"],
    )
    assert (loaded.dpo.beta, loaded.dpo.learning_rate, loaded.sft.epochs) == (0.2, 1e-5, 2)
    assert (loaded.seeds.source, loaded.seeds.limit) == ("s.jsonl", 7)
    assert loaded.reference.source == "other.jsonl"
    assert loaded.test is None


def test_of_two_overrides_the_last_one_holds(tmp_path):
    assert files.load(written(tmp_path, minimal()), ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("dpo.beta", "expected key=value"),
        ("=3", "expected key=value"),
        ("dpo.beta=[1", "--set dpo.beta=[1: not YAML: "),
        ("transfer={2024-01-01: 3}", "--set transfer={2024-01-01: 3}: the key 2024-01-01 is neither text nor a number"),
        ("dpo={beta: 1, beta: 2}", "--set dpo={beta: 1, beta: 2}: the key beta is there twice; keep one of them"),
        ("name.first=x", "name has no fields below it"),
        ("dpo.betta=0.2", "did you mean dpo.beta?"),
        ("dpo.beta=0", "dpo.beta = 0: "),
    ],
)
def test_a_bad_override_is_wrong_input(tmp_path, override, says):
    with pytest.raises(InputError) as error:
        files.load(written(tmp_path, minimal()), [override])
    assert says in str(error.value)


def test_the_defaults_are_those_of_the_paper():
    s = files.parse(minimal(), "")
    assert (s.probing.warm_up, s.probing.probing, s.training_size) == (10_000, 10_000, 10_000)
    assert (s.dpo.beta, s.dpo.learning_rate, s.dpo.epochs, s.dpo.batch_size) == (0.1, 1e-6, 1, 2)
    assert (s.sft.learning_rate, s.sft.epochs, s.sft.batch_size, s.sft.per_device_batch_size) == (5e-6, 1, 32, 2)
    for training in (s.sft, s.dpo):
        assert (training.warm_up_share, training.decay_share) == (0.1, 0.4)
        assert (training.min_learning_rate_ratio, training.weight_decay) == (1e-3, 0)
    assert (s.warm_up.learning_rate, s.warm_up.warm_up_share, s.warm_up.decay_share) == (5e-6, 1.0, 0.0)
    write, answer = s.instructions.sampling, s.responses.sampling
    assert (write.temperature, write.repetition_penalty) == (1.0, 1.5)
    assert (answer.temperature, answer.repetition_penalty) == (0.6, 1.0)
    for sampling in (write, answer):
        assert (sampling.top_p, sampling.presence_penalty, sampling.max_tokens) == (0.9, 1.0, 1024)
    assert (s.instructions.seed_shots, s.instructions.generated_shots, s.instructions.samples_per_prompt) == (6, 2, 4)
    assert (s.instructions.max_rouge_l, s.instructions.max_characters) == (0.7, 400)
    assert (s.teacher.max_length, s.teacher.dtype) == (1024, "bfloat16")
    assert (s.influence.estimator, s.preferences.split, s.probing.student) == ("taylor", "zero", "previous")
    assert s.seeds.source == "vicgalle/alpaca-gpt4"


def test_setting_one_field_of_a_block_leaves_the_papers_values_in_the_others():
    s = files.parse(
        minimal(
            instructions={"sampling": {"max_tokens": 64}},
            responses={"sampling": {"max_tokens": 64}},
            warm_up={"learning_rate": 1e-4},
            dpo={"epochs": 2},
        ),
        "",
    )
    assert s.instructions.sampling.repetition_penalty == 1.5
    assert s.responses.sampling.temperature == 0.6
    assert (s.warm_up.warm_up_share, s.warm_up.decay_share) == (1.0, 0.0)
    assert (s.dpo.beta, s.dpo.learning_rate) == (0.1, 1e-6)


def test_settings_never_change_after_loading():
    with pytest.raises(ValueError, match="frozen"):
        files.parse(minimal(), "").seed = 1


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x85"))  # PyYAML reads this line break as a space
SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "seed": st.integers(0, 2**31 - 1),
        "seeds": st.one_of(TEXT, st.fixed_dictionaries({"source": TEXT}, optional={"limit": st.integers(1)})),
        "test": st.none() | st.just("t.jsonl"),
        "dpo": st.fixed_dictionaries(
            {}, optional={"learning_rate": st.floats(1e-12, 1), "beta": st.floats(1e-6, 10, allow_nan=False)}
        ),
        "instructions": st.fixed_dictionaries(
            {},
            optional={
                "forbidden_words": st.lists(TEXT),
                "sampling": st.fixed_dictionaries({}, optional={"temperature": st.floats(0, 3)}),
            },
        ),
        "teacher": st.just({"source": "x", "lora": {"target_modules": ["q_proj"]}}),
    },
)


@settings(deadline=None)  # an example may take long on a busy machine
@given(SETTINGS)
def test_what_is_dumped_loads_as_it_was(tmp_path_factory, changes):
    parsed = files.parse(minimal(**changes), "")
    path = tmp_path_factory.mktemp("dumped") / "run.yaml"
    path.write_text(files.dump(parsed.model_dump(mode="json")), encoding="utf-8")
    assert files.load(path) == parsed


def test_any_block_dumps_as_yaml():
    assert yaml.safe_load(files.dump(Sampling(temperature=0.5).model_dump(mode="json")))["temperature"] == 0.5
    assert Lora.model_validate(yaml.safe_load(files.dump(Lora(rank=3).model_dump(mode="json")))) == Lora(rank=3)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_configuration_that_is_shipped_loads(path):
    loaded = files.load(path)
    assert isinstance(loaded, Settings)
    assert loaded.name == path.stem


@pytest.mark.parametrize("path", SUITES, ids=lambda p: p.stem)
def test_every_suite_that_is_shipped_loads(path):
    assert files.block(Suite, files.read(path), str(path)).name == path.stem


def test_an_unknown_setting_of_one_benchmark_is_told_with_what_was_meant():
    with pytest.raises(InputError, match=r"quick\.yaml: unknown setting benchmarks\.gsm8k\.shot; did you mean .*shots"):
        files.block(
            Suite, {"name": "quick", "benchmarks": {"gsm8k": {"task": "gsm8k", "metric": "x", "shot": 1}}}, "quick.yaml"
        )
