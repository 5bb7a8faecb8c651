. /tmp/gpu/env; cd /tmp/nb/drafts; export TF_FORCE_GPU_ALLOW_GROWTH=true
(setsid nohup sh -c 'while pgrep -f "[p]apermill" > /dev/null; do sleep 1; done; python card_trial.py l4.ipynb depth changes jit; python card_trial.py l4.ipynb gap depth; python card_trial.py l4.ipynb final rates giant' > /tmp/out/card.log 2>&1 &)
