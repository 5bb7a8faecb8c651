python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target /tmp/site .whl/*.whl || exit 1
export PYTHONPATH=/tmp/site
python3 -m ipykernel install --prefix /tmp/jp >/dev/null 2>&1
export JUPYTER_PATH=/tmp/jp/share/jupyter KERAS_BACKEND=jax KERAS_HOME=/tmp/keras JAX_COMPILATION_CACHE_DIR=/tmp/xla
mkdir -p /tmp/keras/datasets /tmp/keras/seven-lessons
