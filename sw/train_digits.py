"""Train the shipped network: a small CNN on the handwritten digits of scikit-learn, quantized to int8.

Needs the optional extra: ``pip install '.[train]'``. Writes ``sw/models/digits.tflite`` and ``sw/models/digits.npz``
(``x`` (N, 8, 8, 1) int8 held-out images, ``y`` (N,) labels, ``tflm`` (N, 10) int8 outputs of TensorFlow Lite Micro).
The images shipped are never seen in training. Run: ``python -m lepton.sw.train_digits``.
"""

import argparse
import os
from pathlib import Path

import numpy as np

SEED = 2
HELD_OUT = 360
EPOCHS = 40


def split():
    """The digits as float32 (N, 8, 8, 1) in 0..1: training images and labels, held-out images and labels."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = (digits.images / 16.0).astype(np.float32)[..., None]
    x, xt, y, yt = train_test_split(
        images, digits.target, test_size=HELD_OUT, random_state=SEED, stratify=digits.target
    )
    return x, y, xt, yt


def train(x, y):
    """A trained Keras model with a fixed batch of one, so that the converter leaves a plain RESHAPE."""
    import tensorflow as tf

    tf.keras.utils.set_random_seed(SEED)
    tf.config.experimental.enable_op_determinism()
    layers = tf.keras.layers
    body = [
        layers.Conv2D(12, 3, padding="same", activation="relu"),
        layers.Conv2D(24, 3, padding="same", activation="relu"),
        layers.MaxPool2D(2),
        layers.Flatten(),
        layers.Dropout(0.3),
        layers.Dense(10, activation="softmax"),
    ]
    model = tf.keras.Sequential([layers.Input((8, 8, 1)), *body])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, batch_size=32, epochs=EPOCHS, verbose=2)
    fixed = tf.keras.Sequential([layers.Input((8, 8, 1), batch_size=1), *body])
    fixed.set_weights(model.get_weights())
    return fixed


def quantize(model, x) -> bytes:
    """The int8 flatbuffer of a Keras model, calibrated on the first 200 training images."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image[None]] for image in x[:200])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter.convert()


def evaluate(flatbuffer: bytes, images):
    """int8 inputs and TFLM's int8 outputs for float images."""
    from tflite_micro import runtime

    interpreter = runtime.Interpreter.from_bytes(flatbuffer)
    details = interpreter.get_input_details(0)["quantization_parameters"]
    scale, zero_point = float(details["scales"][0]), int(details["zero_points"][0])
    inputs = np.clip(np.round(images / scale) + zero_point, -128, 127).astype(np.int8)
    outputs = []
    for image in inputs:
        interpreter.set_input(image[None], 0)
        interpreter.invoke()
        outputs.append(interpreter.get_output(0)[0].copy())
    return inputs, np.stack(outputs)


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).resolve().parent / "models", help="folder to write"
    )
    args = parser.parse_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    x, y, images, labels = split()
    flatbuffer = quantize(train(x, y), x)
    inputs, outputs = evaluate(flatbuffer, images)
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "digits.tflite").write_bytes(flatbuffer)
    np.savez_compressed(args.output / "digits.npz", x=inputs, y=labels.astype(np.int64), tflm=outputs)
    accuracy = float(np.mean(outputs.argmax(1) == labels))
    print(
        f"digits: {len(x)} training images, {len(labels)} held out, "
        f"int8 accuracy {accuracy:.4f}, {len(flatbuffer)} bytes"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
