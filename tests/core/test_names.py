"""Names become parts of paths: none leads out of its folder, and two texts never share a file."""

import pytest

from sft_core.names import file_name, name_problem


@pytest.mark.parametrize("text", ["a", "sft-sweep", "Qwen2.5 7B", "étude", "2024_run.v1", "精度"])
def test_names(text: str) -> None:
    assert name_problem(text) is None


@pytest.mark.parametrize("text", ["", ".", "..", "../../../evil", "a/b", "/etc", ".hidden", "a ", " a", "a.", "a\n",
                                  "a\0", "a:b", "-rf", "x" * 101, "é" * 51])
def test_no_names(text: str) -> None:
    assert "this is no name" in (name_problem(text) or "")


def test_texts_that_differ_have_files_of_their_own() -> None:
    texts = ["lm:arc", "lm-arc", "lm arc", "../arc", "..", ".", "", "精度", "语言", "a" * 300, "a" * 301, "arc@chat"]
    files = [file_name(text) for text in texts]
    assert len(set(files)) == len(texts)
    assert not [file for file in files if "/" in file or file.startswith(".") or len(file.encode()) > 120]
    assert file_name("lm-arc") == "lm-arc"
    assert file_name("精度") == "精度"
    assert file_name("lm:arc").startswith("lm-arc-")
