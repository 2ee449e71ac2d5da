"""Models with a `train_step` of their own, each as its tutorial has it, small.

What a step does once its gradients are applied, with the new weights, stands by hand in own_step_cases.py.
"""

# ruff: noqa: B905  tutorials write zip without strict

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops


class Means(keras.Model):
    """Lists the means that it reports, as tutorials do, so that `fit` resets them."""

    means: tuple[str, ...] = ("loss",)

    def __init__(self):
        super().__init__()
        self.trackers = [keras.metrics.Mean(name=name) for name in self.means]

    @property
    def metrics(self):
        return self.trackers

    def report(self, *values):
        for tracker, value in zip(self.trackers, values, strict=True):
            tracker.update_state(value)
        return {tracker.name: tracker.result() for tracker in self.trackers}


def dense(units, activation=None, **kwargs):
    return layers.Dense(units, activation=activation, **kwargs)


def mlp(num_features, *units, activation="tanh", **kwargs):
    return keras.Sequential(
        [keras.Input([num_features]), *(dense(n, activation, **kwargs) for n in units[:-1]), dense(units[-1])]
    )


class Sampling(layers.Layer):
    def __init__(self):
        super().__init__()
        self.seed_generator = keras.random.SeedGenerator(1337)

    def call(self, inputs):
        mean, log_var = inputs
        epsilon = keras.random.normal(shape=ops.shape(mean), dtype=mean.dtype, seed=self.seed_generator)
        return mean + ops.exp(0.5 * log_var) * epsilon


class Vae(Means):
    """keras.io/examples/generative/vae; no loss is compiled, and it has no `call`."""

    means = ("loss", "reconstruction_loss", "kl_loss")

    def __init__(self):
        super().__init__()
        x = inputs = keras.Input([6])
        x = dense(5, "tanh")(x)
        mean, log_var = dense(2, name="z_mean")(x), dense(2, name="z_log_var")(x)
        self.encoder = keras.Model(inputs, [mean, log_var, Sampling()([mean, log_var])])
        self.decoder = mlp(2, 5, 6)

    def train_step(self, data):
        with tf.GradientTape() as tape:
            z_mean, z_log_var, z = self.encoder(data)
            reconstruction_loss = ops.mean(ops.sum(ops.square(data - self.decoder(z)), axis=1))
            kl_loss = -0.5 * (1 + z_log_var - ops.square(z_mean) - ops.exp(z_log_var))
            kl_loss = ops.mean(ops.sum(kl_loss, axis=1))
            total_loss = reconstruction_loss + kl_loss
        grads = tape.gradient(total_loss, self.trainable_weights)
        self.optimizer.apply_gradients(zip(grads, self.trainable_weights))
        return self.report(total_loss, reconstruction_loss, kl_loss)


class Diffusion(keras.Model):
    """keras.io/examples/generative/ddim: a loss per element, noise of the global generator, BatchNorm, an EMA network."""

    ema = 0.9

    def __init__(self):
        super().__init__()
        self.normalizer = layers.Normalization()
        self.normalizer.adapt(np.random.default_rng(0).normal(0.1, 1.3, [50, 4]))
        noisy, variances = keras.Input([4]), keras.Input([1])
        x = dense(6)(layers.Concatenate()([noisy, variances]))
        x = layers.Activation("swish")(layers.BatchNormalization(momentum=0.8)(x))
        self.network = keras.Model([noisy, variances], dense(4)(x))
        self.ema_network = keras.models.clone_model(self.network)
        self.ema_network.set_weights(self.network.get_weights())

    def compile(self, **kwargs):
        super().compile(**kwargs)
        self.noise_loss_tracker = keras.metrics.Mean(name="n_loss")
        self.image_loss_tracker = keras.metrics.Mean(name="i_loss")

    @property
    def metrics(self):
        return [self.noise_loss_tracker, self.image_loss_tracker]

    def losses_of(self, network, images, training):
        images = self.normalizer(images, training=training)
        noises = keras.random.normal(shape=ops.shape(images))
        angles = keras.random.uniform(shape=(ops.shape(images)[0], 1), minval=0.1, maxval=1.4)
        signal_rates, noise_rates = ops.cos(angles), ops.sin(angles)

        def errors():
            noisy = signal_rates * images + noise_rates * noises
            pred_noises = network([noisy, noise_rates**2], training=training)
            pred_images = (noisy - noise_rates * pred_noises) / signal_rates
            return self.loss(noises, pred_noises), self.loss(images, pred_images)

        return errors

    def train_step(self, images):
        errors = self.losses_of(self.network, images, True)
        with tf.GradientTape() as tape:
            noise_loss, image_loss = errors()
        gradients = tape.gradient(noise_loss, self.network.trainable_weights)
        self.optimizer.apply_gradients(zip(gradients, self.network.trainable_weights))
        self.noise_loss_tracker.update_state(noise_loss)
        self.image_loss_tracker.update_state(image_loss)
        for weight, ema_weight in zip(self.network.weights, self.ema_network.weights):
            ema_weight.assign(self.ema * ema_weight + (1 - self.ema) * weight)
        return {m.name: m.result() for m in self.metrics}

    def test_step(self, images):
        noise_loss, image_loss = self.losses_of(self.ema_network, images, False)()
        self.noise_loss_tracker.update_state(noise_loss)
        self.image_loss_tracker.update_state(image_loss)
        return {m.name: m.result() for m in self.metrics}


