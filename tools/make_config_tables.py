"""Writes what each model type of transformers reads of config.json, for the versions that it is run under.

    python tools/make_config_tables.py            # adds or renews the part of the installed transformers
    python tools/make_config_tables.py --check    # exit 1 where that part is not up to date

The table, `exporters/checkpoint/config_keys.json`, is made from 4.57.6 and 5.24.0. To add a version, install
it where bertonnx is installed and run the command again; `--drop VERSION` takes one out.
"""

from __future__ import annotations

import argparse
import sys

from bertonnx.exporters.checkpoint.config_reads import exportable_families, installed_reads, shared_keys
from bertonnx.exporters.checkpoint.config_tables import TABLES, Tables, read_tables, written


def made(tables: Tables) -> Tables:
    """Return tables with the part of the installed transformers made anew."""
    import transformers

    families = {name: installed_reads(name) for name in exportable_families()}
    return tables.replaced(str(transformers.__version__), shared_keys(), families)


def main() -> int:
    """Write or check the table."""
    parser = argparse.ArgumentParser(description="Write what transformers reads of config.json.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where it would change")
    parser.add_argument("--drop", metavar="VERSION", help="take a version out")
    asked = parser.parse_args()
    before = read_tables() if TABLES.is_file() else Tables()
    text = written(before.without(asked.drop) if asked.drop else made(before))
    if asked.check:
        stale = not TABLES.is_file() or TABLES.read_text(encoding="utf-8") != text
        print("out of date; type: python tools/make_config_tables.py" if stale else "up to date")
        return int(stale)
    TABLES.write_text(text, encoding="utf-8")
    read_tables.cache_clear()
    print(f"{TABLES}: {', '.join(read_tables().versions)}")
    print("to add a version: install that transformers beside bertonnx, then run this command again")
    return 0


if __name__ == "__main__":
    sys.exit(main())
