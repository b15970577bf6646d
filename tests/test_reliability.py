"""What docs/reliability.md says holds a promise is there, in the number that it says."""

import re
from pathlib import Path

from test_malicious_files import CASES
from test_mutants import MUTANTS

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "reliability.md").read_text()
ROWS = [line.split("|")[1:-1] for line in PAGE.splitlines() if line.startswith("|")][2:]


def test_each_promise_names_tests_that_are_there():
    promises = [row for row in ROWS if not row[1].strip().startswith("**")]
    assert len(promises) > 25
    for _, promise, held_by, _ in promises:
        names = re.findall(r"\btest_\w+", held_by)
        assert names or held_by.strip() == "by hand", promise
        for name in names:
            assert (TESTS / f"{name}.py").is_file(), name


def test_the_numbers_of_mutants_and_files_are_those_of_the_tests():
    assert f"test_mutants: {len(MUTANTS)} mutants" in PAGE
    assert f"{len(MUTANTS)} of {len(MUTANTS)} |" in PAGE
    assert f"test_malicious_files: {len(CASES)} files" in PAGE
