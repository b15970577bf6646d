"""Tables of text: how they are written is found, or refused with what to do."""

import bz2
import gzip
import logging
import lzma

import numpy as np
import pandas as pd
import pytest

import pyro_vae as pv

COMPRESS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
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
    "comments": ("# made by us\n#\n\na,b\n1,2\n", {"a": [1], "b": [2]}),
    "a comment of as many cells": ("# by us, today\na,b\n1,2\n", {"a": [1], "b": [2]}),
    "a quote in a comment": ('# it is "ours\na,b\n1,2\n', {"a": [1], "b": [2]}),
    "a header behind a mark": ("# a,b\n1,2\n3,4\n", {"a": [1, 3], "b": [2, 4]}),
    "and after comments": ("# by us, today\n#a;b\n1,5;2\n3;4\n", {"a": [1.5, 3], "b": [2, 4]}),
    "and of one column": ("# height\n1\n2\n", {"height": [1, 2]}),
    "a stated separator": ("sep=;\na;b\n1,5;2\n", {"a": [1.5], "b": [2]}),
    "one of two": ('"sep=;"\na,b;c\n1,2;3\n', {"a,b": [1.2], "c": [3]}),
    "stated for one column": ("sep=;\na\n1,5\n2\n", {"a": [1.5, 2]}),
    "points that are decimal": (
        "a;b\n1.234;0.500\n2.345;1.000\n",
        {"a": [1.234, 2.345], "b": [0.5, 1]},
    ),
    "or of other lengths": ("a;b\n1.234;2\n2.3;1\n", {"a": [1.234, 2.3], "b": [2, 1]}),
    "or beside commas": ("a,b\n1.234,2\n2.345,1\n", {"a": [1.234, 2.345], "b": [2, 1]}),
    "words in one column": (
        "name\nJohn Smith\nMary Jones\n",
        {"name": ["John Smith", "Mary Jones"]},
    ),
    "labels that were read and written": ("Unnamed: 0,a\n0,1\n1,4\n", {"a": [1, 4]}),
}
REFUSED = {
    "a name too few": (
        "a,b\n1,2,3\n4,5,6\n",
        "names in its header, 2; got 3 in line 2; name every",
    ),
    "a cell too few": ("a,b\n1,2\n3\n", "names in its header, 2; got 1 in line 3"),
    "decimal commas or two columns": ("a\n1,5\n2,5\n", "or, if these are decimal commas, separate"),
    "a last column without a name": ("a,b,\n1,2,3\n4,5,\n", "no name for column 2"),
    "a column without a name": ("a,,b\n1,2,3\n", "no name for column 1; name every column"),
    "one name twice": ("a,a\n1,2\n", "two columns named 'a'"),
    "blanks": ("a b\n1 2\n3 4\n", "separated by blanks; separate its cells by commas or tabs"),
    "blanks, as R writes them": ('"a" "b"\n"1" 1 2\n"2" 3 4\n', "separated by blanks"),
    "one column, as R writes it": ('"a"\n"x" 1\n"y" 3\n', "separated by blanks"),
    "labels, as R writes them": (
        '"a","b"\n"x",1,2\n"y",3,4\n',
        "names in its header, 2; got 3 in line 2; name every column, and give every row a cell for "
        "each; if the first cells are labels of the rows, as by R's write.table, write it with "
        "col.names=NA",
    ),
    "and numbers of rows": ('"a","b"\n"1",1,2\n"2",3,4\n', "with col.names=NA"),
    "two headers": ("# a,b\nx,1\ny,2\n", "may have its header behind a #, 'a, b', or in the line"),
    "two headers of words": ("# a,b\nc,d\nx,y\n", "may have its header behind a #"),
    "two numbered headers": ("# a,b\n0,1\n2,3\n", "may have its header behind a #"),
    "a comment and no header": ("# a\n1,2\n3,4\n", "numbers in its first line, 1, 2 ...;"),
    "decimal commas first": ("1,5;2,5\n3;4\n", "numbers in its first line, 1,5, 2,5 ...;"),
    "another separator than stated": (
        "sep=;\na,b\n1,2\n",
        "states sep=;, and its lines are separated by commas; take that line away",
    ),
    "an unknown separator": ("sep=!\na!b\n1!2\n", "states sep=!; separate its cells by one of"),
    "a cell too many for the stated one": ("sep=;\na;b\n1;2\n1;2;3\n", "got 3 in line 4"),
    "nothing but comments": ("# a,b\n", "is empty; give a header line"),
    "points between thousands": (
        "a;b\n1.234;2\n12.500;3\n",
        "'1.234' in line 2: its points may be",
    ),
    "two points": ("a,b\n1.234.567,2\n", "'1.234.567' in line 2: marks between thousands"),
    "two decimal marks": ("a;b\n1.5;2\n1;2,5\n", "'1.5' in line 2 and '2,5' in line 3"),
    "thousands": ("a;b\n1.234,5;2\n", "'1.234,5' in line 2: marks between thousands"),
    "commas between thousands": (
        'price,n\n"1,234",2\n"12,500",3\n999,1\n',
        "'1,234' in line 2: its c",
    ),
    "or in semicolons": ("a;b\n52,000;2\n48,500;3\n", "commas may be decimal or between thousands"),
    "a word among numbers": (
        "a,b\n1,2\n?,3\n4,5\n",
        "'?' among the numbers of column 'a', in line 3; mend it, or leave the cell empty",
    ),
    "words among numbers": (
        "a,b\n1,2\n?,3\n-,5\n4,5\n6,7\n8,9\n",
        "'?' among the numbers of column 'a', in line 3 (and 1 more); mend it",
    ),
    "a word after comments, an empty line and a broken cell": (
        '# by us\n\na,b\n\n1,"x\ny"\n?,z\n4,z\n',
        "'?' among the numbers of column 'a', in line 7; mend it",
    ),
    "a word below a header behind a #": (
        "# a,b\n1,2\n?,3\n4,5\n",
        "'?' among the numbers of column 'a', in line 3; mend it",
    ),
    "thousands after comments": ("# by us\n\na;b\n1;2\n1.234,5;2\n", "'1.234,5' in line 5:"),
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


@pytest.mark.parametrize("header", ["a,b", "# a,b", "# by us\na,b"])
def test_a_row_that_is_another_after_thousands(header, tmp_path):
    rows = ["1,2"] * 3000
    rows[2500] = "1,2,3"
    line = 2502 + header.count("\n")
    with pytest.raises(pv.DataError, match=f"3 cells in line {line},"):
        pv.data.load(write(tmp_path, "\n".join([header, *rows])))


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
    with pytest.raises(pv.DataError, match=r"'1.5' among the numbers of column 'a', in line 3002"):
        pv.data.load(write(tmp_path, "\n".join(["a;b", *rows])))


@pytest.mark.parametrize("name", ["x.csv", "x.TSV", "x.txt", "x.csv.gz", "x.tsv.bz2", "x.csv.xz"])
def test_names_of_files(name, tmp_path):
    path = write(tmp_path, "# a comment\na\tb\n1\t2\n", name)
    if path.suffix in COMPRESS:
        path.write_bytes(COMPRESS[path.suffix](path.read_bytes()))
    assert pv.data.load(path).to_dict("list") == {"a": [1], "b": [2]}


def test_the_log_says_what_was_read(tmp_path, caplog):
    caplog.set_level(logging.INFO, "pyro_vae.data")
    pv.data.load(write(tmp_path, ";height;weight\n1;10,3;9,7\n2;8,9;10,7\n"))
    assert caplog.messages == [
        "read x.csv: rows: 2; columns: 2 (height, weight); separated by semicolons, with decimal "
        "commas; the labels of its rows, in a first column without a name, are left out",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "# by us\n# today\na,b\n1,2\n",
            "separated by commas; lines of comment before it, left out: 2",
        ),
        ("# by us\n# a,b\n1,2\n", "left out: 1; its header is behind a #"),
        ("# a,b\n1,2\n", "separated by commas; its header is behind a #"),
    ],
)
def test_the_log_says_what_stood_before(text, said, tmp_path, caplog):
    caplog.set_level(logging.INFO, "pyro_vae.data")
    pv.data.load(write(tmp_path, text))
    assert caplog.messages[0].endswith(said)