class Masked(keras.Model):
    """keras.io/examples/vision/masked_image_modeling: gradients in groups, `compute_loss`, compiled metrics by hand."""

    def __init__(self):
        super().__init__()
        self.patches = layers.Reshape([4, 3])
        self.patch_encoder, self.encoder, self.decoder = dense(5), dense(5, "gelu"), dense(3)
        self.seed_generator = keras.random.SeedGenerator(3)
        self.groups = [self.patch_encoder, self.encoder, self.decoder]

    def calculate_loss(self, images):
        patches = self.patches(images)
        order = ops.argsort(keras.random.uniform(ops.shape(patches)[:2], seed=self.seed_generator), axis=-1)
        hidden = ops.cast(order < 2, patches.dtype)[..., None]
        decoded = self.decoder(self.encoder(self.patch_encoder(patches * (1 - hidden))))
        loss_patch, loss_output = patches * hidden, decoded * hidden
        return self.compute_loss(y=loss_patch, y_pred=loss_output), loss_patch, loss_output

    def train_step(self, images):
        with tf.GradientTape() as tape:
            total_loss, loss_patch, loss_output = self.calculate_loss(images)
        train_vars = [layer.trainable_variables for layer in self.groups]
        grads = tape.gradient(total_loss, train_vars)
        tv_list = [(g, v) for grad, var in zip(grads, train_vars) for g, v in zip(grad, var)]
        self.optimizer.apply_gradients(tv_list)
        results = {}
        for metric in self.metrics:
            metric.update_state(total_loss) if metric.name == "loss" else metric.update_state(loss_patch, loss_output)
            results.update(metric.result() if metric.name == "compile_metrics" else {metric.name: metric.result()})
        return results


class Distiller(keras.Model):
    """keras.io/examples/vision/knowledge_distillation, the older: `compile` takes more, the student alone is trained."""

    def __init__(self, freeze):
        super().__init__()
        self.teacher, self.student = mlp(4, 6, 3), mlp(4, 4, 3)
        self.teacher.trainable = not freeze

    def compile(self, optimizer, metrics, student_loss_fn, distillation_loss_fn, alpha=0.1, temperature=3, **kwargs):
        super().compile(optimizer=optimizer, metrics=metrics, **kwargs)
        self.student_loss_fn, self.distillation_loss_fn = student_loss_fn, distillation_loss_fn
        self.alpha, self.temperature = alpha, temperature

    def train_step(self, data):
        x, y = data
        teacher_predictions = self.teacher(x, training=False)
        with tf.GradientTape() as tape:
            student_predictions = self.student(x, training=True)
            student_loss = self.student_loss_fn(y, student_predictions)
            distillation_loss = (
                self.distillation_loss_fn(
                    tf.nn.softmax(teacher_predictions / self.temperature, axis=1),
                    tf.nn.softmax(student_predictions / self.temperature, axis=1),
                )
                * self.temperature**2
            )
            loss = self.alpha * student_loss + (1 - self.alpha) * distillation_loss
        trainable_vars = self.student.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, trainable_vars), trainable_vars))
        results = self.compute_metrics(x, y, student_predictions)
        return results | {"student_loss": student_loss, "distillation_loss": distillation_loss}

    def test_step(self, data):
        x, y = data
        y_prediction = self.student(x, training=False)
        return self.compute_metrics(x, y, y_prediction) | {"student_loss": self.student_loss_fn(y, y_prediction)}


