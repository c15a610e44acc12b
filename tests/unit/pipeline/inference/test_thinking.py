import pytest

from pipeline.inference.thinking import arguments, asked, switch_of, thinks, with_template_arguments
from tests.tiny_student import CHATML, SWITCHED

PROMPT = [{"role": "system", "content": "Add."}, {"role": "user", "content": "1 + 1?"}]


@pytest.mark.parametrize(
    ("template", "switch"),
    [
        (SWITCHED, "enable_thinking"),
        ("{% if thinking %}<think>{% else %}</think>{% endif %}", "thinking"),
        (CHATML, "user"),
        ("{{ message.thinking }}{# enable_thinking #} 'thinking'", "user"),
        ("{% generation %}{{ enable_thinking }}{% endgeneration %}", "enable_thinking"),
        (
            "{% for m in messages %}{% if not enable_thinking %}{% break %}{% endif %}{% endfor %}",
            "enable_thinking",
        ),
    ],
)
def test_the_switch_is_the_variable_that_the_template_reads(template: str, switch: str) -> None:
    assert switch_of(template) == switch


def test_a_variable_is_sent_for_both_forms_and_words_only_to_switch_off() -> None:
    assert arguments("thinking", True) == {"thinking": True}
    assert arguments("enable_thinking", False) == {"enable_thinking": False}
    assert arguments("user", False) == arguments(None, True) == {}
    assert asked(PROMPT, "enable_thinking", False) == asked(PROMPT, "user", True) == PROMPT
    assert asked(PROMPT, "user", False)[1]["content"] == "1 + 1? /no_think"
    assert asked(PROMPT, "system", False)[0]["content"] == "Add.\n/no_think"
    assert asked(PROMPT[1:], "system", False)[0] == {"role": "system", "content": "/no_think"}
    assert PROMPT[1]["content"] == "1 + 1?"


def test_a_dialogue_is_asked_to_think_if_its_answer_does() -> None:
    assert thinks("chat", "<think>x</think>y")
    assert not thinks("chat", "y")
    assert not thinks("plain", "y")
    assert thinks("reasoning", "y")


def test_the_recipe_s_own_template_arguments_are_kept() -> None:
    given = {"top_k": 20, "chat_template_kwargs": {"style": "short", "thinking": True}}
    sent = with_template_arguments(given, {"thinking": False})
    assert sent == {"top_k": 20, "chat_template_kwargs": {"style": "short", "thinking": False}}
    assert with_template_arguments(given, {}) == given
