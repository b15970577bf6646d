"""Tables of text: how they are written is found, or refused with what to do."""

import gzip
import logging

import numpy as np
import pandas as pd
import pytest

import pyro_vae as pv

FOUND = {
    "commas": ("a,b\n1,2.5\n3,4\n", {"a": [1, 3], "b": [2.5, 4]}),
    "semicolons and decimal commas": (
        "height;weight\n10,3;9,7\n8,9;10,7\n",
        {"height": [10.3, 8.9], "weight": [9.7, 10.7]},
    ),
    "semicolons and decimal points": ("a;b\n1.5;2\n3;4\n", {"a": [1.5, 3], "b": [2, 4]}),
    "tabs": ("a\tb\n1\t2\n", {"a": [1], "b": [2]}),
    "vertical bars": ("a|b\n1|2\n", {"a": [1], "b": [2]}),
    "decimal commas between quotes": ('a,b\n"1,5","2"\n', {"a": [1.5], "b": [2]}),
    "a separator in a name": ('a,"b, c"\n1,2\n', {"a": [1], "b, c": [2]}),
    "one column": ("a\n1\n2.5\n", {"a": [1, 2.5]}),
    "a name of two words": ("height in cm\n1\n2.5\n", {"height in cm": [1, 2.5]}),
    "a separator at the end of rows": ("a,b\n1,2,\n4,5,\n", {"a": [1, 4], "b": [2, 5]}),
    "and of the header": ("a,b,\n1,2,\n4,5,\n", {"a": [1, 4], "b": [2, 5]}),
    "missing cells": ("a,b\n1,\n,2\n", {"a": [1, np.nan], "b": [np.nan, 2]}),
    "blank lines": ("a,b\n1,2\n\n3,4\n\n", {"a": [1, 3], "b": [2, 4]}),
    "a byte order mark": ("\ufeffa,b\n1,2\n", {"a": [1], "b": [2]}),
    "numbered columns": ("0,1\n3,4\n", {"0": [3], "1": [4]}),
    "labels of rows": (",a,b\n7,1,2\n3,4,5\n", {"a": [1, 4], "b": [2, 5]}),
    "labels in words": (",a,b\nx,1,2\ny,4,5\n", {"a": [1, 4], "b": [2, 5]}),
    "labels of numbered columns": (",0,1\n0,1,2\n1,4,5\n", {"0": [1, 4], "1": [2, 5]}),
    "a decimal comma after a zero": ("a;b\n0,123;2\n1,234;3\n", {"a": [0.123, 1.234], "b": [2, 3]}),
    "labels that were read and written": ("Unnamed: 0,a\n0,1\n1,4\n", {"a": [1, 4]}),
}
REFUSED = {
    "a name too few": ("a,b\n1,2,3\n4,5,6\n", "names in its header, 2; got 3 in row 0; name every"),
    "a cell too few": ("a,b\n1,2\n3\n", "names in its header, 2; got 1 in row 1"),
    "decimal commas or two columns": ("a\n1,5\n2,5\n", "or, if these are decimal commas, separate"),
    "a last column without a name": ("a,b,\n1,2,3\n4,5,\n", "no name for column 2"),
    "a column without a name": ("a,,b\n1,2,3\n", "no name for column 1; name every column"),
    "one name twice": ("a,a\n1,2\n", "two columns named 'a'"),
    "blanks": ("a b\n1 2\n3 4\n", "separated by blanks; separate its cells by commas or tabs"),
    "two decimal marks": ("a;b\n1.5;2\n1;2,5\n", "'1.5' in row 0 and '2,5' in row 1"),
    "thousands": ("a;b\n1.234,5;2\n", "'1.234,5' in row 0: marks between thousands"),
    "commas between thousands": (
        'price,n\n"1,234",2\n"12,500",3\n999,1\n',
        "'1,234' in row 0: its c",
    ),
    "or in semicolons": ("a;b\n52,000;2\n48,500;3\n", "commas may be decimal or between thousands"),
    "a word among numbers": (
        "a,b\n1,2\n?,3\n4,5\n",
        "'?' among the numbers of column 'a', in row 1",
    ),
    "two separators": ("a,b;c\n1,2;3\n", "may be separated by commas or semicolons"),
    "labels that are equal": (",a\n1,1\n1,2\n", "do not label the rows"),
    "labels that are fractions": (",a\n0.5,1\n1,2\n", "do not label the rows"),
    "an empty file": ("\n", "is empty; give a header line"),
    "numbers first": ("1.5,2\n3,4\n", "numbers in its first line, 1.5, 2 ...; give it a header"),
    "numbers and nothing first": ("1.5,,2\n3,4,5\n", "numbers in its first line"),
    "one number again and again": ("1,1,1\n3,4,5\n", "numbers in its first line"),
    "no UTF-8": ("name,a\n\udce4,1\n", "is no text in UTF-8"),
}


