"""The six networks in Keras, channels last."""

from typing import Any

import tensorflow as tf

K = tf.keras.layers


def conv(x, filters: int, kernel=3, stride: int = 1):
    """Convolution, norm, ReLU."""
    x = K.Conv2D(filters, kernel, stride, "same", use_bias=False)(x)
    return K.ReLU()(K.BatchNormalization()(x))


def cnn(x):
    x = K.MaxPool2D(2)(conv(x, 16))
    y = K.BatchNormalization()(K.Conv2D(16, 3, padding="same", use_bias=False)(conv(x, 16)))
    return K.Dense(10)(K.GlobalAveragePooling2D()(conv(K.ReLU()(K.Add()([x, y])), 32, stride=2)))


def depthwise(x):
    x = conv(x, 16, stride=2)
    for filters, stride in ((32, 1), (32, 2), (64, 1)):
        x = K.ReLU()(K.BatchNormalization()(K.DepthwiseConv2D(3, stride, "same", use_bias=False)(x)))
        x = conv(x, filters, 1)
    return K.Dense(10)(K.GlobalAveragePooling2D()(x))


def audio(x):
    for filters, kernel, stride in ((16, 9, 4), (32, 5, 4), (32, 3, 2)):
        x = K.ReLU()(K.BatchNormalization()(K.Conv1D(filters, kernel, stride, "same")(x)))
    return K.Dense(10)(K.GlobalAveragePooling1D()(x))


def unet(x):
    a = conv(x, 8)
    up = K.Conv2DTranspose(8, 2, 2, activation="relu")(conv(K.MaxPool2D(2)(a), 16))
    return K.Conv2D(1, 1, activation="sigmoid")(conv(K.Concatenate()([up, a]), 8))


def lstm(x):
    return K.Dense(10)(K.LSTM(32)(x))


def transformer(x):
    x = K.Dense(64)(x)
    for _ in range(2):
        x = K.LayerNormalization()(K.Add()([x, K.MultiHeadAttention(2, 32)(x, x)]))
        x = K.LayerNormalization()(K.Add()([x, K.Dense(64)(K.Dense(128, activation="gelu")(x))]))
    return K.Dense(10)(K.GlobalAveragePooling1D()(x))


NETWORKS = {"cnn": cnn, "depthwise": depthwise, "audio": audio, "unet": unet, "lstm": lstm, "transformer": transformer}


def trained(name: str, x, y) -> Any:
    """A network after a few dozen steps on labelled data (the U-Net: to tell large values from small ones)."""
    tf.keras.utils.set_random_seed(5)
    inputs = tf.keras.Input(x.shape[1:])
    model = tf.keras.Model(inputs, NETWORKS[name](inputs))
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(tf.keras.optimizers.Adam(3e-3), "binary_crossentropy" if name == "unet" else loss)
    model.fit(x, (x > 0.5) if name == "unet" else y, batch_size=16, epochs=4, verbose=0)
    return model
