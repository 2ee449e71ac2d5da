"""Fingerprints of what is compiled and what it computes, for six pairs of model and strategy: a move of code changes none.

    python tests/fingerprints.py            compares with what is stored, and names what differs
    python tests/fingerprints.py --renew    stores what is computed now, for these versions and this machine

Whoever changes a program on purpose renews them in the same commit and says so there. There are two kinds: of the *program*
(the operations of the traced graph, and the text that XLA is handed), which TensorFlow and Keras decide; and of the *machine*
(XLA's optimized text, and the bits of all variables after a short run), which the processor and the number of its cores decide
as well. What was never stored for these versions or this machine cannot be compared, and that is said.
"""

import argparse
import hashlib
import json
import os
import pathlib
import platform
import re
import sys
from unittest import mock

import keras
import numpy as np
import tensorflow as tf
from tables import MODELS, STRATEGIES

import trainlab as tl
from trainlab.loop import loop as loop_module
from trainlab.loop.loop import Loop

STORED = pathlib.Path(__file__).with_suffix(".json")
PAIRS = [
    ("mlp_with_penalties", "sgd"),
    ("cnn", "heun"),
    ("lstm", "accumulate_3_heun"),
    ("transformer", "sam"),
    ("embedding", "accumulate_2"),
    ("two_outputs", "heavy_ball"),
]
tf.config.experimental.enable_tensor_float_32_execution(False)  # as in the tests: it stands in XLA's text
_NUM_EXAMPLES, _BATCH_SIZE, _EPOCHS = 26, 4, 2  # 26: the last update of an epoch is smaller than the others


def versions():
    """What the programs depend on."""
    return f"tensorflow {tf.__version__}, keras {keras.__version__}"


def machine():
    """What the optimized programs and the bits depend on besides."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    models = re.findall(r"model name\s*: (.*)", text)
    vectors = sorted(set(re.findall(r"\b(?:avx|amx|fma|sve|asimd)\w*", text)))  # one model's name stands for several of these
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{versions()}, {models[0] if models else platform.processor()} ({' '.join(vectors)}), {cores} cores"


def of_pair(model_name, strategy_name):
    """`{"program": {...}, "machine": {...}}` of one pair, by kind, each a digest."""
    program, bits = {}, {}
    for jit_compile in (False, True):
        kind = "xla" if jit_compile else "graph"
        model, functions, jitted = _run(MODELS[model_name], STRATEGIES[strategy_name], jit_compile)
        program[f"{kind} operations"] = _digest([line for function in functions for line in _operations(function.graph)])
        bits[f"{kind} bits"] = _digest([np.asarray(v).tobytes() for v in (*model.variables, *model.optimizer.variables)])
        for stage, found in (("hlo", program), ("optimized_hlo", bits)):
            texts = [_stripped(_compiler_ir(function, specs, stage)) for function, specs in jitted.items()]
            if texts:
                found[f"xla {stage}"] = _digest(texts)
    return {"program": program, "machine": bits}


def differences(stored, found):
    """The kinds in which two results of `of_pair` differ, by name; one that only one of the two has differs too."""
    return sorted(kind for kind in stored.keys() | found.keys() if stored.get(kind) != found.get(kind))


def _run(case, strategy, jit_compile):
    """A trained model, the concrete functions that its loop called, and what XLA compiled, with its specs."""
    functions, jitted = [], {}
    compiled, jit = Loop._compiled, loop_module._JIT

    def recording(loop, fn, *specs):
        function = compiled(loop, fn, *specs)
        functions.append(function)
        return function

    def recording_jit(fn):
        def traced(*arguments):
            jitted.setdefault(function, tf.nest.map_structure(lambda t: tf.TensorSpec(t.shape, t.dtype), arguments))
            return fn(*arguments)

        function = jit(traced)
        return function

    with mock.patch.object(Loop, "_compiled", recording), mock.patch.object(loop_module, "_JIT", recording_jit):
        model = case.compiled(keras.optimizers.SGD(0.1, momentum=0.5))
        trainer = tl.Trainer(model, strategy.make(), jit_compile=jit_compile)
        x, y = case.arrays(_NUM_EXAMPLES)
        trainer.fit(x, y, batch_size=_BATCH_SIZE, sample_weight=case.weights(_NUM_EXAMPLES), epochs=_EPOCHS, verbose=0)
    return model, functions, jitted


def _compiler_ir(function, specs, stage):
    """XLA's text for arguments like these; arrays, whose number of examples is open, hold those of the run."""

    def zeros(spec):
        return tf.zeros([_NUM_EXAMPLES if size is None else size for size in spec.shape], spec.dtype)

    return function.experimental_get_compiler_ir(*tf.nest.map_structure(zeros, specs))(stage=stage)


def _operations(graph):
    """A line for each operation of a graph and of the functions that it calls: what it does and to what, without names."""
    operations = graph.get_operations()
    number = {tensor.name: f"{i}.{j}" for i, op in enumerate(operations) for j, tensor in enumerate(op.outputs)}
    for operation in operations:
        outputs = [f"{tensor.dtype.name}{tensor.shape}" for tensor in operation.outputs]
        yield f"{operation.type}({', '.join(number[t.name] for t in operation.inputs)}) -> {', '.join(outputs)}"
        for _, attribute in sorted(operation.node_def.attr.items()):
            for function in (attribute.func, *attribute.list.func):
                inner = graph._get_function(function.name) if function.name else None
                if hasattr(inner, "graph"):
                    yield from _operations(inner.graph)


def _stripped(text):
    """XLA's text with every name replaced by the order in which it appears, and without notes on where it came from."""
    text = re.sub(r",? ?metadata=\{[^{}]*\}", "", text)
    text = re.sub(r"^HloModule [^,\n]*", "HloModule", text)
    text = re.sub(r"(?m)^(FileNames|FunctionNames|FileLocations|StackFrames)\n(?:.+\n)*", "", text)
    text = re.sub(r"[\w.-]+(?=: (?:\(|\w+\[))", "_", text)  # a computation's parameters, which its body names too
    text = re.sub(r"\b[\w./-]+(?= = )", lambda found: f"%{found[0]}", text)  # the form without % in front of names
    names = {}
    return re.sub(r"%+[\w./-]+", lambda found: names.setdefault(found[0].lstrip("%"), f"%{len(names)}"), text)


def _digest(parts):
    digest = hashlib.blake2b(digest_size=12)
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)
        digest.update(b"\n")
    return digest.hexdigest()


def stored():
    """What was stored: `{"program": {versions: {pair: {...}}}, "machine": {machine: {pair: {...}}}}`."""
    return json.loads(STORED.read_text(encoding="utf-8")) if STORED.exists() else {"program": {}, "machine": {}}


def main(arguments=None):
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--renew", action="store_true", help="store what is computed now")
    options = parser.parse_args(arguments)
    keras.config.disable_traceback_filtering()
    found = {"/".join(pair): of_pair(*pair) for pair in PAIRS}
    known, changed = stored(), False
    for group, key in (("program", versions()), ("machine", machine())):
        now = {pair: results[group] for pair, results in found.items()}
        before = known[group].get(key)
        for pair in now if before is not None else []:
            for kind in differences(before.get(pair, {}), now[pair]):
                print(f"{pair}: {kind} differs")
                changed = True
        if before is None:
            print(f"{group}: nothing is stored for {key}")
        known[group][key] = now
    if options.renew:
        STORED.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        print(f"stored in {STORED.name}")
        return 0
    print("something differs" if changed else "nothing differs")
    return int(changed)


if __name__ == "__main__":
    sys.exit(main())