def write(folder, text, name="x.csv"):
    (folder / name).write_bytes(text.encode(errors="surrogateescape"))
    return folder / name


@pytest.mark.parametrize("case", FOUND)
def test_what_is_found(case, tmp_path):
    text, expected = FOUND[case]
    found = pv.data.load(write(tmp_path, text))
    pd.testing.assert_frame_equal(found, pd.DataFrame(expected), check_dtype=False)


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case, tmp_path):
    text, message = REFUSED[case]
    with pytest.raises(pv.DataError) as raised:
        pv.data.load(write(tmp_path, text))
    assert message in str(raised.value)
    assert str(raised.value).startswith("x.csv")


def test_a_row_that_is_another_after_thousands(tmp_path):
    rows = ["1,2"] * 3000
    rows[2500] = "1,2,3"
    with pytest.raises(pv.DataError, match="3 cells in row 2500"):
        pv.data.load(write(tmp_path, "\n".join(["a,b", *rows])))


@pytest.mark.parametrize("names", ["abc", "012"])
@pytest.mark.parametrize("index", [False, True])
def test_what_pandas_writes(index, names, tmp_path):
    """With its row numbers, which are no column of the data, or without."""
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(20, 3)), columns=list(names))
    frame = frame.sample(frac=1, random_state=0)
    frame.to_csv(tmp_path / "x.csv", index=index)
    found = pv.data.load(tmp_path / "x.csv")
    pd.testing.assert_frame_equal(found, frame.reset_index(drop=True))


def test_another_decimal_mark_after_thousands(tmp_path):
    rows = ["1,5;2"] * 3000 + ["1.5;2"]
    with pytest.raises(pv.DataError, match=r"'1.5' among the numbers of column 'a', in row 3000"):
        pv.data.load(write(tmp_path, "\n".join(["a;b", *rows])))


@pytest.mark.parametrize("name", ["x.csv", "x.TSV", "x.txt", "x.csv.gz"])
def test_names_of_files(name, tmp_path):
    path = write(tmp_path, "a\tb\n1\t2\n", name)
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(path.read_bytes()))
    assert pv.data.load(path).to_dict("list") == {"a": [1], "b": [2]}


def test_the_log_says_what_was_read(tmp_path, caplog):
    caplog.set_level(logging.INFO, "pyro_vae.data")
    pv.data.load(write(tmp_path, ";height;weight\n1;10,3;9,7\n2;8,9;10,7\n"))
    assert caplog.messages == [
        "read x.csv: rows: 2; columns: 2 (height, weight); separated by semicolons, with decimal "
        "commas; the labels of its rows, in a first column without a name, are left out",
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x.xlsx", "save the sheet as .csv"),
        ("x.h5ad", "it must be complete"),
    ],
)
def test_files_that_others_read(name, message, tmp_path):
    with pytest.raises(pv.DataError, match=message):
        pv.data.load(write(tmp_path, "PK", name))


@pytest.mark.parametrize("ending", [".parquet", ".feather"])
def test_tables_that_pyarrow_reads(ending, tmp_path):
    """Where it is installed; else the message says what to install."""
    frame = pd.DataFrame({"a": [1.5, 2.5], "b": [3, 4]})
    path = tmp_path / f"x{ending}"
    try:
        frame.to_parquet(path) if ending == ".parquet" else frame.to_feather(path)
    except ImportError:
        with pytest.raises(pv.DataError, match="files need pyarrow; pip install pyarrow"):
            pv.data.load(write(tmp_path, "PAR1", path.name))
    else:
        pd.testing.assert_frame_equal(pv.data.load(path), frame)