def test_what_numpy_writes(tmp_path):
    numbers = np.random.default_rng(0).normal(size=(5, 2))
    np.savetxt(tmp_path / "x.csv", numbers, delimiter=",", header="a,b")
    found = pv.data.load(tmp_path / "x.csv")
    pd.testing.assert_frame_equal(found, pd.DataFrame(numbers, columns=["a", "b"]))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x.zip", "unpack it, and give the file that is in it"),
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


def test_what_may_be_a_label_is_one(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,t\n1,None\n2, drug\n3,drug \n4,NA\n5,  \n")
    assert pv.data.load(path).t.tolist()[:3] == ["None", "drug", "drug"]
    assert pv.data.load(path).t.isna().tolist() == [False, False, False, True, True]
    path.write_text("a,b\n1,2\nNA,null\n3,4\n")
    assert pv.data.load(path).a.isna().tolist() == [False, True, False]


def test_an_empty_line_of_one_column_is_refused(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a\n1\n\n3\n")
    with pytest.raises(pv.DataError, match="has an empty line 3, which may be a missing"):
        pv.data.load(path)
    path.write_text("a\n1\n3\n\n \n")
    assert pv.data.load(path).a.tolist() == [1, 3]


def test_what_begins_as_numbers_goes_on_as_numbers(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a;b\n" + "1;2\n" * 1000 + "1,5;2\n" * 1500)
    with pytest.raises(pv.DataError, match="'1,5' among the numbers of column 'a', in line 1002"):
        pv.data.load(path)


@pytest.mark.parametrize("before", [997, 998, 999, 1000])
def test_a_cell_may_break_its_line_where_the_look_ends(tmp_path, before):
    path = tmp_path / "t.csv"
    path.write_text("a,b\n" + "1,x\n" * before + '2,"x\ny"\n' + "3,z\n" * 5)
    assert len(pv.data.load(path)) == before + 6
