"""Words after a number that change it, in other languages."""

from filters.rules.correct import grade_response


def test_powers_in_other_languages_change_the_number_but_square_meters_do_not():
    for answer in (
        "Ответ: 5 в квадрате",
        "Odpowiedź: 5 do kwadratu",
        "答案: 5的平方",
        "答え: 5の二乗",
        "답: 5의 제곱",
    ):
        assert grade_response("5", answer, "math").outcome != "passed", answer
    for answer in ("答案: 5平方米", "答え: 5平方メートル", "답: 5제곱미터"):
        assert grade_response("5", answer, "math").outcome == "passed", answer
