"""What XLA has compiled is kept whole or not at all; whatever is wrong with it, training is as without it, bit for bit."""

import errno
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
import tensorflow as tf

from trainlab.runs.disk import compiled
from trainlab.runs.disk.compiled import MOST, Compiled

ROOT = Path(__file__).parents[3]


def name(number):
    return f"xla_compile_cache__{number}__7__XLA_CPU_JIT.pb"


def in_memory():
    return {name: compiled._get(name) for name in compiled._names()}


def forget():
    """As a new process has it."""
    for one in compiled._names():
        tf.io.gfile.remove(f"{compiled._MEMORY}/{one}")


@pytest.fixture(autouse=True)
def memory():
    """TensorFlow's files in memory, which other tests of this process share."""
    forget()
    yield
    forget()


@pytest.fixture
def kept(tmp_path):
    """The files of two programs."""
    compiled._put(name(1), b"one" * 1000)
    compiled._put(name(2), b"two" * 1000)
    Compiled(tmp_path / "compiled").keep()
    forget()
    return sorted((tmp_path / "compiled").glob("*/*"))


def test_they_are_there_again_in_the_next_process(kept, tmp_path):
    assert [path.name for path in kept] == [name(1), name(2)]
    again = Compiled(tmp_path / "compiled")
    assert in_memory() == {}
    again.bring()
    assert in_memory() == {name(1): b"one" * 1000, name(2): b"two" * 1000}
    written = [path.stat().st_mtime_ns for path in kept]
    again.keep()
    assert [path.stat().st_mtime_ns for path in kept] == written  # what is there is not written again


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: os.truncate(path, 1500),
        lambda path: os.truncate(path, 10),
        lambda path: os.truncate(path, 0),
        lambda path: path.write_bytes(path.read_bytes()[:-1] + b"!"),
        lambda path: path.write_bytes(b"!" + path.read_bytes()[1:]),
        lambda path: path.write_bytes(path.read_bytes() + b"!"),
        lambda path: path.write_bytes(bytes(len(path.read_bytes()))),
        lambda path: path.unlink(),
    ],
    ids=["half", "less than a digest", "empty", "last byte", "first byte", "longer", "zeros", "deleted"],
)
def test_what_is_not_whole_is_not_seen_and_is_removed(harm, kept, tmp_path):
    harm(kept[0])
    again = Compiled(tmp_path / "compiled")
    again.bring()
    assert in_memory() == {name(2): b"two" * 1000}
    assert not kept[0].exists()
    compiled._put(name(1), b"one" * 1000)  # compiled again
    again.keep()
    forget()
    Compiled(tmp_path / "compiled").bring()
    assert in_memory() == {name(1): b"one" * 1000, name(2): b"two" * 1000}


def test_every_flipped_bit_of_a_file_is_seen(tmp_path):
    compiled._put(name(1), b"a program")
    Compiled(tmp_path).keep()
    (path,) = tmp_path.glob("*/*")
    whole = path.read_bytes()
    for i in range(8 * len(whole)):
        changed = bytearray(whole)
        changed[i // 8] ^= 1 << i % 8
        path.write_bytes(bytes(changed))
        assert compiled._read(path) is None
    path.write_bytes(whole)
    assert compiled._read(path) == b"a program"


def test_what_a_killed_process_was_writing_is_removed_and_other_peoples_files_stay(kept, tmp_path):
    folder = kept[0].parent
    (folder / f".writing-0123-{name(3)}").write_bytes(b"half")
    (folder / "notes.txt").write_text("mine")
    (folder / "xla_compile_cache__1__2__XLA_GPU_JIT.pb").write_bytes(b"of a GPU")
    Compiled(tmp_path / "compiled").bring()
    assert sorted(in_memory()) == [name(1), name(2)]
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [name(1), name(2), "notes.txt", "xla_compile_cache__1__2__XLA_GPU_JIT.pb"]
    )


@pytest.mark.parametrize("changed", ["processor", "cores", "TF_XLA_FLAGS", "XLA_FLAGS", "TensorFlow"])
def test_those_of_another_machine_are_not_seen_and_stay(changed, kept, tmp_path, monkeypatch):
    if changed == "processor":
        monkeypatch.setattr(compiled, "processor", lambda: "another")
    elif changed == "cores":
        monkeypatch.setattr(compiled, "_num_cores", lambda: 1000)
    elif changed == "TensorFlow":
        monkeypatch.setattr(tf.version, "VERSION", "3.0")
    else:
        monkeypatch.setenv(changed, os.environ.get(changed, "") + " --another")
    other = Compiled(tmp_path / "compiled")
    other.bring()
    assert in_memory() == {} and all(path.exists() for path in kept)
    compiled._put(name(1), b"for that one")
    other.keep()
    monkeypatch.undo()
    forget()
    Compiled(tmp_path / "compiled").bring()
    assert in_memory() == {name(1): b"one" * 1000, name(2): b"two" * 1000}


