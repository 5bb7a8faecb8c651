. /tmp/gpu/env; mkdir -p /tmp/run/2 /tmp/out; cp /tmp/nb/*.ipynb /tmp/run/2/; cd /tmp/run/2; export TF_FORCE_GPU_ALLOW_GROWTH=true
(setsid nohup taskset -c 0-5 papermill --no-progress-bar lesson02_keras.ipynb /tmp/out/l2.ipynb > /tmp/out/l2.log 2>&1 &)
