import json
import re

import pytest

from genkit.config import Config, parse_count, parse_duration, range_text, suggest
from genkit.errors import InputError, UsageError
from genkit.image.config import GANTrainConfig
from genkit.image.lists import parse_seeds
from genkit.image.modelconfig import DCGANConfig, PlusConfig, read_model_config
from genkit.text.config import GenerationConfig, GPTConfig
from genkit.text.trainconfig import TextTrainConfig


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("45s", 45), ("10m", 600), ("2h", 7200), ("1h30m", 5400), ("1h2m3s", 3723), (" 1.5M ", 90)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "m", "-5m", "5 minutes", "1h30", "1.2.3m", "nan", "3d"])
def test_not_durations(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "count"),
    [("0", 0), ("5000", 5000), ("200k", 200_000), ("1.5M", 1_500_000), ("2.3m", 2_300_000), ("2B", 2 * 10**9)],
)
def test_counts(text: str, count: int) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["", "-3", "1e6", "0.4", "1.2345k", "many"])
def test_not_counts(text: str) -> None:
    with pytest.raises(ValueError, match="count"):
        parse_count(text)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"temperature": -1.0}, "--temperature -1.0 is out of range (use 0 <= x <= 100)"),
        ({"temperature": float("nan")}, "--temperature nan is out of range"),
        ({"top_p": 0.0}, "--top-p 0.0 is out of range (use 0 < x <= 1)"),
        ({"n": 0}, "--n 0 is out of range"),
        ({"stop": ("",)}, "--stop ''"),
        ({"min_new_tokens": 9, "max_new_tokens": 8}, "raise --max-new-tokens"),
    ],
)
def test_a_value_out_of_range_names_flag_value_and_rule(settings: dict, said: str) -> None:
    with pytest.raises(UsageError) as error:
        GenerationConfig(**settings)
    assert said in str(error.value)


@pytest.mark.parametrize("cls", [TextTrainConfig, GANTrainConfig])
@pytest.mark.parametrize("budget", [-5, 0.0])
def test_a_budget_is_above_zero(cls: type[Config], budget: float) -> None:
    with pytest.raises(UsageError, match=f"--budget {budget} is out of range") as caught:
        cls.from_dict({"budget": budget})
    assert caught.value.hint == "use 0 < x"


def test_counts_of_nothing_are_refused_but_where_zero_means_off() -> None:
    assert GANTrainConfig(ema_images=0).ema_images == 0
    for cls, name in ((GANTrainConfig, "images"), (TextTrainConfig, "tokens"), (TextTrainConfig, "eval_tokens")):
        with pytest.raises(UsageError, match="0 is out of range"):
            cls.from_dict({name: 0})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"steps": 1.5}, "--steps 1.5 has the wrong type (give a whole number)"),
        ({"steps": True}, "--steps True has the wrong type (give a whole number)"),
        ({"batch_size": "32"}, "--batch-size '32' has the wrong type (give a whole number)"),
        ({"batch_size": None}, "--batch-size None has the wrong type (give a whole number)"),
        ({"lr": "1e-3"}, "--lr '1e-3' has the wrong type (give a number)"),
        ({"compile": 1}, "--compile 1 has the wrong type (give true or false)"),
        ({"out": 7}, "--out 7 has the wrong type (give text)"),
        ({"data": "book.txt"}, "--data 'book.txt' has the wrong type (give a list of text)"),
        ({"data": ["book.txt", 3]}, "--data 3 has the wrong type (give text)"),
        ({"arch": ["qwen3"]}, "--arch ('qwen3',) has the wrong type (give text)"),
    ],
)
def test_a_value_of_another_type_names_flag_value_and_type(values: dict, said: str) -> None:
    with pytest.raises(UsageError) as error:
        TextTrainConfig.from_dict(values)
    assert said in str(error.value)


def test_a_whole_number_is_a_number() -> None:
    assert TextTrainConfig.from_dict({"lr": 1, "budget": 600, "steps": None}).lr == 1


def test_choices_suggest_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'llama'"):
        TextTrainConfig(arch="lama")


def test_only_wsd_has_a_cooldown_for_the_warmup_to_meet() -> None:
    with pytest.raises(UsageError, match=r"--warmup 0\.8 and --cooldown 0\.7"):
        TextTrainConfig(warmup=0.8)
    for schedule in ("cosine", "constant"):
        assert TextTrainConfig(warmup=0.8, schedule=schedule).warmup == 0.8


def test_accumulate_must_divide_the_batch() -> None:
    with pytest.raises(UsageError, match="use 4"):
        TextTrainConfig(batch_size=32, accumulate=7)


@pytest.mark.parametrize("config", [GenerationConfig(stop=("a", "b")), TextTrainConfig(data=("x",)), GANTrainConfig()])
def test_a_config_survives_its_dict(config: Config) -> None:
    as_json = {k: list(v) if isinstance(v, tuple) else v for k, v in config.to_dict().items()}
    assert type(config).from_dict(as_json) == config


def test_an_unknown_key_is_refused_with_a_suggestion() -> None:
    with pytest.raises(UsageError, match="did you mean 'temperature'"):
        GenerationConfig.from_dict({"temprature": 1})


def test_range_text_and_suggestions() -> None:
    from genkit.config import Option

    assert range_text(Option("", above=0, max=1)) == "0 < x <= 1"
    assert range_text(Option("", min=3)) == "3 <= x"
    assert range_text(Option("", min=0.05, max=1_000_000)) == "0.05 <= x <= 1000000"
    assert suggest("kitens", ["kittens", "story"]) == "did you mean 'kittens'?"
    assert suggest("zzz", ["a", "b"]) == "there is a, b"


