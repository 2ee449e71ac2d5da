"""Stand-ins for wandb, mlflow, comet_ml and trackio: the hooks, and what is kept, of their Keras callbacks; what they store.

They behave as wandb of August 2026, mlflow 3.17, comet_ml 3.58 and trackio 0.43 were read to do. A store outlives the process.
"""

import os
import signal
import types

import keras


class Store:
    """What a server has.

    Attributes:
        rows: of every log call, as `(step, values)`, in their order.
        params: by name.
        stop_at: the number of the row at which the process is sent SIGINT.
    """

    def __init__(self, stop_at=None):
        self.rows, self.params, self.stop_at = [], {}, stop_at
        self.runs = set()

    def add(self, step, values):
        self.rows.append((step, {name: float(value) for name, value in values.items()}))
        if len(self.rows) == self.stop_at:
            os.kill(os.getpid(), signal.SIGINT)

    def open(self, name, resume):
        """Opens a run. Raises ValueError where one that must be there is not, or another one would begin under this name."""
        if (resume == "must") > (name in self.runs) or (name in self.runs and resume not in ("must", "allow")):
            raise ValueError(f"run {name!r}, resume={resume!r}, but there are {sorted(self.runs)}")
        self.runs.add(name)


def wandb_of(store):
    """`wandb` and `wandb.integration.keras`: rows are appended, each with the next number."""
    wandb = types.SimpleNamespace(run=None)

    def init(project, id=None, resume=None):
        store.open(id, resume)
        wandb.run = types.SimpleNamespace(id=id)
        return wandb.run

    wandb.init, wandb.log = init, lambda values: store.add(len(store.rows), values)

    class WandbMetricsLogger(keras.callbacks.Callback):
        def __init__(self, log_freq="epoch", initial_global_step=0):
            super().__init__()
            if wandb.run is None:
                raise ValueError("You must call wandb.init() first")
            log_freq = 1 if log_freq == "batch" else log_freq
            self.logging_batch_wise = isinstance(log_freq, int)
            self.log_freq = log_freq if self.logging_batch_wise else None
            self.global_batch, self.global_step = 0, initial_global_step

        def on_epoch_end(self, epoch, logs=None):
            rate = float(self.model.optimizer.learning_rate.numpy())
            wandb.log({"epoch/epoch": epoch, "epoch/learning_rate": rate, **{f"epoch/{k}": v for k, v in logs.items()}})

        def on_batch_end(self, batch, logs=None):
            self.global_step += 1
            if self.logging_batch_wise and batch % self.log_freq == 0:
                wandb.log({"batch/batch_step": self.global_batch, **{f"batch/{k}": v for k, v in (logs or {}).items()}})
                self.global_batch += self.log_freq

        def on_train_batch_end(self, batch, logs=None):
            self.on_batch_end(batch, logs or {})

    integration = types.SimpleNamespace(keras=types.SimpleNamespace(WandbMetricsLogger=WandbMetricsLogger))
    return {"wandb": wandb, "wandb.integration": integration, "wandb.integration.keras": integration.keras}


def mlflow_of(store):
    """`mlflow` and `mlflow.keras`: a parameter is logged once and for all; a metric without a step is one at step 0."""
    mlflow = types.SimpleNamespace()

    def log_params(params):
        for name, value in params.items():
            if store.params.setdefault(name, str(value)) != str(value):
                raise ValueError(f"Changing param values is not allowed: {name}")

    class Run:
        def __init__(self, run_id=None):
            self.info = types.SimpleNamespace(run_id=run_id or "a1")
            store.open(self.info.run_id, None if run_id is None else "must")

        def __enter__(self):
            return self

        def __exit__(self, *args):
            return None

    class MlflowCallback(keras.callbacks.Callback):
        def __init__(self, log_every_epoch=True, log_every_n_steps=None):
            self.log_every_epoch, self.log_every_n_steps = log_every_epoch, log_every_n_steps

        def on_train_begin(self, logs=None):
            log_params({f"optimizer_{name}": value for name, value in self.model.optimizer.get_config().items()})

        def on_epoch_end(self, epoch, logs=None):
            if self.log_every_epoch and logs is not None:
                store.add(epoch, logs)

        def on_batch_end(self, batch, logs=None):
            if self.log_every_n_steps is None or logs is None:
                return
            step = int(self.model.optimizer.iterations.numpy())
            if step % self.log_every_n_steps == 0:
                store.add(step, logs)

        def on_test_end(self, logs=None):
            if logs is not None:
                store.add(0, {f"validation_{name}": value for name, value in logs.items()})

    mlflow.start_run, mlflow.keras = Run, types.SimpleNamespace(MlflowCallback=MlflowCallback)
    return {"mlflow": mlflow, "mlflow.keras": mlflow.keras}


def comet_of(store):
    """`comet_ml`: the number of the step is the experiment's, and begins at 0 in each process."""

    class CometKerasCallback(keras.callbacks.Callback):
        def __init__(self, experiment):
            super().__init__()
            self.experiment = experiment
            experiment.curr_step = experiment.curr_step or 0

        def on_epoch_end(self, epoch, logs=None):
            store.add(self.experiment.curr_step, {"epoch": epoch, **logs})

        def on_batch_begin(self, batch, logs=None):
            pass

        def on_batch_end(self, batch, logs=None):
            self.experiment.curr_step += 1
            if batch % 10 == 0:
                store.add(self.experiment.curr_step, {f"batch_{name}": value for name, value in (logs or {}).items()})

        def on_train_batch_end(self, batch, logs=None):
            self.on_batch_end(batch, logs)

    class Experiment:
        def __init__(self, key):
            self.key, self.curr_step = key, None

        def set_step(self, step):
            self.curr_step = step

        def get_callback(self, framework):
            assert framework == "keras"
            return CometKerasCallback(self)

    def start(project_name, mode="create", experiment_key=None):
        assert mode in ("create", "get_or_create")
        store.open(experiment_key, "allow")
        return Experiment(experiment_key)

    return {"comet_ml": types.SimpleNamespace(start=start)}


def trackio_of(store):
    """`trackio`: no Keras callback; a row has the step that is given."""

    def init(project, name=None, resume="never"):
        store.open(name, resume)

    def log(values, step=None):
        store.add(len(store.rows) if step is None else step, values)

    return {"trackio": types.SimpleNamespace(init=init, log=log, finish=lambda: None)}
