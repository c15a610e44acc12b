from pipeline.config.toml_lines import lines_of

TEXT = """\
run = "x"  # line 1

[[ingest.sources]]
kind = "file"
[[ingest.sources]]
# a comment
path = [
    "a",
    "b",
]
text = '''
limit = 3
'''
limit = 4
"""


def test_a_key_is_found_where_its_value_begins() -> None:
    keys = {"run": 1, "ingest.sources.0.kind": 4, "ingest.sources.1.path": 7, "ingest.sources.1.path.1": 7}
    assert lines_of(TEXT, keys) == keys
    assert lines_of(TEXT, ["ingest.sources.1.limit"]) == {"ingest.sources.1.limit": 14}
    assert lines_of(TEXT.replace("\n", "\r\n"), keys) == keys


def test_a_missing_key_has_the_line_of_its_table_or_none() -> None:
    missing = ["ingest.sources.1.kind", "teacher.model"]
    assert lines_of(TEXT, missing) == {"ingest.sources.1.kind": 5}
    assert lines_of("", ["run"]) == {}
