"""Start-up file of a kernel in which Keras compiles with XLA by itself, as where TensorFlow has a GPU.

It imitates the choice `jit_compile="auto"` -> True and so finds ops that XLA does not have. It cannot
imitate what a card has of its own: its memory, TF32, cuDNN's kernels and the ops that only its XLA lacks.
"""

import os

_stderr = os.dup(2)
os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
import keras  # noqa: E402

os.dup2(_stderr, 2)
_compile, _fit = keras.Model.compile, keras.Model.fit


def compile_as_on_a_gpu(self, *args, **kwargs):
    return _compile(self, *args, **(kwargs | {"jit_compile": True}))  # whatever a lesson chose for a CPU


def fit_as_on_a_gpu(self, *args, **kwargs):
    # a layer with supports_jit = False takes XLA off the whole model and says so in a warning only
    assert self.jit_compile, "a layer takes XLA off this model"
    return _fit(self, *args, **kwargs)


keras.Model.compile, keras.Model.fit = compile_as_on_a_gpu, fit_as_on_a_gpu
