"""What the jobs train: models, each time new, and data that have nothing to learn: only the time counts."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainlab import models

NUM_CLASSES = 10
IMAGE = (32, 32, 3)
SHAPES = {"perceptron": (64,), "vision_transformer": IMAGE}


def compiled(model: keras.Model, **settings: Any) -> keras.Model:
    """Compiled as most people do: Adam, accuracy."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(), loss=loss, metrics=["accuracy"], **settings)
    return model


def arrays(size: int, shape: tuple[int, ...] = (64,)) -> tuple[np.ndarray, np.ndarray]:
    """Inputs `(size, *shape)` of float32 and labels `(size,)`."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(size, *shape)).astype("float32"), rng.integers(NUM_CLASSES, size=size)


def perceptron(**settings: Any) -> keras.Model:
    """64-64-64-10."""
    return compiled(models.mlp((64,), NUM_CLASSES, hidden_sizes=(64, 64)), **settings)


def convolutional(**settings: Any) -> keras.Model:
    """Two convolutions and a dense layer."""
    return compiled(models.cnn(IMAGE, NUM_CLASSES), **settings)


def residual(**settings: Any) -> keras.Model:
    """Fourteen convolutional layers with batch normalization: a first one, six blocks of two, one where the width changes."""
    layers = keras.layers

    def convolution(x: Any, width: int, size: int = 3, strides: int = 1) -> Any:
        return layers.BatchNormalization()(layers.Conv2D(width, size, strides, padding="same", use_bias=False)(x))

    inputs = keras.Input(IMAGE)
    x = layers.ReLU()(convolution(inputs, 16))
    for width, strides in [(16, 1), (16, 1), (16, 1), (32, 2), (32, 1), (32, 1)]:
        straight = convolution(x, width, 1, strides) if strides > 1 else x
        x = convolution(layers.ReLU()(convolution(x, width, 3, strides)), width)
        x = layers.ReLU()(x + straight)
    outputs = layers.Dense(NUM_CLASSES)(layers.GlobalAveragePooling2D()(x))
    return compiled(keras.Model(inputs, outputs), **settings)


class _Positions(keras.layers.Layer):
    """A learned vector for each place."""

    def build(self, shape: tuple[int | None, ...]) -> None:
        self.table = self.add_weight(shape=shape[1:], initializer=keras.initializers.RandomNormal(stddev=0.02), name="table")

    def call(self, x: Any) -> Any:
        return x + self.table


def vision_transformer(**settings: Any) -> keras.Model:
    """Two layers of width 64 over 64 patches of 4x4."""
    layers, width = keras.layers, 64
    inputs = keras.Input(IMAGE)
    x = layers.Reshape([64, width])(layers.Conv2D(width, 4, 4)(inputs))
    x = _Positions()(x)
    for _ in range(2):
        normed = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(4, width // 4)(normed, normed)
        hidden = layers.Dense(2 * width, "gelu")(layers.LayerNormalization()(x))
        x = x + layers.Dense(width)(hidden)
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return compiled(keras.Model(inputs, layers.Dense(NUM_CLASSES)(x)), **settings)


def augmented(x: np.ndarray, y: np.ndarray, batch_size: int) -> tf.data.Dataset:
    """Shuffled, flipped and cropped at random, batched, prefetched: as tutorials write it."""

    def augment(image: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image = tf.image.random_flip_left_right(image)
        image = tf.image.random_crop(tf.image.resize_with_crop_or_pad(image, 36, 36), IMAGE)
        return image, label

    images = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x)).map(augment, num_parallel_calls=tf.data.AUTOTUNE)
    return images.batch(batch_size).prefetch(tf.data.AUTOTUNE)
