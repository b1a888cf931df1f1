"""The command line: parses and prints. All work is done by functions that Python users call too."""

from __future__ import annotations

from bertonnx.cli import bench, check, doctor, evaluate, export, info, run, search, serve, sign, train
from bertonnx.cli.app import app

__all__ = ["app"]

# In the order in which people meet them, which is that of the help.
for _command in (
    export.export,
    run.run,
    search.search,
    serve.serve,
    check.check,
    sign.sign,
    sign.verify_signature,
    info.info,
    doctor.doctor,
    bench.bench,
    train.train,
    evaluate.evaluate,
):
    app.command()(_command)
