"""What the hot loops share: lower case, words, their cache of compiled code, and the way to other processes."""

import os
import re
import subprocess
import sys
import unicodedata
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dselect.engine import ordered_map
from dselect.kernels.ngrams import count_words, score_ngrams
from dselect.kernels.overlap import run_keys
from dselect.kernels.words import lower_bytes, unicode_version

POINTS = [chr(point) for point in range(0x110000) if not 0xD800 <= point < 0xE000]


def test_lower_case_is_what_python_says_in_the_version_of_the_table():
    if unicodedata.unidata_version != unicode_version():
        pytest.skip("this Python has other letters")
    texts = ["".join(POINTS[start : start + 999]) for start in range(0, len(POINTS), 999)]
    texts += [*POINTS[:0x3000], "", "ΑΣ", "ΑΣ ΣΑ", "İI", "ASCII only", "ȺȾ" * 500]
    data, ends = lower_bytes(texts)
    assert bytes(data) == "".join(text.lower() for text in texts).encode()
    assert np.diff(ends, prepend=0).tolist() == [len(text.lower().encode()) for text in texts]


@given(st.lists(st.text(st.sampled_from("ab_Z9 \n.-!éΣß漢\u0301\u2028😀"), max_size=60), max_size=6))
def test_words_are_what_the_regular_expression_finds(texts):
    words = [re.findall(r"\w+|[^\w\s]+", text.lower()) for text in texts]
    assert count_words(texts).tolist() == [len(found) for found in words]
    alone = run_keys([word for found in words for word in found], 1, marks=True)[0]
    assert run_keys(texts, 1, marks=True)[0].tolist() == alone.tolist()


@pytest.mark.parametrize("longest", [1, 2, 5])
def test_a_text_longer_than_the_loop_s_memory_is_counted_whole(longest):
    words = [f"w{i % 977}" if i % 3 else "é" * (i % 50 + 1) for i in range(30_000)]
    table = np.zeros((1 << 16, 1))
    grams = Counter(tuple(words[i : i + n]) for n in range(1, longest + 1) for i in range(len(words) - n + 1))
    _, count, found = score_ngrams([" ".join(words)], longest, table)
    assert (int(count[0]), int(found[0])) == (grams.total(), len(words))
    one, two = np.random.default_rng(0).random((2, 1 << 16, 1))
    both = score_ngrams([" ".join(words)], longest, np.hstack([one, two]))[0]
    assert both[0].tolist() == [score_ngrams([" ".join(words)], longest, column)[0][0, 0] for column in (one, two)]


def test_compiled_code_is_kept_for_one_state_of_the_sources(tmp_path):
    # numba would run old code where a file has changed that the function's own file only imports
    code = "import dselect.kernels, os; print(os.environ['NUMBA_CACHE_DIR'])"
    run = [sys.executable, "-c", code]
    given = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    folder = subprocess.run(run, env=given, check=True, capture_output=True, text=True).stdout.strip()
    assert folder.startswith(f"{tmp_path}/dselect-")
    inside = {**os.environ, "NUMBA_CACHE_DIR": folder}
    assert subprocess.run(run, env=inside, check=True, capture_output=True, text=True).stdout.strip() == folder


def test_items_of_any_size_come_back_in_order():
    sizes = [0, 1, 4, 100, (2 << 20) - 50, (2 << 20) - 5, 2 << 20, 5 << 20, 3, 2 << 20, 0, 7]
    items = [bytes([97 + number]) * size for number, size in enumerate(sizes)]
    assert list(ordered_map(bytes.upper, items, 2)) == [item.upper() for item in items]
