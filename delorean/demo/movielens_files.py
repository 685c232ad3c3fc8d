"""Reads MovieLens in both published formats as a stream; errors name the file and the line."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.csv as pv
from numpy.typing import NDArray

from schemas.errors import ConfigError

_RATING_COLUMNS: Final = ["userId", "movieId", "rating", "timestamp"]
_MOVIE_COLUMNS: Final = ["movieId", "title", "genres"]
_YEAR: Final = re.compile(r"\s*\((\d{4})(?:[-\u2013]\d{0,4})?\)\s*$")
_NO_GENRES: Final = "(no genres listed)"


@dataclass(frozen=True)
class Movie:
    """A film. year: None where the title has none."""

    movie_id: int
    title: str
    year: int | None
    genres: tuple[str, ...]


@dataclass(frozen=True)
class MovieLens:
    """Ratings of the users kept, in each user's own order, and the films.

    users, movies, stars, seconds: one entry a rating; seconds since the epoch, as published
    users_published: how many users the ratings file has
    """

    films: dict[int, Movie]
    users: NDArray[np.int64]
    movies: NDArray[np.int64]
    stars: NDArray[np.float32]
    seconds: NDArray[np.int64]
    users_published: int


@dataclass(frozen=True)
class _FileFormat:
    """One of the two published formats."""

    suffix: str
    separator: str

    def read_options(self) -> tuple[pv.ReadOptions, pv.ParseOptions, list[str]]:
        """Return Arrow's options, and the empty columns that appear because `::` is read as two delimiters."""
        if self.suffix == "csv":
            return pv.ReadOptions(), pv.ParseOptions(), []
        names = [name for column in _RATING_COLUMNS for name in (column, f"after {column}")][:-1]
        return pv.ReadOptions(column_names=names), pv.ParseOptions(delimiter=":", quote_char=False), names[1::2]


_LAYOUTS: Final = (_FileFormat("csv", ","), _FileFormat("dat", "::"))


def read_movielens(folder: Path, max_users: int, seed: int) -> MovieLens:
    """Read ratings.csv and movies.csv, or ratings.dat and movies.dat.

    max_users: of a larger data set, this many users are sampled by seed; ratings are streamed twice, so memory stays
        bounded

    Raises ConfigError that names the file and the line.
    """
    layout = _layout_of(folder)
    films = _read_films(folder / f"movies.{layout.suffix}", layout)
    path = folder / f"ratings.{layout.suffix}"
    user_ids = [np.unique(batch.column(0).to_numpy()) for batch in _batches(path, layout, films, ["userId"])]
    everybody = np.unique(np.concatenate(user_ids)) if user_ids else np.array([], dtype=np.int64)
    if len(everybody) == 0:
        raise ConfigError.because(f"{path} has no ratings", "give the folder of a published MovieLens data set")
    kept = everybody
    if len(everybody) > max_users:
        kept = np.sort(np.random.default_rng(seed).choice(everybody, max_users, replace=False))
    film_ids = np.array(sorted(films), dtype=np.int64)
    parts = []
    for batch in _batches(path, layout, films, _RATING_COLUMNS):
        columns = [batch.column(name).to_numpy() for name in _RATING_COLUMNS]
        if not _are_valid(columns, film_ids):
            raise _first_fault(path, layout, films)
        mine = np.isin(columns[0], kept)
        parts.append([column[mine] for column in columns])
    users, movies, stars, seconds = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((seconds, users))  # stable: equal seconds keep the file's order
    return MovieLens(films, users[order], movies[order], stars[order], seconds[order], len(everybody))


def _layout_of(folder: Path) -> _FileFormat:
    for layout in _LAYOUTS:
        if all((folder / f"{name}.{layout.suffix}").is_file() for name in ("ratings", "movies")):
            return layout
    raise ConfigError.because(
        f"{folder} holds neither ratings.csv and movies.csv nor ratings.dat and movies.dat",
        "give the folder of an unpacked MovieLens data set",
    )