def test_seed_lists() -> None:
    assert parse_seeds("0-3,40") == [0, 1, 2, 3, 40]
    for bad in ("", "3-1", "a", "0-99999999", "1,,2"):
        with pytest.raises(UsageError, match="--seeds"):
            parse_seeds(bad)


@pytest.mark.parametrize("arch", ["gpt2", "llama", "qwen3"])
def test_gpt_config_survives_the_transformers_layout(arch: str) -> None:
    config = GPTConfig(
        arch=arch, vocab_size=99, block_size=32, n_layer=2, n_head=4, n_kv_head=4 if arch == "gpt2" else 2,
        n_embd=32, head_dim=8, n_inner=96, norm_eps=1e-5, tie_embeddings=False, bos_id=1, eos_id=2,
    )  # fmt: skip
    assert GPTConfig.from_hf(config.to_hf()) == config


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "bert"}, "model_type 'bert'"),
        ({"hidden_size": 0}, "n_embd is 0"),
        ({"num_hidden_layers": 10**9}, "n_layer"),
        ({"hidden_act": "relu"}, "hidden_act='relu'"),
        ({"rope_scaling": {"rope_type": "yarn"}, "rope_parameters": None}, "RoPE scaling"),
        ({"num_key_value_heads": 3}, "do not divide"),
        ({"vocab_size": "many"}, "vocab_size is 'many'"),
        ({"rope_scaling": "linear", "rope_parameters": None}, "RoPE scaling 'linear'"),
        ({"rope_theta": "abc"}, "'abc'"),
        ({"rms_norm_eps": "small"}, "'small'"),
        ({"eos_token_id": ["</s>"]}, "eos_id is '</s>', not a token"),
    ],
)
def test_a_hostile_or_foreign_config_is_refused(change: dict, said: str) -> None:
    good = GPTConfig(
        arch="llama", vocab_size=9, block_size=8, n_layer=1, n_head=2, n_kv_head=2, n_embd=8, head_dim=4, n_inner=8
    ).to_hf()
    with pytest.raises(InputError, match=said):
        GPTConfig.from_hf(good | change)


def test_the_first_of_several_end_tokens_counts() -> None:
    good = GPTConfig(
        vocab_size=9, block_size=8, n_layer=1, n_head=2, n_kv_head=2, n_embd=8, head_dim=4, n_inner=8
    ).to_hf()
    assert [GPTConfig.from_hf(good | {"eos_token_id": ends}).eos_id for ends in ([5, 7], [])] == [5, None]


def test_dcgan_config_round_trip_and_refusal() -> None:
    config = DCGANConfig(size=32, channels=1, d_norm="none")
    assert read_model_config(config.to_dict()) == config
    out_of_range = ({"size": 65}, {"channels": 2}, {"nz": 0}, {"ngf": 10**6}, {"layers": 3}, {"arch": "gan"})
    other_types = ({"arch": []}, {"size": 64.0}, {"channels": [3]}, {"channels": True}, {"nz": "100"}, {"ndf": None})
    for bad in (*out_of_range, *other_types):
        with pytest.raises(InputError, match="model config"):
            read_model_config(config.to_dict() | bad)


def test_plus_config_names_its_classes() -> None:
    config = PlusConfig(size=32, channels=4, classes=("cat", "dog"))
    assert read_model_config(json.loads(json.dumps(config.to_dict()))) == config
    for classes in (["cat"], ["cat", "cat"], [1, 2], "cats", 5, None):
        with pytest.raises(InputError, match="classes"):
            read_model_config(config.to_dict() | {"classes": classes})
    with pytest.raises(InputError, match="classes"):
        read_model_config(DCGANConfig().to_dict() | {"classes": ["cat", "dog"]})


def test_plus_config_smooths_by_levels_that_there_are() -> None:
    config = PlusConfig(smoothing=5)
    assert read_model_config(json.loads(json.dumps(config.to_dict()))) == config
    without = {name: value for name, value in config.to_dict().items() if name != "smoothing"}
    assert read_model_config(without) == PlusConfig()  # a model of before there was any
    for levels in (0, 0.1, 255):
        assert read_model_config(without | {"smoothing": levels}).to_dict()["smoothing"] == levels
    for levels in (-1, 1e-20, 0.09, 255.5, float("nan"), "5", True, None):
        with pytest.raises(InputError, match=r"model config: smoothing=.* is not a plus"):
            read_model_config(without | {"smoothing": levels})
    with pytest.raises(InputError, match="unknown key 'smoothing'"):
        read_model_config(DCGANConfig().to_dict() | {"smoothing": 5})


@pytest.mark.parametrize("text", ["0", "1e-20", "256", "nan", "much", "-5", ""])
def test_smoothing_asked_for_has_a_rule_and_a_remedy(text: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"--smoothing {text!r} is neither auto, off nor 0.1 to 255 levels")):
        GANTrainConfig(smoothing=text)
    with pytest.raises(UsageError, match="--smoothing belongs to --arch plus, not dcgan"):
        GANTrainConfig(smoothing="5", arch="dcgan")
    for good in ("auto", "off", "0.1", "255", "7.5"):
        assert GANTrainConfig(smoothing=good).smoothing == good
    assert GANTrainConfig(smoothing="off", arch="dcgan").smoothing == "off"
