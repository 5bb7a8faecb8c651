. /tmp/gpu/env; mkdir -p /tmp/out; cd /tmp/nb/drafts
r() { (setsid nohup taskset -c $1 python ladder.py l5.ipynb "${@:3}" > /tmp/out/lad_$2.log 2>&1 &); }
r 6,7 a "simple RNN" "orthogonal start" "identity and ReLU"
r 8,9 b "LSTM" "LSTM, spread memory *"
r 10,11 c "GRU" "times not spread" "tanh"
r 12,13 d "fading means (ours) *" "random matrix" "not told"
r 14,15 e "plain sum (control)" "fixed decay *" "decay set by the input *"