def test_only_the_last_are_kept(tmp_path):
    folder = Compiled(tmp_path)
    for i in range(MOST + 3):
        compiled._put(name(i), b"x")
        folder.keep()
        os.utime(folder._folder / name(i), (i, i))
    compiled._put(name(100), b"x")
    folder.keep()
    left = {path.name for path in folder._folder.iterdir()}
    assert len(left) == MOST and {name(100), name(MOST + 2)} <= left and name(0) not in left


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
def test_a_disk_that_takes_nothing(number, tmp_path, monkeypatch):
    def fails(path, write):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(compiled, "write_atomically", fails)
    compiled._put(name(1), b"x")
    folder = Compiled(tmp_path / "compiled")
    folder.bring()
    folder.keep()
    assert list(tmp_path.glob("compiled/*/*")) == []


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "compiled").write_text("mine")
    folder = Compiled(tmp_path / "compiled")
    folder.bring()
    compiled._put(name(1), b"x")
    folder.keep()
    assert (tmp_path / "compiled").read_text() == "mine"


def test_two_that_write_the_same_at_once(tmp_path):
    program = os.urandom(10**6)
    compiled._put(name(1), program)
    folders = [Compiled(tmp_path) for _ in range(8)]
    threads = [threading.Thread(target=folder.keep) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (path,) = tmp_path.glob("*/*")
    assert compiled._read(path) == program


def test_what_the_user_has_set_stays(monkeypatch):
    monkeypatch.setenv("TF_XLA_FLAGS", "--tf_xla_enable_lazy_compilation=false")
    assert compiled.ask() and compiled.ask()
    memory = f"--tf_xla_persistent_cache_directory={compiled._MEMORY}"
    assert os.environ["TF_XLA_FLAGS"] == f"--tf_xla_enable_lazy_compilation=false {memory}"
    monkeypatch.setenv("TF_XLA_FLAGS", "--tf_xla_persistent_cache_directory=/theirs")
    assert not compiled.ask() and os.environ["TF_XLA_FLAGS"] == "--tf_xla_persistent_cache_directory=/theirs"
    monkeypatch.delenv("TF_XLA_FLAGS")
    monkeypatch.setattr(compiled, "processor", lambda: None)
    assert not compiled.ask() and "TF_XLA_FLAGS" not in os.environ


PROGRAM = textwrap.dedent(
    """
    import hashlib, sys
    import keras, numpy as np
    from pathlib import Path
    import trainlab as tl
    from trainlab.runs import compiled

    directory, epochs, is_asked = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "asked"
    if is_asked:
        assert compiled.ask()
    keras.utils.set_random_seed(0)
    layers = keras.layers
    hidden = [layers.Dense(9, "tanh"), layers.BatchNormalization(), layers.Dropout(0.2)]
    model = keras.Sequential([keras.Input([6]), *hidden, layers.Dense(3)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    kept = compiled.Compiled(Path(directory) / "compiled")

    class Keep(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            kept.bring()
        def on_epoch_end(self, epoch, logs=None):
            kept.keep()
        def get_state(self):
            pass
        def set_state(self, state):
            pass

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 6)).astype("float32"), rng.integers(3, size=64)
    trainer = tl.Trainer(model, tl.Heun(), run=directory, jit_compile=True, seed=1)
    trainer.fit(x, y, batch_size=16, epochs=epochs, verbose=0, callbacks=[Keep()])
    digest = hashlib.sha256()
    for v in (*model.variables, *model.optimizer.variables):
        digest.update(np.asarray(v).tobytes())
    print(trainer.resumed_at, digest.hexdigest())
    """
)


def trained(directory, epochs, is_asked=True):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment.pop("TF_XLA_FLAGS", None)
    command = [sys.executable, "-c", PROGRAM, str(directory), str(epochs), "asked" if is_asked else ""]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def damage(path):
    path.write_bytes(path.read_bytes()[:-1] + b"?")


@pytest.mark.slow
def test_a_run_that_goes_on_compiles_nothing_and_has_the_bits_of_one_that_does(tmp_path):
    def names():
        return {path.name for path in (tmp_path / "run" / "compiled").glob("*/*.pb")}

    without = [trained(tmp_path / "without", epochs, is_asked=False) for epochs in (1, 2, 3, 4)]
    assert not (tmp_path / "without" / "compiled").exists()
    found = [trained(tmp_path / "run", 1)]
    programs = names()
    assert len(programs) == 1
    found.append(trained(tmp_path / "run", 2))
    assert names() == programs  # a program of another name would be there, had it not been taken for the same
    (path,) = (tmp_path / "run" / "compiled").glob("*/*.pb")
    damage(path)
    found.append(trained(tmp_path / "run", 3))
    assert names() == programs and compiled._read(path) is not None  # it was compiled again
    path.unlink()
    found.append(trained(tmp_path / "run", 4))
    assert names() == programs
    assert found == without
    assert [at for at, _ in found] == ["None", "4", "8", "12"]
