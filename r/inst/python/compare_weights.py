"""Which weights of a checkpoint are not in a model file: compare_weights.py SAFETENSORS ONNX."""

import json
import sys

import numpy as np
import onnx
from safetensors.numpy import load_file

weights = [onnx.numpy_helper.to_array(weight) for weight in onnx.load(sys.argv[2]).graph.initializer]
in_file = np.concatenate([weight.ravel() for weight in weights if weight.dtype == np.float32])
values, counts = np.unique(in_file, return_counts=True)

tensors, missing = [], []
for name, array in load_file(sys.argv[1]).items():
    if array.dtype.kind != "f":
        continue
    wanted, times = np.unique(array.astype(np.float32), return_counts=True)
    place = np.searchsorted(values, wanted).clip(max=len(values) - 1)
    there = np.where(values[place] == wanted, counts[place], 0)
    found = int(np.minimum(times, there).sum())
    shape = " x ".join(map(str, array.shape))
    tensors.append({"name": name, "shape": shape, "found": f"{found} of {array.size}"})
    if found < array.size:
        missing.append(name)
print(json.dumps({"tensors": tensors, "missing": missing}))
