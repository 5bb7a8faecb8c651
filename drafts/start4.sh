. .explore/setup.sh
mkdir -p /tmp/run4; cp -r data /tmp/run4/; rm -rf /tmp/run4/data/cache; cp .explore/lesson04_cnn.ipynb /tmp/run4/in.ipynb
cd /tmp/run4; setsid nohup python3 -m papermill in.ipynb lesson04_cnn.ipynb -k python3 --no-progress-bar --request-save-on-cell-execute --autosave-cell-every 5 > log 2>&1 &
sleep 5; tail -1 /tmp/run4/log
