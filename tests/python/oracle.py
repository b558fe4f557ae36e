"""Answers of other programs, for tests: DuckDB over the same data, and what DuckDB and pyarrow read from a folder.

Reads one JSON object on stdin and writes one on stdout.

  {"setup": [sql, ...], "queries": {name: sql, ...}}   -> {name: [[value, ...], ...]}   by DuckDB, in memory
  {"folder": path, "order": [column, ...]}             -> {"duckdb": rows, "pyarrow": rows}

Values are text (NULL is null), so that 64-bit integers, decimals and microseconds survive JSON: numbers as Python
prints them, timestamps as ISO 8601 with six digits, bytes as hexadecimal digits.
"""

import datetime
import decimal
import glob
import json
import sys
import uuid

import duckdb


def text(value):
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, datetime.datetime):
        return value.replace(tzinfo=None).isoformat(timespec="microseconds")
    if isinstance(value, datetime.time):
        return value.isoformat(timespec="microseconds")
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).hex()
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(text(v) for v in value) + "]"
    if isinstance(value, (int, decimal.Decimal, datetime.date, uuid.UUID)):
        return str(value)
    raise TypeError(f"{type(value)}: {value!r}")


def rows(tuples):
    return [[text(v) for v in row] for row in tuples]


def answers(setup, queries):
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    for sql in setup:
        connection.execute(sql)
    return {name: rows(connection.execute(sql).fetchall()) for name, sql in queries.items()}


def read_folder(folder, order):
    import pyarrow.parquet as parquet

    files = sorted(glob.glob(f"{folder}/*.parquet"))
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    keys = ", ".join(f'"{c}"' for c in order)
    by_duckdb = connection.execute(f"SELECT * FROM read_parquet('{folder}/*.parquet') ORDER BY {keys}").fetchall()
    table = parquet.ParquetDataset(files).read().sort_by([(c, "ascending") for c in order])
    by_pyarrow = zip(*(column.to_pylist() for column in table.columns))
    return {"duckdb": rows(by_duckdb), "pyarrow": rows(by_pyarrow), "files": len(files)}


request = json.load(sys.stdin)
answer = read_folder(**request) if "folder" in request else answers(**request)
json.dump(answer, sys.stdout)
