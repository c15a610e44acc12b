"""What the card of a student says of its training."""

from pipeline.publish.student import _flat


def test_texts_that_are_sent_with_requests_are_on_no_card() -> None:
    sent = {"user": "anna@example.com", "tags": ["a"], "top_k": 20, "store": False}
    settings = {"labels": {"teacher": {"model": "big", "extra_body": sent}}, "seed": 7}
    assert _flat("", settings) == [
        ("labels.teacher.model", "big"),
        ("labels.teacher.extra_body.top_k", "20"),
        ("labels.teacher.extra_body.store", "False"),
        ("seed", "7"),
    ]