def _batches(path: Path, layout: _FileFormat, films: dict[int, Movie], columns: list[str]) -> Iterator[pa.RecordBatch]:
    read, parse, gaps = layout.read_options()
    types = dict(zip(_RATING_COLUMNS, (pa.int64(), pa.int64(), pa.float32(), pa.int64()), strict=True))
    types.update(dict.fromkeys(gaps, pa.null()))  # rejects any content
    convert = pv.ConvertOptions(column_types=types, include_columns=[*columns, *gaps], null_values=[""])
    try:
        with pv.open_csv(path, read_options=read, parse_options=parse, convert_options=convert) as reader:
            for batch in reader:
                if any(column.null_count for column in batch.columns[: len(columns)]):
                    raise _first_fault(path, layout, films)
                yield batch
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        raise _first_fault(path, layout, films) from error


def _are_valid(columns: list[NDArray[np.generic]], film_ids: NDArray[np.int64]) -> bool:
    _, movies, stars, seconds = columns
    good = (stars >= 0.5) & (stars <= 5) & (seconds > 0)  # type: ignore[operator]  # np.generic compares
    return bool(np.all(good)) and bool(np.all(np.isin(movies, film_ids)))


def _first_fault(path: Path, layout: _FileFormat, films: dict[int, Movie]) -> ConfigError:
    """Find, line by line, what the fast reader rejected."""
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            fields = line.rstrip("\r\n").split(layout.separator)
            if number == 1 and layout.suffix == "csv":
                fault = None if fields == _RATING_COLUMNS else f"expected the header {','.join(_RATING_COLUMNS)}"
            else:
                fault = _fault_of(fields, films) if line.strip() else None
            if fault is not None:
                shown = line.strip()[:80]
                return ConfigError.because(f"{path}, line {number}: {fault}, got '{shown}'")
    return ConfigError.because(f"{path} is not as MovieLens publishes it", "unpack the data set again")


def _fault_of(fields: list[str], films: dict[int, Movie]) -> str | None:
    if len(fields) != len(_RATING_COLUMNS):
        return f"expected {len(_RATING_COLUMNS)} fields ({', '.join(_RATING_COLUMNS)})"
    for name, text in zip(_RATING_COLUMNS, fields, strict=True):
        if not re.fullmatch(r"\d+(\.\d+)?" if name == "rating" else r"\d+", text):
            return f"{name} is not a number"
    if int(fields[1]) not in films:
        return f"movieId {fields[1]} is not in the movies file"
    if not 0.5 <= float(fields[2]) <= 5:
        return "rating is outside 0.5 to 5"
    return None if int(fields[3]) > 0 else "timestamp is not seconds since 1970"


def _read_films(path: Path, layout: _FileFormat) -> dict[int, Movie]:
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")  # the older data sets
    films: dict[int, Movie] = {}
    for number, fields in _film_fields(text, layout):
        if number == 1 and layout.suffix == "csv":
            fault = None if fields == _MOVIE_COLUMNS else f"expected the header {','.join(_MOVIE_COLUMNS)}"
        elif len(fields) != len(_MOVIE_COLUMNS):
            fault = f"expected {len(_MOVIE_COLUMNS)} fields ({', '.join(_MOVIE_COLUMNS)}), got {len(fields)}"
        elif not fields[0].isascii() or not fields[0].isdigit():
            fault = f"movieId is not a number, got '{fields[0][:40]}'"
        elif int(fields[0]) in films:
            fault = f"movieId {fields[0]} is listed twice"
        else:
            fault = None
            films[int(fields[0])] = _film(int(fields[0]), fields[1], fields[2])
        if fault is not None:
            raise ConfigError.because(f"{path}, line {number}: {fault}")
    return films


def _film_fields(text: str, layout: _FileFormat) -> Iterator[tuple[int, list[str]]]:
    if layout.suffix == "csv":
        reader = csv.reader(io.StringIO(text, newline=""))
        for fields in reader:
            if fields:
                yield reader.line_num, fields
    else:
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                yield number, line.split(layout.separator)


def _film(movie_id: int, title: str, genres: str) -> Movie:
    year = _YEAR.search(title)
    listed = () if genres in ("", _NO_GENRES) else tuple(genres.split("|"))
    return Movie(movie_id, _YEAR.sub("", title).strip(), int(year[1]) if year else None, listed)
