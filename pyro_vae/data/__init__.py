"""Data: rows of one shape, whatever they come from."""

from .arrays import as_rows as as_rows
from .arrays import binarize as binarize
from .arrays import binarize_afresh as binarize_afresh
from .files import load as load
from .rows import DataError as DataError
from .rows import Rows as Rows
