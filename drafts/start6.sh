. .explore/setup.sh
mkdir -p /tmp/run6; cp -r data /tmp/run6/; rm -rf /tmp/run6/data/cache; cp .explore/lesson06_unet.ipynb /tmp/run6/in.ipynb
cd /tmp/run6; setsid nohup python3 -m papermill in.ipynb lesson06_unet.ipynb -k python3 --no-progress-bar --request-save-on-cell-execute --autosave-cell-every 5 > log 2>&1 &
sleep 5; tail -1 /tmp/run6/log
