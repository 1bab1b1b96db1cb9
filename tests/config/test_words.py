import os

import pytest
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st

from roiseg.config.argv import quote_overrides
from roiseg.config.entry import numeric_keys


def values(words):
    overrides = OverridesParser.create().parse_overrides(words)
    return {o.key_or_group: o.value() for o in overrides if not o.is_sweep_override()}


def parsed(arguments, key="runs", **options):
    """What Hydra understands: values by key."""
    quoted = quote_overrides(arguments, key, **options)
    words = [word for word in quoted if not word.startswith("-") and "=" in word]
    assert values(words) == values(quote_overrides(words, **options))  # processes get quoted words again
    return values(words)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["a", "b/c"], {"runs": ["a", "b/c"]}),
        (["x=1"], {"x": 1}),
        (["a b", "it's", "x=null", "c"], {"runs": ["a b", "it's", "c"], "x": None}),
        (["a", "baseline=model.num_classes=2"], {"runs": ["a"], "baseline": "model.num_classes=2"}),
        (["by=model,loss", "a"], {"runs": ["a"], "by": "model,loss"}),
        (["by=[model,loss]"], {"by": ["model", "loss"]}),
        (["baseline='a=b, c'"], {"baseline": "a=b, c"}),
        (["baseline=x (2)"], {"baseline": "x (2)"}),
        (["output_dir="], {"output_dir": ""}),
    ],
)
def test_words_become_a_list_and_values_need_no_quotes(arguments, expected):
    assert parsed(arguments) == expected


def test_options_and_their_values_stay_and_may_follow_words_and_values():
    """Hydra's parser takes no more words once an option stands between them."""
    assert quote_overrides(["--help"], "runs") == ["--help"]
    assert quote_overrides(["--cfg", "job", "a"], "runs") == ["runs=['a']", "--cfg", "job"]
    arguments = quote_overrides(["a", "by=x", "--cfg", "job"], "runs")
    assert get_args_parser().parse_args(arguments).overrides == ["runs=['a']", "by=x"]


def test_a_folder_whose_name_has_an_equals_sign_is_a_word(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model=unet").mkdir()
    assert parsed(["model=unet", "x=2"]) == {"runs": ["model=unet"], "x": 2}


WORDS = st.text(st.characters(exclude_characters="=\0\n\r$", exclude_categories=["Cs", "Cc"]), min_size=1)


@given(st.lists(WORDS.filter(lambda word: not word.startswith(("-", "~")))))
@settings(max_examples=30)
def test_any_word_arrives_as_it_is(words):
    assert parsed(words).get("runs", []) == words


TEXTS = [
    "2024", "1e5", "true", "~x", " a ", "a=b, c", "größe", "it's", "[bold]x", "{a", "a(1)", "$a", "a\\", "\udcff", "a\nb",
]  # fmt: skip


@pytest.mark.parametrize("key", ["source", "ckpt", "paths.output_dir", "data.train_images", "+hydra.run.dir"])
@pytest.mark.parametrize("text", TEXTS)
def test_a_name_or_path_is_text_in_every_command(key, text):
    assert parsed([f"{key}={text}"], None) == {key.lstrip("+"): text}


@given(st.text(st.characters(exclude_characters="\0")))
def test_any_path_arrives_as_it_is(text):
    lists = text[:1] in ("[", "{", "'", '"') or text.lower() == "null" or "${" in text
    read = os.path.expanduser(text) if text == "~" or text[:2] == "~/" else text
    assert lists or parsed([f"data.val_images={text}"], None) == {"data.val_images": read}


def test_a_leading_tilde_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/a home/of,mine")
    words = ["paths.root_dir=~/b c", "hydra.sweep.dir=~", "variant=~b/c", "output=a/~/b"]
    assert parsed(words, None) == {
        "paths.root_dir": "/a home/of,mine/b c", "hydra.sweep.dir": "/a home/of,mine",
        "variant": "~b/c", "output": "a/~/b",
    }  # fmt: skip


def test_among_words_a_tilde_before_a_key_deletes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert quote_overrides(["a", "~rules.votes", "~data/augment", "~/b"], "runs") == [
        "runs=['a','~/b']", "~rules.votes", "~data/augment",
    ]  # fmt: skip
    (tmp_path / "~rules.votes").touch()
    assert quote_overrides(["~rules.votes"], "runs") == ["runs=['~rules.votes']"]


def test_what_exists_is_text_whatever_it_looks_like(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("[a,b]", "a,b", "null", "'q'"):
        (tmp_path / name).touch()
        assert parsed(["-m", f"ckpt={name}"]) == {"ckpt": name}
        assert parsed(["a=1", name]) == {"a": 1, "runs": [name]}


@pytest.mark.parametrize(
    "arguments",
    [
        ["seed=1,2", "model=unet,sam", "ckpt_path=a,b", "-m"],
        ["ckpt_path=choice(a,b)", "hydra.mode=MULTIRUN"],
        ["model=glob(*)", "x=range(1,4)", "ckpt_path=null"],
        ["source=[a,b]", "data.cache={a:1}", "paths.output_dir=${x.y}"],
        ["~callbacks.onnx_export", "+a.b=[1,2]", "data/zooms@zooms=small", "output_dir=/a/b-1.c"],
    ],
)
def test_what_hydra_is_meant_to_read_stays(arguments):
    wanted = [arg.replace("${x.y}", "'${x.y}'") for arg in arguments]
    assert quote_overrides(arguments) == wanted


@pytest.mark.parametrize(
    ("fixed", "job"),
    [
        ("data.folds.held_out=1", 1),
        ("optimizer.lr=1e-3", 0.001),
        ("extractor.layers=[a,'b, c']", ["a", "b, c"]),
        ("data.cache={a: 1}", {"a": 1}),
        ("variant='a, b=c'", "a, b=c"),
        ("paths.cache_dir=/a b/c", "/a b/c"),
        ("data.train_limit=null", None),
        ("model.film=true", True),
    ],
)
def test_beside_swept_choices_a_fixed_value_is_the_only_value_of_its_jobs(fixed, job):
    quoted = quote_overrides(["-m", "model=a,b", fixed])[-1]
    (override,) = OverridesParser.create().parse_overrides([quoted])
    if job is None:  # Hydra's grammar has no sweep over null
        assert quoted == fixed
        return
    assert override.is_sweep_override()
    (text,) = override.sweep_string_iterator()
    (of_job,) = OverridesParser.create().parse_overrides([f"{override.key_or_group}={text}"])
    assert of_job.value() == job
    assert quote_overrides(["-m", fixed]) == [
        "-m",
        *quote_overrides([fixed]),
    ]  # without swept choices it stays


@pytest.mark.parametrize(
    "word", ["model=unet", "+a.b=1", "~callbacks.ema", "hydra.sweep.dir=x", "hydra/launcher=joblib"]
)
def test_beside_swept_choices_these_stay(word):
    assert quote_overrides(["-m", "loss=ce,ce_dice", word]) == ["-m", "loss=ce,ce_dice", word]


def test_a_key_may_be_a_number_in_one_command_and_a_name_in_another():
    assert parsed(["runs=10", "test=true"], None, others=numeric_keys("export")) == {"runs": 10, "test": True}
    assert parsed(["runs=10"], None, others=numeric_keys("doctor")) == {"runs": "10"}
