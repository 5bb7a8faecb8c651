"""Start-up file of a kernel in which TensorFlow names two GPUs and Keras compiles with XLA by itself.

It imitates the choice `jit_compile="auto"` -> True and so finds ops that XLA does not have. Each mix of
layers, optimiser and loss is compiled by XLA once: the same mix in another size has no other ops. It cannot
imitate what a card has of its own: its memory, TF32, cuDNN's kernels and the ops that only its XLA lacks.
"""

import os

_stderr = os.dup(2)
os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
import keras  # noqa: E402
import tensorflow as tf  # noqa: E402

os.dup2(_stderr, 2)
_compile, _fit, _compiled = keras.Model.compile, keras.Model.fit, set()


def compile_as_on_a_gpu(self, *args, **kwargs):
    _compile(self, *args, **kwargs)
    layers = {
        (type(layer).__name__, str(getattr(layer, "activation", ""))) for layer in self._flatten_layers()
    }
    mix = frozenset(layers), type(self.optimizer).__name__, str(getattr(self.loss, "name", self.loss))
    self.jit_compile = mix not in _compiled  # whatever the lesson chose for a CPU
    _compiled.add(mix)


def fit_as_on_a_gpu(self, *args, **kwargs):
    # a layer with supports_jit = False takes XLA off the whole model and says so in a warning only
    assert all(layer.supports_jit for layer in self._flatten_layers()), "a layer takes XLA off this model"
    return _fit(self, *args, **kwargs)


keras.Model.compile, keras.Model.fit = compile_as_on_a_gpu, fit_as_on_a_gpu


def list_two_gpus(device_type=None):
    gpus = [tf.config.PhysicalDevice(f"/physical_device:GPU:{k}", "GPU") for k in range(2)]
    return gpus if device_type == "GPU" else _devices(device_type) + gpus * (device_type is None)


_devices = tf.config.list_physical_devices
tf.config.list_physical_devices = tf.config.experimental.list_physical_devices = list_two_gpus
tf.config.experimental.get_device_details = lambda device: {
    "device_name": "Tesla T4",
    "compute_capability": (7, 5),
}
