from __future__ import annotations

import pytest
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from roiseg.cli.words import to_overrides


def parsed(arguments):
    """What Hydra understands: values by key."""
    words = [word for word in to_overrides(arguments, "runs") if not word.startswith("-") and "=" in word]
    overrides = OverridesParser.create().parse_overrides(words)
    return {override.key_or_group: override.value() for override in overrides}


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


def test_options_and_their_values_stay(tmp_path):
    assert to_overrides(["--cfg", "job", "a"], "runs") == ["runs=['a']", "--cfg", "job"]
    assert to_overrides(["--help"], "runs") == ["--help"]


def test_a_folder_whose_name_has_an_equals_sign_is_a_word(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model=unet").mkdir()
    assert parsed(["model=unet", "x=2"]) == {"runs": ["model=unet"], "x": 2}


@given(
    st.lists(
        st.text(st.characters(exclude_characters="=\0\n\r$", exclude_categories=["Cs", "Cc"]), min_size=1)
    )
)
def test_any_word_arrives_as_it_is(words):
    words = [word for word in words if not word.startswith("-")]
    assert parsed(words).get("runs", []) == words


def test_options_may_follow_words_and_values():
    """Hydra's parser takes no more words once an option stands between them."""
    arguments = to_overrides(["a", "by=x", "--cfg", "job"], "runs")
    assert get_args_parser().parse_args(arguments).overrides == ["runs=['a']", "by=x"]