class SimClr(keras.Model):
    """keras.io/examples/vision/semisupervised_simclr with one optimizer: unlabeled and labeled data, augmentations that draw."""

    temperature = 0.5

    def __init__(self):
        super().__init__()
        self.contrastive_augmenter = layers.GaussianNoise(0.5, seed=4)
        self.classification_augmenter = layers.GaussianNoise(0.1, seed=5)
        self.encoder, self.projection_head, self.linear_probe = mlp(5, 6, 4), mlp(4, 4, 4), mlp(4, 3)

    def compile(self, **kwargs):
        super().compile(**kwargs)
        self.probe_loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.loss_tracker = keras.metrics.Mean(name="c_loss")
        self.accuracies = [keras.metrics.SparseCategoricalAccuracy(name=name) for name in ("c_acc", "p_acc")]

    @property
    def metrics(self):
        return [self.loss_tracker, *self.accuracies]

    def contrastive_loss(self, projections_1, projections_2):
        projections_1, projections_2 = (ops.normalize(p, axis=1) for p in (projections_1, projections_2))
        similarities = ops.matmul(projections_1, ops.transpose(projections_2)) / self.temperature
        labels = ops.arange(ops.shape(projections_1)[0])
        self.accuracies[0].update_state(labels, similarities)
        losses = [
            keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
            for logits in (similarities, ops.transpose(similarities))
        ]
        return (losses[0] + losses[1]) / 2

    def train_step(self, data):
        unlabeled_images, (labeled_images, labels) = data
        images = ops.concatenate((unlabeled_images, labeled_images), axis=0)
        views = [self.contrastive_augmenter(images, training=True) for _ in range(2)]
        preprocessed = self.classification_augmenter(labeled_images, training=True)
        with tf.GradientTape() as tape:
            loss = ops.mean(self.contrastive_loss(*(self.projection_head(self.encoder(v, training=True)) for v in views)))
            class_logits = self.linear_probe(ops.stop_gradient(self.encoder(preprocessed)))
            loss += self.probe_loss(labels, class_logits)
        gradients = tape.gradient(loss, self.trainable_weights)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_weights))
        self.loss_tracker.update_state(loss)
        self.accuracies[1].update_state(labels, class_logits)
        return {m.name: m.result() for m in self.metrics}


class SimSiam(Means):
    """keras.io/examples/vision/simsiam: two views, a gradient that is stopped, BatchNorm."""

    def __init__(self):
        super().__init__()
        self.encoder = keras.Sequential([keras.Input([5]), dense(6), layers.BatchNormalization(momentum=0.7), dense(4)])
        self.predictor = mlp(4, 3, 4, kernel_regularizer=keras.regularizers.L2(0.01))

    def train_step(self, data):
        ds_one, ds_two = data
        with tf.GradientTape() as tape:
            z1, z2 = self.encoder(ds_one), self.encoder(ds_two)
            p1, p2 = self.predictor(z1), self.predictor(z2)
            loss = (negative_cosine(p1, z2) + negative_cosine(p2, z1)) / 2
        learnable_params = self.encoder.trainable_variables + self.predictor.trainable_variables
        gradients = tape.gradient(loss, learnable_params)
        self.optimizer.apply_gradients(zip(gradients, learnable_params))
        return self.report(loss)


def negative_cosine(p, z):
    z = ops.stop_gradient(z)
    return -ops.mean(ops.sum(ops.normalize(p, axis=1) * ops.normalize(z, axis=1), axis=1))


class Byol(Means):
    """Bootstrap your own latent: the target follows the new weights; the step reports how far it is, after the update."""

    means = ("loss", "distance")

    def __init__(self):
        super().__init__()
        self.online, self.predictor = mlp(5, 6, 4), mlp(4, 4)
        self.target = keras.models.clone_model(self.online)
        self.target.trainable = False

    @staticmethod
    def distance(weights, others):
        return sum(ops.sum(ops.square(a - b)) for a, b in zip(weights, others, strict=True))

    def train_step(self, data):
        view_1, view_2 = data
        goal = self.target(view_2)
        with tf.GradientTape() as tape:
            loss = negative_cosine(self.predictor(self.online(view_1)), goal)
        variables = self.online.trainable_variables + self.predictor.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        for ours, theirs in zip(self.online.weights, self.target.weights, strict=True):
            theirs.assign(0.8 * theirs + 0.2 * ours)
        return self.report(loss, self.distance(self.online.weights, self.target.weights))
